"""Emoji: the single characters of a colour font with the names that Unicode gives them, in colour on white.

The font is Noto Color Emoji with bitmaps (CBDT), Debian's package fonts-noto-color-emoji. Python's own `unicodedata` knows the
names, so a newer character than its Unicode is left out. Digits and signs that draw only as the start of a keycap, and the
swatches that only modify a skin, are left out too.

Held out is a tenth. Emoji that look alike (the 24 clock faces, a speaker with one or three waves) form a group, and a hash of the
group's first name puts all of it on one side: no held-out picture has a near-duplicate among those that are learnt.
"""

from __future__ import annotations

import hashlib
import io
import os
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from genlib.data.shards.writer import png
from genlib.files import read_regular

VERSION = 1
_LIMIT_BYTES = 1 << 28
DEFAULT_SIZE = 64
FONTS = tuple(
    Path("/usr/share/fonts") / where / "NotoColorEmoji.ttf"
    for where in ("truetype/noto", "noto", "google-noto-emoji", "google-noto-color-emoji-fonts", "opentype/noto")
)
"""Where systems keep the font: Debian's place first."""
_PIXELS = 109  # the one size the font's bitmaps have
_GROUND = (255, 255, 255)
_NOT_PICTURES = {0x20E3, *range(0x1F3FB, 0x1F400)}  # the keycap's frame, the skin modifiers
_FIRST = 0x80  # below are the keycaps' digits and signs
_HELD_OUT = 0.1
_THUMBNAIL, _ALIKE = 16, 0.05  # a side in pixels, and the root mean square difference of pixels in [0, 1]


def find(where: str | Path = "") -> Path:
    """The font file: `where`, else what GENLIB_EMOJI_FONT names, else the system's. ValueError where there is none."""
    named = where or os.environ.get("GENLIB_EMOJI_FONT")
    for path in (Path(named).expanduser(),) if named else FONTS:
        if path.is_file():
            return path
    place = f"at {named}" if named else "on this system"
    raise ValueError(f"there is no emoji font {place}; install Debian's fonts-noto-color-emoji, or name a NotoColorEmoji.ttf in GENLIB_EMOJI_FONT")


def fingerprint() -> str:
    """Changes when the font, Python's Unicode or the way of drawing does."""
    digest = hashlib.sha256(f"emoji {VERSION} {unicodedata.unidata_version}".encode())
    digest.update(read_regular(find(), _LIMIT_BYTES))
    return digest.hexdigest()[:12]


def draw(font_path: Path) -> Iterator[tuple[str, Image.Image]]:
    """(name, RGB picture with its ink in the middle of a square) of every emoji, in order of code points."""
    try:
        font = ImageFont.truetype(io.BytesIO(read_regular(font_path, _LIMIT_BYTES)), _PIXELS, layout_engine=ImageFont.Layout.BASIC)
    except OSError:
        raise ValueError(
            f"{font_path} has no bitmaps of {_PIXELS} pixels; name a NotoColorEmoji.ttf with CBDT bitmaps in GENLIB_EMOJI_FONT"
        ) from None
    for code in range(_FIRST, 0x110000):
        name = unicodedata.name(chr(code), "")
        left, top, right, bottom = font.getbbox(chr(code)) if name and code not in _NOT_PICTURES else (0, 0, 0, 0)
        if right > left and bottom > top:  # a box of no height is the font's blank
            side = round(max(right - left, bottom - top))
            canvas = Image.new("RGB", (side, side), _GROUND)
            corner = ((side - (right - left)) / 2 - left, (side - (bottom - top)) / 2 - top)
            ImageDraw.Draw(canvas).text(corner, chr(code), font=font, embedded_color=True)
            yield name, canvas


def groups(pictures: list[Image.Image]) -> np.ndarray:
    """For each picture the number of the first one that it looks like, through any chain of pictures alike: (N,) int64."""
    small = [np.asarray(picture.resize((_THUMBNAIL, _THUMBNAIL), Image.Resampling.BOX), np.float64) for picture in pictures]
    pixels = np.stack(small).reshape(len(small), -1) / 255
    first = np.arange(len(pixels))
    for row, picture in enumerate(pixels):
        alike = np.flatnonzero(((pixels[:row] - picture) ** 2).mean(axis=1) < _ALIKE**2)
        merged = np.unique(first[alike])
        if len(merged):
            first[row] = merged[0]
            first[np.isin(first, merged)] = merged[0]
    return first


def _held_out(name: str) -> bool:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") < _HELD_OUT * 2**64


def samples(split: str, size: int, font_path: Path) -> Iterator[dict[str, bytes]]:
    """Members of each sample of "train" or "validation": png (RGB) and txt, the name in small letters."""
    names, pictures = zip(*draw(font_path), strict=True)
    for name, picture, first in zip(names, pictures, groups(list(pictures)), strict=True):
        if _held_out(names[first]) == (split == "validation"):
            scaled = picture.resize((size, size), Image.Resampling.LANCZOS)
            yield {"png": png(np.asarray(scaled)), "txt": name.lower().encode()}
