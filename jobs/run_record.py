"""What a run left in its folder, read for a report: its stages, what they logged, what time went to. Nothing is changed, and all may be missing."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from genlib.checkpoint import Manifest, checkpoints, read_manifest, step_of
from genlib.engine.pictures import pictures
from genlib.engine.timeline import TIMELINE
from genlib.plurals import counted
from jobs.evaluations import evaluations
from jobs.launches import LAUNCHES, lines
from jobs.run_folder import is_running, read_json, unsealed

Series = tuple[list[float], list[float]]
"""Steps, and a value at each; NaN where it was not finite."""


@dataclass(frozen=True)
class StageRecord:
    """One stage."""

    name: str
    folder: Path
    config: Mapping[str, Any]
    """`task`, `train` and `data` as plain values; empty where nothing tells."""

    @cached_property
    def rows(self) -> list[dict[str, Any]]:
        """What was logged of each step, in order."""
        return [row for row in lines(self.folder / "metrics.jsonl") if _is_number(row.get("step"))]

    @cached_property
    def events(self) -> list[dict[str, Any]]:
        """See `genlib.engine.timeline`."""
        needed = ("step", "time", "seconds")
        return [event for event in lines(self.folder / TIMELINE) if all(_is_number(event.get(name)) for name in needed)]

    @cached_property
    def series(self) -> dict[str, Series]:
        """Each logged value and each score over steps, but for what was never anything."""
        found: dict[str, Series] = {}
        for row in [*self.rows, *evaluations(self.folder)]:
            for name, value in row.items():
                if name not in ("step", "samples_seen", "time", "kimg", "seconds") and (value is None or _is_number(value)):
                    steps, values = found.setdefault(name, ([], []))
                    steps.append(row["step"])
                    values.append(math.nan if value is None else value)
        return {name: one for name, one in found.items() if any(math.isfinite(value) and value != 0 for value in one[1])}

    @cached_property
    def checkpoints(self) -> list[tuple[Path, int]]:
        """Those that are kept and their steps, in order; not verified."""
        found = [(path, step_of(path.name)) for path in reversed(checkpoints(self.folder / "checkpoints"))]
        return [(path, step) for path, step in found if step is not None]

    @cached_property
    def manifest(self) -> Manifest | None:
        """That of the newest checkpoint that can be read."""
        for path, _ in reversed(self.checkpoints):
            try:
                return read_manifest(path)
            except (ValueError, OSError):
                continue
        return None

    @property
    def step(self) -> int:
        """The last step that anything tells of."""
        return int(max([row["step"] for row in self.rows[-1:]] + [step for _, step in self.checkpoints[-1:]], default=0))

    @property
    def steps(self) -> int:
        """Steps of the whole stage; 0 where nothing tells."""
        return int(self.config.get("train", {}).get("steps", 0))

    @property
    def pictures(self) -> list[tuple[Path, int]]:
        """What was drawn on the way, and after how many steps."""
        return pictures(self.folder)

    @property
    def final_pictures(self) -> list[Path]:
        """What was drawn at the end."""
        return sorted(path for kind in ("*.png", "*.gif") for path in self.folder.glob(kind))

    @cached_property
    def data(self) -> list[str]:
        """What was taken for samples, a fact each; empty where the run has not kept it."""
        said = next((str(event.get("described", "")) for event in reversed(self.events) if event["what"] == "data"), "")
        return said.removeprefix("data: ").split("; ") if said else []


@dataclass(frozen=True)
class RunRecord:
    """A run."""

    folder: Path
    recipe: str
    stages: Sequence[StageRecord]
    metrics: Mapping[str, Any]
    """Final scores; empty where it has not come to its end."""
    launches: Sequence[dict[str, Any]] = field(default=())

    @property
    def name(self) -> str:
        """The folder's."""
        return self.folder.name

    @property
    def final_pictures(self) -> list[Path]:
        """What the last stage drew at the end, wherever it lies by now."""
        own = sorted(path for kind in ("*.png", "*.gif") for path in self.folder.glob(kind))
        return own or self.stages[-1].final_pictures

    @property
    def starts(self) -> list[dict[str, Any]]:
        """Each start of each stage, in order."""
        found = [event for stage in self.stages for event in stage.events if event["what"] == "start"]
        return sorted(found, key=lambda event: event["time"])

    @property
    def command(self) -> str:
        """That of the last launch; empty where nothing tells."""
        return next((str(line["command"]) for line in reversed(self.launches) if "command" in line), "")

    @cached_property
    def status(self) -> str:
        """Where it stands, in a sentence."""
        now = next((stage for stage in self.stages if stage.step < stage.steps), self.stages[-1])
        of = f" of {now.steps:,}" if now.steps else ""
        where = f"step {now.step:,}{of}" + (f" of stage {now.name}" if len(self.stages) > 1 else "")
        if self.metrics:
            done = ", then ".join(counted(stage.step, "step") for stage in self.stages if stage.step)
            return f"Finished after {done or 'no step'}"
        if is_running(self.folder):
            return f"Running: {where} so far"
        ended = self.launches[-1].get("how") if self.launches and self.launches[-1].get("what") == "end" else ""
        words = {"stopped": "Stopped", "failed": "Ended by an error, see error.log,"}.get(str(ended), "Cut off")
        kept = now.checkpoints[-1][1] if now.checkpoints else 0
        return f"{words} at {where}; the same command goes on from step {kept:,}" if kept else f"{words} at {where}, before its first checkpoint"


def read_run(folder: Path) -> RunRecord:
    """The run in a folder. ValueError in one sentence where it holds none."""
    if not folder.is_dir():
        raise ValueError(f"{folder} does not exist; name the folder of a run, like runs/clip")
    if (folder / "search.json").exists():
        raise ValueError(f"{folder} is a search, whose page is {folder / 'report.html'}; name a run, such as {folder / 'best'}")
    if not any((folder / name).exists() for name in ("run.json", "metrics.jsonl", "checkpoints")):
        raise ValueError(
            f"{folder} holds no run: it has neither run.json nor metrics.jsonl nor checkpoints; name the folder of a run, like runs/clip"
        )
    said = unsealed(read_json(folder / "run.json")) or {}
    configs: dict[str, Any] = said.get("stages") or {}
    if len(configs) > 1:
        stages = [StageRecord(name, folder / name, config) for name, config in configs.items()]
    else:
        name, config = next(iter(configs.items()), ("train", {}))
        stages = [StageRecord(name, folder, config)]
        if not config and (manifest := stages[0].manifest):  # a stage's folder, or one that the engine alone trained in
            stages = [StageRecord(manifest.stage, folder, {"task": manifest.blueprint.task, "train": manifest.train, "data": manifest.data})]
    recipe = said.get("recipe") or (stages[0].manifest.recipe if stages[0].manifest else "")
    return RunRecord(folder, recipe, stages, read_json(folder / "metrics.json") or {}, lines(folder / LAUNCHES))


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
