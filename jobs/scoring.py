"""Pictures of a run's checkpoints, scored while it trains: `--score-features NETWORK ... --score-every-images N`.

    STAGE/evaluations.jsonl           a line a scored checkpoint: step, kimg, and each score by its network
    STAGE/scores/step_00001000/       scores.json: how each of them was taken
    STAGE/best                        the checkpoint of the lowest first FID, as a run that everything opens

A checkpoint is scored on a worker apart from those that train, where the cluster has a CPU or GPU that nobody uses; else by those, each its
share, before they go on.
"""

from __future__ import annotations

import argparse
import os
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from genlib import distributed
from genlib.engine.report import Row
from genlib.recipe import Stage
from genlib.storage import why
from jobs.evaluations import Evaluations

BEST, WAITING, SCORES = "best", "scoring", "scores"
"""Folders in that of the stage."""
_BATCH, _MOST_REAL = 64, 50_000


@dataclass(frozen=True, slots=True)
class Scoring:
    """What is asked for."""

    features: tuple[Path, ...]
    """Feature networks; the checkpoint with the lowest FID by the first is kept."""
    every_images: int
    """Training images from one scored checkpoint to the next, at least: there must be a checkpoint."""
    samples: int
    """Pictures that a checkpoint makes."""
    split: str | None = None
    """Real pictures that they are compared with; None takes the held-out ones where there are any."""


class Scorer:
    """Scores the checkpoints of one stage, whose samples are known by `kept`; every rank has one and calls it at every checkpoint."""

    def __init__(self, scoring: Scoring, stage: Stage, folder: Path, kept: Path, device: torch.device) -> None:
        self.scoring, self.stage, self.folder, self.kept, self.device = scoring, stage, folder, kept, device
        self.evaluations = Evaluations(folder)
        self.away: list[tuple[Any, dict[str, Any]]] = []

    def on_checkpoint(self, checkpoint: Path, row: Row) -> None:
        """Scores it, if it is time, or has it scored; takes in what others have scored by now."""
        lead, step, images = distributed.rank() == 0, int(row["step"] or 0), int(row["samples_seen"] or 0)
        last = step >= self.stage.train.steps
        if lead:
            self.take_in(wait=last)
        if not distributed.broadcast_object(last or (lead and self.is_due(step, images))):
            return
        facts = {"step": step, "kimg": images / 1000}
        if distributed.broadcast_object(lead and not last and self.sent_away(checkpoint, facts)):
            return
        outcome = scored(checkpoint, self.scoring, self.stage, self.folder, self.kept, self.device)
        if lead:
            self.take_in(wait=True)
            self.add(facts, outcome, checkpoint)

    def is_due(self, step: int, images: int) -> bool:
        """Whether enough images were seen since the last one."""
        known = [row["kimg"] for row in self.evaluations.rows if row["step"] < step] + [facts["kimg"] for _, facts in self.away]
        return images - 1000 * max(known, default=0) >= self.scoring.every_images

    def sent_away(self, checkpoint: Path, facts: dict[str, Any]) -> bool:
        """Whether a worker apart scores it, as the cluster has room; from a copy, as training deletes old checkpoints."""
        import ray

        kind = "GPU" if self.device.type == "cuda" else "CPU"
        if ray.available_resources().get(kind, 0) < 1:
            return False
        try:
            copy = linked(checkpoint, self.folder / WAITING / checkpoint.name)
        except OSError as error:
            print(f"step {facts['step']} is scored here: {why(self.folder / WAITING, error)}", flush=True)
            return False
        remote = ray.remote(num_cpus=1, num_gpus=int(kind == "GPU"))(scored)
        device = torch.device(self.device.type)
        self.away.append((remote.remote(copy, self.scoring, self.stage, self.folder, self.kept, device), {**facts, "copy": copy}))
        return True

    def take_in(self, wait: bool) -> None:
        """Adds the scores that other workers have by now, or all of them; in the order of the steps, as who reads them expects."""
        import ray
        from ray.exceptions import RayError

        while self.away and (wait or ray.wait([self.away[0][0]], timeout=0)[0]):
            promise, facts = self.away.pop(0)
            outcome: Any
            try:
                outcome = ray.get(promise)
            except RayError as error:
                outcome = f"its worker was lost ({type(error).__name__})"
            copy = facts.pop("copy")
            self.add(facts, outcome, copy)
            shutil.rmtree(copy.parents[1], ignore_errors=True)

    def add(self, facts: Mapping[str, Any], outcome: dict[str, float] | str, checkpoint: Path) -> None:
        """Says and notes what a checkpoint reached, or why it is not scored, and keeps the best."""
        if isinstance(outcome, str):
            print(f"step {facts['step']} is not scored: {outcome}", flush=True)
            return
        fid = next(name for name in outcome if name.startswith("fid"))
        before = min((row[fid] for row in self.evaluations.rows if row["step"] != facts["step"] and fid in row), default=float("inf"))
        self.evaluations.add({**facts, **outcome})
        found = ", ".join(f"{name} {value:.4g}" for name, value in outcome.items())
        print(f"step {facts['step']}, {facts['kimg']:g} thousand images: {found}", flush=True)
        if outcome[fid] < before:
            try:
                keep(checkpoint, self.folder / BEST)
            except OSError as error:
                print(f"the best checkpoint, of step {facts['step']}, is not kept: {why(self.folder / BEST, error)}", flush=True)


def linked(checkpoint: Path, run: Path) -> Path:
    """The checkpoint in a run of its own, without copying a byte where the file system can."""
    shutil.rmtree(run, ignore_errors=True)
    return Path(shutil.copytree(checkpoint, run / "checkpoints" / checkpoint.name, copy_function=_link))


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def keep(checkpoint: Path, best: Path) -> None:
    """Makes the checkpoint the best one."""
    new, old = (best.with_name(f".{best.name}.{which}") for which in ("new", "old"))
    linked(checkpoint, new)
    shutil.rmtree(old, ignore_errors=True)
    if best.exists():
        os.replace(best, old)
    os.replace(new, best)
    shutil.rmtree(old, ignore_errors=True)


def scored(checkpoint: Path, scoring: Scoring, stage: Stage, folder: Path, kept: Path, device: torch.device) -> dict[str, float] | str:
    """Scores by their names, and the seconds that they took; or a sentence on why there are none."""
    from genlib.data.source import open_source
    from jobs.picture_scores import score_pictures

    begin = time.monotonic()
    options = argparse.Namespace(
        features=scoring.features, clip=None, samples=scoring.samples, reference=_MOST_REAL, split=scoring.split, batch=_BATCH, seed=0, sampler=[]
    )  # fmt: skip
    try:
        source = open_source(stage.data, kept, needs=stage.task.fields)
        found = score_pictures(checkpoint, source, folder / SCORES / checkpoint.name, device, options, sheet=False)
    except (ValueError, OSError) as error:
        return str(error)
    return {**found, "seconds": time.monotonic() - begin}
