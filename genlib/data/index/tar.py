"""A strict reader of tar headers: ustar, PAX and GNU long names; finds members, never extracts.

Layout: POSIX.1-2017 pax, "ustar Interchange Format". The file is a chain of 512-byte headers, each followed by its data, and
ends in two zero blocks. Readers in common use stop without a word at the first damaged header; this one notes the damage and
looks for the next header whose checksum and magic hold. Members behind the end, as `cat a.tar b.tar` leaves them, are found too, as
by GNU tar's --ignore-zeros, and how many they are is noted: other readers lose them without a word.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np

BLOCK = 512
_EXTENSION_BYTES = 1 << 16  # largest PAX header or long name that is read
_RECORD = 20 * BLOCK  # writers fill the end up to a multiple of this
_CHUNK = 1 << 20  # bytes walked through at once, where the chain is sound
_FEW = 32 * BLOCK  # right after a place where it is not
_REGULAR, _WITHOUT_DATA = b"\x0007", b"123456"  # the second: links, devices, folders, pipes, whatever their size field says
_PAX, _PAX_GLOBAL, _GNU_NAME, _GNU_LINK = b"xgLK"
_NAME, _PREFIX, _MAGIC, _TYPE = slice(0, 100), slice(345, 500), slice(257, 263), 156

_USUAL_SIZE = re.compile(rb"[0-7]{11}[\0 ]").match
_WORDS = (b"path=", b"size=", b"GNU.sparse")  # of a PAX record that tells of the member
_MATTERS = re.compile(b"|".join(map(re.escape, _WORDS))).search
_RECORDS = re.compile(rb"\d{1,6} [^\0=\n]+=").match

BROKEN, TRUNCATED, TRAILING = "broken header", "truncated", "data after the end"


@dataclass(slots=True)
class Members:
    """Regular files of a tar in stored order: opaque names, where their data starts, and how long it is, in bytes."""

    names: list[bytes] = field(default_factory=list)
    offsets: list[int] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    damage: list[tuple[int, str]] = field(default_factory=list)
    """(number of members before it, reason) for each place where the chain breaks."""
    end: int = 0
    """Where the archive ends although members follow, in bytes; 0 where none do."""
    before_end: int = 0
    """Members before that end."""

    @property
    def behind_end(self) -> int:
        """Members behind the end of the archive."""
        return len(self.names) - self.before_end if self.end else 0


def _number(raw: bytes) -> int:
    """A size field: octal text, or GNU's base 256. -1 where it is neither."""
    if raw[0] & 0x80:
        return int.from_bytes(raw[1:], "big") if raw[0] == 0x80 else -1
    text = raw.strip(b" \0")
    try:
        return int(text, 8) if text.isdigit() else -1 if text else 0
    except ValueError:  # an 8 or a 9
        return -1


@lru_cache(1 << 16)
def _size(raw: bytes) -> int:
    """A size field; the same ones come again and again."""
    return int(raw[:11], 8) if _USUAL_SIZE(raw) else _number(raw)


def _walk(window: bytes, end: int) -> tuple[list[int], list[int]]:
    """Follows headers that begin before `end` in a window as if all were sound: their places and sizes. A zero block or a bad size ends the walk."""
    places, sizes, place = [], [], 0
    while place < end:
        head = window[place : place + 157]
        size = 0 if head[_TYPE] in _WITHOUT_DATA else _size(head[124:136])
        places.append(place)
        sizes.append(size)
        if size < 0 or not head[0]:
            break
        place += BLOCK + (size + BLOCK - 1) // BLOCK * BLOCK
    return places, sizes


def _stated(field: np.ndarray) -> np.ndarray:
    """The checksums that headers state. (M, 8) uint8 -> (M,) int64, -1 where there is no number."""
    digits = field[:, :6].astype(np.int64) - ord("0")
    usual = ((digits >= 0) & (digits < 8)).all(axis=1) & (field[:, 6] <= ord(" "))
    stated = digits @ (8 ** np.arange(5, -1, -1))
    for row in np.flatnonzero(~usual):
        stated[row] = _number(field[row].tobytes())
    return stated


def _sound(headers: np.ndarray) -> np.ndarray:
    """Which headers (M, 512) carry the checksum of their bytes and a magic of ustar or none (the old form)."""
    total = headers.sum(axis=1, dtype=np.int64) - headers[:, 148:156].sum(axis=1, dtype=np.int64) + 8 * 0x20
    magic = np.ascontiguousarray(headers[:, _MAGIC]).view("S6").ravel()
    return (total == _stated(headers[:, 148:156])) & np.isin(magic, [b"ustar", b"ustar ", b""]) & (headers[:, 0] != 0)


