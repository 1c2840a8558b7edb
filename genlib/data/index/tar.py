"""A strict reader of tars: ustar, PAX and GNU long names. It finds members and never extracts.

Layout: POSIX.1-2017 pax, "ustar Interchange Format". The file is a chain of 512-byte headers, each followed by its data, and
ends in two zero blocks. Readers in common use stop without a word at the first damaged header; this one notes the damage and
looks for the next header whose checksum and magic hold. Members behind the end, as `cat a.tar b.tar` leaves them, are found too, as
by GNU tar's --ignore-zeros, and how many they are is noted: other readers lose them without a word.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from genlib.data.index.tar_header import (
    BLOCK,
    GNU_LINK,
    GNU_NAME,
    LINKS,
    MEMBER_KEYS,
    PAX,
    PAX_GLOBAL,
    REGULAR,
    TYPE,
    about_member,
    is_pax_record,
    member_names,
    parse_pax,
    valid_headers,
    walk_headers,
)

_EXTENSION_BYTES = 1 << 16  # largest PAX header or long name that is read
_ARCHIVE_STEP = 20 * BLOCK  # writers fill the end of an archive up to a multiple of this
_CHUNK = 1 << 20  # bytes walked through at once while the chain of headers is sound
_SMALL_CHUNK = 32 * BLOCK  # bytes walked through right after a break in it

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
    links: int = 0
    """Links to other files, which are not followed."""
    unusable: int = 0
    """Regular files that are stored with holes left out, or whose name is lost."""

    @property
    def seen(self) -> int:
        """All files and links."""
        return len(self.names) + self.links + self.unusable

    @property
    def behind_end(self) -> int:
        """Members behind the end of the archive."""
        return len(self.names) - self.before_end if self.end else 0


class _Scanner:
    """State of one pass over a tar: members found, and the name and size that an extension header gives the next member."""

    def __init__(self, data, end: int):
        self.data, self.end, self.found = data, end, Members()
        self.name: bytes | None = None
        self.size: int | None = None
        self.unusable = False  # sparse, or what named it cannot be read
        self.reach = _CHUNK

    def run(self) -> Members:
        """Walks to the end of the file."""
        at = 0
        while at + BLOCK <= self.end:
            if self.data[at : at + BLOCK] != bytes(BLOCK):
                at = self._take_chunk(at)
            elif self.data[at + BLOCK : at + 2 * BLOCK].strip(b"\0"):
                at = self._skip_damage(at)
            elif (following := self._behind_end(at)) is None:
                return self.found
            else:
                at = following
        self._damaged(TRUNCATED)  # neither two zero blocks nor a note of where the rest went
        return self.found

    def _damaged(self, reason: str) -> None:
        """Notes a break of the chain, and forgets an extension header before it."""
        if not self.found.damage or self.found.damage[-1][0] != len(self.found.names):  # one note for one gap
            self.found.damage.append((len(self.found.names), reason))
        self._next_member()

    def _next_member(self, unusable: bool = False) -> None:
        self.name, self.size, self.unusable = None, None, unusable

    def _behind_end(self, at: int) -> int | None:
        """Offset at which members go on behind the end of the archive at `at`; None where only zeros follow. Other bytes there are damage."""
        if self.end - at < 2 * BLOCK:
            self._damaged(TRUNCATED)
        self._next_member()
        start = self._next_nonzero(at)
        if start is None:
            return None
        if not self._is_valid(start):
            self._damaged(TRAILING)
            start = self._next_valid(start)
        if not self.found.end and self._is_valid(start):
            self.found.end, self.found.before_end = at, len(self.found.names)
        return start

    def _is_valid(self, at: int) -> bool:
        block = self.data[at : at + BLOCK]
        return len(block) == BLOCK and bool(valid_headers(np.frombuffer(block, np.uint8)[None])[0])

    def _next_nonzero(self, at: int) -> int | None:
        """The first block from `at` on that is not all zero."""
        step = _ARCHIVE_STEP
        while at < self.end:
            chunk = self.data[at : at + step]
            if rest := chunk.lstrip(b"\0"):
                return at + (len(chunk) - len(rest)) // BLOCK * BLOCK
            at, step = at + len(chunk), min(_CHUNK, 2 * step)
        return None

    def _skip_damage(self, at: int) -> int:
        self._damaged(BROKEN)
        return self._next_valid(at)

    def _next_valid(self, start: int) -> int:
        """The next valid header behind the block at `start`, or the zeros at the end, or the end."""
        for at in range(start + BLOCK, self.end - BLOCK + 1, BLOCK):
            if self.data[at + 257 : at + 262] == b"ustar" and self._is_valid(at):
                self._next_member(unusable=self._name_lost_in(max(start, at - _EXTENSION_BYTES - BLOCK), at))
                return at
            if self.end - at <= _ARCHIVE_STEP and not self.data[at : self.end].strip(b"\0"):
                return at
        return self.end

    def _name_lost_in(self, gap: int, member: int) -> bool:
        """Whether damage from `gap` on took a header that named the member at `member`, whose own header then has a part of the name at most."""
        own = self.data[member : member + 100]
        for at in range(gap + BLOCK, member, BLOCK):
            block = self.data[at : at + BLOCK]
            if (b"\0" not in own and block.startswith(own)) or (is_pax_record(block) and about_member(block)):
                return True
        return False

    def _take_chunk(self, at: int) -> int:
        """Takes the members of the next `reach` bytes; returns the offset of the header that follows them."""
        data = self.data[at : at + self.reach]
        whole = (
            len(data) - BLOCK if at + len(data) < self.end else len(data)
        )  # without the last block: a header needs the block behind it, which may be its record
        starts, sizes = walk_headers(data, whole - BLOCK + 1)
        blocks = np.frombuffer(data, np.uint8, len(data) // BLOCK * BLOCK).reshape(-1, BLOCK)
        headers, offsets = blocks[np.array(starts) // BLOCK], [at + start for start in starts]
        self.reach = min(_CHUNK, 2 * self.reach)
        good = valid_headers(headers) & (np.array(sizes) >= 0)
        sound = len(offsets) if good.all() else int(good.argmin())
        found = offsets[:sound], sizes[:sound], headers[:sound, TYPE].tolist(), headers[:sound]
        if not self._take_plain(*found, blocks, at) and (resume := self._take_each(*found)) is not None:
            return resume
        if sound < len(offsets):
            self.reach = _SMALL_CHUNK
            return offsets[sound] if not self.data[offsets[sound] : offsets[sound] + BLOCK].strip(b"\0") else self._skip_damage(offsets[sound])
        return offsets[-1] + BLOCK + (sizes[-1] + BLOCK - 1) // BLOCK * BLOCK

    def _take_plain(self, offsets: list[int], sizes: list[int], kinds: list[int], headers: np.ndarray, blocks: np.ndarray, first: int) -> bool:
        """Takes members of which their own headers say all, the usual case, in array operations; False where that is not so.

        `blocks` (M, 512) are those from `first` on.
        """
        if self.name is not None or self.size is not None or self.unusable or not set(kinds) <= {*REGULAR, PAX}:
            return False
        if not offsets or offsets[-1] + BLOCK + sizes[-1] > self.end:  # all others end before another header
            return not offsets
        regular, start, size = np.array(kinds) != PAX, np.array(offsets), np.array(sizes)
        if not regular.all():
            records, lengths = start[~regular] + BLOCK, size[~regular]
            if not ((lengths > 0) & (lengths <= BLOCK) & (records + BLOCK <= self.end)).all():
                return False
            said = blocks[(records - first) // BLOCK].tobytes()
            if any(word in said for word in MEMBER_KEYS):
                return False
        self.found.names += member_names(headers[regular])
        self.found.offsets += (start[regular] + BLOCK).tolist()
        self.found.sizes += size[regular].tolist()
        return True

    def _take_each(self, offsets: list[int], sizes: list[int], kinds: list[int], headers: np.ndarray) -> int | None:
        """Takes members one by one with what extension headers say of them. Returns the next offset, where it is not right behind the last."""
        for at, size, kind, name in zip(offsets, sizes, kinds, member_names(headers), strict=True):
            true_size = size if self.size is None else self.size
            if at + BLOCK + true_size > self.end:
                self._take_member(kind, name, at, true_size)
                self._damaged(TRUNCATED)
                return self.end
            if kind in REGULAR:
                self._take_member(kind, name, at, true_size)
                if true_size != size:
                    self.reach = _SMALL_CHUNK
                    return at + BLOCK + (true_size + BLOCK - 1) // BLOCK * BLOCK
            else:
                self._read_extension(kind, at, size)
        return None

    def _take_member(self, kind: int, name: bytes, at: int, size: int) -> None:
        if kind in REGULAR and self.unusable:
            self.found.unusable += 1
        elif kind in REGULAR:
            self.found.names.append(name if self.name is None else self.name)
            self.found.offsets.append(at + BLOCK)
            self.found.sizes.append(size)
        self.name, self.size, self.unusable = None, None, False

    def _read_extension(self, kind: int, at: int, size: int) -> None:
        """Reads what a PAX or GNU header says of the next member; links, devices and folders are passed over."""
        if kind in (PAX_GLOBAL, GNU_LINK):
            return
        if kind not in (PAX, GNU_NAME):
            self.found.links += kind in LINKS
            self._next_member()
            return
        record = self.data[at + BLOCK : at + BLOCK + size] if size <= _EXTENSION_BYTES else b""
        if kind == GNU_NAME and record:
            self.name = record.split(b"\0", 1)[0]
            return
        if record and not about_member(record):
            return  # times and owners, which many writers put before every member
        values = parse_pax(record) if record else None
        size_text = (values or {}).get(b"size", b"0")
        if values is None or not size_text.isdigit() or len(size_text) > 19:
            self._damaged(BROKEN)
            self._next_member(unusable=True)
            return
        self.name = values.get(b"path", self.name)
        self.size = int(size_text) if b"size" in values else None
        self.unusable = any(key.startswith(b"GNU.sparse") for key in values)


def scan(data) -> Members:
    """Members of the tar in `data`, which gives bytes by slices. No content raises: damage is listed."""
    return _Scanner(data, len(data)).run()
