"""Draws simulated runs on several numbers of GPUs: where their time goes, how long they take, and what the interval between checkpoints does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from genlib.charts import COLORS, chart
from jobs.plan_scale import ScaledRun
from jobs.run_options import RunOptions

PARTS = {"steps": "steps that count", "saves": "saves", "lost": "steps done again", "restarts": "restarts", "waits": "waiting for nodes"}
"""Fields of `RunTime`, in the order in which they lie on each other."""


def draw(path: Path, stages: Mapping[str, Sequence[ScaledRun]], options: RunOptions) -> None:
    """A row of three axes a stage."""
    with chart(path, rows=len(stages), columns=3, width=12.5, height=3.6 * len(stages)) as axes:
        for row, (name, runs) in zip(axes, stages.items(), strict=True):
            _draw_days(row[0], runs, options)
            _draw_parts(row[1], runs)
            _draw_intervals(row[2], runs)
            row[0].set_title(f"{name}: time{' and cost' if options.node_price_per_hour else ''}")


def _draw_days(axes: Any, runs: Sequence[ScaledRun], options: RunOptions) -> None:
    """Days, and cost where there is a price, over GPUs."""
    gpus, finished = [run.gpus for run in runs], [run for run in runs if run.outcome.finished == 1]
    days = {run.gpus: run.outcome.seconds / 86400 for run in finished}
    if days:
        first = next(iter(days))
        axes.loglog(gpus, [days[first] * first / number for number in gpus], "--", color=COLORS[9], label="twice the GPUs, half the time")
    axes.loglog(days.keys(), days.values(), "o-", color=COLORS[0], label="days")
    axes.set(xlabel="GPUs", ylabel="days", xticks=gpus, xticklabels=[f"{number:,}" for number in gpus])
    axes.minorticks_off()
    axes.set_ylim(top=20 * max(days.values(), default=1))  # room for the legend
    lines = axes.get_lines()
    if options.node_price_per_hour:
        beside = axes.twinx()
        beside.plot(days.keys(), [run.cost(options) for run in finished], "s-", color=COLORS[1], label="cost")
        beside.set(ylabel="cost, in the currency of the prices", ylim=(0, None))
        beside.set_ylim(top=1.5 * beside.get_ylim()[1])
        beside.yaxis.set_major_formatter("{x:,.0f}")
        beside.grid(visible=False)
        lines = [*lines, *beside.get_lines()]
    axes.legend(handles=lines, loc="upper center")


def _draw_parts(axes: Any, runs: Sequence[ScaledRun]) -> None:
    """Shares of the time, without most of the steps that count, which would hide the others."""
    places, below = range(len(runs)), [0.0] * len(runs)
    for number, (part, label) in enumerate(list(PARTS.items())[1:], start=1):
        shares = [100 * getattr(run.outcome, part) / run.outcome.seconds for run in runs]
        axes.bar(places, shares, bottom=below, color=COLORS[number], width=0.6, label=label)
        below = [low + share for low, share in zip(below, shares, strict=True)]
    for place, run, top in zip(places, runs, below, strict=True):
        axes.annotate(f"{run.outcome.goodput:.1%}", (place, top), ha="center", va="bottom", fontsize=8)
    axes.set(
        title="what is not goodput (above: goodput)", xlabel="GPUs", ylabel="share of the time, %",
        xticks=list(places), xticklabels=[f"{run.gpus:,}" for run in runs], ylim=(0, 1.3 * max(below) or 1),
    )  # fmt: skip
    axes.legend(loc="upper left")


def _draw_intervals(axes: Any, runs: Sequence[ScaledRun]) -> None:
    """Time that is not goodput over the interval between checkpoints, with the best of each number of GPUs."""
    for number, run in enumerate(runs):
        minutes = {every: every * run.step_seconds / 60 for every in run.intervals}
        lost = {every: 100 * (1 - one.goodput) for every, one in run.intervals.items()}
        color = COLORS[number % len(COLORS)]
        axes.loglog(minutes.values(), lost.values(), ".-", color=color, label=f"{run.gpus:,} GPUs")
        axes.loglog(minutes[run.every], lost[run.every], "o", color=color, markersize=8)
    axes.set(title="how often to save (large: best)", xlabel="minutes between checkpoints", ylabel="time that is not goodput, %")
    axes.legend(loc="best")