def _texts(headers: np.ndarray, part: slice) -> list[bytes]:
    """The text of one header field, up to the first NUL, for each header."""
    raw = np.ascontiguousarray(headers[:, part]).view(f"S{part.stop - part.start}").ravel().tolist()
    return [text.split(b"\0", 1)[0] if b"\0" in text else text for text in raw]


def _names(headers: np.ndarray) -> list[bytes]:
    names = _texts(headers, _NAME)
    if not headers[:, _PREFIX.start].any():
        return names
    prefixes = _texts(headers, _PREFIX)
    posix = (np.ascontiguousarray(headers[:, _MAGIC]).view("S6").ravel() == b"ustar").tolist()
    return [prefix + b"/" + name if prefix and is_posix else name for name, prefix, is_posix in zip(names, prefixes, posix, strict=True)]


def _pax(record: bytes) -> dict[bytes, bytes] | None:
    """Records `length key=value\\n` of a PAX header; None where they do not add up."""
    values, place = {}, 0
    while place < len(record):
        space = record.find(b" ", place, place + 12)
        length = int(record[place:space]) if space > place and record[place:space].isdigit() else 0
        line = record[space + 1 : place + length]
        if length < 5 or place + length > len(record) or line[-1:] != b"\n" or b"=" not in line:
            return None
        key, _, value = line[:-1].partition(b"=")
        values[key] = value
        place += length
    return values


