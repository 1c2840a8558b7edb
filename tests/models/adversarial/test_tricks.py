"""What steadies a game, inside a run: fakes that are shown again, and a discriminator that compares samples."""

from __future__ import annotations

import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

from genlib import checkpoint, companions
from genlib.config import OptimConfig
from genlib.models.adversarial.cgan import ConditionalGAN, ConditionalGANConfig, LabelledConvolutional
from genlib.models.adversarial.gan import Dense, Game, GANConfig
from genlib.recipe import Stage
from genlib.registry import load
from genlib.types import DataSpec, Step
from tests.models.stages import train_stage
from tests.processes import run_ranks

PIXELS = DataSpec(channels=1, image_size=8, class_names=("a", "b", "c"))
PLAIN = OptimConfig(name="sgd", learning_rate=1e-2)


def with_replay(share: float = 0.5) -> ConditionalGAN:
    torch.manual_seed(0)
    return ConditionalGANConfig(network=LabelledConvolutional(latent_dim=6, width=8), game=Game(replay=16, replay_share=share)).build(PIXELS, {})


def test_the_discriminator_sees_earlier_fakes_with_the_labels_that_they_were_made_for() -> None:
    task, step = with_replay(), Step(0, 10)
    batch = companions.example(task, 16)
    _, first, _, _ = task.discriminator_logits(batch, step)
    task.observe("discriminator", torch.tensor(1.0), 1.0)
    assert task.replay is not None
    assert torch.equal(task.replay.get_buffer("kept_0"), first)
    assert torch.equal(task.replay.get_buffer("kept_1"), task.one_hot(batch["label"]))
    later = {**batch, "position": batch["position"] + 16, "label": torch.zeros(16, dtype=torch.int64)}
    _, fake, _, logits = task.discriminator_logits(later, step)
    old = (fake[:, None] == first).flatten(2).all(2)
    assert 3 <= old.any(1).sum() <= 13, "about half"
    was = task.one_hot(batch["label"])[old.float().argmax(1)]
    condition = torch.where(old.any(1)[:, None], was, task.one_hot(later["label"]))
    torch.testing.assert_close(task.discriminator(fake, later["valid"], condition), logits)


def stage_with(task: object) -> Stage:
    (stage,) = load("cgan" if isinstance(task, ConditionalGANConfig) else "gan").smoke
    return replace(stage, task=task, train=replace(stage.train, steps=6, checkpoint_every_steps=3, keep_checkpoints=9, optim=PLAIN, players={}))


REPLAYED = stage_with(ConditionalGANConfig(network=LabelledConvolutional(latent_dim=8, width=8), game=Game(replay=24)))
COMPARED = stage_with(GANConfig(network=Dense(latent_dim=4, width=16, layers=2, minibatch_kernels=3)))


def test_a_run_with_replay_goes_on_as_if_it_had_not_stopped(tmp_path: Path) -> None:
    final = train_stage("cgan", REPLAYED, tmp_path / "whole", {})
    shutil.copytree(tmp_path / "whole", tmp_path / "stopped")
    shutil.rmtree(tmp_path / "stopped" / "checkpoints" / final.name)
    again = checkpoint.load_weights(train_stage("cgan", REPLAYED, tmp_path / "stopped", {}))
    whole = checkpoint.load_weights(final)
    assert {"replay.kept_0", "replay.kept_1", "replay.count", "course"} <= whole.keys()
    assert whole["replay.count"] == 6 * 16
    assert all(torch.equal(again[name], value) for name, value in whole.items())


@pytest.mark.parametrize("strategy", ["ddp", "zero2"])
@pytest.mark.parametrize("stage", [REPLAYED, COMPARED], ids=["replay", "minibatch discrimination"])
def test_two_workers_learn_what_one_does(stage: Stage, strategy: str, tmp_path: Path) -> None:
    final = train_stage("gan", stage, tmp_path / "one", {})
    run_ranks(2, partial(train_stage, "gan", stage, tmp_path / "two", {}, strategy=strategy))
    one, two = checkpoint.load_weights(final), checkpoint.load_weights(tmp_path / "two" / "checkpoints" / final.name)
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, atol=1e-5, rtol=1e-5, msg=name)


def test_minibatch_discrimination_says_what_accumulation_changes() -> None:
    task = GANConfig(network=Dense(minibatch_kernels=3)).build(DataSpec(vector_size=2), {})
    assert task.accumulation_effect == "minibatch discrimination compares the samples of each micro-batch alone"
    both = ConditionalGANConfig(network=LabelledConvolutional(width=8, minibatch_kernels=2)).build(PIXELS, {})
    assert "batch normalisation" in both.accumulation_effect
    assert "minibatch discrimination" in both.accumulation_effect
