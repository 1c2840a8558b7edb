"""How a picture is to be turned: EXIF's orientation, or XMP's, found by a bounded look at the bytes of a JPEG, PNG or WebP.

Only the first directory of the EXIF is read, and nothing in it is followed, so that what is huge, cyclic or garbage costs as much
as what is sound and says nothing. Where there is no EXIF orientation, XMP's `tiff:Orientation` counts, as in Pillow's `exif_transpose`.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator

import numpy as np

UPRIGHT = 1
_TURNS = {2: (0, True), 3: (2, False), 4: (2, True), 5: (3, True), 6: (3, False), 7: (1, True), 8: (1, False)}
"""For each orientation: quarter turns to the left, then whether to mirror (Exif 2.32, section 4.6.4)."""
_TAG = 274
_WHOLE = {3: "H", 4: "I", 8: "h", 9: "i"}  # TIFF's types of whole numbers: SHORT, LONG, and the same with a sign
_ENTRY = 12  # bytes of a directory's entry
_MAX_SEGMENTS = 512  # of a JPEG before its pixels: a profile takes up to 255, an extended EXIF or XMP some more
_MAX_CHUNKS = 16_384  # of a PNG: 64 MB in the 8 KB that libpng writes
_MAX_WEBP_CHUNKS = 64
_LOOK_BYTES = 1 << 16  # of a text that is inflated
_XMP_JPEG = b"http://ns.adobe.com/xap/1.0/\0"
_XMP_PNG, _RAW = b"XML:com.adobe.xmp", b"Raw profile type exif"
_in_xmp = re.compile(rb'tiff:Orientation(?:="|>)([0-9])').search


def on_its_side(turn: int) -> bool:
    """Whether a picture is stored with width and height exchanged."""
    return turn >= 5


def upright(pixels: np.ndarray, turn: int) -> np.ndarray:
    """Pixels (H, W, C) as the camera was held, of an orientation from 1 to 8; contiguous."""
    if turn == UPRIGHT:
        return pixels
    quarters, mirrored = _TURNS[turn]
    turned = np.rot90(pixels, quarters)
    return np.ascontiguousarray(turned[:, ::-1] if mirrored else turned)


def turn_of(exif: bytes, xmp: bytes = b"") -> int:
    """The orientation, 1 to 8, that EXIF gives (with or without its `Exif` in front), else XMP; 1 where neither gives a valid one."""
    found = _in_exif(exif)
    if found is None and (match := _in_xmp(xmp)):
        found = int(match[1])
    return found if found in _TURNS else UPRIGHT


def _in_exif(exif: bytes) -> int | None:
    """The orientation in the first directory, whatever number it is; None where there is none."""
    tiff = exif.removeprefix(b"Exif\0\0").removeprefix(b"Exif\0\0")
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(tiff[:4])
    if order is None or len(tiff) < 8:
        return None
    (start,) = struct.unpack_from(f"{order}I", tiff, 4)
    if start + 2 > len(tiff):
        return None
    (count,) = struct.unpack_from(f"{order}H", tiff, start)
    count = min(count, (len(tiff) - start - 2) // _ENTRY)
    entries = np.frombuffer(tiff, np.uint8, count * _ENTRY, start + 2).reshape(count, _ENTRY)
    places = np.flatnonzero((entries[:, :2] == tuple(struct.pack(f"{order}H", _TAG))).all(axis=1))
    if not len(places):
        return None
    kind, number, value = struct.unpack(f"{order}HI4s", entries[places[-1], 2:].tobytes())
    return struct.unpack_from(f"{order}{_WHOLE[kind]}", value)[0] if kind in _WHOLE and number == 1 else None


def turn_of_jpeg(data: bytes) -> int:
    """The orientation of a JPEG: what stands in its segments before the pixels."""
    exif, xmp, at = b"", b"", 2
    for _ in range(_MAX_SEGMENTS):
        at = data.find(b"\xff", at)
        if at < 0 or at + 4 > len(data) or (kind := data[at + 1]) == 0xDA:
            break
        if kind in (0x00, 0x01, 0xFF) or 0xD0 <= kind <= 0xD9:  # no segment: stuffing, padding, restarts
            at += 1 if kind == 0xFF else 2
            continue
        end = at + 2 + (data[at + 2] << 8 | data[at + 3])
        if kind == 0xE1:
            if data.startswith(b"Exif\0", at + 4):
                exif += data[at + 10 : end] if exif else data[at + 4 : end]
            elif data.startswith(_XMP_JPEG, at + 4):
                xmp = data[at + 4 + len(_XMP_JPEG) : end]
        at = end
    return turn_of(exif, xmp) if exif or xmp else UPRIGHT


def turn_of_png(data: bytes) -> int:
    """The orientation of a PNG, in its chunk eXIf or the texts that writers used before there was one, before or behind the pixels."""
    if not any(name in data for name in (b"eXIf", _XMP_PNG, _RAW)):  # at the speed of memory
        return UPRIGHT
    exif, raw, xmp, at = b"", b"", b"", 8
    for _ in range(_MAX_CHUNKS):
        kind, start, end = data[at + 4 : at + 8], at + 8, at + 8 + int.from_bytes(data[at : at + 4], "big")
        if kind in (b"IEND", b""):
            break
        if kind == b"eXIf":
            exif = data[start:end]
        elif kind in (b"tEXt", b"zTXt", b"iTXt"):
            name, text = _text(kind, data[start:end])
            raw, xmp = (text if name == _RAW else raw), (text if name == _XMP_PNG else xmp)
        at = end + 4
    return turn_of(exif or _raw_profile(raw), xmp)


def _text(kind: bytes, content: bytes) -> tuple[bytes, bytes]:
    """Name and beginning of a text chunk; the text is empty where it is of no interest or damaged. PNG 3rd edition, section 11.3.3."""
    name, _, rest = content[:_LOOK_BYTES].partition(b"\0")
    if name not in (_XMP_PNG, _RAW):
        return name, b""
    packed = kind == b"zTXt"
    if kind == b"iTXt":
        packed, rest = rest[:1] == b"\1", rest[1:]
    if kind != b"tEXt":
        rest = rest[1:]  # the method
    if kind == b"iTXt":
        rest = rest.split(b"\0", 2)[-1]  # language and translated name
    try:
        return name, zlib.decompressobj().decompress(rest, _LOOK_BYTES) if packed else rest
    except zlib.error:
        return name, b""


def _raw_profile(text: bytes) -> bytes:
    """EXIF as ImageMagick writes it: a line with its kind, one with its size, then hexadecimal digits."""
    digits = b"".join(text.split(b"\n")[3:])
    try:
        return bytes.fromhex(digits[: len(digits) // 2 * 2].decode("ascii"))
    except ValueError:
        return b""


def turn_of_webp(data: bytes) -> int:
    """The orientation of a WebP of the extended form, whose chunks EXIF and XMP stand behind the pixels. RFC 9649, section 2.7."""
    flags = data[20]
    if data[12:16] != b"VP8X" or not flags & 0x0C:
        return UPRIGHT
    found = dict(webp_chunks(data))
    return turn_of(found.get(b"EXIF", b"") if flags & 0x08 else b"", found.get(b"XMP ", b"") if flags & 0x04 else b"")


def webp_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Name and content of a WebP's chunks but those of pixels, whose content is left out."""
    at = 12
    for _ in range(_MAX_WEBP_CHUNKS):
        name, size = data[at : at + 4], int.from_bytes(data[at + 4 : at + 8], "little")
        if len(name) < 4:
            return
        yield name, data[at + 8 : at + 8 + size] if name in (b"EXIF", b"XMP ") else b""
        at += 8 + size + size % 2
