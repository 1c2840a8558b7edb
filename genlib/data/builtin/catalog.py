"""Built-in sets by name: made on first use in the cache folder, each in a folder named after a fingerprint of its input."""

from __future__ import annotations

import hashlib
import shutil
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from genlib.data.builtin import cities, digits, emoji, fashion_mnist, icons, rings2d, shape_domains, shapes
from genlib.data.shards.writer import write_facts, write_shards
from genlib.files import cache_folder, locked


@dataclass(frozen=True, slots=True)
class WrittenSet:
    """Result of writing a set: samples by split, and names of glyphs that are empty."""

    counts: dict[str, int]
    empty: list[str] | None = None

    def __str__(self) -> str:
        counts = " and ".join(f"{count:,} {split}" for split, count in self.counts.items())
        return f"{counts} {'sample' if [*self.counts.values()][-1:] == [1] else 'samples'}" + (
            "" if self.empty is None else f"; empty glyphs: {len(self.empty)}"
        )


def write_icons(folder: Path, size: int = 0, train: tuple[str, ...] = icons.TRAIN, validation: tuple[str, ...] = icons.VALIDATION) -> WrittenSet:
    """Writes the icons of some families into shards; a split without families is left out."""
    size, empty = size or icons.DEFAULT_SIZE, []
    families = {split: names for split, names in (("train", train), ("validation", validation)) if names}
    fonts = {split: [icons.family(name) for name in names] for split, names in families.items()}
    counts = {split: write_shards(folder, split, icons.samples(fonts[split], size, empty)) for split in families}
    name = "icons-fa" if validation == icons.VALIDATION else "icons-" + "-".join(Path(name.split(":")[0]).stem for name in validation or train)
    write_facts(folder, name="icons", validation_name=name, image_size=size, channels=1, families=families, samples=counts, empty=empty)
    return WrittenSet(counts, empty)


def write_digits(folder: Path, size: int = 0) -> WrittenSet:
    """Writes the digits."""
    size = size or digits.DEFAULT_SIZE
    counts = {split: write_shards(folder, split, digits.samples(split, size)) for split in ("train", "validation")}
    write_facts(folder, name="digits", image_size=size, channels=1, class_names=digits.CLASS_NAMES, samples=counts)
    return WrittenSet(counts)


def write_shapes(folder: Path, size: int = 0, train: int = shapes.NUM_TRAIN, validation: int = shapes.NUM_VALIDATION, seed: int = 0) -> WrittenSet:
    """Writes `train` and `validation` shapes."""
    size = size or shapes.DEFAULT_SIZE
    numbers = {"train": train, "validation": validation}
    counts = {split: write_shards(folder, split, shapes.samples(split, count, size, seed)) for split, count in numbers.items()}
    write_facts(folder, name="shapes", image_size=size, channels=3, class_names=shapes.KINDS, seed=seed, samples=counts)
    return WrittenSet(counts)


def write_shape_domain(name: str, samples: Callable[[str, int, int], Iterable[dict[str, bytes]]], folder: Path, size: int = 0) -> WrittenSet:
    """Writes a set of shapes for translation: `samples` gives a split's first so many at a size."""
    size = size or shapes.DEFAULT_SIZE
    numbers = {"train": shape_domains.NUM_TRAIN, "validation": shape_domains.NUM_VALIDATION}
    counts = {split: write_shards(folder, split, samples(split, count, size)) for split, count in numbers.items()}
    write_facts(folder, name=name, image_size=size, channels=3, class_names=shapes.KINDS, samples=counts)
    return WrittenSet(counts)


def write_rings2d(folder: Path, size: int = 0, train: int = rings2d.NUM_TRAIN, validation: int = rings2d.NUM_VALIDATION, seed: int = 0) -> WrittenSet:
    """Writes `train` and `validation` points, which have no size in pixels."""
    numbers = {"train": train, "validation": validation}
    counts = {split: write_shards(folder, split, rings2d.samples(split, count, seed)) for split, count in numbers.items()}
    write_facts(folder, name="rings2d", vector_size=2, class_names=rings2d.CLASS_NAMES, seed=seed, samples=counts)
    return WrittenSet(counts)


