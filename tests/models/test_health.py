"""The collapse monitor: what it sees in sets of points, and in runs that are healthy or not."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from genlib.config import OptimConfig
from genlib.data.builtin.rings2d import SPREAD, centers
from genlib.engine.fit import fit
from genlib.engine.listener import Listener
from genlib.models.adversarial.gan import Dense, GANConfig
from genlib.models.base.health import Health, course_values, coverage, diagnosis, follow, modes, spread, variety
from genlib.recipe import Stage
from genlib.registry import load
from tests.models.stages import CPU, source_of

CENTERS = torch.from_numpy(centers()).float()


def points(modes: Tensor, seed: int, noise: float = SPREAD) -> Tensor:
    """Of the ring, one for each mode number (N,)."""
    return CENTERS[modes] + noise * torch.randn(len(modes), 2, generator=torch.Generator().manual_seed(seed))


LABEL = torch.arange(512) % 8
REAL = points(LABEL, seed=0)


@pytest.mark.parametrize("made", range(1, 9))
def test_so_many_modes_are_seen_as_are_made(made: int) -> None:
    fake = points(torch.arange(512) % made, seed=1)
    assert [share.item() for share in modes(REAL, fake, LABEL)] == [made / 8, made / 8]
    assert coverage(REAL, fake).item() == pytest.approx(made / 8, abs=0.06)


def test_samples_between_the_modes_approach_all_and_cover_none() -> None:
    fake = torch.randn(512, 2, generator=torch.Generator().manual_seed(1)) * 0.3
    assert [share.item() for share in modes(REAL, fake, LABEL)] == [0, 1]
    assert coverage(REAL, fake).item() < 0.01


def test_a_class_that_is_hardly_made_counts_as_missing() -> None:
    rare = torch.cat([torch.arange(504) % 7, torch.full((8,), 7)])  # 8 of the 64 that are its share
    assert [share.item() for share in modes(REAL, points(rare, seed=1), LABEL)] == [7 / 8, 7 / 8]


def test_spread_is_the_distance_from_the_middle() -> None:
    assert spread(REAL).item() == pytest.approx((4 + 2 * SPREAD**2) ** 0.5, rel=0.01)
    assert variety(REAL, 0.1 * REAL)["diversity"].item() == pytest.approx(0.1, rel=1e-4)
    assert "modes" not in variety(REAL, REAL)


def test_a_single_sample_gives_finite_values() -> None:
    values = variety(REAL[:1], REAL[:1], LABEL[:1])
    assert all(value.isfinite() for value in values.values())


def test_diagnosis_names_what_is_wrong_once_the_run_is_old_enough() -> None:
    limits = Health()
    few = {"modes_approached": 0.25, "diversity": 1.0, "progress": 0.5}
    alike = {"modes_approached": 1.0, "diversity": 0.05, "progress": 0.5}
    assert "it makes 25% of the classes, less than 38%" in diagnosis(few, limits)
    assert "it makes samples of 0.05 times the data's spread, less than 0.3" in diagnosis(alike, limits)
    assert diagnosis({**few, "progress": 0.2}, limits) == ""
    assert diagnosis({"modes": 0.0, "modes_approached": 0.5, "diversity": 0.9, "progress": 1.0}, limits) == ""
    assert diagnosis({"diversity": 0.9, "progress": 1.0}, limits) == ""
    assert diagnosis(few, Health(least_modes=0.2)) == ""


def followed(losses: list[float], gradients: list[float] | None = None) -> dict[str, float]:
    """What is said of a course of updates of the generator."""
    course = torch.zeros(2, 4)
    for loss, gradient in zip(losses, gradients or [1.0] * len(losses), strict=True):
        follow(course[1], torch.tensor(loss), gradient)
    return {name: value.item() for name, value in course_values(course).items()}


def test_the_swing_of_a_loss_is_its_deviation_of_late() -> None:
    assert followed([]) == {}
    assert followed([2.0] * 50) == {"generator_swing": 0.0, "generator_gradient": pytest.approx(1)}
    assert followed([2.0, 4.0])["generator_swing"] == pytest.approx(1), "the first ones count alike"
    assert followed([1.0, 3.0] * 200)["generator_swing"] == pytest.approx(1, rel=0.02)
    assert followed([1.0, 3.0] * 200 + [2.0] * 400)["generator_swing"] < 0.02
    assert followed([1.0] * 100, [0.5] * 100)["generator_gradient"] == pytest.approx(0.5)


def test_an_update_that_was_left_out_counts_nothing() -> None:
    assert followed([1.0, float("nan"), 3.0, 5.0], [1.0, 1.0, float("inf"), 1.0]) == followed([1.0, 5.0])


def test_a_generator_without_a_gradient_and_players_that_circle_are_named() -> None:
    well = {"modes_approached": 1.0, "diversity": 1.0, "progress": 0.5, "generator_gradient": 0.1, "discriminator_swing": 3.0}
    assert diagnosis(well, Health()) == ""
    assert "the norm of its gradient is 1e-09, less than 1e-06" in diagnosis({**well, "generator_gradient": 1e-9}, Health())
    assert "the discriminator's loss swings by 3, more than 2" in diagnosis(well, Health(most_swing=2.0))
    assert diagnosis({**well, "generator_gradient": 0.0, "progress": 0.1}, Health()) == ""


def test_a_run_tells_its_course(tmp_path: Path) -> None:
    """The means that evaluations show are those of the losses and norms that the run logs."""
    (stage,) = load("gan").smoke
    train = replace(stage.train, steps=12, evaluate_every_steps=12, checkpoint_every_steps=0, log_every_seconds=1e-6, trackers=())
    fit(replace(stage, train=train), recipe="gan", source=source_of(stage), folder=tmp_path, device=CPU)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    for player in ("discriminator", "generator"):
        course = torch.zeros(2, 4)
        for row in rows:
            follow(course[0], torch.tensor(row[f"train/{player}/loss"]), row[f"train/{player}/grad_norm"])
        expected = course_values(course)
        assert rows[-1][f"val/{player}_swing"] == pytest.approx(expected["discriminator_swing"].item(), rel=1e-3)
        assert rows[-1][f"val/{player}_gradient"] == pytest.approx(expected["discriminator_gradient"].item(), rel=1e-3)
    assert {"val/real_accuracy", "val/fake_accuracy"} <= rows[-1].keys()


class Heard(Listener):
    def __init__(self) -> None:
        self.troubles: list[str] = []

    def on_checkpoint(self, folder, row, evaluated) -> None:
        self.troubles.append(evaluated.trouble)


def troubles(stage: Stage, folder: Path) -> list[str]:
    """What the monitor says at each evaluation of a run."""
    every = stage.train.evaluate_every_steps
    heard, quiet = Heard(), replace(stage, train=replace(stage.train, trackers=(), checkpoint_every_steps=every))
    fit(quiet, recipe="gan", source=source_of(stage), folder=folder, device=CPU, listener=heard)
    return heard.troubles


def test_a_forced_collapse_is_flagged(tmp_path: Path) -> None:
    """The generator runs to the one place that a discriminator likes best which hardly learns."""
    (stage,) = load("gan").smoke
    fast, slow = (OptimConfig(name="adam", learning_rate=rate, beta1=0.0, beta2=0.9) for rate in (3e-3, 1e-5))
    train = replace(stage.train, steps=200, global_batch=64, optim=fast, players={"discriminator": slow}, evaluate_every_steps=50)
    found = troubles(Stage(task=GANConfig(network=Dense(width=32, layers=2)), data=stage.data, train=train), tmp_path)
    assert len(found) == 4
    assert all("the generator has collapsed" in trouble for trouble in found[1:])


def test_classes_far_from_the_origin_with_few_samples_each_are_found() -> None:
    """Ten classes in 200 dimensions, five samples a class: new samples of a class lie farther from its centre than those it was made of."""
    centers = torch.randn(10, 200, generator=torch.Generator().manual_seed(0))
    label = torch.arange(50) % 10
    real, fake = (centers[label] + 0.5 * torch.randn(50, 200, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2))
    covered, approached = modes(real, fake, label)
    assert covered >= 0.8
    assert approached == 1


@pytest.mark.slow
@pytest.mark.parametrize(("recipe", "seed"), [("gan", 0), ("gan", 1), ("wgan", 0), ("wgan_gp_points", 0), ("infogan", 0)])
def test_a_healthy_run_is_not(recipe: str, seed: int, tmp_path: Path) -> None:
    (stage,) = load(recipe).stages
    found = troubles(replace(stage, train=replace(stage.train, seed=seed)), tmp_path)
    assert found
    assert not any(found)
