"""Mutated tars, and an independent plain reading of them that says what a strict reader must find."""

from __future__ import annotations

import random
import tarfile
from collections.abc import Callable
from dataclasses import dataclass

from tests.data.hostile_images import encoded
from tests.data.shards import Entry, tar_bytes

BLOCK = 512
ZERO = bytes(BLOCK)


@dataclass(frozen=True)
class Piece:
    """A member as it stands in a tar: its name, the blocks it takes with the headers that belong to it, and where its bytes are."""

    name: bytes
    first: int
    offset: int
    size: int

    @property
    def end(self) -> int:
        """Block behind the last one."""
        return -(-(self.offset + self.size) // BLOCK)


def entries(count: int, name: str) -> list[Entry]:
    """Samples of a noisy image, a caption and a label; texts that fill no block, one or two."""
    rng = random.Random(count)
    made = []
    for number in range(count):
        caption = "".join(rng.choices("abcdefgh ", k=rng.choice([3, 511, 512, 513, 1400])))
        image = encoded("png" if number % 2 else "jpeg", 8 + number)
        made += [
            (f"{name}{number:02d}.png", image),
            (f"{name}{number:02d}.txt", f"{number} {caption}".encode()),
            (f"{name}{number:02d}.cls", b"%d" % number),
        ]
    return made


def _apart(members: list[Entry]) -> list[Entry]:
    """The same with no two members of a sample side by side."""
    return [member for column in range(3) for member in members[column::3]]


TARS = {
    "ustar": tar_bytes(entries(10, "sample")),
    "apart": tar_bytes(_apart(entries(10, "sample"))),
    "times": tar_bytes(entries(8, "sample"), form=tarfile.PAX_FORMAT, pax={"mtime": "1.5"}),
    "accents": tar_bytes(entries(8, "é" * 60), form=tarfile.PAX_FORMAT),
    "long names": tar_bytes(entries(8, "folder/" * 20), form=tarfile.GNU_FORMAT),
}


def _flip(data: bytearray, rng: random.Random) -> bytearray:
    for _ in range(rng.choice([1, 1, 2, 5, 20])):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return data


def _wipe(data: bytearray, rng: random.Random) -> bytearray:
    for _ in range(rng.choice([1, 1, 3])):
        at = rng.randrange(len(data) // BLOCK) * BLOCK
        data[at : at + BLOCK] = ZERO if rng.random() < 0.5 else rng.randbytes(BLOCK)
    return data


def _cut(data: bytearray, rng: random.Random) -> bytearray:
    return data[: rng.randrange(len(data))]


def _range(data: bytearray, rng: random.Random) -> tuple[int, int]:
    first = rng.randrange(len(data) // BLOCK)
    return first * BLOCK, min(first + rng.choice([1, 1, 2, 3, 9]), len(data) // BLOCK) * BLOCK


def _delete(data: bytearray, rng: random.Random) -> bytearray:
    start, end = _range(data, rng)
    return data[:start] + data[end:]


def _double(data: bytearray, rng: random.Random) -> bytearray:
    start, end = _range(data, rng)
    at = rng.choice([end, rng.randrange(len(data) // BLOCK) * BLOCK])
    return data[:at] + data[start:end] + data[at:]


def _shift(data: bytearray, rng: random.Random) -> bytearray:
    """Bytes lost or put in so that what follows is off the blocks."""
    at = rng.randrange(len(data))
    return data[:at] + rng.randbytes(rng.randrange(600)) + data[at + rng.randrange(600) :]


IN_PLACE = (_flip, _wipe, _cut)
MUTATIONS: tuple[Callable[[bytearray, random.Random], bytearray], ...] = (*IN_PLACE, _delete, _double, _shift)


def mutant(seed: int, only: tuple = MUTATIONS) -> tuple[str, bytes]:
    """The name of a tar and what became of it; the same for the same seed."""
    rng = random.Random(seed)
    name = rng.choice(list(TARS))
    data = bytearray(TARS[name])
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        data = rng.choice(only)(data, rng) if len(data) >= BLOCK else data
    return name, bytes(data)


def _octal(field: bytes) -> int | None:
    text = field.strip(b" \0")
    if field[:1] >= b"\x80":
        return int.from_bytes(field[1:], "big") if field[0] == 0x80 else None
    try:
        return int(text or b"0", 8) if not text.strip(b"01234567") else None
    except ValueError:
        return None


def sound(block: bytes) -> bool:
    """Whether a block is a header: its checksum, magic and size hold."""
    total = sum(block[:148]) + 8 * 32 + sum(block[156:])
    stated = _octal(block[148:155].rstrip(bytes(range(33))))  # what ends the digits does not matter
    magic = block[257:263] in (b"ustar\0", b"ustar ")
    return len(block) == BLOCK and magic and block[0] != 0 and stated == total and _octal(block[124:136]) is not None


def _path(block: bytes) -> bytes:
    name, prefix = block[:100].split(b"\0")[0], block[345:500].split(b"\0")[0]
    return prefix + b"/" + name if prefix and block[257:263] == b"ustar\0" else name


def _pax_path(content: bytes) -> bytes | None:
    """What the PAX records say of the name, which no writer here lets hold a line's end."""
    lines = [line.partition(b" ")[2] for line in content.split(b"\n")]
    return next((line[5:] for line in lines if line.startswith(b"path=")), None)


def plain_reading(data: bytes) -> list[Piece]:
    """The members of a tar in the shortest words: block by block, from sound header to sound header, behind the end of the archive too."""
    found, at, first, name = [], 0, None, None
    while at + BLOCK <= len(data):
        block = data[at : at + BLOCK]
        if not sound(block):
            at, first, name = at + BLOCK, None, None
            continue
        first, size, kind = at // BLOCK if first is None else first, _octal(block[124:136]), block[156:157]
        content = data[at + BLOCK : at + BLOCK + size]
        if kind == b"x":
            name = _pax_path(content) or name
        elif kind == b"L":
            name = content.split(b"\0")[0]
        elif kind in b"\x000":
            found.append(Piece(_path(block) if name is None else name, first, at + BLOCK, size))
            first, name = None, None
        at += BLOCK + -(-size // BLOCK) * BLOCK
    return found


def untouched(name: str, data: bytes) -> list[tuple[Piece, int]]:
    """Members of the good tar whose blocks stand in a mutant, whole and in a row, with the place there.

    Left out is what lies in what a sound header before it claims as its own data.
    """
    good = TARS[name]
    blocks = [data[at : at + BLOCK] for at in range(0, len(data), BLOCK)]
    claims = [(at, at + 1 + -(-_octal(block[124:136]) // BLOCK)) for at, block in enumerate(blocks) if sound(block)]
    found = []
    for piece in plain_reading(good):
        own = good[piece.first * BLOCK : piece.end * BLOCK]
        at = data.find(own)
        while at >= 0:
            place = at // BLOCK
            shadowed = any(start < place < stop for start, stop in claims)
            if at % BLOCK == 0 and not shadowed:
                found.append((piece, at - piece.first * BLOCK))
            at = data.find(own, at + 1)
    return found
