"""SimCLR: what two views are, what the loss sees of them, and that features come of it which labels confirm."""

from __future__ import annotations

import copy
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from genlib import companions, distributed, registry
from genlib.config import DataConfig
from genlib.data.source import open_source
from genlib.data.transforms.augment import ImageAugmentation
from genlib.functional.nt_xent import nt_xent
from genlib.metrics.probe import linear_probe
from genlib.models.representation.simclr import SimCLR, SimCLRConfig, ViewsTransform
from genlib.models.representation.simclr_assess import collect, encoded, spread
from genlib.types import Batch, DataSource, DataSpec, Samples, Step
from tests.processes import run_ranks

SPEC = DataSpec(channels=1, image_size=8, class_names=("zero", "one", "two"), num_samples=12)
SMALL = SimCLRConfig(width=8, layers=(1, 1), hidden=16, embed_dim=8)


def made(config: SimCLRConfig = SMALL, spec: DataSpec = SPEC) -> SimCLR:
    torch.manual_seed(0)
    return config.build(spec, {}).eval()


def samples(count: int, size: int = 8) -> Samples:
    rng = np.random.default_rng(0)
    images = list(rng.integers(0, 256, (count, size, size, 1), dtype=np.uint8))
    fields = {"image": images, "label": list(range(count))}
    return Samples(position=np.arange(count), keys=[""] * count, fields=fields, failed=np.zeros(count, bool))


def batch_of(count: int = 12) -> Batch:
    """Images of three classes, each made of a pattern of its class and noise."""
    generator, label = torch.Generator().manual_seed(1), torch.arange(count) % 3
    patterns = torch.rand(3, 1, 8, 8, generator=generator)[label]
    image = (patterns[:, None] + 0.05 * torch.rand(count, 2, 1, 8, 8, generator=generator)).clamp(0, 1)
    return {"image": image, "plain": image[:, 0], "label": label, "position": torch.arange(count), "valid": torch.ones(count, dtype=torch.bool)}


def test_views_differ_and_the_plain_image_is_the_image() -> None:
    make = ViewsTransform(ImageAugmentation(shift=0.3, degrees=20), 8, 8, plain=True)
    batch, source = make(samples(6)), samples(6)
    assert batch["image"].shape == (6, 2, 1, 8, 8)
    assert not torch.allclose(batch["image"][:, 0], batch["image"][:, 1], atol=0.1)
    torch.testing.assert_close(batch["plain"], torch.from_numpy(np.stack(source.fields["image"])).movedim(-1, 1) / 255)
    assert batch["label"].tolist() == list(range(6))
    assert "plain" not in ViewsTransform(ImageAugmentation(), 8, 8, plain=False)(samples(2))


@pytest.mark.parametrize(("stored", "read"), [(8, 8), (12, 12), (16, 16), (17, 8), (4, 8), (0, 8)])
def test_views_are_taken_from_an_image_that_bilinear_sampling_can_shrink(stored: int, read: int) -> None:
    assert ViewsTransform(ImageAugmentation(), 8, stored, plain=False).image_size == read


def test_the_loss_is_that_of_the_projections_of_both_views() -> None:
    task, batch = made(), batch_of()
    batch["valid"][4] = False
    first, second = (task.net(batch["image"][:, view]) for view in (0, 1))
    torch.testing.assert_close(first.norm(dim=1), torch.ones(12))
    loss, metrics = task.loss("train", batch, Step(0, 1))
    torch.testing.assert_close(loss, nt_xent(first, second, 0.2, valid=batch["valid"]))
    assert loss[4] == 0
    torch.testing.assert_close(metrics["alignment"], (first * second).sum(1))


def test_evaluation_asks_who_is_near() -> None:
    task, batch = made(), batch_of(36)
    values = task.evaluate(batch)
    assert values["knn_accuracy"].mean() == 1.0  # neighbours have nearly the same pattern
    batch["label"] = torch.arange(36)
    assert task.evaluate(batch)["knn_accuracy"].mean() == 0.0  # every class has one member, which may not vote for itself
    same = {**batch, "image": batch["image"][:, :1].expand(-1, 2, -1, -1, -1)}
    assert task.evaluate(same)["matched"].mean() == 1.0


def test_placeholders_are_nobodys_neighbours() -> None:
    task, batch = made(), batch_of()
    batch["valid"][6:] = False
    short = {name: value[:6] for name, value in batch.items()}
    whole, alone = task.evaluate(batch), task.evaluate(short)
    for name, value in alone.items():
        torch.testing.assert_close(whole[name][:6], value)
    assert task.evaluate({**batch, "valid": torch.zeros(12, dtype=torch.bool)})["knn_accuracy"].sum() == 0


