"""A recipe's run on several numbers of GPUs, simulated: `genlib plan sdxl --gpus 8,64,512,4096`.

For each stage a table: how long a step is, how much of it sends, the interval between checkpoints with which the run ends soonest, its goodput, days
and cost. Memory, operations and bytes are those of `jobs.plan`; what happens to the run is `genlib.engine.run_simulation`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from genlib.engine.memory_plan import MemoryEstimate, Parallelism, estimate_memory
from genlib.engine.run_simulation import PaperRun, RunTime, expected, slowest_rank
from genlib.engine.save_interval import best_interval
from genlib.engine.step_traffic import step_traffic
from genlib.engine.trace import FakeTask
from genlib.plurals import counted
from genlib.recipe import Stage, strategy_refusal
from jobs.command_form import Command
from jobs.plan import as_trained, assumed_spec, digits, first_fit, parallelisms_for, refusal
from jobs.run_options import RunOptions
from jobs.step_time import Fit, SaveTime, StepTime, loss_rate, nodes_of, save_time, seconds_between_losses, step_time

SEARCH_RUNS, SEARCH_LOSSES = 32, 32
"""By which intervals between checkpoints are compared: so many runs, each long enough for so many losses."""
NEAR = 1.001
"""What takes no longer than so many times the best is as good."""
LEAST_RUNS, MOST_RUNS, ALL_LOSSES = 4, 64, 2000
"""Runs of which a row is the mean: as many as have so many losses together."""
HALF_OCTAVES = range(-6, 11)
"""Intervals that are tried: these powers of the square root of two times that of the closed form."""


@dataclass(frozen=True, slots=True)
class ScaledRun:
    """A stage on one number of GPUs."""

    gpus: int
    fit: Fit
    step: StepTime
    save: SaveTime
    paper: PaperRun
    intervals: Mapping[int, RunTime]
    """What a long run comes to, by steps between checkpoints."""
    every: int
    """Those of them with which it ends soonest."""
    outcome: RunTime
    """Of the whole run so."""
    runs: int
    """Of which that is the mean."""

    @property
    def step_seconds(self) -> float:
        """Of a step that waits for the slowest GPU."""
        return self.paper.step_seconds(self.paper.nodes) * slowest_rank(self.gpus, self.paper.spread).moments[0]

    @property
    def as_good(self) -> tuple[int, int]:
        """The shortest and the longest of the intervals with which it takes hardly longer."""
        pace = {every: one.kept / one.seconds for every, one in self.intervals.items()}
        near = [every for every in pace if NEAR * pace[every] >= pace[self.every]]
        return near[0], near[-1]

    def cost(self, options: RunOptions) -> float:
        """Of nodes and head."""
        return (self.outcome.node_seconds * options.node_price_per_hour + self.outcome.seconds * options.head_price_per_hour) / 3600


def scaled(command: Command[RunOptions]) -> str:
    """All stages' tables; draws the picture where one is named. ValueError, in a sentence, where none of the numbers of GPUs can hold a stage."""
    stages = {stage.name: stage for stage in command.stages}
    found = {name: scaled_stage(stage, stages, command.options) for name, stage in stages.items()}
    if command.options.picture:
        from jobs.scale_picture import draw

        draw(Path(command.options.picture), {name: runs for name, (_, runs) in found.items() if runs}, command.options)
    drawn = f"\ndrawn in {command.options.picture}" if command.options.picture else ""
    return "\n\n".join([*(text for text, _ in found.values()), assumptions(command.options) + drawn])


