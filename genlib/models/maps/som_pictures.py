"""Scores of a trained map, and the pictures that people read it by: classes, U-matrix, component planes, prototypes, net and tour."""

from __future__ import annotations

import math
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from genlib.charts import COLORS, INK, chart
from genlib.functional import topology, tours
from genlib.functional.topology import RingGrid
from genlib.metrics.held_out import held_out
from genlib.models.maps.som import SOM
from genlib.plurals import counted
from genlib.sharing.formats import Format
from genlib.types import Batch, DataSource

_BATCH, _POINTS, _PLANES, _EDGED, _INCHES = 1024, 2000, 12, 600, 4.2


@torch.no_grad()
def assess(task: SOM, source: DataSource, folder: Path) -> dict[str, float]:
    """Means of `SOM.evaluate` over all held-out samples, and the length of a ring's tour; pictures of the map in `folder`.

    `map.png` has the classes and the U-matrix, `planes.png` what single components do over the map, `prototypes.png` the units as
    images, `net.png` the grid among points of the plane, or there the tour of a ring.
    """
    sums, count, hits = {}, 0, torch.zeros(task.grid.units)
    for batch in held_out(task, source, size=_BATCH):
        for name, value in task.evaluate(batch).items():
            sums[name] = sums.get(name, 0.0) + value.sum().item()
        count += len(batch["position"])
        hits += torch.bincount(task.assign(image=batch["x"]).cpu(), minlength=task.grid.units)
    scores = {f"{source.spec.validation_name}/{name}": total / count for name, total in sums.items()}
    draw_map(task, hits, folder / "map.png")
    draw_planes(task, folder / "planes.png")
    if task.shape.is_image:
        draw_prototypes(task, folder / "prototypes.png")
    if isinstance(task.grid, RingGrid) or task.shape.size == 2:
        scores |= _through_points(task, source, folder / "net.png")
    return scores


def sheet(task: SOM, source: DataSource, path: Path) -> None:
    """The units as images; of points of the plane, or of a ring, the net or tour among them; else classes and U-matrix."""
    if isinstance(task.grid, RingGrid) or task.shape.size == 2:
        _through_points(task, source, path)
    elif task.shape.is_image:
        draw_prototypes(task, path)
    else:
        hits = torch.zeros(task.grid.units)
        for batch in held_out(task, source, size=_BATCH):
            hits += torch.bincount(task.assign(image=batch["x"]).cpu(), minlength=task.grid.units)
        draw_map(task, hits, path)


CODE = """
import numpy as np

prototypes = np.load(f"{folder}/prototypes.npy")  # SHAPE
units = prototypes.reshape(-1, prototypes.shape[-1])
sample = units[0] + 0.01  # a vector as the map was trained on
nearest = np.square(units - sample).sum(1).argmin()
print("place on the map:", np.unravel_index(nearest, prototypes.shape[:-1]))
"""


def export(task: SOM, folder: Path) -> list[Format]:
    """Writes `prototypes.npy`, float32 (rows, columns, D), or (units, D) of a ring."""
    folder.mkdir(parents=True, exist_ok=True)
    values = task.prototypes.detach().cpu().numpy()
    np.save(folder / "prototypes.npy", values if isinstance(task.grid, RingGrid) else values.reshape(task.grid.rows, task.grid.columns, -1))
    shape = "units, numbers of a sample" if isinstance(task.grid, RingGrid) else "rows, columns, numbers of a sample"
    return [
        Format(
            folder="", library="numpy", install="numpy", code=CODE.replace("SHAPE", shape), title="Self-organising map", tags=("som",),
            about="Each unit of the map has a prototype; a sample belongs to the unit with the nearest one, and neighbours on the map are alike.",
        )
    ]  # fmt: skip


def _through_points(task: SOM, source: DataSource, path: Path) -> dict[str, float]:
    """The tour of a ring through training samples, its length and that of the nearest-neighbour tour, and the picture where they are of a plane."""
    size = min(_POINTS, source.spec.num_samples or _POINTS)
    first = islice(source.batches("train", size, transform=task.transform(train=False)), 1)
    batch: Batch = {name: value.to(task.device) for name, value in next(first).items()}
    valid = batch["valid"]
    x, label = batch["x"][valid], batch["label"][valid] if "label" in batch else None
    scores, order = {}, None
    if isinstance(task.grid, RingGrid):
        order = task.tour(image=x)
        ours, other = tours.length(x, order), tours.length(x, tours.nearest_neighbour(x.cpu()))
        scores = {"tour/length": ours, "tour/over_nearest_neighbour": ours / other}
    if task.shape.size == 2:
        draw_net(task, x.cpu(), label, order, path)
    return scores