def evaluated_by_ranks(folder: Path) -> None:
    rank, world = distributed.rank(), distributed.world_size()
    batch, rows = batch_of(), slice(rank * 12 // world, (rank + 1) * 12 // world)
    batch["valid"][10:] = False
    with torch.no_grad():
        values = made().evaluate({name: value[rows] for name, value in batch.items()})
    total = {name: distributed.all_gather(value) for name, value in values.items()}
    if rank == 0:
        torch.save(total, folder / "values.pt")


def test_two_ranks_evaluate_the_same(tmp_path: Path) -> None:
    run_ranks(2, evaluated_by_ranks, tmp_path)
    batch = batch_of()
    batch["valid"][10:] = False
    with torch.no_grad():
        expected = made().evaluate(batch)
    found = torch.load(tmp_path / "values.pt")
    for name, value in expected.items():
        torch.testing.assert_close(found[name][batch["valid"]], value[batch["valid"]])


def test_without_labels_a_search_counts_matches() -> None:
    task = made(spec=replace(SPEC, class_names=()))
    assert task.objective[0] == "matched"
    batch = {name: value for name, value in batch_of().items() if name != "label"}
    assert {"loss", "matched"} == set(task.evaluate(batch))
    assert made().objective[0] in made().evaluate(batch_of())


def test_actions() -> None:
    task, image = made(), batch_of()["plain"]
    codes = task.embed(image=image)
    assert codes.shape == (12, 16)
    torch.testing.assert_close(task.embed(image=image[3:4]), codes[3:4])
    assert task.embed(image=torch.rand(2, 1, 20, 11)).shape == (2, 16)
    found = task.neighbours(image=image[:3], candidates=image, count=4)
    assert found[:, 0].tolist() == [0, 1, 2]
    assert (found % 3 == torch.arange(3)[:, None]).all()
    with pytest.raises(ValueError, match="13 neighbours are asked for of 12 samples"):
        task.neighbours(image=image, candidates=image, count=13)


def learn(task: SimCLR, source: DataSource, steps: int, batch_size: int = 128, seed: int = 0) -> SimCLR:
    optimizer = torch.optim.AdamW(task.train().parameters(), 6e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 6e-3, steps)
    batches = source.batches("train", batch_size, seed=seed, transform=task.transform(train=True))
    for i, batch in enumerate(islice(batches, steps)):
        optimizer.zero_grad()
        task.loss("train", batch, Step(i, steps, seed))[0].mean().backward()
        optimizer.step()
        schedule.step()
    return task.eval()


def test_learns_digits_without_labels(tmp_path: Path) -> None:
    source = open_source(DataConfig(train="digits"))
    task = made(replace(SMALL, width=16, augmentation=ImageAugmentation(max_scale=1.3, degrees=10, shift=0.2)), source.spec)
    scores = companions.assess(learn(task, source, 60), source, tmp_path)
    assert set(scores) == {f"validation/{space}{score}_accuracy" for space in ("", "untrained_", "pixels_") for score in ("linear_probe", "knn")}
    assert scores["validation/linear_probe_accuracy"] > scores["validation/untrained_linear_probe_accuracy"]
    with Image.open(tmp_path / "neighbours.png") as sheet:
        assert sheet.width > 500


def test_the_sheet_shows_all_classes() -> None:
    labels = torch.tensor([0] * 20 + [2] * 5 + [1])
    chosen = spread(labels, 26)
    assert len(chosen) == 10
    assert [int(labels[row]) for row in chosen] == [0] * 5 + [1] + [2] * 4
    assert spread(None, 4) == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("config", "spec", "words"),
    [
        (SMALL, DataSpec(image_size=0), "SimCLR learns from images of one size, which the samples are not; give --data.image-size"),
        (replace(SMALL, layers=(1, 1, 1, 1)), SPEC, "images of 8 pixels cannot be halved 4 times; give fewer stages in task.layers"),
    ],
)
def test_unfit_data_is_refused(config: SimCLRConfig, spec: DataSpec, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        config.build(spec, {})


def test_a_stage_without_blocks_is_refused() -> None:
    with pytest.raises(ValueError, match=r"task.layers \(1, 0\): every stage needs at least one block"):
        SimCLRConfig(layers=(1, 0))


def few_of_each(labels: Tensor, count: int, seed: int) -> Tensor:
    """`count` rows of each class, drawn by the seed."""
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    return torch.cat([order[labels[order] == label][:count] for label in labels.unique()])


def from_scratch(task: SimCLR, image: Tensor, label: Tensor, held_out: Tensor, steps: int = 150) -> Tensor:
    """Classes of held-out images by the same encoder and a linear layer, both trained on labelled images as they are."""
    head = torch.nn.Linear(task.config.features, len(task.data.class_names))
    optimizer = torch.optim.AdamW([*task.net.encoder.parameters(), *head.parameters()], 4e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, steps)
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(head(task.net.features(image)), label).backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        return head(task.net.features(held_out)).argmax(1)


@pytest.mark.slow
def test_with_few_labels_codes_learnt_without_any_beat_the_same_network_from_scratch() -> None:
    """20 labels a class, mean of three seeds; and with all labels a linear probe shows what training gave the encoder."""
    source = open_source(DataConfig(train="shapes"))
    config = registry.load("simclr").stages[0].task
    assert isinstance(config, SimCLRConfig)
    known, held_out = (collect(source, split, 32, most=4096) for split in ("train", "validation"))
    found = []
    for seed in range(3):
        torch.manual_seed(seed)
        fresh, rows = config.build(source.spec, {}), few_of_each(known["label"], 20, seed)
        task = learn(copy.deepcopy(fresh), source, 400, batch_size=256, seed=seed)
        (codes, queries), (before, untrained) = ([encoded(one, batch, one.net.features) for batch in (known, held_out)] for one in (task, fresh))
        guesses = {
            "few labels": linear_probe(codes[rows], known["label"][rows], queries),
            "from scratch": from_scratch(fresh, known["image"][rows], known["label"][rows], held_out["image"]),
            "all labels": linear_probe(codes, known["label"], queries),
            "untrained": linear_probe(before, known["label"], untrained),
        }
        found.append({name: (guess == held_out["label"]).double().mean().item() for name, guess in guesses.items()})
    mean = {name: sum(one[name] for one in found) / len(found) for name in found[0]}
    assert mean["few labels"] >= mean["from scratch"] + 0.05, found
    assert mean["all labels"] >= mean["untrained"] + 0.15, found
