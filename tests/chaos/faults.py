"""The faults: each is done to a run in a folder, and tells what came of it."""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import tarfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from genlib.checkpoint import checkpoints, load_weights
from genlib.data.builtin.catalog import prepared
from tests.chaos.disturbed import EVERY, STEPS, Disturbed, difference, disturbed
from tests.jobs.runs import alive, descendants, launch, steps, wait_until, weights, workers
from tests.nodes import cluster_of
from tests.small_disk import mounted

Moment = random.Random
SLOWLY = ("--workers", "1:2", "--task.seconds-per-step", "0.5")
"""For nodes to join in time."""


@dataclass(frozen=True)
class Outcome:
    """Of a fault."""

    happened: str
    """What the run said, or did."""
    seconds: float = float("nan")
    """From the fault to the first step after it, or to the end of a run that is to end."""
    redone: float = float("nan")
    """Steps that were done again."""
    weights: str = "-"
    """Whether they are those of the run that nobody disturbed."""
    good: bool = True
    """Whether all that was promised holds."""


def compared(run: Path, undisturbed: Path, outcome: Outcome, *, most: float = 0.0) -> Outcome:
    """With the run that nobody disturbed: the same steps, each once, and weights that differ by no more than that."""
    apart = 0.0 if weights(run) == weights(undisturbed) else difference(run, undisturbed)
    whole = steps(run) == list(range(1, STEPS + 1))
    words = "equal" if apart == 0 else f"differ by {apart:.1e}"
    return replace(outcome, weights=words if whole else f"{words}; steps are missing or twice", good=outcome.good and whole and apart <= most)


def recovered(one: Disturbed, fault: float, before: int) -> tuple[float, float]:
    """Seconds from a fault to the first step after it, and the steps that were done again, by what a run said."""
    words = next((line for moment, line in one.lines if moment >= fault and "resumed from" in line), "")
    step = re.search(r"step (\d+) of", words)
    return one.when("first step", fault) - fault, float(before - int(step[1])) if step else float("nan")


def worker_killed(runs: Path, undisturbed: Path, moment: Moment) -> Outcome:
    """SIGKILL of a worker at a step drawn at random."""
    with disturbed(runs) as one:
        one.reaches(moment.randint(EVERY + 1, STEPS - 40))
        before, fault = one.step, time.monotonic()
        os.kill(moment.choice(workers(one.process.pid)), signal.SIGKILL)
        code = one.ends()
        seconds, redone = recovered(one, fault, before)
        outcome = Outcome(one.said("lost worker"), seconds, redone, good=code == 0 and redone <= EVERY + 20)
    return compared(one.run, undisturbed, outcome)


def driver_killed(runs: Path, undisturbed: Path, moment: Moment) -> Outcome:
    """SIGKILL of the command; then a second launch while the first one's workers may live, and nothing is left of them."""
    with disturbed(runs) as one:
        one.reaches(moment.randint(EVERY + 1, STEPS - 40))
        before, below, fault = one.step, descendants(one.process.pid), time.monotonic()
        one.process.kill()
        with disturbed(runs) as again:
            wait_until(lambda: not any(map(alive, below)), 60)
            code = again.ends()
            seconds, redone = recovered(again, fault, before)
            outcome = Outcome("the same command goes on; no process is left of the first", seconds, redone, good=code == 0)
    return compared(one.run, undisturbed, outcome)


def command_terminated(runs: Path, undisturbed: Path, moment: Moment) -> Outcome:
    """SIGTERM: a checkpoint within the grace time, exit code 143; then the same command."""
    with disturbed(runs) as one:
        one.reaches(moment.randint(EVERY + 1, STEPS - 40))
        before, fault = one.step, time.monotonic()
        one.process.send_signal(signal.SIGTERM)
        code, seconds = one.ends(), time.monotonic() - fault
    kept = int(checkpoints(one.run / "checkpoints")[0].name.removeprefix("step_"))
    again, _, _ = launch(*one.words, runs=runs)
    outcome = Outcome(f"exit code {code}; {one.said('is kept')}", seconds, max(0, before - kept), good=(code, again) == (143, 0) and kept >= before)
    return compared(one.run, undisturbed, outcome)


def worker_stopped(runs: Path, undisturbed: Path, moment: Moment) -> Outcome:
    """SIGSTOP of a worker, as of a machine that hangs: it is named, and the run goes on."""
    with disturbed(runs) as one:
        one.reaches(moment.randint(EVERY + 1, STEPS - 40))
        before, fault = one.step, time.monotonic()
        os.kill(moment.choice(workers(one.process.pid)), signal.SIGSTOP)
        code = one.ends()
        seconds, redone = recovered(one, fault, before)
        said = one.said("has not been heard of")
        outcome = Outcome(said, seconds, redone, good=code == 0 and bool(said))
    return compared(one.run, undisturbed, outcome)


def disk_full(runs: Path, undisturbed: Path, moment: Moment) -> Outcome:
    """No room for a checkpoint: training goes on with the one before, and saves again when there is room."""
    with mounted(runs / "disk", 1500) as disk, disturbed(disk.path) as one:
        one.reaches(EVERY + 1)
        disk.fill()
        one.hears("training goes on without it")
        at = one.step
        one.reaches(min(at + 5, STEPS - 1))
        disk.free()
        code = one.ends()
        said = one.said("training goes on without it")
        return compared(one.run, undisturbed, Outcome(said, 0.0, 0.0, good=code == 0 and bool(said)))


