"""Recipe: named stages, each a task on data with a way to train it; a stage may need the trained tasks of earlier ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from genlib.config import DataConfig, TaskConfig, TrainConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class Stage:
    """One training run. `needs` maps the role under which the task knows an upstream task to that stage's name."""

    name: str = "train"
    task: TaskConfig
    data: DataConfig = field(default_factory=DataConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    needs: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.task.check_roles(self.needs)


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """Stages in the order they train. `smoke` is the same recipe in a size that a test trains in seconds."""

    stages: tuple[Stage, ...]
    smoke: tuple[Stage, ...]

    def __post_init__(self) -> None:
        for stages in (self.stages, self.smoke):
            known: set[str] = set()
            for stage in stages:
                missing = sorted(set(stage.needs.values()) - known)
                if missing:
                    raise ValueError(f"stage {stage.name!r} needs {missing[0]!r}, which is no earlier stage; earlier are {sorted(known) or 'none'}")
                if stage.name in known:
                    raise ValueError(f"two stages are named {stage.name!r}; give each its own name")
                known.add(stage.name)


STRATEGIES = ("single", "ddp", "zero1", "zero2", "zero3")
"""All that `train.strategy` names but auto, which is single with one worker, else ddp."""


def chosen_strategy(wanted: str, workers: int) -> str:
    """The strategy that trains where `train.strategy` says so."""
    return wanted if wanted != "auto" else "single" if workers == 1 else "ddp"


def strategy_refusal(task: TaskConfig, strategy: str, workers: int) -> str:
    """Why a strategy cannot train such a task with so many workers, in a sentence; empty where it can."""
    if strategy == "single" and workers > 1:
        return f"train.strategy single trains on one worker, but there are {workers}; use ddp, zero1, zero2 or zero3, or one worker"
    if strategy == "zero3" and task.zero3_refusal:
        return f"{type(task).__name__.removesuffix('Config')} cannot train under zero3: {task.zero3_refusal}; use zero2"
    return ""


def check_started(stages: tuple[Stage, ...]) -> None:
    """ValueError where a stage neither trains nor is told what to take instead."""
    for stage in stages:
        if not stage.train.steps and not stage.train.start_from:
            flag = f"--{stage.name}.train.start_from" if len(stages) > 1 else "--train.start_from"
            raise ValueError(f"stage {stage.name} has train.steps 0, so it is taken as it is, but from nowhere; name a run or a folder with {flag}")
