"""A page in one HTML file that needs no other: its frame and its pieces, light or dark as the reader's system is, on wide and narrow screens."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from genlib.files import write_atomically

_MOST_BYTES, _WIDEST = 400_000, 1280
"""Of a picture that goes into the page as it is; pixels of one that is made smaller."""


def write_page(path: Path, title: str, body: str) -> None:
    """Writes the page; `body` is HTML."""
    head = f"<title>{html.escape(title)}</title>\n<style>{_STYLE}</style>"
    write_atomically(path, f"{_HEAD}{head}</head>\n<body><main><h1>{html.escape(title)}</h1>{body}</main></body></html>\n".encode())


def section(title: str, *parts: str) -> str:
    """Parts of HTML under a heading; nothing where there are none."""
    inside = "".join(parts)
    return f"<section><h2>{html.escape(title)}</h2>{inside}</section>" if inside else ""


def heading(text: str) -> str:
    """Of a part of a section."""
    return f"<h3>{html.escape(text)}</h3>" if text else ""


def grid(parts: str, *, large: bool = False) -> str:
    """Drawings or pictures, as many beside each other as there is room for."""
    return f'<div class="grid{" large" if large else ""}">{parts}</div>' if parts else ""


def folded(title: str, inside: str) -> str:
    """What a reader may open."""
    return f"<details><summary>{html.escape(title)}</summary>{inside}</details>" if inside else ""


def table(rows: Sequence[Sequence[str]], head: Sequence[str] = (), *, marked: bool = False) -> str:
    """Rows of cells below the names of the columns; the first row may be `marked`. Nothing where there are no rows."""
    if not rows:
        return ""
    top = f"<thead>{_row('th', head)}</thead>" if head else ""
    kind = ' class="marked"' if marked else ""
    return f'<div class="wide"><table{kind}>{top}<tbody>{"".join(_row("td", row) for row in rows)}</tbody></table></div>'


def _row(tag: str, cells: Sequence[str]) -> str:
    return "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells) + "</tr>"


def facts(values: Mapping[str, str]) -> str:
    """Names with what there is to say of each; names of nothing are left out."""
    said = "".join(f"<dt>{html.escape(name)}</dt><dd>{html.escape(value)}</dd>" for name, value in values.items() if value)
    return f"<dl>{said}</dl>" if said else ""


def listed(values: Sequence[str]) -> str:
    """Sentences, one below the other."""
    return "<ul>" + "".join(f"<li>{html.escape(value)}</li>" for value in values) + "</ul>" if values else ""


def paragraph(text: str) -> str:
    """A text."""
    return f"<p>{html.escape(text)}</p>" if text else ""


def bars(rows: Sequence[tuple[str, float, str]]) -> str:
    """Names, shares in [0, 1] as bars, and what is said of each."""
    cells = (f'<span>{html.escape(name)}</span><i style="width: {share:.2%}"></i><b>{html.escape(said)}</b>' for name, share, said in rows)
    return f'<div class="bars">{"".join(cells)}</div>' if rows else ""


def code(text: str) -> str:
    """Lines as they are."""
    return f"<pre>{html.escape(text)}</pre>" if text else ""


def figure(path: Path, caption: str) -> str:
    """A picture inside the page; nothing where it cannot be read."""
    try:
        data, kind = _picture(path)
    except (OSError, ValueError):
        return ""
    words = html.escape(caption)
    return f'<figure><img alt="{words}" src="data:image/{kind};base64,{base64.b64encode(data).decode()}"><figcaption>{words}</figcaption></figure>'


def _picture(path: Path) -> tuple[bytes, str]:
    """A file's bytes and kind; a large PNG is packed anew."""
    from PIL import Image

    kind = path.suffix.removeprefix(".")
    data = path.read_bytes()
    if kind != "png" or len(data) <= _MOST_BYTES:
        return data, kind
    with Image.open(io.BytesIO(data)) as image:
        small = image.convert("RGB")
    small.thumbnail((_WIDEST, 100 * _WIDEST))
    packed = io.BytesIO()
    small.save(packed, "WEBP", quality=88)
    return packed.getvalue(), "webp"


