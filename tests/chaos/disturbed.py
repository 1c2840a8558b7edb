"""A run of two workers over Ray that faults are done to, and what it looks like from outside."""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch

from genlib.checkpoint import checkpoints, load_weights
from tests.jobs.runs import descendants, kill, start, steps, wait_until

STEPS, EVERY = 120, 20
"""Of the run, and between its checkpoints."""
WORDS = (
    "toy", "--run", "r", "--workers", "2", "--train.strategy", "zero2", "--train.steps", str(STEPS), "--train.checkpoint-every-steps", str(EVERY),
    "--task.seconds-per-step", "0.05", "--task.dropout", "0", "--train.log-every-seconds", "0.2",
)  # fmt: skip
START_SECONDS = 240.0


@dataclass
class Disturbed:
    """One command of a run, from its start."""

    runs: Path
    words: tuple[str, ...] = WORDS
    environment: Mapping[str, str] = field(default_factory=dict)
    process: subprocess.Popen = field(init=False)
    lines: list[tuple[float, str]] = field(default_factory=list)
    """What the command said, and when."""

    def __post_init__(self) -> None:
        self.process = start(*self.words, runs=self.runs, **self.environment)
        self.threads = [threading.Thread(target=self._hear, args=(stream,), daemon=True) for stream in (self.process.stdout, self.process.stderr)]
        for thread in self.threads:
            thread.start()

    def _hear(self, stream: Iterator[str]) -> None:
        for line in stream:
            self.lines.append((time.monotonic(), line.rstrip()))

    @property
    def run(self) -> Path:
        """Its folder."""
        return self.runs / "r"

    @property
    def step(self) -> int:
        """The last one that its metrics tell of."""
        return (steps(self.run) or [0])[-1]

    def reaches(self, step: int) -> None:
        """Returns once the run has come to a step. RuntimeError with its words where it ends before."""
        wait_until(lambda: self.process.poll() is not None or self.step >= step, START_SECONDS)
        if self.process.poll() is not None:
            raise RuntimeError(f"the run ended at step {self.step}: {self.said()[-500:]}")

    def said(self, words: str = "") -> str:
        """All that it said, or the first line with those words, or nothing."""
        if not words:
            return "\n".join(line for _, line in self.lines)
        return next((line for _, line in self.lines if words in line), "")

    def when(self, words: str, after: float) -> float:
        """The moment at which it first said so after another."""
        return next((moment for moment, line in self.lines if words in line and moment >= after), float("nan"))

    def hears(self, words: str, seconds: float = START_SECONDS) -> None:
        """Returns once it has said so, or has ended."""
        wait_until(lambda: self.said(words) or self.process.poll() is not None, seconds)

    def ends(self, seconds: float = START_SECONDS) -> int:
        """Its exit code, once it has ended."""
        code = self.process.wait(seconds)
        for thread in self.threads:
            thread.join(10)
        return code

    def kill(self) -> None:
        """Its command, and all that this started."""
        below = descendants(self.process.pid)
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        for pid in below:
            try:
                kill(pid)
            except ProcessLookupError:
                continue


@contextmanager
def disturbed(runs: Path, *words: str, **environment: str) -> Iterator[Disturbed]:
    """A command that is ended on the way out, whatever happened; more words for it than the usual ones."""
    one = Disturbed(runs, (*WORDS, *words), environment)
    try:
        yield one
    finally:
        one.kill()


def difference(run: Path, other: Path) -> float:
    """The most by which weights of two runs' newest checkpoints differ; NaN where they have not come equally far."""
    (one, *_), (two, *_) = checkpoints(run / "checkpoints"), checkpoints(other / "checkpoints")
    if one.name != two.name:
        return float("nan")
    ours, theirs = load_weights(one), load_weights(two)
    return max(float((ours[name].double() - theirs[name].double()).abs().max()) for name in theirs if torch.is_floating_point(theirs[name]))