def scaled_stage(stage: Stage, stages: Mapping[str, Stage], options: RunOptions) -> tuple[str, list[ScaledRun]]:
    """A stage's table, and its runs."""
    spec, origin = assumed_spec(stage)
    fake = FakeTask(lambda: as_trained(stage, stages, spec))
    title = f"{stage.name}: {type(fake.task).__name__}, {fake.trained:,} parameters to train and {fake.frozen:,} frozen"
    if not fake.task.phases or not stage.train.steps:
        return f"{title}; taken as it is, nothing is trained", []
    view = estimate_memory(fake, stage.train, math.ceil(stage.train.global_batch / stage.train.accumulation / options.gpu_counts[0]), stage.data)
    fits = {gpus: first_fit(view, usable_for(stage, gpus), stage, gpus, options) for gpus in options.gpu_counts}
    runs = [scaled_run(fake, view, fit, stage, gpus, options) for gpus, fit in fits.items() if fit]
    if not runs:
        raise ValueError(refusal(stage.name, view, usable_for(stage, 2), options.gpu_counts[-1], options))
    refused = [refusal(stage.name, view, usable_for(stage, 2), gpus, options) for gpus, fit in fits.items() if not fit]
    head = f"{title}\ndata: {origin}\n{counted(stage.train.steps, 'step')} of {counted(stage.train.global_batch, 'sample')}:"
    return "\n".join([head, table(runs, options), *refused, *idle_words(runs, stage), *retry_words(runs, options)]), runs


def usable_for(stage: Stage, gpus: int) -> list[Parallelism]:
    """What such a stage is trained by on so many GPUs: as it says, else all that can, from the fastest."""
    if stage.train.strategy == "auto":
        return parallelisms_for(stage, gpus)
    if reason := strategy_refusal(stage.task, stage.train.strategy, gpus):
        raise ValueError(reason)
    return [Parallelism(stage.train.strategy, stage.train.offload)]


def scaled_run(fake: FakeTask, view: MemoryEstimate, fit: Fit, stage: Stage, gpus: int, options: RunOptions) -> ScaledRun:
    """The stage's run on so many GPUs, with the interval between checkpoints that is best for it."""
    train = replace(stage.train, accumulation=fit.accumulation)

    @cache
    def step_on(nodes: int) -> StepTime:
        on = min(gpus, nodes * options.gpus_per_node)
        return step_time(view, fit, train, step_traffic(fake, train, fit.parallelism.strategy, on), on, options)

    nodes, save = nodes_of(gpus, options), save_time(view, fit, gpus, options)
    low, high = options.worker_range
    paper = PaperRun(
        steps=train.steps,
        step_seconds=lambda nodes: step_on(nodes).seconds,
        nodes=nodes,
        least_nodes=math.ceil(nodes * low / high),
        ranks_per_node=min(gpus, options.gpus_per_node),
        spread=options.straggler_spread,
        stall_seconds=save.stall,
        write_seconds=save.write,
        restart_seconds=options.restart_seconds + save.write,  # all of it is read again
        replacement_seconds=options.replacement_minutes * 60,
    )
    apart = seconds_between_losses(gpus, options)
    intervals = compared(paper, apart, loss_rate(options))
    every = max(intervals, key=lambda every: intervals[every].kept / intervals[every].seconds)
    losses = train.steps * step_on(nodes).seconds / apart
    if losses > SEARCH_LOSSES and not intervals[every].finished:  # then a longer one does not end either
        return ScaledRun(gpus, fit, step_on(nodes), save, paper, intervals, every, intervals[every], SEARCH_RUNS)
    runs = math.ceil(min(max(ALL_LOSSES / losses, LEAST_RUNS), MOST_RUNS))
    return ScaledRun(gpus, fit, step_on(nodes), save, paper, intervals, every, expected(paper, every, loss_rate(options), runs), runs)


def compared(paper: PaperRun, apart: float, rate: float) -> dict[int, RunTime]:
    """What a run that is long enough to tell comes to, by steps between checkpoints, around those of the closed form."""
    step = paper.step_seconds(paper.nodes) * slowest_rank(paper.nodes * paper.ranks_per_node, paper.spread).moments[0]
    middle = best_interval(stall=paper.stall_seconds, write=paper.write_seconds, apart=apart, step_seconds=step, steps=paper.steps)
    tried = sorted({min(paper.steps, max(1, round(middle * 2 ** (half / 2)))) for half in HALF_OCTAVES})
    long = replace(paper, steps=max(tried[-1], math.ceil(SEARCH_LOSSES * apart / step)))
    return {every: expected(long, every, rate, SEARCH_RUNS) for every in tried}


