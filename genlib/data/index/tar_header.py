"""Headers of a tar: 512 bytes each, with name, size, type and checksum; and records of PAX headers. POSIX.1-2017 pax, "ustar Interchange Format"."""

from __future__ import annotations

import re
from functools import lru_cache

import numpy as np

BLOCK = 512
"""Bytes of a header, to whose multiples the data behind it are filled up."""
REGULAR = b"\x0007"
"""Types of regular files."""
LINKS = b"12"
"""Types of hard and symbolic links."""
_WITHOUT_DATA = b"123456"
"""Types without data, whatever their size field says: links, devices, folders, pipes."""
PAX, PAX_GLOBAL, GNU_NAME, GNU_LINK = b"xgLK"
"""Types that say something of the next member, or of all."""
TYPE = 156
_NAME, _PREFIX, _MAGIC = slice(0, 100), slice(345, 500), slice(257, 263)

_USUAL_SIZE = re.compile(rb"[0-7]{11}[\0 ]").match
MEMBER_KEYS = (b"path=", b"size=", b"GNU.sparse")
"""In a PAX record: what changes name, size or form of the member."""
about_member = re.compile(b"|".join(map(re.escape, MEMBER_KEYS))).search
is_pax_record = re.compile(rb"\d{1,6} [^\0=\n]+=").match


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
def parse_size(raw: bytes) -> int:
    """A size field; cached, as the same sizes come again and again."""
    return int(raw[:11], 8) if _USUAL_SIZE(raw) else _number(raw)


def walk_headers(data: bytes, end: int) -> tuple[list[int], list[int]]:
    """Follows headers that begin before `end` as if all were sound: their offsets and sizes. A zero block or a bad size ends the walk."""
    offsets, sizes, offset = [], [], 0
    while offset < end:
        head = data[offset : offset + 157]
        size = 0 if head[TYPE] in _WITHOUT_DATA else parse_size(head[124:136])
        offsets.append(offset)
        sizes.append(size)
        if size < 0 or not head[0]:
            break
        offset += BLOCK + (size + BLOCK - 1) // BLOCK * BLOCK
    return offsets, sizes


def _stated_checksums(field: np.ndarray) -> np.ndarray:
    """The checksums that headers state. (M, 8) uint8 -> (M,) int64, -1 where there is no number."""
    digits = field[:, :6].astype(np.int64) - ord("0")
    usual = ((digits >= 0) & (digits < 8)).all(axis=1) & (field[:, 6] <= ord(" "))
    stated = digits @ (8 ** np.arange(5, -1, -1))
    for row in np.flatnonzero(~usual):
        stated[row] = _number(field[row].tobytes())
    return stated


def valid_headers(headers: np.ndarray) -> np.ndarray:
    """Which headers (M, 512) carry the checksum of their bytes and a magic of ustar or none (the old form)."""
    total = headers.sum(axis=1, dtype=np.int64) - headers[:, 148:156].sum(axis=1, dtype=np.int64) + 8 * 0x20
    magic = np.ascontiguousarray(headers[:, _MAGIC]).view("S6").ravel()
    known = (magic == b"ustar") | (magic == b"ustar ") | (magic == b"")
    return (total == _stated_checksums(headers[:, 148:156])) & known & (headers[:, 0] != 0)


def _texts(headers: np.ndarray, part: slice) -> list[bytes]:
    """The text of one header field, up to the first NUL, for each header."""
    raw = np.ascontiguousarray(headers[:, part]).view(f"S{part.stop - part.start}").ravel().tolist()
    return [text.split(b"\0", 1)[0] if b"\0" in text else text for text in raw]


def member_names(headers: np.ndarray) -> list[bytes]:
    """Names in headers (M, 512): ustar's prefix and name joined."""
    names = _texts(headers, _NAME)
    if not headers[:, _PREFIX.start].any():
        return names
    prefixes = _texts(headers, _PREFIX)
    posix = (np.ascontiguousarray(headers[:, _MAGIC]).view("S6").ravel() == b"ustar").tolist()
    return [prefix + b"/" + name if prefix and is_posix else name for name, prefix, is_posix in zip(names, prefixes, posix, strict=True)]


def parse_pax(record: bytes) -> dict[bytes, bytes] | None:
    """Records `length key=value\\n` of a PAX header; None where they do not add up."""
    values, offset = {}, 0
    while offset < len(record):
        space = record.find(b" ", offset, offset + 12)
        length = int(record[offset:space]) if space > offset and record[offset:space].isdigit() else 0
        line = record[space + 1 : offset + length]
        if length < 5 or offset + length > len(record) or line[-1:] != b"\n" or b"=" not in line:
            return None
        key, _, value = line[:-1].partition(b"=")
        values[key] = value
        offset += length
    return values
