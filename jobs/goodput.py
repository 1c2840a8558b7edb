"""What a run's wall time went to: the share that was spent in steps, and the rest by reason."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from jobs.run_record import RunRecord, StageRecord

PARTS = {
    "steps": "Training steps",
    "data": "Waiting for data",
    "start": "Starting: Ray, workers, model, first step",
    "evaluate": "Scoring held-out samples",
    "picture": "Drawing pictures",
    "save": "Saving checkpoints",
    "scores": "Final scores and exports",
    "lost": "Steps lost with a worker, done again",
    "other": "All else",
}
"""In the order in which they are shown."""


def goodput(run: RunRecord) -> dict[str, float]:
    """Seconds by part, of `PARTS`; empty where the run has not kept what tells. Time between a run's end and its next launch is no part of it."""
    spans = _spans(run)
    if not spans:
        return {}
    found = dict.fromkeys(PARTS, 0.0)
    for stage in run.stages:
        _add_stage(found, stage)
    found["start"] = sum(_starts(run, spans))
    found["other"] = max(0.0, sum(end - begin for begin, end in spans) - sum(found.values()))
    return found


def _spans(run: RunRecord) -> list[tuple[float, float]]:
    """When the run was worked on, from each launch to its end or the last that was heard of it."""
    signs = sorted(_signs(run))
    if not signs or not run.starts:
        return []
    marks = [line for line in run.launches if isinstance(line.get("time"), int | float)]
    begins = [line["time"] for line in marks if line.get("what") == "launch"] or [run.starts[0]["time"] - run.starts[0]["seconds"]]
    spans = []
    for begin, following in pairwise([*begins, float("inf")]):
        ends = [line["time"] for line in marks if line.get("what") == "end" and begin <= line["time"] < following]
        heard = [sign for sign in signs if begin <= sign < following]
        if ends or heard:
            spans.append((begin, max(ends or heard)))
    return spans


def _signs(run: RunRecord) -> list[float]:
    """Times at which it was alive."""
    events = [event for stage in run.stages for event in stage.events]
    rows = [path.stat().st_mtime for stage in run.stages if (path := stage.folder / "metrics.jsonl").exists()]
    return [event["time"] for event in events] + [event["heard"] for event in events if event.get("heard")] + rows


def _starts(run: RunRecord, spans: Sequence[tuple[float, float]]) -> list[float]:
    """Seconds of each start: since the launch, or since the run was last heard of, until its first step was through."""
    seconds, before = [], float("-inf")
    for start in run.starts:
        launch = max((begin for begin, _ in spans if begin <= start["time"]), default=start["time"] - start["seconds"])
        begin = launch if launch > before else max(before, start.get("heard") or start["time"] - start["seconds"])
        seconds.append(max(0.0, start["time"] - begin))
        before = start["time"]
    return seconds


def _add_stage(found: dict[str, float], stage: StageRecord) -> None:
    starts = [event for event in stage.events if event["what"] == "start"]
    first = {start["step"] + 1 for start in starts}  # a first step is part of the start
    for row in stage.rows:
        if row["step"] not in first:
            waited = row.get("data_time") or 0.0
            found["data"] += waited
            found["steps"] += (row.get("batch_time") or 0.0) - waited
    for event in stage.events:
        found["save"] += event.get("waited", 0.0)
        if event["what"] in ("evaluate", "picture", "save", "scores"):
            found[event["what"]] += event["seconds"]
            found["steps"] -= event["seconds"] if event["what"] == "evaluate" else 0.0  # part of its step's time
    for start, following in pairwise(starts):
        found["lost"] += _lost(stage.events, start, following)
    found["steps"] = max(0.0, found["steps"])


def _lost(events: Sequence[dict[str, Any]], start: dict[str, Any], following: dict[str, Any]) -> float:
    """Seconds from the checkpoint that a run went on from to when it was last heard of before."""
    saves = [event["time"] for event in events if event["what"] == "save" and event["step"] == following["step"]]
    kept = max([start["time"], *(time for time in saves if time < following["time"])])
    return max(0.0, (following.get("heard") or kept) - kept)