def class_colors(names: tuple[str, ...]) -> np.ndarray:
    """A colour for each class, float (classes, 3) in [0, 1]; more than there are distinct ones repeat."""
    rgb = [[int(color[at : at + 2], 16) / 255 for at in (1, 3, 5)] for color in COLORS]
    return np.array([rgb[number % len(rgb)] for number in range(len(names))])


def _unit_colors(task: SOM) -> np.ndarray:
    """The colour of each unit's most voted class, the paler the less sure, (units, 3)."""
    share, label = task.votes.classes(task.prototypes).cpu().max(1)
    return 1 - share.numpy()[:, None] * (1 - class_colors(task.data.class_names)[label.numpy()])


def _cells(task: SOM, axis: Any, colors: np.ndarray | None, values: Tensor | None = None, colormap: str = "viridis") -> Any:
    """All units as cells, coloured, or by value; what matplotlib makes colour bars of."""
    from matplotlib.collections import PolyCollection

    corners, edges = task.grid.cells().numpy(), "white" if task.grid.units <= _EDGED else "face"
    cells = PolyCollection(list(corners), facecolors=colors, edgecolors=edges, linewidths=0.4, cmap=None if values is None else colormap)
    if values is not None:
        cells.set_array(values.cpu().numpy())
    axis.add_collection(cells)
    axis.set(xlim=(corners[..., 0].min(), corners[..., 0].max()), ylim=(corners[..., 1].max(), corners[..., 1].min()), aspect="equal")
    axis.axis("off")
    return cells


def _class_legend(task: SOM, axis: Any) -> None:
    """Colours of the first classes, to the right of the axes."""
    from matplotlib.patches import Patch

    names = task.data.class_names
    shown = [Patch(color=color, label=name) for name, color in zip(names[:20], class_colors(names), strict=False)]
    axis.legend(handles=shown, loc="center left", bbox_to_anchor=(1, 0.5), fontsize=8, handlelength=1, handleheight=1)


def _panel_height(task: SOM) -> float:
    """Inches of a panel as wide as `_INCHES`."""
    corners = task.grid.cells()
    width, height = (corners.amax((0, 1)) - corners.amin((0, 1))).tolist()
    return _INCHES * height / width


def draw_map(task: SOM, hits: Tensor, path: Path) -> None:
    """Left the most voted class of each unit, or how many held-out samples each won; right the U-matrix, ridges dark."""
    votes = task.votes.labelled and bool(task.votes.counts.any())
    with chart(path, columns=2, width=2 * _INCHES + 1.6, height=_panel_height(task) + 0.4) as axes:
        left, right = axes[0]
        if votes:
            _cells(task, left, _unit_colors(task))
            left.set_title("Most frequent class of each unit; pale: mixed")
            _class_legend(task, left)
        else:
            left.figure.colorbar(_cells(task, left, None, hits, "Blues"), ax=left, shrink=0.8)
            left.set_title("Held-out samples that each unit wins")
        heights, number = topology.heights(task.prototypes, task.pairs), int(task.valleys().max()) + 1
        right.figure.colorbar(_cells(task, right, None, heights, "Greys"), ax=right, shrink=0.8)
        right.set_title(f"U-matrix: mean distance to neighbours; {counted(number, 'valley')}")


