"""A contrastive loss sees the whole batch, whatever the accumulation (mlfoundations/open_clip#108, #267 and #419)."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from genlib import checkpoint, companions, registry
from genlib.config import OptimConfig, TrainConfig
from genlib.data.source import ShardSource
from genlib.data.transforms.augment import CaptionAugmentation, ImageAugmentation
from genlib.engine.evaluate import evaluate
from genlib.engine.strategies import strategy_of
from genlib.models.representation.clip import CLIPConfig
from genlib.task import Task
from genlib.types import Batch, Step
from jobs.command_line import parse
from jobs.plan import planned
from tests.models.stages import CPU, source_of, train_stage
from tests.peak import HeapPeak, heap_bytes
from tests.processes import run_ranks
from tests.tiny import CLIP, FEATURES, ArraySource

SGD = OptimConfig(name="sgd", learning_rate=0.1)


def trained(folder: Path, accumulation: int) -> tuple[dict[str, Tensor], list[dict[str, float]]]:
    """Weights and logged lines of two steps of 64 pairs, of which pictures and captions are augmented."""
    (stage,) = registry.load("clip_tiny").smoke
    assert isinstance(stage.task, CLIPConfig)
    augmented = replace(stage.task, augmentation=ImageAugmentation(min_scale=0.7, degrees=20), captions=CaptionAugmentation(drop_words=0.3))
    train = replace(stage.train, steps=2, global_batch=64, optim=SGD, checkpoint_every_steps=0)
    final = train_stage("clip_tiny", replace(stage, task=augmented, train=train), folder, {}, accumulation=accumulation)
    return checkpoint.load_weights(final), [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_clip_learns_the_same_in_micro_batches(tmp_path: Path) -> None:
    weights, rows = trained(tmp_path / "1", 1)
    for accumulation in (4, 16):
        found, logged = trained(tmp_path / str(accumulation), accumulation)
        for name, value in weights.items():
            torch.testing.assert_close(found[name], value, atol=1e-5, rtol=0)
        for before, after in zip(rows, logged, strict=True):
            for name in ("train/loss", "train/grad_norm", "train/logit_scale"):
                assert after[name] == pytest.approx(before[name], abs=1e-5, rel=1e-5)


class Dropped(CLIP):
    """Two towers behind a dropout, which remembers what it made of each row in each pass."""

    def __init__(self) -> None:
        super().__init__()
        self.dropout, self.made = nn.Dropout(0.5), []

    def joint_features(self, phase: str, batch: Batch, step: Step) -> Batch:
        found = super().joint_features(phase, {**batch, "x": self.dropout(batch["x"])}, step)
        self.made.append((batch["position"], found["a"].detach().clone()))
        return found


def test_dropout_is_the_same_in_both_passes_and_only_the_last_micro_batch_passes_once() -> None:
    torch.manual_seed(0)
    task, strategy = Dropped(), strategy_of("single", CPU)
    strategy.setup(task.train(), TrainConfig(global_batch=24, accumulation=3, optim=SGD))
    batches = ArraySource().batches("train", 8)
    strategy.run_phase(task.phases[0], [{**batch, "weight": torch.ones(8)} for batch, _ in zip(batches, range(3), strict=False)], Step(0, 1))
    order = [position[0].item() // 8 for position, _ in task.made]
    assert order == [0, 1, 2, 0, 1]
    for first, second in ((0, 3), (1, 4)):
        assert torch.equal(task.made[first][1], task.made[second][1])
    assert len({values[0, 0].item() for _, values in task.made}) == 3, "micro-batches draw apart"


class Few:
    """A source with its first 64 samples held out."""

    def __init__(self, source: ShardSource) -> None:
        self.source, self.spec, self.captions = source, source.spec, source.captions

    def batches(self, split: str, size: int, **options: Any) -> Iterator[Batch]:
        found = self.source.batches(split, size, **options)
        return islice(found, 64 // size) if split == "validation" else found


class Wide(CLIP):
    """Towers whose activations are most of a step's memory."""

    def __init__(self) -> None:
        super().__init__()
        layers = [layer for _ in range(6) for layer in (nn.Linear(FEATURES, FEATURES), nn.Tanh())]
        self.net.a = nn.Sequential(*layers, nn.Linear(FEATURES, 8))


def peak(accumulation: int, rows: int = 16384) -> int:
    torch.manual_seed(0)
    task, strategy = Wide(), strategy_of("single", CPU)
    strategy.setup(task.train(), TrainConfig(global_batch=rows, accumulation=accumulation, optim=SGD))
    task.joint_loss = lambda phase, batch, step: ((batch["a"] * batch["b"]).sum(1) * batch["scale"], {})  # a matrix of all pairs would hide them
    size = rows // accumulation
    facts = {"valid": torch.ones(size, dtype=torch.bool), "weight": torch.ones(size)}
    batches = [{"x": torch.randn(size, FEATURES), "position": torch.arange(size) + i * size, **facts} for i in range(accumulation)]
    before = heap_bytes()
    with HeapPeak() as heap:
        strategy.run_phase(task.phases[0], batches, Step(0, 1))
    return heap.peak - before


