"""Rows "simulated runs": what the simulator says of runs whose workers are killed at drawn moments, over what they took; of 2 and of 3 workers.

A VAE trains through Ray. One run, in which two workers are killed, tells how long a step, a save, a seal and a restart are; the simulator is given
these, and the moments of the kills of a second run, and must say how long that takes and how much of it goes to steps that count. Seconds are those
from the first step to the last seal. BENCH_STEPS is the length of the runs.
"""

from __future__ import annotations

import os
import random
import statistics
import tempfile
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from genlib.engine.run_simulation import PaperRun, RunTime, simulate
from jobs.goodput import goodput
from jobs.run_record import StageRecord, read_run
from tests.benchmarks.measure import report
from tests.jobs.runs import alive, finish, kill, start, wait_until, workers

STEPS, EVERY, MEAN_GAP, SEED = int(os.environ.get("BENCH_STEPS", "300")), 50, 12.0, 4
COMMAND = (
    "vae", "--data.train", "digits", "--train.steps", str(STEPS), "--train.global_batch", "2048", "--train.checkpoint_every_steps", str(EVERY),
    "--train.pictures_every_steps", "0", "--train.log_every_seconds", "0.5", "--train.trackers", "--retries", "-1",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Killed:
    """A run whose workers were killed at these times, in seconds since 1970."""

    folder: Path
    kills: list[float]

    def events(self, what: str) -> list[dict[str, Any]]:
        """Of its timeline; one of steps that were done again is there once."""
        return events(self.folder, what)


def events(folder: Path, what: str) -> list[dict[str, Any]]:
    """The same of a run in a folder, once there is one."""
    return [event for event in StageRecord("train", folder, {}).events if event["what"] == what]


def killed(workers_wanted: int, kills: int, draw: random.Random, runs: Path) -> Killed:
    """Trains, and kills one of the workers an exponential time after each of the first steps of a start."""
    folder, moments = runs / f"{workers_wanted}-{kills}", []
    process = start(*COMMAND, "--run", folder.name, "--workers", str(workers_wanted), runs=runs, script="jobs/train.py")
    for number in range(1, kills + 1):
        wait_until(lambda number=number: len(events(folder, "start")) == number or process.poll() is not None)
        time.sleep(draw.expovariate(1 / MEAN_GAP))
        if process.poll() is not None or not (there := workers(process.pid)):
            break
        victim = draw.choice(there)
        moments.append(time.time())
        kill(victim)
        wait_until(lambda victim=victim: not alive(victim))
    code, out, err = finish(process)
    assert code == 0, out + err
    return Killed(folder, moments)


def measured(run: Killed, world: int) -> PaperRun:
    """What the simulator is told: means of what was seen between kills."""
    saves, begun = run.events("save"), [event["time"] for event in run.events("start")]
    undisturbed = [
        (after["time"] - after["seconds"] - before["time"]) / (after["step"] - before["step"])
        for before, after in pairwise(saves)
        if not any(before["time"] < moment < after["time"] for moment in [*run.kills, *begun])
    ]
    step = statistics.mean(undisturbed)
    restarts = [began - moment - step for moment, began in zip(run.kills, begun[1:], strict=True)]
    return PaperRun(
        steps=STEPS,
        step_seconds=lambda nodes: step,
        nodes=world,
        least_nodes=world,
        stall_seconds=statistics.mean(save["seconds"] for save in saves),
        write_seconds=statistics.mean(seal["seconds"] for seal in run.events("seal")),
        restart_seconds=statistics.mean(restarts),
    )


def happened(run: Killed, step: float) -> tuple[float, float, list[float]]:
    """Seconds of the run, those of steps that count, and when workers were killed, from the first step on."""
    begun = run.events("start")
    begin, useful = begun[0]["time"] - step, goodput(read_run(run.folder))["steps"] + len(begun) * step  # first steps are of the starts there
    return run.events("seal")[-1]["time"] - begin, useful, [moment - begin for moment in run.kills]


def compare(world: int, runs: Path, draw: random.Random) -> None:
    """Prints the rows of so many workers."""
    paper = measured(killed(world, 2, draw, runs), world)
    run = killed(world, 3, draw, runs)
    seconds, useful, kills = happened(run, step := paper.step_seconds(world))
    said: RunTime = simulate(paper, EVERY, lambda now, nodes: min((moment for moment in kills if moment > now), default=float("inf")))
    facts = {
        "kills": [round(moment, 1) for moment in kills], "step": round(step, 4), "stall": round(paper.stall_seconds, 4),
        "write": round(paper.write_seconds, 3), "restart": round(paper.restart_seconds, 1),
    }  # fmt: skip
    report(f"simulated run of {world} workers: seconds", [said.seconds / seconds], must=None, simulated=said.seconds, seen=seconds, **facts)
    seen = useful / seconds
    report(f"simulated run of {world} workers: goodput", [said.goodput / seen], must=None, simulated=said.goodput, seen=seen)


def main() -> None:
    """Prints the rows."""
    draw = random.Random(SEED)
    with tempfile.TemporaryDirectory() as folder:
        for world in (2, 3):
            compare(world, Path(folder), draw)


if __name__ == "__main__":
    main()
