"""A run on paper: steps as slow as their slowest rank, saves beside them, nodes that are lost and come back, restarts.

It goes from event to event (a node is lost, another joins): what happens between two is drawn at once, whatever the number of steps and ranks.
Saves are those of `genlib.engine.saver`: steps stand still for a copy, which is written beside the next ones, one checkpoint at a time, and a run
goes on from the newest one that is sealed. All times are in seconds and begin with the first step.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property

import numpy as np
import torch

_EXACT = 8
"""Steps up to which a sum of them is drawn one by one; of more, as a normal number of the same mean and variance."""
_POINTS = 20_000
"""By which the distribution of a slowest rank is told."""
GIVE_UP = 20
"""A run that takes so many times as long as without a disturbance does not get on, and is left there."""
Losses = Callable[[float, int], float]
"""When the next node is lost, of so many that run from some time on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PaperRun:
    """What a run does, and where."""

    steps: int
    step_seconds: Callable[[int], float]
    """Of a rank that waits for no other, on so many nodes."""
    nodes: int
    least_nodes: int
    """With fewer, the run waits."""
    ranks_per_node: int = 1
    spread: float = 0.0
    """Coefficient of variation of the step's time over ranks: standard deviation over mean."""
    stall_seconds: float = 0.0
    """For which steps stand still at a save."""
    write_seconds: float = 0.0
    """From then until the checkpoint is sealed."""
    restart_seconds: float = 0.0
    """From the loss of a node, or since another joins, to the first step."""
    replacement_seconds: float = 0.0
    """Until a lost node is there again; 0 with a spare one."""


@dataclass(slots=True)
class RunTime:
    """Seconds of a run by what they went to, with means where it is of several runs."""

    steps: float = 0.0
    """Of steps that are in a sealed checkpoint."""
    saves: float = 0.0
    """For which steps stood still, or waited for the checkpoint before."""
    lost: float = 0.0
    """Since the newest sealed checkpoint when a node was lost or joined."""
    restarts: float = 0.0
    waits: float = 0.0
    """With fewer nodes than it takes."""
    losses: float = 0.0
    """Nodes that were lost."""
    node_seconds: float = 0.0
    """Over all nodes, those that it had."""
    kept: float = 0.0
    """Steps in the newest sealed checkpoint."""
    finished: float = 0.0
    """1 where it came to its end."""

    @property
    def seconds(self) -> float:
        """From the first step until the last checkpoint is sealed."""
        return self.steps + self.saves + self.lost + self.restarts + self.waits

    @property
    def goodput(self) -> float:
        """Share of the time that went to steps that count."""
        return self.steps / self.seconds

    @classmethod
    def mean(cls, outcomes: Sequence[RunTime]) -> RunTime:
        """Of several runs."""
        return cls(*(sum(getattr(one, name) for one in outcomes) / len(outcomes) for name in cls.__dataclass_fields__))


class PoissonLosses:
    """Nodes are lost independently of each other and of the time, each at `rate` a second. The same times for all who ask from the same seed."""

    def __init__(self, rate: float, seed: int) -> None:
        self.rate, self.generator = rate, np.random.default_rng(seed)
        self.time, self.nodes = 0.0, 0

    def __call__(self, now: float, nodes: int) -> float:
        if nodes != self.nodes:  # a Poisson process has no memory
            self.time, self.nodes = now + self._gap(nodes), nodes
        while self.time <= now:
            self.time += self._gap(nodes)
        return self.time

    def _gap(self, nodes: int) -> float:
        return float(self.generator.exponential()) / (self.rate * nodes) if self.rate else math.inf


