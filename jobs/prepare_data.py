"""Makes, checks and shows data sets of WebDataset shards.

python jobs/prepare_data.py icons --out data/icons
python jobs/prepare_data.py icons --out data/other --families codicon elusiveicons
python jobs/prepare_data.py verify data/icons
python jobs/prepare_data.py look data/icons
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tyro

from genlib.data import index
from genlib.data.builtin import Written, write_digits, write_icons, write_shapes
from genlib.data.reader import Reader
from genlib.data.shards import ShardSet, all_shards
from genlib.data.sources import icons as icon_fonts
from genlib.data.sources import shapes as shape_source
from genlib.pictures import save_contact_sheet

app = tyro.extras.SubcommandApp()


@app.command
def icons(out: Path, size: int = icon_fonts.DEFAULT_SIZE, families: tuple[str, ...] = (), held_out: tuple[str, ...] = ()) -> None:
    """Icons with their names as captions, from the fonts in the package qtawesome or from your own.

    Args:
        out: Folder for the shards, train-*.tar and validation-*.tar, and for contact_sheet.png.
        size: Pixels a side.
        families: Font families for training, or 'font.ttf:charmap.json'; by default Material Design 6, Phosphor and Remix.
        held_out: Families for validation; by default Font Awesome 6 solid, and none where `families` is given.
    """
    _check_size(size)
    default = () if families else icon_fonts.VALIDATION
    _show(write_icons(out, size, families or icon_fonts.TRAIN, held_out or default), out)


@app.command
def shapes(
    out: Path,
    size: int = shape_source.DEFAULT_SIZE,
    train: int = shape_source.NUM_TRAIN,
    validation: int = shape_source.NUM_VALIDATION,
    seed: int = 0,
) -> None:
    """Single coloured shapes with captions, masks, kinds and all factors.

    Args:
        out: Folder for the shards, train-*.tar and validation-*.tar, and for contact_sheet.png.
        size: Pixels a side.
        train: Training samples.
        validation: Held-out samples.
        seed: Of all factors.
    """
    _check_size(size)
    if min(train, validation) < 1:
        raise ValueError(f"--train {train} --validation {validation}: both must be at least 1")
    _show(write_shapes(out, size, train, validation, seed), out)


@app.command
def digits(out: Path, size: int = 8) -> None:
    """Handwritten digits of scikit-learn with their labels.

    Args:
        out: Folder for the shards, train-*.tar and validation-*.tar, and for contact_sheet.png.
        size: Pixels a side; other sizes than 8 are interpolated.
    """
    _check_size(size)
    _show(write_digits(out, size), out)


@app.command
def verify(shards: tyro.conf.Positional[tuple[str, ...]], max_bad: float = 0.0) -> None:
    """Reads every header and caption anew and prints counts as JSON; exits with 1 where too many samples are bad.

    Args:
        shards: Folders, tars or patterns.
        max_bad: Largest share of bad samples that is fine, 0 to 1.
    """
    paths = list(dict.fromkeys(path for where in shards for path in all_shards(where)))
    for path in paths:
        index.build(path)
    found = ShardSet(paths)
    bad = dict(sorted(found.bad.items()))
    print(json.dumps({"shards": len(paths), "samples": len(found), "bad": bad}))
    for reason, name in sorted(found.first_bad.items()):
        print(f"{reason}: first is {name}", file=sys.stderr)
    share = sum(bad.values()) / max(1, sum(bad.values()) + len(found))
    if share > max_bad:
        sys.exit(1)


@app.command
def look(shards: tyro.conf.Positional[tuple[str, ...]], out: Path = Path("contact_sheet.png"), count: int = 96) -> None:
    """Draws a contact sheet of samples spread evenly over the shards, and prints what they hold.

    Args:
        shards: Folders, tars or patterns.
        out: The picture.
        count: Samples to show.
    """
    found = ShardSet([path for where in shards for path in all_shards(where)])
    draw_sheet(found, out, count)
    sizes = " or ".join(f"{width} x {height}" for height, width in found.sizes) + (" or others" if len(found.sizes) > 1 else "")
    print(f"{len(found):,} samples in {len(found.paths):,} shards, {found.num_bytes / 1e6:,.1f} MB")
    print(f"fields: {', '.join(found.fields)}; pixels: {sizes}")
    print(f"picture: {out}")


def draw_sheet(shards: ShardSet, out: Path, count: int) -> None:
    """Writes the contact sheet of `count` samples of a set, each with its caption, else its label, else its key."""
    if not len(shards) or "image" not in shards.fields:
        raise ValueError(f"{shards.paths[0].parent}: there is no usable sample with an image to show; dropped: {shards.why_bad()}")
    chosen = np.unique(np.linspace(0, len(shards) - 1, count).astype(np.int64))
    fields = [field for field in ("image", "text", "label") if field in shards.fields]
    keys, values, _ = Reader(shards, channels=3).read(chosen, fields)
    labels = [str(label) for label in values.get("text", values.get("label", keys))]
    save_contact_sheet(out, values["image"], labels, columns=16, title=f"{len(shards):,} samples, {len(chosen)} of them", side=80, label_lines=3)


def _check_size(size: int) -> None:
    if not 4 <= size <= 1024:
        raise ValueError(f"--size {size} is out of range; choose 4 to 1024 pixels")


def _show(written: Written, out: Path) -> None:
    """The one line of counts, and the picture beside the shards."""
    draw_sheet(ShardSet(all_shards(str(out))), out / "contact_sheet.png", 192)
    print(f"{written}; picture: {out / 'contact_sheet.png'}")


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs one verb. A value that is wrong ends it with one sentence and exit code 2."""
    try:
        app.cli(prog="prepare_data.py", description=__doc__, args=arguments)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
