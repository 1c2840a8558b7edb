"""Images that lie, do not end, move, or cost far more than their bytes."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
from PIL import Image

from tests.data.shards import picture

SIGNATURE = b"\x89PNG\r\n\x1a\n"


def encoded(kind: str, side: int = 8, **options) -> bytes:
    """Noise, so that half a file is half an image."""
    buffer = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


def chunk(kind: bytes, content: bytes) -> bytes:
    """A PNG chunk with its checksum."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width: int, height: int, *before: bytes, rows: bytes | None = None) -> bytes:
    """A grey PNG of one shade; `before` stands between its header and its pixels, and `rows` may be other than it says."""
    if rows is None:
        pack = zlib.compressobj(9)
        rows = b"".join([*(pack.compress(bytes(1 + width)) for _ in range(height)), pack.flush()])
    return (
        SIGNATURE
        + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
        + b"".join(before)
        + chunk(b"IDAT", rows)
        + chunk(b"IEND", b"")
    )


def png_saying(width: int, height: int) -> bytes:
    """A PNG of a few bytes that says it is so large."""
    return png(width, height, rows=zlib.compress(bytes(9)))


def jpeg_saying(width: int, height: int, **options) -> bytes:
    """A JPEG of some hundred bytes that says it is so large."""
    data = bytearray(encoded("jpeg", **options))
    start = max(data.find(b"\xff\xc0"), data.find(b"\xff\xc2"))
    data[start + 5 : start + 9] = struct.pack(">HH", height, width)
    return bytes(data)


def webp_canvas(width: int, height: int) -> bytes:
    """An extended WebP whose canvas is said to be so large."""
    body = b"WEBPVP8X" + struct.pack("<I", 10) + bytes(4) + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    inner = encoded("webp", lossless=True)[12:]
    return b"RIFF" + struct.pack("<I", len(body) + len(inner)) + body + inner


def webp_lossless(width: int, height: int) -> bytes:
    """A lossless WebP that says it is so large, at most 16,384 a side."""
    data = bytearray(encoded("webp", lossless=True))
    data[21:25] = ((width - 1) | (height - 1) << 14).to_bytes(4, "little")
    return bytes(data)


def jpeg_of_scans(side: int, scans: int) -> bytes:
    """A sound progressive grey JPEG whose every scan passes over the whole image, at 12 bytes or so for a million pixels.

    Each of the scans refines the coefficients 1 to 63 by end-of-band runs alone, which stand for nothing (ITU T.81, annex G).
    """
    blocks = (side // 8) ** 2
    segment = lambda marker, content: bytes([0xFF, marker]) + struct.pack(">H", len(content) + 2) + content  # noqa: E731
    frame = segment(0xC2, struct.pack(">BHHB", 8, side, side, 1) + bytes([1, 0x11, 0]))
    tables = segment(0xDB, bytes([0]) + bytes([1] * 64))
    counts = bytes([1]) + bytes(15)
    huffman = segment(0xC4, bytes([0x00]) + counts + bytes([0])) + segment(0xC4, bytes([0x10]) + counts + bytes([0xE0]))
    # the code of both tables' one symbol is "0": a DC difference of nothing; an end-of-band run of 2^14 + 14 bits more
    first = segment(0xDA, bytes([1, 1, 0x00, 0, 0, 0x00])) + bytes(blocks // 8) + bytes(blocks % 8 > 0)
    bits = ("0" + "1" * 14) * (blocks // 32767) + "0" + f"{max(blocks % 32767 - 16384, 0):014b}"
    run = int(bits.ljust(-(-len(bits) // 8) * 8, "1"), 2).to_bytes(-(-len(bits) // 8), "big").replace(b"\xff", b"\xff\x00")
    later = segment(0xDA, bytes([1, 1, 0x00, 1, 63, 0x00])) + run
    return b"\xff\xd8" + tables + frame + huffman + first + later * scans + b"\xff\xd9"


def animated(kind: str) -> bytes:
    """Two frames."""
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, kind, save_all=True, append_images=[Image.new("RGB", (8, 8), "white")])
    return buffer.getvalue()


def hidden_animation() -> bytes:
    """An animated WebP that says it is not."""
    data = bytearray(animated("webp"))
    data[20] &= ~0x02
    return bytes(data)


WRONG = {
    "gif": encoded("gif"),
    "bmp": encoded("bmp"),
    "tiff": encoded("tiff"),
    "ico": encoded("ico", 16),
    "pcx": encoded("pcx"),
    "postscript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n(touch harmed) (w) file\n",
    "svg": b"<svg xmlns='http://www.w3.org/2000/svg'><image href='file:///etc/passwd'/></svg>",
    "html": b"<script>harm()</script>",
    "nothing": b"",
    "png's first byte": SIGNATURE[:1],
    "png without its header": SIGNATURE + chunk(b"IDAT", zlib.compress(bytes(9))),
    "webp without its image": b"RIFF\x04\0\0\0WEBP",
}
"""What is no image of ours, whatever its name says."""

POLYGLOTS = {
    "png and zip": picture(1) + b"PK\x03\x04" + bytes(26),
    "png and html": picture(1) + b"<script>harm()</script>",
    "jpeg and more": picture(1, kind="jpeg") + b"<?php system('touch harmed');",
    "webp and tar": picture(1, kind="webp") + b"\0" * 512,
}
"""A sound image that is something else too."""
