"""Pictures of a search: how trials learnt, what each hyperparameter did, and which mattered."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from genlib.charts import COLORS, INK, chart
from genlib.plurals import counted
from jobs.tune_trials import shown
from tune_spaces.base import Choice, Range

if TYPE_CHECKING:
    from jobs.tune import SearchSpec
    from jobs.tune_trials import TrialResult

_WORST_SHOWN = 0.9
"""Share of trials whose values the axis of a metric spans: a few that diverged would flatten all others."""


def metric_limits(values: Sequence[float], mode: str) -> tuple[float, float]:
    """Ends of an axis that shows the best of the values and most of the others."""
    finite = sorted((value for value in values if math.isfinite(value)), reverse=mode == "max")
    best, worst = finite[0], finite[min(len(finite) - 1, int(_WORST_SHOWN * len(finite)))]
    low, high = min(best, worst), max(best, worst)
    room = 0.05 * (high - low) or 0.05 * abs(high) or 1.0
    return low - room, high + room


def draw_curves(spec: SearchSpec, found: Sequence[TrialResult], path: Path) -> None:
    """The metric of every trial over steps; the best three in colour, a dot where a trial was stopped."""
    from jobs.tune_trials import ranked

    best, name = ranked(spec, found)[:3], spec.metric.removeprefix("val/")
    with chart(
        path, width=8, height=4.2, title=f"{name} of {counted(len(found), 'trial')} ({'less' if spec.mode == 'min' else 'more'} is better)"
    ) as axes:
        axis = axes[0, 0]
        for one in found:
            if one.curve and one not in best:
                steps, values = zip(*one.curve, strict=True)
                axis.plot(steps, values, color="#bbbbbb", linewidth=1)
                axis.plot(steps[-1:], values[-1:], ".", color="#999999", markersize=5)
        for one, color in zip(best, COLORS, strict=False):
            steps, values = zip(*one.curve, strict=True)
            axis.plot(steps, values, color=color, linewidth=2, marker=".", label=f"T{one.number}: {values[-1]:.4g}")
        axis.set_ylim(*metric_limits([value for one in found for _, value in one.curve], spec.mode))
        axis.set_xlabel("step")
        axis.set_ylabel(name)
        axis.legend()


def draw_slices(spec: SearchSpec, found: Sequence[TrialResult], path: Path) -> None:
    """The metric over each hyperparameter; darker trials were trained further, the best is ringed."""
    names, columns = list(spec.space), 2 if len(spec.space) == 4 else min(3, len(spec.space))
    rows = -(-len(names) // columns)
    shares = [one.step / spec.stage.train.steps for one in found]
    values = [float(one.value or 0.0) for one in found]
    with chart(path, rows=rows, columns=columns, width=3.4 * columns + 0.4, height=2.8 * rows + 0.3, title="What each hyperparameter did") as axes:
        for axis, name in zip(axes.flat, names, strict=False):
            at = places(axis, spec.space[name], [one.values[name] for one in found])
            axis.scatter(at, values, c=shares, cmap="Blues", vmin=-0.3, vmax=1, s=30, edgecolors=INK, linewidths=0.3)
            axis.scatter(at[:1], values[:1], s=130, facecolors="none", edgecolors=COLORS[3], linewidths=1.8)
            axis.set_ylim(*metric_limits(values, spec.mode))
            axis.set_title(name.removeprefix("task.").removeprefix("train."))
        for axis in axes.flat[len(names) :]:
            axis.set_axis_off()
        for axis in axes[:, 0]:
            axis.set_ylabel(spec.metric.removeprefix("val/"))


def places(axis: Any, one: Range, values: Sequence[Any]) -> np.ndarray:
    """Where values stand on the axis, whose scale and ticks are set."""
    if isinstance(one, Choice):
        axis.set_xticks(range(len(one.values)), [shown(value) for value in one.values])
        axis.set_xlim(-0.5, len(one.values) - 0.5)
        return np.array([one.values.index(value) if value in one.values else -1 for value in values], float)
    if one.log:
        from matplotlib.ticker import LogLocator, NullFormatter

        axis.set_xscale("log")
        decades = math.log10(max(values) / min(values)) if min(values) > 0 else 1.0
        axis.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if decades < 2 else (1.0,)))
        axis.xaxis.set_major_formatter("{x:g}")
        axis.xaxis.set_minor_formatter(NullFormatter())
    return np.array(values, float)


def draw_importances(mattered: Mapping[str, float], path: Path) -> None:
    """Bars, the largest on top."""
    names = list(mattered)[::-1]
    with chart(path, width=6, height=0.9 + 0.32 * len(names), title="Share of the metric's spread that each explains (fANOVA)") as axes:
        axis = axes[0, 0]
        bars = axis.barh([name.removeprefix("task.").removeprefix("train.") for name in names], [mattered[name] for name in names], color=COLORS[0])
        axis.bar_label(bars, fmt="{:.0%}", padding=3)
        axis.set_xlim(0, max(1.08 * max(mattered.values()), 0.1) + 0.05)
        axis.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
        axis.grid(axis="y", visible=False)