def draw_planes(task: SOM, path: Path) -> None:
    """One component of all prototypes a panel, those that vary most: components whose planes look alike go together in the data."""
    values = task.prototypes.detach().cpu()
    most = values.var(0, correction=0).argsort(descending=True, stable=True)[:_PLANES].sort().values.tolist()
    columns = min(4, len(most))
    rows = -(-len(most) // columns)
    width, height = 2.3 * columns, (2.3 * _panel_height(task) / _INCHES + 0.27) * rows
    with chart(path, rows=rows, columns=columns, width=width, height=height + 0.3, title="Component planes, dark low and bright high") as axes:
        for axis, component in zip(axes.flat, most, strict=False):
            plane = values[:, component]
            _cells(task, axis, None, plane)
            low, high = plane.min().item(), plane.max().item()
            low = 0.0 if abs(low) < 1e-3 * (high - low) else low
            axis.set_title(f"{component_name(task, component)}: {low:.3g} to {high:.3g}", fontsize=8)
        for axis in list(axes.flat)[len(most) :]:
            axis.axis("off")


def component_name(task: SOM, component: int) -> str:
    """What a number of a vector is, counted from 0."""
    if not task.shape.is_image:
        return f"number {component}"
    channels, side, _ = task.shape.sides
    channel, place = divmod(component, side * side)
    row, column = divmod(place, side)
    return f"row {row}, column {column}" + (f", {'RGB'[channel]}" if channels == 3 else "")


def draw_prototypes(task: SOM, path: Path) -> None:
    """The units as images where they lie, each framed by the colour of its most voted class, whose names stand above."""
    images = task.shape.image(task.prototypes.detach()).clamp(0, 1).cpu()
    zoom = max(1, 36 // task.shape.image_size)
    frame, side = 2, task.shape.image_size * zoom
    pitch = side + 2 * frame + 2
    corners = (_tiles(task) * pitch).round().int().tolist()
    voted = task.votes.labelled and bool(task.votes.counts.any())
    colors = ((_unit_colors(task) if voted else np.full((len(images), 3), 0.8)) * 255).astype(np.uint8)
    head = 26
    width, height = (max(values) + pitch + 4 for values in zip(*corners, strict=True))
    sheet = Image.new("RGB", (max(width, 480), height + head), "white")
    pen = ImageDraw.Draw(sheet)
    _legend(pen, task.data.class_names if voted else (), "Prototypes")
    for (left, up), image, color in zip(corners, images, colors, strict=True):
        pixels = (image.permute(1, 2, 0) * 255).round().byte().numpy()
        picture = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels).convert("RGB").resize((side, side), Image.Resampling.NEAREST)
        pen.rectangle((left + 3, up + head + 3, left + 2 + side + 2 * frame, up + head + 2 + side + 2 * frame), fill=tuple(color.tolist()))
        sheet.paste(picture, (left + 3 + frame, up + head + 3 + frame))
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)


def _tiles(task: SOM) -> Tensor:
    """Where each unit's image lies, x and y in images from the upper left, (units, 2): as on the grid, and a ring's row by row."""
    unit = torch.arange(task.grid.units)
    if isinstance(task.grid, RingGrid):
        columns = math.ceil(1.5 * task.grid.units**0.5)
        return torch.stack([unit % columns, unit // columns], 1).float()
    return torch.stack([task.grid.places(unit)[:, 0], (unit // task.grid.columns).float()], 1)


def _legend(pen: ImageDraw.ImageDraw, names: tuple[str, ...], title: str) -> None:
    """The title and, in their colours, the names of classes, in one line."""
    font, left = ImageFont.load_default(13), 6.0
    colors = [(34, 34, 34), *(tuple(int(255 * part) for part in color) for color in class_colors(names))]
    for word, color in zip((title + ":" if names else title, *names[:20]), colors, strict=False):
        pen.text((left, 5), word, color, font=font)
        left += pen.textlength(word, font=font) + 10


def draw_net(task: SOM, x: Tensor, label: Tensor | None, order: Tensor | None, path: Path) -> None:
    """Points of the plane (N, 2) and the map's net among them, or the tour of a ring in that order (N,)."""
    from matplotlib.collections import LineCollection

    prototypes, point = task.prototypes.detach().cpu(), x.cpu()
    spans = (point.amax(0) - point.amin(0)).clamp(min=1e-6).tolist()
    height = min(9.0, max(2.5, 6.0 * spans[1] / spans[0])) + 0.8
    colors = class_colors(task.data.class_names)[label.cpu().numpy()] if label is not None and task.data.class_names else COLORS[0]
    with chart(path, width=7.0, height=height) as axes:
        axis = axes[0, 0]
        if order is None:
            axis.add_collection(LineCollection(list(prototypes[task.pairs.cpu()].numpy()), colors=INK, linewidths=0.7, zorder=2))
            axis.scatter(*prototypes.T.numpy(), s=9, color=INK, zorder=3)
            axis.set_title(f"{len(point):,} samples, and the map's {task.grid.units:,} units with their neighbours")
        else:
            trip = torch.cat([order.cpu(), order[:1].cpu()])
            axis.plot(*point[trip].T.numpy(), color=INK, linewidth=0.9, zorder=1)
            better = tours.length(point, order.cpu()) / tours.length(point, tours.nearest_neighbour(point))
            axis.set_title(f"Round trip through {len(point):,} places: {better:.2f} of the nearest-neighbour trip's length")
        axis.scatter(*point.T.numpy(), s=10 if order is None else 18, c=colors, zorder=1.5, linewidths=0)
        axis.set(aspect="equal", xlabel=component_name(task, 0), ylabel=component_name(task, 1))
        if label is not None:
            _class_legend(task, axis)
