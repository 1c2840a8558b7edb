"""Pictures for translation, as the field's folders have them: in pairs, or in two sets A and B without pairs.

Pairs lie side by side in one file, A to the left of B, or under equal names in folders A and B. A picture is of the set that a folder on its way
is called after: `A`, `trainA` or `A/train`, and so for B and the other splits (`genlib.data.split_names`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from genlib.data.importers.convert import ConversionInput, RawSample
from genlib.data.importers.folder import FolderReading, ImageEntry, read_entries
from genlib.data.importers.folder_files import FilesFound, walk
from genlib.data.split_names import split_named

Side = Literal["A", "B"]


@dataclass(frozen=True, slots=True)
class Placed:
    """What a picture's path says."""

    side: str
    """A or B; empty where no folder says it."""
    split: str
    """Empty where no folder says it."""
    key: str
    """The path without the set's name and the ending, which both of a pair have."""


@dataclass(frozen=True, slots=True)
class PairEntry:
    """A pair: two files, or one with both side by side."""

    name: str
    split: str
    source: str
    image: str
    problem: str = ""


def placed(path: str) -> Placed:
    """Of a path below the root, with slashes."""
    *folders, file = path.split("/")
    side, split, rest = "", "", []
    for folder in folders:
        if not side and folder[-1:] in ("A", "B") and (len(folder) == 1 or split_named(folder[:-1].rstrip("_- "))):
            side, folder = folder[-1], folder[:-1].rstrip("_- ")
        split = split or split_named(folder)
        rest += [folder] if folder else []
    return Placed(side, split, "/".join([*rest, file.rpartition(".")[0] or file]))


def pictures_below(root: Path) -> list[str]:
    """Paths of all pictures below a folder."""
    return walk(root, "", masks="none").images


def sides_below(root: Path) -> Counter[str]:
    """How many pictures lie in sets A and B and, under "", in neither; under "pairs" how many of A have a partner."""
    where = [placed(path) for path in pictures_below(root)]
    keys = {side: {one.key for one in where if one.side == side} for side in ("A", "B")}
    return Counter(one.side for one in where) + Counter(pairs=len(keys["A"] & keys["B"]))


def open_pairs(root: Path) -> ConversionInput:
    """Pairs below a folder, A as the source and B as the image. ValueError where there are none."""
    files = _files(root)
    where = {path: placed(path) for path in files.images}
    if any(one.side for one in where.values()):
        entries, said = _partners(root, where), "equal names in A and B"
    else:
        entries = [PairEntry(path, one.split, path, path) for path, one in where.items()]
        said = "A and B side by side in each file"
    return _input(root, files, entries, partial(read_pairs, root.absolute()), {"pairs": said}, {"verb": "pairs"})


def open_domain(root: Path, side: Side) -> ConversionInput:
    """The pictures below a folder that are of one set. ValueError where there are none."""
    files = _files(root)
    where = {path: one for path in files.images if (one := placed(path)).side == side}
    if not where:
        raise ValueError(f"{root} holds no pictures of domain {side}; put them into folders called {side}, or train{side} and test{side}")
    entries = [ImageEntry(path, one.split) for path, one in where.items()]
    reading = FolderReading(root=root.absolute(), captioned=False, listed=False, labelled=False, masked=False, json=None)
    return _input(root, files, entries, partial(read_entries, reading), {"domain": side}, {"domain": side})


def _files(root: Path) -> FilesFound:
    if not root.is_dir():
        raise ValueError(f"there is no folder {root}")
    files = walk(root, "", masks="none")
    if not files.images:
        raise ValueError(f"{root} holds no images; check the path")
    return files


def _partners(root: Path, where: Mapping[str, Placed]) -> list[PairEntry]:
    sides: dict[str, dict[str, str]] = {"A": {}, "B": {}}
    for path, one in where.items():
        if one.side:
            sides[one.side].setdefault(one.key, path)
    for side, other in (("A", "B"), ("B", "A")):
        if not sides[side]:
            raise ValueError(f"{root} holds pictures of {other} and none of {side}, which pairs need; add a folder {side} of the same names")
    entries = []
    for key in sorted({*sides["A"], *sides["B"]}):
        source, image = (sides[side].get(key, "") for side in ("A", "B"))
        problem = "" if source and image else "missing partner"
        entries.append(PairEntry(key if not problem else source or image, where[source or image].split, source, image, problem))
    if all(one.problem for one in entries):
        raise ValueError(
            f"{root}: no picture of A has a partner of the same name in B, such as {entries[0].name}; give both one name, or take the verb domains"
        )
    return entries


def read_pairs(root: Path, entries: Sequence[PairEntry]) -> Iterator[RawSample]:
    """The samples of some pairs."""
    for one in entries:
        halves = one.source == one.image
        source = None if halves or not one.source else root / one.source
        yield RawSample(one.name, root / one.image if one.image else None, split=one.split, problem=one.problem, source=source, halves=halves)


def _input(root: Path, files: FilesFound, entries: Sequence, read: partial, said: dict[str, str], how: dict[str, str]) -> ConversionInput:
    splits = Counter(one.split for one in entries if one.split)
    return ConversionInput(
        read=read,
        cut=lambda size: [entries[at : at + size] for at in range(0, len(entries), size)],
        few=lambda count: read(entries[:: -(-len(entries) // count)]),
        identity={"images": len(files.images), "digest": files.digest, **how},
        total=len(entries),
        facts={"name": root.absolute().name},
        said={
            **said,
            "splits": ", ".join(f"{name} {count:,}" for name, count in sorted(splits.items())) or "none",
            "files": files.in_words(),
        },
    )