def drawing(svg: str) -> str:
    """An SVG of `genlib.charts`, whose inks are the page's."""
    return f'<figure class="drawing">{svg}</figure>'


_HEAD = """<!doctype html>
<html lang="en" data-ready="yes"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
"""
_STYLE = """
:root {
  color-scheme: light dark;
  --paper: #ffffff; --ink: #222222; --pale: #5f6368; --grid: #dddddd; --box: #f5f6f7; --mark: #e8f3e8; --bar: #4e79a7
}
@media (prefers-color-scheme: dark) {
  :root { --paper: #17191c; --ink: #e3e5e8; --pale: #a3a8af; --grid: #383c42; --box: #22252a; --mark: #1f3323; --bar: #6f9fd1 }
}
* { box-sizing: border-box }
body { margin: 0; font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper) }
main { max-width: 76rem; margin: 0 auto; padding: 1.5rem 1rem 4rem }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0 0 .5rem; overflow-wrap: anywhere }
h2 { font-size: 1.15rem; margin: 2.25rem 0 .75rem }
h3 { font-size: 1rem; margin: 1.25rem 0 .5rem }
p { margin: .25rem 0 .75rem; max-width: 50rem } ul { margin: .25rem 0; padding-left: 1.2rem } li { overflow-wrap: anywhere }
pre { white-space: pre-wrap; overflow-wrap: anywhere; background: var(--box); padding: .75rem 1rem; border-radius: 6px; font-size: 13px }
.wide { overflow-x: auto } table { border-collapse: collapse; font-size: 13.5px }
td, th { padding: .3rem .7rem; border-bottom: 1px solid var(--grid); text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums }
td:first-child, th:first-child { text-align: left; padding-left: 0 }
.marked td:last-child, .marked th:last-child { text-align: left; white-space: normal }
.marked tbody tr:first-child { background: var(--mark) }
dl { display: grid; grid-template-columns: minmax(7rem, max-content) 1fr; gap: .2rem 1.25rem; margin: .5rem 0 }
dt { color: var(--pale) } dd { margin: 0; overflow-wrap: anywhere }
figure { margin: 0 0 1.25rem } img { max-width: 100%; height: auto; display: block; border-radius: 4px; background: #ffffff }
figcaption { color: var(--pale); font-size: 13px; margin-top: .3rem }
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 19rem), 1fr)); gap: .5rem 1.5rem }
.large { grid-template-columns: repeat(auto-fill, minmax(min(100%, 34rem), 1fr)) }
.drawing { margin: 0 0 .5rem } .drawing svg { width: 100%; height: auto; display: block; max-width: 30rem }
.strip { display: flex; gap: 1rem; overflow-x: auto; scroll-snap-type: x proximity; padding-bottom: .5rem }
.strip figure { flex: 0 0 min(88%, 44rem); scroll-snap-align: start; margin: 0 }
.pairs { display: grid; grid-template-columns: 1fr 1fr; gap: 1rem }
details { margin: .75rem 0 } summary { cursor: pointer; color: var(--pale) }
.bars { display: grid; grid-template-columns: max-content minmax(4rem, 24rem) max-content; gap: .3rem .9rem; align-items: center; font-size: 13.5px }
.bars i { display: block; height: .7rem; background: var(--bar); border-radius: 3px; min-width: 2px }
.bars b { font-weight: normal; text-align: right; font-variant-numeric: tabular-nums }
@media (max-width: 40rem) {
  td:first-child, th:first-child { white-space: normal; overflow-wrap: anywhere; min-width: 7.5rem } td, th { padding: .3rem .4rem }
  dl { grid-template-columns: 1fr; gap: 0 } dd { margin-bottom: .5rem } .pairs { grid-template-columns: 1fr }
  .bars { grid-template-columns: 1fr max-content } .bars i { grid-column: 1 / -1; grid-row: auto; order: 0 }
}
"""