def table(runs: Sequence[ScaledRun], options: RunOptions) -> str:
    """A row a number of GPUs; "as good" are intervals with which it takes at most a thousandth longer."""
    priced = options.node_price_per_hour or options.head_price_per_hour
    head = ("GPUs", "strategy", "step, s", "sending", "save every", "minutes", "as good", "goodput", "losses", "days")
    rows = [[*head, "cost" if priced else "GPU-hours"]]
    for run in runs:
        hours, finished = run.outcome.seconds / 3600, run.outcome.finished == 1
        gpu_hours = run.outcome.node_seconds / 3600 * run.paper.ranks_per_node
        sending = min(1, run.step.sending / run.step_seconds)
        rows.append([
            f"{run.gpus:,}", strategy_words(run.fit), f"{run.step_seconds:.3g}", f"{sending:.0%}", f"{run.every:,}",
            digits(run.every * run.step_seconds / 60), "{:,}-{:,}".format(*run.as_good), f"{run.outcome.goodput:.1%}", digits(run.outcome.losses),
            digits(hours / 24) if finished else "never", digits(run.cost(options) if priced else gpu_hours) if finished else "-",
        ])  # fmt: skip
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  " + "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)


def strategy_words(fit: Fit) -> str:
    """`zero3+opt x4`: with what of it lies on the host, and in how many micro-batches."""
    offload = {"none": "", "optimizer": "+opt", "all": "+all"}[fit.parallelism.offload]
    return f"{fit.parallelism.strategy}{offload}{f' x{fit.accumulation}' if fit.accumulation > 1 else ''}"


def idle_words(runs: Sequence[ScaledRun], stage: Stage) -> list[str]:
    """That a step has fewer samples than there are GPUs."""
    most = runs[-1].gpus
    samples = stage.train.global_batch // runs[-1].fit.accumulation
    if samples >= most:
        return []
    return [f"of {most:,} GPUs {most - samples:,} have no sample: a step has {samples:,}; a larger --train.global-batch gives them some"]


def retry_words(runs: Sequence[ScaledRun], options: RunOptions) -> list[str]:
    """That a run gives up before it is through."""
    short = [f"{run.gpus:,}" for run in runs if run.outcome.losses > options.retries >= 0]
    if not short:
        return []
    on = " or ".join([", ".join(short[:-1]), short[-1]] if short[1:] else short)
    return [f"with --retries {options.retries} a run on {on} GPUs gives up before its end; give --retries -1"]


def assumptions(options: RunOptions) -> str:
    """What the tables stand on, in a sentence."""
    elastic = options.worker_range[0] < options.worker_range[1]
    back = f"{options.replacement_minutes:g} minutes" if options.replacement_minutes else "no time, from spares"
    return (
        f"assumed: {options.mfu:.0%} of {options.gpu_tflops:g} TFLOP/s a GPU while it computes; {options.gpus_per_node} GPUs a node, each of which "
        f"sends {options.node_gb_per_second:g} GB/s inside of it and {options.interconnect_gb_per_second:g} GB/s where there are several, "
        f"{options.overlap:.0%} of it beside computing, without latency; a spread of {options.straggler_spread:.0%} over GPUs; a node that "
        f"fails every {options.node_failure_hours:g} hours and is preempted {options.preemptions_per_hour:g} times an hour; "
        f"{options.restart_seconds:g} s to restart and a checkpoint to read at {options.store_gb_per_second:g} GB/s; "
        f"a lost node there again after {back}, and a run that {'goes on with fewer' if elastic else 'waits for it'}"
    )