def checkpoint_corrupt(runs: Path, undisturbed: Path, moment: Moment) -> Outcome:
    """A byte flips in the newest checkpoint: the one before it is taken, and that is said."""
    with disturbed(runs) as one:
        one.reaches(2 * EVERY + 5)
        wait_until(lambda: len(checkpoints(one.run / "checkpoints")) >= 2)
        before, fault = one.step, time.monotonic()
        one.process.kill()
        wait_until(lambda: not any(map(alive, descendants(one.process.pid))), 60)
    newest = checkpoints(one.run / "checkpoints")[0]
    path = moment.choice(sorted(newest.rglob("*.safetensors")))
    data = bytearray(path.read_bytes())
    data[moment.randrange(len(data))] ^= 1 << moment.randrange(8)
    path.write_bytes(data)
    with disturbed(runs) as again:
        code = again.ends()
        seconds, redone = recovered(again, fault, before)
        said = again.said(newest.name)
    return compared(one.run, undisturbed, Outcome(said, seconds, redone, good=code == 0 and bool(said)))


def node_lost(runs: Path, undisturbed: Path, moment: Moment) -> Outcome:
    """One of two nodes loses its power; later another one joins. The number of workers follows, and no sample is lost or seen twice."""
    with cluster_of(1, 1) as nodes, disturbed(runs, *SLOWLY, "--retries", "1", **nodes.environment) as one:
        one.reaches(moment.randint(EVERY + 1, STEPS // 2))
        before, fault = one.step, time.monotonic()
        nodes.nodes[1].kill()
        one.hears("1 worker on cpu")
        nodes.join(1)
        code = one.ends(2 * 240)
        seconds, redone = recovered(one, fault, before)
        said = f"{one.said('lost worker')}; {one.said('there is room for')}"
        return compared(one.run, undisturbed, Outcome(said, seconds, redone, good=code == 0), most=1e-5)


def node_leaves(runs: Path, undisturbed: Path, moment: Moment) -> Outcome:
    """A cloud gives notice that it takes a node away: the run saves and leaves it, and has no retry to spend."""
    with cluster_of(1, 1) as nodes, disturbed(runs, *SLOWLY, "--retries", "0", **nodes.environment) as one:
        one.reaches(moment.randint(EVERY + 1, STEPS // 2))
        before, fault = one.step, time.monotonic()
        nodes.leaves(nodes.nodes[1], seconds=60)
        one.hears("will be taken away")
        one.hears("1 worker on cpu")
        code = one.ends(2 * 240)
        seconds, redone = recovered(one, fault, before)
        return compared(one.run, undisturbed, Outcome(one.said("will be taken away"), seconds, max(0.0, redone), good=code == 0), most=1e-5)


def not_finite(runs: Path, undisturbed: Path, moment: Moment) -> Outcome:
    """One step's loss is NaN: it is skipped, counted, and its samples are named; the weights stay finite."""
    with disturbed(runs, "--task.fault", "nan") as one:
        code, said = one.ends(), one.said("is not finite")
        kept = load_weights(checkpoints(one.run / "checkpoints")[0])
        finite = all(value.isfinite().all() for value in kept.values() if value.is_floating_point())
        return Outcome(said, weights="finite" if finite else "NaN", good=code == 0 and bool(said) and finite)


def no_memory(runs: Path, undisturbed: Path, moment: Moment) -> Outcome:
    """A step wants more memory than there is: one sentence says who, with how many samples, and what to change."""
    with disturbed(runs, "--task.fault", "memory") as one:
        code, said = one.ends(), one.said("ran out of memory")
        return Outcome(said, good=code == 1 and "--train.accumulation" in said and not one.said("retry 1"))


def shard_corrupt(runs: Path, undisturbed: Path, moment: Moment) -> Outcome:
    """Bytes of a picture in a shard are wrong: its sample is counted and named, and the run goes on."""
    shards = shutil.copytree(prepared("digits"), runs / "shards")
    path = next(iter(sorted(shards.rglob("train-*.tar"))))
    with tarfile.open(path) as tar:
        member = next(one for one in tar.getmembers()[moment.randrange(100) :] if one.name.endswith((".png", ".jpg", ".webp")))
    with open(path, "r+b") as file:
        file.seek(member.offset_data)
        file.write(b"no picture at all")
    with disturbed(runs, "--data.train", str(shards)) as one:
        code, name = one.ends(), member.name.partition(".")[0]
        said = next((line for _, line in one.lines if name in line or "damaged" in line or "left out" in line), "")
        return Outcome(said, good=code == 0 and bool(said))


FAULTS: dict[str, Callable[[Path, Path, Moment], Outcome]] = {
    one.__name__: one
    for one in (
        worker_killed, driver_killed, command_terminated, worker_stopped, node_lost, node_leaves, disk_full, checkpoint_corrupt,
        not_finite, no_memory, shard_corrupt,
    )
}  # fmt: skip
