"""Icons: glyphs of icon fonts with the names people gave them, white on black.

The fonts lie in the package qtawesome, which is only looked up and never imported, since it needs Qt. Every family is drawn at
one visual size (its typical icon fills the same share of the square) and centred by its ink, so that families differ in style
and not in framing.
"""

from __future__ import annotations

import hashlib
import importlib.util
import io
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from genlib.config import nearest
from genlib.data.shards.writer import png
from genlib.files import read_regular
from genlib.json_text import json_text

VERSION = 2
_LIMIT_BYTES = 1 << 28
DEFAULT_SIZE = 32
TRAIN = ("materialdesignicons6", "phosphor", "remixicon")
VALIDATION = ("fontawesome6-solid",)
_TYPICAL, _LARGEST = 0.8125, 0.9375  # shares of the square's side: the median icon of a family, and no icon more
_SUPERSAMPLE = 4
_MEASURED = 512  # icons whose size is taken for their family's


@dataclass(frozen=True, slots=True)
class Family:
    """An icon font: its file and the code point of each name."""

    name: str
    font: Path
    charmap: Mapping[str, int]


def _charmap(path: Path) -> dict[str, int]:
    try:
        return {name: int(code, 16) for name, code in json.loads(read_regular(path, _LIMIT_BYTES)).items()}
    except (OSError, ValueError, AttributeError, TypeError):
        raise ValueError(f'charmap {path} must be a JSON object of names and hexadecimal code points, {{"home": "f015", ...}}') from None


def _packaged() -> dict[str, tuple[Path, Path]]:
    """Fonts and charmaps in qtawesome by family, from names like `phosphor-1.3.0.ttf` and `phosphor-charmap-1.3.0.json`."""
    spec = importlib.util.find_spec("qtawesome")
    if spec is None or spec.origin is None:
        raise ValueError("the icon fonts are not installed; pip install qtawesome")
    found = {}
    for charmap in sorted((Path(spec.origin).parent / "fonts").glob("*-charmap-*.json")):
        font = charmap.with_name(charmap.name.replace("-charmap", "")).with_suffix(".ttf")
        found[re.sub(r"-(webfont-)?charmap-.*", "", charmap.name)] = (font, charmap)
    return found


def family(name: str) -> Family:
    """A family by name, or `font.ttf:charmap.json` of the user's own. ValueError lists the names there are."""
    if ":" in name:
        font, charmap = (Path(part) for part in name.rsplit(":", 1))
        if not font.is_file():
            raise ValueError(f"there is no font file {font}")
        return Family(font.stem, font, _charmap(charmap))
    packaged = _packaged()
    if name not in packaged:
        choices = ", ".join(packaged)
        raise ValueError(f"there is no icon family {name!r}.{nearest(name, list(packaged))} There are {choices}; or give 'font.ttf:charmap.json'")
    font, charmap = packaged[name]
    return Family(name, font, _charmap(charmap))


def fingerprint() -> str:
    """Changes when a font, a name or the way of drawing does."""
    digest = hashlib.sha256(f"icons {VERSION}".encode())
    packaged = _packaged()
    for name in (*TRAIN, *VALIDATION):
        for path in packaged[name]:
            digest.update(read_regular(path, _LIMIT_BYTES))
    return digest.hexdigest()[:12]


def _ink(font: ImageFont.FreeTypeFont, code: int) -> Image.Image | None:
    """A glyph cut to its ink, or None where nothing is drawn."""
    side = round(2.5 * font.size)
    canvas = Image.new("L", (side, side))
    ImageDraw.Draw(canvas).text((side // 2, side // 2), chr(code), 255, font, anchor="mm")
    box = canvas.getbbox()
    return canvas.crop(box) if box else None


def _typical_side(font: ImageFont.FreeTypeFont, charmap: Mapping[str, int]) -> float:
    """Median of the longer side of the ink, in the font's own pixels; 1 for a font that draws nothing."""
    codes = list(charmap.values())
    inks = [_ink(font, code) for code in codes[:: -(-len(codes) // _MEASURED) or 1]]
    return float(np.median([max(ink.size) for ink in inks if ink] or [1]))


def draw(source: Family, size: int) -> Iterator[tuple[str, np.ndarray | None]]:
    """(name, uint8 (size, size)) of each icon in order of names; None in place of an image where the glyph is empty."""
    font = ImageFont.truetype(io.BytesIO(read_regular(source.font, _LIMIT_BYTES)), size * _SUPERSAMPLE)
    typical = _typical_side(font, source.charmap)
    for name in sorted(source.charmap):
        ink = _ink(font, source.charmap[name])
        yield name, ink and _framed(ink, size, typical)


def _framed(ink: Image.Image, size: int, typical: float) -> np.ndarray:
    """The ink in the middle of a square, its scale set by the family's typical side and bounded by the square."""
    width, height = ink.size
    side = max(typical / _TYPICAL, max(width, height) / _LARGEST)  # of the square, in pixels of the ink
    left, top = max(0, -(-int(side - width) // 2)) + 1, max(0, -(-int(side - height) // 2)) + 1
    canvas = Image.new("L", (width + 2 * left + 1, height + 2 * top + 1))
    canvas.paste(ink, (left, top))
    x, y = left + (width - side) / 2, top + (height - side) / 2
    return np.asarray(canvas.resize((size, size), Image.Resampling.BOX, box=(x, y, x + side, y + side)))


def caption(name: str) -> str:
    """A caption: the words of the name."""
    return re.sub(r"[-_\s]+", " ", name).strip()


def samples(families: Iterable[Family], size: int, empty: list[str]) -> Iterator[dict[str, bytes]]:
    """Members of each icon's sample: png, txt, and json with `family` and `name`. Names of glyphs that draw nothing go to `empty`."""
    for source in families:
        for name, image in draw(source, size):
            if image is None:
                empty.append(f"{source.name}:{name}")
            else:
                facts = json_text({"family": source.name, "name": name}).encode()
                yield {"png": png(image), "txt": caption(name).encode(), "json": facts}
