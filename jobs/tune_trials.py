"""What the trials of a search reached, as their folders tell it: `runs/NAME/trials/T7` is the folder of trial 7, and outlives whatever was killed."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.evaluations import evaluations
from jobs.run_folder import read_json
from jobs.run_options import RunOptions
from jobs.saved_config import line_of
from tune_spaces.base import with_values

if TYPE_CHECKING:
    from jobs.tune import SearchSpec


@dataclass(frozen=True, slots=True)
class TrialResult:
    """A trial as its folder tells it."""

    number: int
    folder: Path
    values: dict[str, Any]
    curve: list[tuple[int, float]]
    """(step, metric) of each evaluation; NaN where it was not finite."""
    status: str
    """finished, stopped or failed; unfinished where it was cut off."""
    reason: str
    """Why it was stopped, or failed."""
    seconds: float

    @property
    def value(self) -> float | None:
        """What it reached last; None where that is not finite, or nothing."""
        return self.curve[-1][1] if self.curve and math.isfinite(self.curve[-1][1]) else None

    @property
    def step(self) -> int:
        """Where it stands."""
        return self.curve[-1][0] if self.curve else 0

    @property
    def ended(self) -> bool:
        """Whether nothing is left to do for it."""
        return self.status != "unfinished"


def results(spec: SearchSpec, run: Path) -> list[TrialResult]:
    """All trials that began, by number."""
    found = [(int(folder.name[1:]), folder, known) for folder in run.glob("trials/T*") if (known := read_json(folder / "trial.json"))]
    return [_result(spec, number, folder, known) for number, folder, known in sorted(found, key=lambda one: one[0])]


def _result(spec: SearchSpec, number: int, folder: Path, known: dict[str, Any]) -> TrialResult:
    rows = [row for row in evaluations(folder) if spec.metric in row]
    outcome = read_json(folder / "outcome.json") or {"status": "unfinished", "reason": ""}
    values = {name: tuple(value) if isinstance(value, list) else value for name, value in known["values"].items()}  # JSON knows no tuples
    curve = [(row["step"], row[spec.metric]) for row in rows]
    return TrialResult(number, folder, values, curve, outcome["status"], outcome["reason"], rows[-1]["time"] - known["started"] if rows else 0.0)


def trial_command(spec: SearchSpec, values: Mapping[str, Any], run: str) -> str:
    """What trains the values of a trial as a run of that name; empty where the recipe refuses them."""
    asked = spec.command.options
    options = RunOptions(
        run=run, workers=str(asked.workers), cpus_per_worker=asked.cpus_per_worker, gpus_per_worker=asked.gpus_per_worker, smoke=asked.smoke
    )
    try:
        stages = [with_values(stage, values) if stage.name == spec.stage.name else stage for stage in spec.command.stages]
        return line_of("train", spec.command.recipe, stages, options)
    except ValueError:
        return ""


def ranked(spec: SearchSpec, found: Sequence[TrialResult]) -> list[TrialResult]:
    """Those that reached anything, best first; a trial trained further wins a tie."""
    sign = 1 if spec.mode == "min" else -1
    reached = [(sign * value, -one.step, one.number, one) for one in found if (value := one.value) is not None]
    return [one for *_, one in sorted(reached, key=lambda row: row[:3])]


def short_names(names: Iterable[str]) -> dict[str, str]:
    """Each dotted name's last part, and as many before it as tell it from the others."""
    parts = {name: name.split(".") for name in names}

    def last(name: str, count: int) -> str:
        return ".".join(parts[name][-count:])

    found = {}
    for name in parts:
        counts = range(1, len(parts[name]) + 1)
        found[name] = next((last(name, count) for count in counts if [last(other, count) for other in parts].count(last(name, count)) == 1), name)
    return found


def shown(value: Any) -> str:
    """A value for people."""
    if isinstance(value, tuple | list):
        return " ".join(map(shown, value)) or "none"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
