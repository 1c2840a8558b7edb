"""Rows "simulated runs": what the simulator says of runs whose workers are killed at drawn moments, over what they took; of 2 and of 3 workers.

A VAE trains through Ray, twice for each number of workers. The simulator is told how long a step, a save, a seal and a restart are, and when workers
are killed; it must say how long the run takes, from the first step to the last seal, and how much of that goes to steps that count. What it is told
are means of the very run, so that an error is the simulator's, or those of the other run, which adds what the machine did meanwhile.
BENCH_STEPS is the length of the runs, BENCH_WORKERS=3 leaves the others out.
"""

from __future__ import annotations

import math
import os
import random
import statistics
import tempfile
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from genlib.engine.run_simulation import PaperRun, simulate
from jobs.goodput import goodput
from jobs.run_record import StageRecord, read_run
from tests.benchmarks.measure import report
from tests.jobs.runs import finish, kill, start, wait_until, workers

STEPS, EVERY, MEAN_GAP, SEED = int(os.environ.get("BENCH_STEPS", "300")), 50, 12.0, 2
PATIENCE = 400.0
WORKERS = tuple(map(int, os.environ.get("BENCH_WORKERS", "2,3").split(",")))
COMMAND = (
    "vae", "--data.train", "digits", "--train.steps", str(STEPS), "--train.global_batch", "2048", "--train.checkpoint_every_steps", str(EVERY),
    "--train.pictures_every_steps", "0", "--train.log_every_seconds", "0.5", "--train.trackers", "--retries", "-1", "--cpus-per-worker", "0.5",
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
    try:
        for number in range(1, kills + 1):
            wait_until(lambda number=number: len(events(folder, "start")) == number or process.poll() is not None, timeout_seconds=PATIENCE)
            time.sleep(draw.expovariate(1 / MEAN_GAP))
            over = any(event["step"] == STEPS for event in events(folder, "save"))
            if process.poll() is not None or over or not (there := workers(process.pid)):
                break
            moments.append(time.time())
            kill(draw.choice(there))
        code, out, err = finish(process, timeout_seconds=PATIENCE)
    finally:
        process.terminate()
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
    return PaperRun(
        steps=STEPS,
        step_seconds=lambda nodes: step,
        nodes=world,
        least_nodes=world,
        stall_seconds=statistics.mean(save["seconds"] for save in saves),
        write_seconds=statistics.mean(seal["seconds"] for seal in run.events("seal")),
        restart_seconds=statistics.mean(began - moment - step for moment, began in zip(run.kills, begun[1:], strict=True)),
    )


def seen(run: Killed, step: float) -> tuple[float, float, list[float]]:
    """Seconds of the run, those of steps that count, and when workers were killed, from the first step on."""
    begun = run.events("start")
    begin, useful = begun[0]["time"] - step, goodput(read_run(run.folder))["steps"] + len(begun) * step  # first steps are of the starts there
    return run.events("seal")[-1]["time"] - begin, useful, [moment - begin for moment in run.kills]


def compare(told: PaperRun, run: Killed, own: PaperRun) -> dict[str, Any]:
    """Seconds and goodput, simulated with what is told, and seen."""
    seconds, useful, kills = seen(run, own.step_seconds(own.nodes))
    said = simulate(told, EVERY, lambda now, nodes: min((moment for moment in kills if moment > now), default=math.inf))
    facts = {"step": told.step_seconds(told.nodes), "stall": told.stall_seconds, "write": told.write_seconds, "restart": told.restart_seconds}
    found = {"simulated": said.seconds, "seen": seconds, "goodput simulated": said.goodput, "goodput seen": useful / seconds}
    return {name: round(value, 4) for name, value in {**found, **facts}.items()} | {"kills": [round(moment, 1) for moment in kills]}


def main() -> None:
    """Prints the rows."""
    with tempfile.TemporaryDirectory() as folder:
        for world in WORKERS:
            draw = random.Random(SEED + world)
            runs = [killed(world, kills, draw, Path(folder)) for kills in (2, 3)]
            own = [measured(run, world) for run in runs]
            for told, which in ((own, "its own means"), (own[::-1], "means of the other run")):
                found = [compare(paper, run, mine) for paper, run, mine in zip(told, runs, own, strict=True)]
                for what, (simulated, real) in {"seconds": ("simulated", "seen"), "goodput": ("goodput simulated", "goodput seen")}.items():
                    ratios = [one[simulated] / one[real] for one in found]
                    report(f"simulated run of {world} workers, from {which}: {what}", ratios, must=None, runs=found)


if __name__ == "__main__":
    main()
