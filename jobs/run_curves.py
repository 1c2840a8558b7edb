"""Curves of one run or two, as SVGs whose inks are those of the page that they stand in."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

from genlib.charts import COLORS, GRID, INK, chart
from jobs.run_record import Series

_POINTS, _WIDTH, _HEIGHT, _DECADES = 300, 4.4, 2.5, 2.5
"""Points of a curve at most; inches of a drawing; from how many powers of ten on an axis is logarithmic."""
_HELD_OUT = "val/"


def panels(names: Sequence[str]) -> list[list[str]]:
    """Names that share a drawing: what is learnt from and what is held out of the same value. Losses come first, then held-out values and scores."""
    groups: dict[str, list[str]] = {}
    for name in names:
        if name in _SAID_OTHERWISE:
            continue
        groups.setdefault(name.removeprefix(_HELD_OUT).removeprefix("train/"), []).append(name)
    return sorted(groups.values(), key=lambda some: (_rank(some), some[0]))


def is_main(names: Sequence[str], objective: str) -> bool:
    """Whether a drawing is of what a run is about: losses, scores of pictures, and the held-out value by which runs are compared."""
    return _rank(names) < 2 or f"{_HELD_OUT}{objective}" in names


def _rank(names: Sequence[str]) -> int:
    if any(name.endswith("loss") for name in names):
        return 0
    return 1 if any("/" not in name and name not in _OF_THE_MACHINE for name in names) else 2


_SAID_OTHERWISE = {"data_time", "samples_per_second_per_gpu", "forward_time", "backward_time", "optimizer_time"}
"""By the share of time that waits for data, by samples per second, and by the seconds of a step."""
_OF_THE_MACHINE = {"batch_time", "samples_per_second", "data_share", "gpu_memory_peak_gb", "mfu"}
_TITLES = {
    "batch_time": "seconds a step", "samples_per_second": "samples per second",
    "data_share": "share of time that waits for data",
    "gpu_memory_peak_gb": "GPU memory at most, GB", "mfu": "share of the GPU's peak", "lr": "learning rate", "grad_norm": "gradient norm",
    "skipped": "updates left out",
}  # fmt: skip


def title_of(name: str) -> str:
    """The value in words."""
    plain = name.removeprefix(_HELD_OUT).removeprefix("train/")
    of, slash, last = plain.rpartition("/")
    known = _TITLES.get(last, last.replace("_", " "))
    return f"{known} of {of}" if slash else known


def drawn(names: Sequence[str], runs: Mapping[str, Mapping[str, Series]]) -> str:
    """The SVG of some values over steps, a colour a run; held-out values are dashed where both kinds are there."""
    both = len({name.startswith(_HELD_OUT) for name in names}) > 1
    buffer, shown = io.BytesIO(), []
    with chart(buffer, width=_WIDTH, height=_HEIGHT) as axes:
        axis = axes[0, 0]
        axis.figure.subplots_adjust(left=0.14, right=0.98, top=0.88, bottom=0.2)
        for number, (run, series) in enumerate(runs.items()):
            for name in names:
                if name in series:
                    steps, values = thinned(*series[name])
                    held_out = both and name.startswith(_HELD_OUT)
                    words = [*([run] if len(runs) > 1 else []), *(["held out" if held_out else "training"] if both else [])]
                    alone = {"marker": "o", "markersize": 3} if len(values) < 12 or held_out else {}
                    style = "--" if held_out else "-"
                    axis.plot(steps, values, style, color=COLORS[number], linewidth=1.4, label=", ".join(words), **alone)
                    shown += values
        axis.set_title(title_of(names[0]), loc="left")
        axis.set_xlabel("step")
        _scale(axis, [value for value in shown if math.isfinite(value)])
        if both or len(runs) > 1:
            axis.legend(fontsize=8)
    text = buffer.getvalue().decode()
    return text[text.index("<svg") :].replace(INK, "var(--ink)").replace(GRID, "var(--grid)")


def _scale(axis: Any, values: Sequence[float]) -> None:
    if values and min(values) > 0 and math.log10(max(values) / min(values)) > _DECADES:
        axis.set_yscale("log")
    else:
        axis.yaxis.set_major_formatter(lambda value, _: f"{value:.4g}")
    axis.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}" if value == int(value) else "")
    axis.xaxis.get_major_locator().set_params(nbins=5)


def thinned(steps: Sequence[float], values: Sequence[float]) -> tuple[list[float], list[float]]:
    """Means of neighbours where points are many; one that is not finite leaves a gap."""
    width = -(-len(values) // _POINTS)
    parts = [slice(low, low + width) for low in range(0, len(values), width)]
    return [_mean(steps[part]) for part in parts], [_mean(values[part]) for part in parts]


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values) if all(map(math.isfinite, values)) else math.nan