class _Scan:
    """State of one pass over a tar: what is found, and what an extension header said of the next member."""

    def __init__(self, data, end: int):
        self.data, self.end, self.found = data, end, Members()
        self.name: bytes | None = None
        self.size: int | None = None
        self.unusable = False  # sparse, or what named it cannot be read
        self.reach = _CHUNK

    def run(self) -> Members:
        place = 0
        while place + BLOCK <= self.end:
            if self.data[place : place + BLOCK] != bytes(BLOCK):
                place = self._chunk(place)
            elif self.data[place + BLOCK : place + 2 * BLOCK].strip(b"\0"):
                place = self._resync(place)
            elif (following := self._behind_end(place)) is None:
                return self.found
            else:
                place = following
        self._damaged(TRUNCATED)  # neither two zero blocks nor a note of where the rest went
        return self.found

    def _damaged(self, reason: str) -> None:
        if not self.found.damage or self.found.damage[-1][0] != len(self.found.names):  # one note for one gap
            self.found.damage.append((len(self.found.names), reason))
        self._next_member()

    def _next_member(self, unusable: bool = False) -> None:
        self.name, self.size, self.unusable = None, None, unusable

    def _behind_end(self, place: int) -> int | None:
        """Where to go on behind the end of the archive at `place`, None where only zeros are; what is no header there is noted."""
        if self.end - place < 2 * BLOCK:
            self._damaged(TRUNCATED)
        self._next_member()
        start = self._not_zero(place)
        if start is None:
            return None
        if not self._is_sound(start):
            self._damaged(TRAILING)
            start = self._sound_after(start)
        if not self.found.end and self._is_sound(start):
            self.found.end, self.found.before_end = place, len(self.found.names)
        return start

    def _is_sound(self, place: int) -> bool:
        block = self.data[place : place + BLOCK]
        return len(block) == BLOCK and bool(_sound(np.frombuffer(block, np.uint8)[None])[0])

    def _not_zero(self, place: int) -> int | None:
        """The first block from `place` on that is not all zero."""
        step = _RECORD
        while place < self.end:
            chunk = self.data[place : place + step]
            if rest := chunk.lstrip(b"\0"):
                return place + (len(chunk) - len(rest)) // BLOCK * BLOCK
            place, step = place + len(chunk), min(_CHUNK, 2 * step)
        return None

    def _resync(self, place: int) -> int:
        self._damaged(BROKEN)
        return self._sound_after(place)

    def _sound_after(self, place: int) -> int:
        """The next sound header behind the block at `place`, or the zeros at the end, or the end."""
        for at in range(place + BLOCK, self.end - BLOCK + 1, BLOCK):
            if self.data[at + 257 : at + 262] == b"ustar" and self._is_sound(at):
                self._next_member(unusable=self._named_in(max(place, at - _EXTENSION_BYTES - BLOCK), at))
                return at
            if self.end - at <= _RECORD and not self.data[at : self.end].strip(b"\0"):
                return at
        return self.end

    def _named_in(self, gap: int, place: int) -> bool:
        """Whether damage from `gap` on took a header that named the member at `place`, whose own header has a part of the name at most."""
        own = self.data[place : place + 100]
        for at in range(gap + BLOCK, place, BLOCK):
            block = self.data[at : at + BLOCK]
            if (b"\0" not in own and block.startswith(own)) or (_RECORDS(block) and _MATTERS(block)):
                return True
        return False

    def _chunk(self, place: int) -> int:
        """Takes the members of one walk; returns where the next one starts. After one that was cut short the next are short."""
        window = self.data[place : place + self.reach]
        whole = len(window) - BLOCK if place + len(window) < self.end else len(window)  # with the block behind a header, which may be its record
        starts, sizes = _walk(window, whole - BLOCK + 1)
        blocks = np.frombuffer(window, np.uint8, len(window) // BLOCK * BLOCK).reshape(-1, BLOCK)
        headers, places = blocks[np.array(starts) // BLOCK], [place + start for start in starts]
        self.reach = min(_CHUNK, 2 * self.reach)
        good = _sound(headers) & (np.array(sizes) >= 0)
        sound = len(places) if good.all() else int(good.argmin())
        found = places[:sound], sizes[:sound], headers[:sound, _TYPE].tolist(), headers[:sound]
        if not self._at_once(*found, blocks, place) and (resume := self._one_by_one(*found)) is not None:
            return resume
        if sound < len(places):
            self.reach = _FEW
            return places[sound] if not self.data[places[sound] : places[sound] + BLOCK].strip(b"\0") else self._resync(places[sound])
        return places[-1] + BLOCK + (sizes[-1] + BLOCK - 1) // BLOCK * BLOCK

    def _at_once(self, places: list[int], sizes: list[int], kinds: list[int], headers: np.ndarray, blocks: np.ndarray, first: int) -> bool:
        """Takes members where nothing but their own headers tells of them; whether that is so. `blocks` (M, 512) are those from `first` on."""
        if self.name is not None or self.size is not None or self.unusable or not set(kinds) <= {*_REGULAR, _PAX}:
            return False
        if not places or places[-1] + BLOCK + sizes[-1] > self.end:  # all others end before another header
            return not places
        regular, start, size = np.array(kinds) != _PAX, np.array(places), np.array(sizes)
        if not regular.all():
            records, lengths = start[~regular] + BLOCK, size[~regular]
            if not ((lengths > 0) & (lengths <= BLOCK) & (records + BLOCK <= self.end)).all():
                return False
            said = blocks[(records - first) // BLOCK].tobytes()
            if any(word in said for word in _WORDS):
                return False
        self.found.names += _names(headers[regular])
        self.found.offsets += (start[regular] + BLOCK).tolist()
        self.found.sizes += size[regular].tolist()
        return True

    def _one_by_one(self, places: list[int], sizes: list[int], kinds: list[int], headers: np.ndarray) -> int | None:
        """Takes members and what extension headers say of them. Returns where to go on, if that is not behind the last."""
        for at, size, kind, name in zip(places, sizes, kinds, _names(headers), strict=True):
            true_size = size if self.size is None else self.size
            if at + BLOCK + true_size > self.end:
                self._member(kind, name, at, true_size)
                self._damaged(TRUNCATED)
                return self.end
            if kind in _REGULAR:
                self._member(kind, name, at, true_size)
                if true_size != size:
                    self.reach = _FEW
                    return at + BLOCK + (true_size + BLOCK - 1) // BLOCK * BLOCK
            else:
                self._extension(kind, at, size)
        return None

    def _member(self, kind: int, name: bytes, at: int, size: int) -> None:
        if kind in _REGULAR and not self.unusable:
            self.found.names.append(name if self.name is None else self.name)
            self.found.offsets.append(at + BLOCK)
            self.found.sizes.append(size)
        self.name, self.size, self.unusable = None, None, False

    def _extension(self, kind: int, at: int, size: int) -> None:
        """Reads what a PAX or GNU header says of the next member; links, devices and folders are passed over."""
        if kind in (_PAX_GLOBAL, _GNU_LINK):
            return
        if kind not in (_PAX, _GNU_NAME):
            self._next_member()
            return
        record = self.data[at + BLOCK : at + BLOCK + size] if size <= _EXTENSION_BYTES else b""
        if kind == _GNU_NAME and record:
            self.name = record.split(b"\0", 1)[0]
            return
        if record and not _MATTERS(record):
            return  # times and owners, which many writers put before every member
        values = _pax(record) if record else None
        size_text = (values or {}).get(b"size", b"0")
        if values is None or not size_text.isdigit() or len(size_text) > 19:
            self._damaged(BROKEN)
            self._next_member(unusable=True)
            return
        self.name = values.get(b"path", self.name)
        self.size = int(size_text) if b"size" in values else None
        self.unusable = any(key.startswith(b"GNU.sparse") for key in values)


def scan(data) -> Members:
    """Members of the tar that lies in `data`, which gives bytes by slices. Never raises on what they say: damage is listed."""
    return _Scan(data, len(data)).run()
