"""What an image says of itself before any decoder sees it: JPEG, PNG and WebP, one frame, within a pixel limit."""

from __future__ import annotations

import struct
from typing import NamedTuple

import simplejpeg

from genlib.data.codecs.decode import LIMIT_PIXELS, BadSample
from genlib.data.codecs.orientation import UPRIGHT, on_its_side, turn_of_jpeg, turn_of_png, turn_of_webp, webp_chunks

_MAX_CHUNKS = 256  # of a PNG before its pixels
_MAX_SCANS = 100  # of a JPEG: each passes over all pixels and may take 100 bytes; writers use 10
_SMALL = 8192  # bytes that hold no more scans than that


class ImageHeader(NamedTuple):
    """An image's header: format, pixels of the upright picture, channels (1 grey, 3 colour, 4 with alpha or CMYK)."""

    format: str
    height: int
    width: int
    channels: int
    turn: int = UPRIGHT
    """EXIF's orientation, 1 to 8: how the stored pixels are to be turned."""
    clear: bool = False
    """Whether it can have transparent places, by a channel of alpha or a colour that stands for nothing."""

    @property
    def stored(self) -> tuple[int, int]:
        """Height and width of the pixels as they are stored."""
        return (self.width, self.height) if on_its_side(self.turn) else (self.height, self.width)


def _jpeg_header(data: bytes) -> ImageHeader:
    """Of the first picture, where a file holds several, as phones write them (MPO, Ultra HDR, motion photos)."""
    if len(data) > _SMALL and data.count(b"\xff\xda") > _MAX_SCANS + (len(data) >> 15):  # by chance there is one in 64 KB of other content
        raise BadSample("undecodable header")
    height, width, colorspace, _ = simplejpeg.decode_jpeg_header(data, strict=False)
    return ImageHeader("jpeg", int(height), int(width), {"Gray": 1, "CMYK": 4, "YCCK": 4}.get(colorspace, 3), turn_of_jpeg(data))


def _png_header(data: bytes) -> ImageHeader:
    width, height, _, color = struct.unpack_from(">IIBB", data, 16)
    at, clear = 8, color in (4, 6)
    for _ in range(_MAX_CHUNKS):
        kind = data[at + 4 : at + 8]
        if kind == b"IDAT":
            return ImageHeader("png", height, width, {0: 1, 4: 4, 6: 4}.get(color, 3), turn_of_png(data), clear)
        if kind == b"acTL" and int.from_bytes(data[at + 8 : at + 12], "big") > 1:
            raise BadSample("several frames")
        clear |= kind == b"tRNS"
        at += 12 + int.from_bytes(data[at : at + 4], "big")
    raise BadSample("undecodable header")


def _webp_header(data: bytes) -> ImageHeader:
    """The three forms of WebP: RFC 9649, sections 2.5 to 2.7."""
    kind, alpha = data[12:16], False
    if kind == b"VP8X":
        if data[20] & 0x02 and sum(name == b"ANMF" for name, _ in webp_chunks(data)) != 1:
            raise BadSample("several frames")
        alpha = bool(data[20] & 0x10)
        width, height = (1 + int.from_bytes(data[at : at + 3], "little") for at in (24, 27))
    elif kind == b"VP8L":
        word = int.from_bytes(data[21:25], "little")
        width, height, alpha = 1 + (word & 0x3FFF), 1 + (word >> 14 & 0x3FFF), bool(word >> 28 & 1)
    elif kind == b"VP8 ":
        width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", data, 26))
    else:
        raise BadSample("undecodable header")
    return ImageHeader("webp", height, width, 4 if alpha else 3, turn_of_webp(data), alpha)


def image_header(data: bytes) -> ImageHeader:
    """Measures a JPEG, PNG or WebP without decoding it. BadSample where it is none, has several frames or too many pixels."""
    try:
        if data[:3] == b"\xff\xd8\xff":
            header = _jpeg_header(data)
        elif data[:8] == b"\x89PNG\r\n\x1a\n" and data[12:16] == b"IHDR":
            header = _png_header(data)
        elif data[:4] == b"RIFF" and data[8:12] == b"WEBP":
            header = _webp_header(data)
        else:
            raise BadSample("undecodable header")
    except BadSample:
        raise
    except (ValueError, KeyError, IndexError, struct.error):
        raise BadSample("undecodable header") from None
    if not header.height or not header.width:
        raise BadSample("undecodable header")
    if header.height * header.width > LIMIT_PIXELS:
        raise BadSample("over the pixel limit")
    return header._replace(height=header.width, width=header.height) if on_its_side(header.turn) else header


def mask_header(data: bytes) -> ImageHeader:
    """The same of a mask, whose numbers of 16 bits would not fit into 8: BadSample says so."""
    header = image_header(data)
    if header.format == "png" and data[24] == 16:
        raise BadSample("mask of 16 bits")
    return header