@dataclass(frozen=True)
class SlowestRank:
    """The longest of the times that `ranks` ranks take for a step, over their mean; a rank's is lognormal."""

    ranks: int
    spread: float

    def factors(self, uniform: np.ndarray) -> np.ndarray:
        """Its quantiles at numbers in (0, 1)."""
        sigma = math.sqrt(math.log1p(self.spread**2))
        above = -np.expm1(np.log(uniform) / self.ranks)  # the chance of a rank to be slower than the slowest
        return np.exp(-sigma * torch.special.ndtri(torch.from_numpy(above)).numpy() - sigma**2 / 2)

    @cached_property
    def table(self) -> np.ndarray:
        """As many numbers, of which each is as likely as the next."""
        return self.factors((np.arange(_POINTS) + 0.5) / _POINTS) if self.spread else np.ones(1)

    @cached_property
    def moments(self) -> tuple[float, float]:
        """Mean and standard deviation."""
        return float(self.table.mean()), float(self.table.std())

    def sums(self, counts: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        """Of so many steps each (N,), drawn: (N,)."""
        most, (mean, deviation) = int(counts.max()), self.moments
        if not self.spread:
            return counts.astype(float)
        if most > _EXACT:
            return np.maximum(0.0, counts * mean + np.sqrt(counts) * deviation * generator.standard_normal(len(counts)))
        drawn = self.table[generator.integers(len(self.table), size=(len(counts), most))]
        return np.where(np.arange(most) < counts[:, None], drawn, 0.0).sum(1)


slowest_rank = cache(SlowestRank)


def simulate(run: PaperRun, every: int, losses: Losses, seed: int = 0) -> RunTime:
    """One run that saves every so many steps."""
    return _Run(run, every, losses, np.random.default_rng(seed)).outcome()


def expected(run: PaperRun, every: int, rate: float, runs: int) -> RunTime:
    """The mean of so many runs whose nodes are lost at `rate` a second each; for all intervals and clusters of the same size at the same times."""
    return RunTime.mean([simulate(run, every, PoissonLosses(rate, 2 * number), 2 * number + 1) for number in range(runs)])


@dataclass(slots=True)
class _Run:
    """Where a run stands."""

    run: PaperRun
    every: int
    losses: Losses
    generator: np.random.Generator
    now: float = 0.0
    kept: int = 0
    """See `RunTime`."""
    nodes: int = field(init=False)
    last: float = field(init=False)
    """When it is given up."""
    back: list[float] = field(default_factory=list)
    """When lost nodes are there again; a heap."""
    found: RunTime = field(default_factory=RunTime)

    def __post_init__(self) -> None:
        self.nodes = self.run.nodes

    def outcome(self) -> RunTime:
        """From the first step to the last checkpoint."""
        self.last = GIVE_UP * self.run.steps * self.run.step_seconds(self.run.nodes) * self._slowest().moments[0]
        while self.now < self.last:
            loss = self.losses(self.now, self.nodes)
            if self._train(min(loss, *self.back[:1], self.last)):
                break
            if self.now == loss:
                self._lose()
            self._join()
            self._restart()
        self.found.kept = self.kept
        return self.found

    def _slowest(self) -> SlowestRank:
        return slowest_rank(self.nodes * self.run.ranks_per_node, self.run.spread)

    def _train(self, until: float) -> bool:
        """Steps and saves until then, from the newest sealed checkpoint; whether the run is over."""
        begin = free = self.now  # free: when the store has taken the checkpoint before
        while self.kept < self.run.steps:
            work, took, counts = self._intervals(until - begin, free - begin)
            ends = begin + np.cumsum(took)
            sealed = int(np.searchsorted(ends + self.run.write_seconds, until, side="right"))
            self.found.steps += float(work[:sealed].sum())
            self.found.saves += float((took - work)[:sealed].sum())
            self.kept += int(counts[:sealed].sum())
            begin = float(ends[sealed - 1]) if sealed else begin
            if sealed < len(counts):
                self.found.lost += until - begin
                self._pass(until)
                return False
            free = begin + self.run.write_seconds
        self.found.saves += free - begin
        self._pass(free)
        self.found.finished = 1.0
        return True

    def _intervals(self, seconds: float, busy: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The next intervals between saves, about as many as there is time for: seconds of their steps, seconds with the save, and their steps.

        busy: for how long the store still writes the checkpoint before.
        """
        step, left, slowest = self.run.step_seconds(self.nodes), self.run.steps - self.kept, self._slowest()
        each = max(self.every * step * slowest.moments[0], self.run.write_seconds) + self.run.stall_seconds
        count = int(min(-(-left // self.every), 16 + 1.1 * seconds / each))
        counts = np.minimum(self.every, left - self.every * np.arange(count))
        work = step * slowest.sums(counts, self.generator)
        least = np.full(count, self.run.write_seconds)
        least[0] = busy
        return work, np.maximum(work, least) + self.run.stall_seconds, counts

    def _lose(self) -> None:
        self.nodes -= 1
        self.found.losses += 1
        heapq.heappush(self.back, self.now + self.run.replacement_seconds)

    def _join(self) -> None:
        while self.back and self.back[0] <= self.now:
            heapq.heappop(self.back)
            self.nodes += 1

    def _restart(self) -> None:
        """Until there are enough nodes and the first step begins; further ones may be lost meanwhile."""
        ready = math.inf
        while self.now < min(ready, self.last):
            enough = self.nodes >= self.run.least_nodes
            ready = min(ready, self.now + self.run.restart_seconds) if enough else math.inf
            loss = self.losses(self.now, self.nodes) if self.nodes else math.inf
            until = min(loss, *self.back[:1], ready, self.last)
            if enough:
                self.found.restarts += until - self.now
            else:
                self.found.waits += until - self.now
            self._pass(until)
            if until == loss:
                self._lose()
                ready = math.inf  # it begins again
            self._join()

    def _pass(self, until: float) -> None:
        self.found.node_seconds += self.nodes * (until - self.now)
        self.now = until
