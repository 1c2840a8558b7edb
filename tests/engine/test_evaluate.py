"""Held-out scores during training: what the caller hears of them, and a task that says it is no use to train on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from genlib.config import TaskConfig, TrainConfig
from genlib.engine.fit import fit
from genlib.engine.listener import Evaluated, Listener
from genlib.engine.report import Row
from genlib.recipe import Stage
from genlib.task import Task
from genlib.types import DataSpec
from tests.tiny import GAN, VAE, ArraySource


class Hopeless(VAE):
    """As the VAE; gives up where its distortion is what it always is: above 1."""

    def divergence_reason(self, values: Mapping[str, float]) -> str:
        return "the distortion stays above 1" if values["distortion"] > 1 else ""


@dataclass(frozen=True, kw_only=True, slots=True)
class HopelessConfig(TaskConfig):
    def build(self, data: DataSpec, upstream: Mapping[str, Task]) -> Task:
        return Hopeless()


class Heard(Listener):
    def __init__(self) -> None:
        self.evaluations: list[tuple[int, dict[str, float], str]] = []

    def on_checkpoint(self, folder: Path, row: Row, evaluated: Evaluated | None) -> None:
        assert evaluated
        self.evaluations.append((evaluated.step, dict(evaluated.values), evaluated.trouble))


def test_what_is_wrong_is_heard_at_every_evaluation_and_said_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stage, heard = (
        Stage(task=HopelessConfig(), train=TrainConfig(steps=6, global_batch=8, evaluate_every_steps=2, checkpoint_every_steps=2, trackers=())),
        Heard(),
    )
    fit(stage, recipe="hopeless", source=ArraySource(), folder=tmp_path, device=torch.device("cpu"), listener=heard)
    assert [(step, sorted(values), trouble) for step, values, trouble in heard.evaluations] == [
        (step, ["val/distortion"], "the distortion stays above 1") for step in (2, 4, 6)
    ]
    assert capsys.readouterr().out.count("step 2: the distortion stays above 1") == 1


def test_a_task_without_scores_of_its_own_has_the_loss_of_its_first_phase() -> None:
    torch.manual_seed(0)
    task = GAN().eval()
    batch = next(ArraySource().batches("validation", 8))
    values = task.evaluate(batch)
    assert list(values) == ["loss"]
    assert values["loss"].shape == (8,)
    assert task.divergence_reason({"loss": 1.0}) == ""
