"""Where shards lie: a local path or a file at a URL, with its stamp, its bytes and its sidecar."""

from __future__ import annotations

import errno
import hashlib
import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from io import FileIO
from pathlib import Path

import numpy as np

from genlib.data.index.content import Content
from genlib.data.remote import remote_file
from genlib.data.remote.remote_file import ChangedError, RemoteFile, Stamp
from genlib.files import cache_folder, locked, open_regular, regular_status, write_atomically

Place = Path | RemoteFile
_SIDECAR_BYTES = 256 << 20  # more is no sidecar, whatever a server sends
_PASSING = (errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EMFILE, errno.ENFILE, errno.ENOMEM)


class Places:
    """A list of places that takes the bytes of their names alone, without what they all begin with."""

    def __init__(self, places: Iterable[Place]):
        names = [place.url if isinstance(place, RemoteFile) else str(place) for place in places]
        self._start = _common_start(min(names), max(names)) if names else ""
        rest = [name[len(self._start) :].encode() for name in names]
        self._ends, self._names = np.cumsum([len(name) for name in rest], dtype=np.int64), b"".join(rest)

    @property
    def any_remote(self) -> bool:
        """Whether one of them is at a URL."""
        return "://" in self._start or b"://" in self._names

    def arrays(self) -> dict[str, np.ndarray]:
        """The list as plain arrays."""
        start, names = (np.frombuffer(text, np.uint8) for text in (self._start.encode(), self._names))
        return {"name_start": start, "name_ends": self._ends, "names": names}

    @classmethod
    def of(cls, name_start: np.ndarray, name_ends: np.ndarray, names: np.ndarray) -> Places:
        """The inverse of `arrays`."""
        made = cls(())
        made._start, made._ends, made._names = name_start.tobytes().decode(), name_ends, names.tobytes()
        return made

    def __len__(self) -> int:
        return len(self._ends)

    def __iter__(self) -> Iterator[Place]:
        return map(self.__getitem__, range(len(self)))

    def __getitem__(self, number: int) -> Place:
        number = range(len(self))[number]
        begin = int(self._ends[number - 1]) if number else 0
        where = self._start + self._names[begin : int(self._ends[number])].decode()
        return RemoteFile(where) if remote_file.is_remote(where) else Path(where)


def _common_start(one: str, other: str) -> str:
    return one[: next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))]


def stat(place: Place) -> Stamp:
    """Size and tag of a shard; another tag is another content. ValueError where a local one is no regular file that can be opened."""
    if isinstance(place, RemoteFile):
        return remote_file.stat(place)
    with _in_words(place):
        status = regular_status(place)
    return Stamp(status.st_size, str(status.st_mtime_ns), str(status.st_ctime_ns))


@contextmanager
def _in_words(place: Path) -> Iterator[None]:
    """What hinders from opening a shard, in one sentence; a disk that fails stays an OSError, as it may be tried again."""
    try:
        yield
    except OSError as error:
        if error.errno in _PASSING:
            raise
        raise ValueError(f"shard {place} cannot be opened ({error.strerror}); repair it, or take it out of the data set") from None


@contextmanager
def content(place: Place) -> Iterator[Content]:
    """All bytes of a shard; of a remote one in a nameless file that goes away."""
    if isinstance(place, Path):
        with _in_words(place):
            opened = open_regular(place)
        with opened as file:
            yield Content(file, f"shard {place}")
        return
    cache_folder().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=cache_folder()) as file:
        for chunk in remote_file.stream(place):
            file.write(chunk)
        file.flush()
        with FileIO(file.fileno(), closefd=False) as raw:
            yield Content(raw, f"shard {place}")


def _cached(place: Place) -> Path:
    where = os.path.realpath(place) if isinstance(place, Path) else place.url
    return cache_folder() / "index" / f"{hashlib.sha256(where.encode()).hexdigest()[:32]}.idx"


def sidecars(place: Place, *, fetch: bool = True) -> Iterator[Path]:
    """Where the sidecar of a shard may lie: beside it, in the cache folder; one beside a remote shard is fetched into the latter."""
    if isinstance(place, Path):
        yield place.with_name(f"{place.name}.idx")
        yield _cached(place)
        return
    yield _cached(place)
    if fetch and (fetched := _fetched(place)):
        yield fetched


def _fetched(place: RemoteFile) -> Path | None:
    content = bytearray()
    try:
        for chunk in remote_file.stream(place.sibling(f"{place.name}.idx")):
            content += chunk
            if len(content) > _SIDECAR_BYTES:
                return None
    except (OSError, ChangedError):
        return None
    _write_cached(place, bytes(content))
    return _cached(place)


def write_sidecar(place: Place, content: bytes) -> None:
    """Beside the shard, or in the cache folder where that place is read-only; of a remote shard in both."""
    if isinstance(place, RemoteFile):
        _write_cached(place, content)
        with suppress(OSError):  # a store that fails costs other nodes their time
            remote_file.put(place.sibling(f"{place.name}.idx"), content)
        return
    try:
        write_atomically(place.with_name(f"{place.name}.idx"), content)
    except OSError:
        _write_cached(place, content)


def _write_cached(place: Place, content: bytes) -> None:
    try:
        write_atomically(_cached(place), content)
    except OSError as error:
        way_out = "name a folder with room that can be written in GENLIB_CACHE"
        raise ValueError(f"the index of shard {place} cannot be kept in {cache_folder()} ({error.strerror}); {way_out}") from None


@contextmanager
def indexing(place: Place) -> Iterator[None]:
    """Held by the one process of a node that indexes the shard; where the cache folder takes no lock, several may."""
    with ExitStack() as held:
        with suppress(OSError):
            held.enter_context(locked(_cached(place).with_suffix(".lock")))
        yield
