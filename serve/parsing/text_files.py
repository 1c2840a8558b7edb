"""Files that come as text: base64, alone or in a data URI (RFC 2397)."""

from __future__ import annotations

import base64
import binascii
import re

from serve.api_error import ApiError

_HEAD = 256
"""Characters in which a text shows what it is."""
_DATA_URI = re.compile(r"\s*data:(?:[a-z]+/[a-z0-9.+-]+)?(?:;[a-z0-9=.-]+)*;base64,", re.IGNORECASE)
_FILE = re.compile(
    r"\s*(?:"
    r"data:\s*(?:[\w.+-]+/[\w.+*-]+)?\s*(?:;[^,;]*)*,"  # a data URI, well-formed or not
    r"|(?i:https?|file|s3|gs)://\S+\.(?i:png|jpe?g|webp|gif|bmp|tiff?|avif|heic)(?:[?#]\S*)?\s*$"
    # how PNG, JPEG, WebP, GIF, BMP, TIFF, AVIF and HEIC, SVG, XML, .npy and PDF begin in base64, or in base64url
    r"|(?-i:iVBORw0KGgo|[/_]9j[/_]|UklGR|R0lGODdh|R0lGODlh|Qk[0-3]|SUkqA|TU0AK|AAAA[\w+/-]GZ0eXB|PHN2Z|PD94bW|k05VTVBZ|JVBERi0)(?-i:[\w+/=-]{16,})"
    r")",
    re.IGNORECASE,
)
_ADDRESS = re.compile(r"\s*(?:https?|file|s3|gs)://", re.IGNORECASE)
_SIGNS, _SPACE, _OF_ADDRESSES = re.compile(r"[\w+/=\s-]+", re.ASCII), re.compile(r"\s"), re.compile(r"[-_]")
WAY_OUT = "send the file as data:image/png;base64,..."


def is_file(text: str) -> bool:
    """Whether a text stands for a file rather than words: a data URI, base64 of a picture, or a picture's address, each as well as it was written."""
    return _FILE.match(text[:_HEAD]) is not None


def file_of(text: str, where: str) -> bytes:
    """The bytes of base64 text or of a data URI at a place such as `image[3]`. ApiError says what is wrong with it. Nothing is ever fetched."""
    head = _DATA_URI.match(text[:_HEAD])
    start = head.end() if head else 0
    try:
        if not text.isascii():  # a copy of it would take up to four times as much
            raise ValueError
        return base64.b64decode(text[start:], validate=True)
    except (binascii.Error, ValueError):
        raise ApiError(400, f"{where} {_what_is_wrong(text, start)}", param=field_of(where), code="invalid_image") from None


def field_of(where: str) -> str:
    """The field of a place: `image` of `image[3]`."""
    return where.partition("[")[0]


def _what_is_wrong(text: str, start: int) -> str:
    if _ADDRESS.match(text[:_HEAD]):
        return f"is an address, and this server fetches nothing; {WAY_OUT}"
    if not start and text[:_HEAD].lstrip().lower().startswith("data:"):
        return f"is a data URI without ;base64 before its comma; {WAY_OUT}"
    if _SIGNS.fullmatch(text, start):
        if _SPACE.search(text, start):
            return "is base64 with white space in it; take the white space out"
        if _OF_ADDRESSES.search(text, start):
            return "is base64url; write + for - and / for _, which is base64"
        if len(text[start:].rstrip("=")) % 4 != 1:
            return "is base64 without the = at its end, or one that was cut; send it whole"
    return f"is neither base64 nor a data URI; {WAY_OUT}"