def test_memory_is_by_the_micro_batch() -> None:
    assert peak(16) < 0.35 * peak(1)


@pytest.mark.parametrize("recipe", ["clip_tiny", "simclr", "gan"])
def test_held_out_scores_are_of_as_many_samples_as_a_step_learns_from(recipe: str) -> None:
    (stage,) = registry.load(recipe).smoke
    source, strategy = Few(source_of(stage)), strategy_of("single", CPU)
    torch.manual_seed(0)
    task: Task = stage.task.build(source.spec, {})
    task.prepare(source)  # type: ignore[arg-type]
    strategy.setup(task, stage.train)
    whole, split = (evaluate(task, strategy, source, replace(stage.train, global_batch=64, accumulation=k)) for k in (1, 4))  # type: ignore[arg-type]
    assert split == pytest.approx(whole, abs=1e-5)


@pytest.mark.parametrize("recipe", ["clip_tiny", "clip_vit_b32"])
def test_towers_compute_activations_again_and_learn_the_same(recipe: str) -> None:
    (stage,) = registry.load(recipe).smoke
    source, gradients, kept = source_of(stage), [], []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        task = replace(stage.task, gradient_checkpointing=checkpointing).build(source.spec, {}).train()  # type: ignore[arg-type, call-arg]
        batch, saved = companions.example(task, 16), [0]
        torch.manual_seed(1)
        batch["image"] = torch.randn_like(batch["image"])
        with torch.autograd.graph.saved_tensors_hooks(lambda x, saved=saved: saved.__setitem__(0, saved[0] + x.nbytes) or x, lambda x: x):
            loss = task.loss("train", batch, Step(0, 1))[0].mean()
        kept.append(saved[0])
        loss.backward()
        gradients.append({name: p.grad for name, p in task.named_parameters()})
    assert kept[1] < 0.6 * kept[0]
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, atol=1e-6, rtol=1e-5)


def checkpointed(folder: Path, recipe: str, checkpointing: bool, **train: object) -> dict[str, Tensor]:
    """Weights after four steps, whose towers compute activations again or keep them."""
    (stage,) = registry.load(recipe).smoke
    one = replace(stage, task=replace(stage.task, gradient_checkpointing=checkpointing))  # type: ignore[call-arg]
    return checkpoint.load_weights(train_stage(recipe, one, folder, {}, steps=4, checkpoint_every_steps=0, **train))


@pytest.mark.parametrize("recipe", ["clip_tiny", "clip_vit_b32"])
def test_runs_that_compute_activations_again_have_the_same_weights_to_the_bit(recipe: str, tmp_path: Path) -> None:
    kept = checkpointed(tmp_path / "kept", recipe, False)
    again = checkpointed(tmp_path / "again", recipe, True)
    assert all(torch.equal(again[name], value) for name, value in kept.items())


def again_by_two(folder: Path) -> None:
    for strategy in ("ddp", "zero3"):
        checkpointed(folder / strategy, "clip_vit_b32", True, strategy=strategy, optim=SGD)


def test_two_processes_that_compute_activations_again_equal_one_that_keeps_them(tmp_path: Path) -> None:
    run_ranks(2, again_by_two, tmp_path)
    one = checkpointed(tmp_path / "one", "clip_vit_b32", False, optim=SGD)
    for strategy in ("ddp", "zero3"):
        found = checkpoint.load_weights(tmp_path / strategy / "checkpoints" / checkpoint.step_name(4))
        for name, value in one.items():
            torch.testing.assert_close(found[name], value, atol=2e-6, rtol=0)


def test_a_plan_says_what_computing_activations_again_saves_in_clip() -> None:
    words = ["clip_vit_b32", "--plan", "--gpus", "64", "--train.global-batch", "2048"]  # 32 samples a GPU
    rows = [re.search("^  activations +(.*)$", planned(parse([*words, *more])), re.MULTILINE) for more in ([], ["--task.gradient-checkpointing"])]
    plain, saving = (float(row[1].split()[0]) for row in rows if row)
    assert saving < 0.4 * plain


PLAN = ["--smoke", "--plan", "--train.global_batch", "64", "--train.accumulation", "4"]


def test_a_plan_says_what_accumulation_means() -> None:
    text = planned(parse(["clip_tiny", *PLAN]))
    assert (
        "with accumulation 4 a step takes its 64 samples in 4 micro-batches: loss and gradient stay those of the whole batch; its loss looks" in text
    )
    assert "batch normalisation takes its mean and variance over each micro-batch alone" in planned(parse(["dcgan", *PLAN]))
    plain = planned(parse(["vae", *PLAN]))
    assert "stay those of the whole batch\n" in f"{plain}\n"
    once = planned(parse(["clip_tiny", *PLAN[:-1], "1"]))
    assert "accumulation" not in once
    flops = [float(each.split(" FLOPs a step")[0].splitlines()[-1]) for each in (once, text)]
    assert 1.2 < flops[1] / flops[0] < 1.3, "three of four forward passes are taken twice"