def write_cities(folder: Path, size: int = 0) -> WrittenSet:
    """Writes the cities; they have no size in pixels, and none is held out."""
    counts = {"train": write_shards(folder, "train", cities.samples())}
    write_facts(folder, name="cities", vector_size=2, class_names=cities.CLASS_NAMES, samples=counts)
    return WrittenSet(counts)


def write_fashion_mnist(folder: Path, size: int = 0, where: str | Path = "") -> WrittenSet:
    """Writes Fashion-MNIST from its IDX files in the folder `where`; see `fashion_mnist.find`."""
    size, files = size or fashion_mnist.DEFAULT_SIZE, fashion_mnist.find(where)
    counts = {split: write_shards(folder, split, fashion_mnist.samples(split, size, files)) for split in ("train", "validation")}
    write_facts(folder, name="fashion_mnist", image_size=size, channels=1, class_names=fashion_mnist.CLASS_NAMES, samples=counts)
    return WrittenSet(counts)


def write_emoji(folder: Path, size: int = 0, font: str | Path = "") -> WrittenSet:
    """Writes the emoji of a font file; see `emoji.find`."""
    size, path = size or emoji.DEFAULT_SIZE, emoji.find(font)
    counts = {split: write_shards(folder, split, emoji.samples(split, size, path)) for split in ("train", "validation")}
    write_facts(folder, name="emoji", image_size=size, channels=3, samples=counts)
    return WrittenSet(counts)


BUILTIN: dict[str, tuple[Callable[[Path, int], WrittenSet], int, Callable[[], str]]] = {
    "icons": (write_icons, icons.DEFAULT_SIZE, icons.fingerprint),
    "shapes": (write_shapes, shapes.DEFAULT_SIZE, lambda: f"v{shapes.VERSION}"),
    **{
        name: (partial(write_shape_domain, name, samples), shapes.DEFAULT_SIZE, lambda: f"v{shapes.VERSION} {shape_domains.VERSION}")
        for name, samples in (
            ("shapes_edges", shape_domains.edge_pairs),
            ("shapes_warm", shape_domains.warm),
            ("shapes_cool", shape_domains.cool),
        )
    },
    "rings2d": (write_rings2d, 0, lambda: f"v{rings2d.VERSION}"),
    "cities": (write_cities, 0, cities.fingerprint),
    "digits": (write_digits, digits.DEFAULT_SIZE, lambda: f"v{digits.VERSION}"),
    "fashion_mnist": (write_fashion_mnist, fashion_mnist.DEFAULT_SIZE, fashion_mnist.fingerprint),
    "emoji": (write_emoji, emoji.DEFAULT_SIZE, emoji.fingerprint),
}
"""By name: the function that writes the set, its own size in pixels (0: it has no pictures), and a fingerprint of its input."""


def prepared(name: str, size: int = 0) -> str:
    """Folder of a built-in set at a size, made now if it is not there; "" where no set has that name. Safe from several processes at once."""
    if name not in BUILTIN:
        return ""
    write, own_size, made_from = BUILTIN[name]
    size = (size or own_size) if own_size else 0
    folder = cache_folder() / f"{name}-{size}px-{hashlib.sha256(made_from().encode()).hexdigest()[:10]}"
    if not (folder / "dataset.json").is_file():
        with locked(folder.with_suffix(".lock")):
            if not (folder / "dataset.json").is_file():
                shutil.rmtree(folder, ignore_errors=True)  # of a process that was ended while it wrote
                written = write(folder, size)
                print(f"made {name} at {size} px: {written}, in {folder}", file=sys.stderr)
    return str(folder)
