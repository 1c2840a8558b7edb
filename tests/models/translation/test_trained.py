"""Translators trained as their recipes say, on small pictures: rows G18 to G21."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from genlib import checkpoint, companions
from genlib.config import replaced
from genlib.data.source import open_source
from genlib.engine.fit import fit
from genlib.recipe import Stage
from genlib.registry import load
from genlib.task import Task
from genlib.types import DataSource
from tests.benchmarks import translation
from tests.models.stages import CPU

pytestmark = pytest.mark.slow


def stage_of(recipe: str, **changes: Any) -> Stage:
    """The recipe's stage with fields changed by dotted names, with two underscores for a dot."""
    stage = load(recipe).stages[0]
    for name, value in changes.items():
        part, _, rest = name.partition("__")
        stage = replace(stage, **{part: replaced(getattr(stage, part), rest.replace("__", "."), value)})
    return stage


def trained(recipe: str, folder: Path, **changes: Any) -> tuple[Task, DataSource, dict[str, float]]:
    stage = stage_of(recipe, **changes)
    stage = replace(stage, train=replace(stage.train, trackers=(), evaluate_every_steps=0))
    source = open_source(stage.data)
    task = checkpoint.load_task(fit(stage, recipe=recipe, source=source, folder=folder, device=CPU, upstream={}))
    return task, source, companions.assess(task, source, folder)


def pictures(source: DataSource, split: str, count: int, task: Task) -> dict[str, torch.Tensor]:
    batch = next(source.batches(split, count, transform=task.transform(False)))
    return {name: batch[name] for name in ("a", "b")}


def classifier(source: DataSource, task: Task) -> nn.Module:
    """A small network that tells pictures of A (0) from ones of B (1)."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 16, 3, 2, 1), nn.ReLU(), nn.Flatten(), nn.LazyLinear(1))
    known = pictures(source, "train", 1024, task)
    x, target = torch.cat([known["a"], known["b"]]), torch.arange(2).repeat_interleave(1024).float()
    net(x[:2])
    optimizer = torch.optim.Adam(net.parameters(), 3e-3)
    for rows in torch.stack([torch.randperm(2048, generator=torch.Generator().manual_seed(epoch)) for epoch in range(6)]).view(-1, 64):
        optimizer.zero_grad()
        nn.functional.binary_cross_entropy_with_logits(net(x[rows])[:, 0], target[rows]).backward()
        optimizer.step()
    return net.eval()


@pytest.fixture(scope="module")
def cyclegan(tmp_path_factory: pytest.TempPathFactory) -> tuple[Task, DataSource, dict[str, float]]:
    return trained("cyclegan", tmp_path_factory.mktemp("cyclegan"))


def test_cyclegan_leads_back_and_a_classifier_takes_its_translations_for_the_other_set(
    cyclegan: tuple[Task, DataSource, dict[str, float]],
) -> None:
    task, source, scores = cyclegan
    assert scores["validation/cycle_mae"] < 0.05
    assert scores["validation/flipped"] > 0.9
    judge, held = classifier(source, task), pictures(source, "validation", 256, task)
    with torch.no_grad():
        assert ((judge(held["a"]) > 0).float().mean() < 0.03) & ((judge(held["b"]) > 0).float().mean() > 0.97), "it tells the sets apart"
        made_b, back = task.round_trip(held["a"], "B")  # type: ignore[operator]
        made_a, _ = task.round_trip(held["b"], "A")  # type: ignore[operator]
        assert (judge(made_b) > 0).float().mean() > 0.9
        assert (judge(made_a) < 0).float().mean() > 0.9
    assert (back - held["a"]).abs().mean() / 2 < 0.05


def test_identity_loss_lowers_the_drift_of_colours(cyclegan: tuple[Task, DataSource, dict[str, float]], tmp_path: Path) -> None:
    _, _, without = trained("cyclegan", tmp_path, task__identity_weight=0.0)
    assert cyclegan[2]["validation/identity_mae"] < 0.7 * without["validation/identity_mae"]


def test_l1_improves_the_likeness_of_pix2pix(tmp_path: Path) -> None:
    _, _, both = trained("pix2pix", tmp_path / "both")
    _, _, alone = trained("pix2pix", tmp_path / "alone", task__l1_weight=0.0)
    assert both["validation/psnr_db"] > alone["validation/psnr_db"] + 0.5


def test_pairs_are_worth_more_than_the_lack_of_them(tmp_path: Path) -> None:
    """The same pictures with and without what belongs together (row G20)."""
    paired, unpaired = (translation.scores(recipe, tmp_path / recipe) for recipe in ("pix2pix", "cyclegan"))
    assert paired["l1"] <= unpaired["l1"]


def test_the_codes_of_a_picture_and_its_translation_come_together_in_unit(tmp_path: Path) -> None:
    stage = stage_of("unit")
    torch.manual_seed(0)
    fresh, source = stage.task.build(open_source(stage.data).spec, {}).eval(), open_source(stage.data)
    before = apart(fresh, source)
    task, source, scores = trained("unit", tmp_path)
    assert apart(task, source) < before / 5
    assert scores["validation/cycle_mae"] < 0.05
    assert scores["validation/flipped"] > 0.9


@torch.no_grad()
def apart(task: Task, source: DataSource) -> float:
    """||E1(x1) - E2(G2(E1(x1)))||, mean over held-out pictures."""
    a = pictures(source, "validation", 256, task)["a"]
    nets = task.translators
    code = nets.encoded(a, "A")  # type: ignore[operator]
    return (code - nets.encoded(nets.generated(code, "B"), "B")).flatten(1).norm(dim=1).mean().item()  # type: ignore[operator]
