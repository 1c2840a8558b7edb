"""Which ranks see the same folder: all of them on a shared disk, those of a node where every node has its own."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from genlib import distributed

_NAME = ".place"


@dataclass(frozen=True, slots=True)
class Place:
    """The ranks that see this rank's folder, in order."""

    ranks: tuple[int, ...]
    rank: int
    world: int

    @property
    def lead(self) -> bool:
        """Whether this rank does what one of them does for all."""
        return self.rank == self.ranks[0]

    @property
    def first(self) -> bool:
        """Whether it is the folder that rank 0 sees."""
        return self.ranks[0] == 0

    @property
    def whole(self) -> bool:
        """Whether all ranks see it."""
        return len(self.ranks) == self.world

    def share(self, names: Iterable[str]) -> list[str]:
        """What of these this rank does, of all that the place has."""
        return sorted(names)[self.ranks.index(self.rank) :: len(self.ranks)]


def one_place() -> Place:
    """That of a disk that all ranks see."""
    return Place(tuple(range(distributed.world_size())), distributed.rank(), distributed.world_size())


def place_of(folder: Path) -> Place:
    """That of a folder of which nobody knows how many nodes share it, as a home folder may be mounted; all ranks call it together."""
    names = distributed.all_gather_object(_name_of(folder))
    mine = names[distributed.rank()]
    return Place(tuple(rank for rank, name in enumerate(names) if name == mine), distributed.rank(), distributed.world_size())


def _name_of(folder: Path) -> str:
    """What the first process to ask has called it: made under another name and linked, so that nobody reads half of it."""
    path, draft = folder / _NAME, folder / f"{_NAME}.{secrets.token_hex(4)}"
    folder.mkdir(parents=True, exist_ok=True)
    draft.write_text(secrets.token_hex(16))
    try:
        with suppress(FileExistsError):
            os.link(draft, path)
    finally:
        draft.unlink(missing_ok=True)
    return path.read_text()
