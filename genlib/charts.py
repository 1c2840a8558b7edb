"""Charts that a person looks at: axes of one style, written as a PNG without a display."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

INK, GRID = "#222222", "#dddddd"
_PAD = 0.08  # inches around each axes, so that no title touches the edge
COLORS = ("#4e79a7", "#f28e2b", "#59a14f", "#e15759", "#b07aa1", "#76b7b2", "#edc948", "#ff9da7", "#9c755f", "#767676")
"""Of series and classes, in their order: Tableau's ten (2016), told apart by most people."""


@contextmanager
def chart(
    path: Path | BinaryIO, *, rows: int = 1, columns: int = 1, width: float = 6.0, height: float = 4.0, title: str = ""
) -> Iterator[np.ndarray]:
    """Inside, an array (rows, columns) of matplotlib's Axes, `width` by `height` inches in all; then writes the PNG, and its folder.

    Into an open file goes an SVG on nothing, with its texts as texts, whose margins the caller sets, as to find them takes as long as to draw.
    """
    import matplotlib as mpl
    from cycler import cycler
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    style: dict[Any, Any] = {
        "font.size": 9, "axes.titlesize": 10, "axes.edgecolor": INK, "axes.labelcolor": INK, "text.color": INK, "axes.spines.top": False,
        "axes.spines.right": False, "axes.grid": True, "grid.color": GRID, "grid.linewidth": 0.6, "axes.axisbelow": True, "legend.frameon": False,
        "axes.prop_cycle": cycler(color=COLORS), "svg.fonttype": "none", "svg.hashsalt": "genlib", "xtick.color": INK, "ytick.color": INK,
    }  # fmt: skip
    with mpl.rc_context(style):
        layout = ConstrainedLayoutEngine(w_pad=_PAD, h_pad=_PAD) if isinstance(path, Path) else None
        figure = Figure(figsize=(width, height), dpi=110, layout=layout)
        FigureCanvasAgg(figure)
        axes = figure.subplots(rows, columns, squeeze=False)
        if title:
            figure.suptitle(title, fontsize=11)
        yield axes
        if isinstance(path, Path):
            path.parent.mkdir(parents=True, exist_ok=True)
            return figure.savefig(path, format="png")
        figure.savefig(path, format="svg", transparent=True, metadata={"Date": None})
