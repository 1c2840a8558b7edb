"""Pictures of pictures: sheets of labelled images that a person looks at."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

Line = str | tuple[str, str]
"""A line of a label, or (line, colour) with any colour name or #rrggbb."""

_PAPER, _INK, _EDGE = "#ffffff", "#222222", "#d0d0d0"
_MARGIN, _TITLE_LINES = 8, 4


def _wrapped(line: Line, width: int, font: ImageFont.FreeTypeFont, lines: int) -> list[tuple[str, str]]:
    """A line broken at spaces into at most `lines` of that width in pixels; what does not fit ends in an ellipsis."""
    text, color = (line, _INK) if isinstance(line, str) else line
    rows, words = [""], text.split()
    for word in words:
        longer = f"{rows[-1]} {word}".strip()
        if rows[-1] and font.getlength(longer) > width:
            rows.append(word)
        else:
            rows[-1] = longer
    cut = len(rows) > lines
    return [(_shortened(row, width, font, cut and at == lines - 1), color) for at, row in enumerate(rows[:lines])]


def _shortened(text: str, width: int, font: ImageFont.FreeTypeFont, more: bool) -> str:
    """The text with an ellipsis where it is wider than `width` pixels or `more` follows."""
    if font.getlength(text) <= width and not more:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"


def _picture(image: np.ndarray, side: int) -> Image.Image:
    """uint8 (H, W), (H, W, 1), (H, W, 3), or floats in [0, 1] of those shapes, fitted into `side` pixels; small ones in whole multiples."""
    pixels = image if image.dtype == np.uint8 else (np.clip(image, 0, 1) * 255 + 0.5).astype(np.uint8)
    picture = Image.fromarray(pixels[:, :, 0] if pixels.ndim == 3 and pixels.shape[2] == 1 else pixels).convert("RGB")
    scale = side / max(picture.size)
    if scale >= 1:
        width, height = (length * int(scale) for length in picture.size)
        return picture.resize((width, height), Image.Resampling.NEAREST)
    width, height = (max(1, round(length * scale)) for length in picture.size)
    return picture.resize((width, height), Image.Resampling.LANCZOS)


def contact_sheet(
    images: Sequence[np.ndarray],
    labels: Sequence[str | Sequence[Line]],
    *,
    columns: int = 8,
    side: int = 96,
    label_lines: int = 2,
    title: str = "",
    font_size: int = 12,
) -> Image.Image:
    """A grid of images under a title, each above its label: a caption, wrapped as the title is, or a list of lines, each cut where it is too long.

    images: uint8 (H, W), (H, W, C) or floats in [0, 1]; `side` and `font_size` in pixels. An empty list gives the title alone.
    """
    font = ImageFont.load_default(font_size)
    assert isinstance(font, ImageFont.FreeTypeFont), "Pillow was built without FreeType"
    line_height = round(font_size * 1.35)
    texts = [
        _wrapped(label, side, font, label_lines) if isinstance(label, str) else [row for line in label for row in _wrapped(line, side, font, 1)]
        for label in labels
    ]
    cell_height = side + line_height * max((len(text) for text in texts), default=0) + 2 * _MARGIN
    width, title_size = columns * (side + _MARGIN) + _MARGIN, round(font_size * 1.3)
    title_font, title_pitch = font.font_variant(size=title_size), round(title_size * 1.35)
    titles = _wrapped(title, width - 2 * _MARGIN, title_font, _TITLE_LINES) if title else []
    rows, top = -(-len(images) // columns), _MARGIN + (title_pitch * len(titles) + _MARGIN // 2 if titles else 0)
    sheet = Image.new("RGB", (width, top + rows * cell_height), _PAPER)
    pen = ImageDraw.Draw(sheet)
    for at, (line, color) in enumerate(titles):
        pen.text((_MARGIN, _MARGIN + at * title_pitch), line, color, font=title_font)
    for number, (image, text) in enumerate(zip(images, texts, strict=True)):
        left, up = _MARGIN + number % columns * (side + _MARGIN), top + number // columns * cell_height
        picture = _picture(image, side)
        corner = (left + (side - picture.width) // 2, up + (side - picture.height) // 2)
        sheet.paste(picture, corner)
        pen.rectangle((corner[0] - 1, corner[1] - 1, corner[0] + picture.width, corner[1] + picture.height), outline=_EDGE)
        for at, (line, color) in enumerate(text):
            pen.text((left, up + side + 3 + at * line_height), line, color, font=font)
    return sheet


def save_contact_sheet(path: Path, images: Sequence[np.ndarray], labels: Sequence[str | Sequence[Line]], **options) -> None:
    """Writes `contact_sheet(images, labels, **options)` as a PNG; makes the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    contact_sheet(images, labels, **options).save(path)
