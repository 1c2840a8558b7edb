"""Cities: places of the flat map of the world, one for each time zone, from the IANA time zone database (public domain).

The largest city of each zone, after which it is named. Read from the file zone.tab of the pip package tzdata, or of the system.
"""

from __future__ import annotations

import hashlib
import io
import re
import zoneinfo
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from genlib.files import read_regular

VERSION = 1
_LIMIT_BYTES = 64 << 20
CLASS_NAMES = ("Africa", "America", "Antarctica", "Arctic", "Asia", "Atlantic", "Australia", "Europe", "Indian", "Pacific")
_PLACE = re.compile(r"([+-])(\d{2})(\d{2})(\d{2})?([+-])(\d{3})(\d{2})(\d{2})?")


def find() -> Path:
    """The file zone.tab. ValueError where there is none."""
    package = find_spec("tzdata")
    folders = [Path(one) / "zoneinfo" for one in (package.submodule_search_locations or ())] if package else []
    found = [path for path in (folder / "zone.tab" for folder in (*folders, *map(Path, zoneinfo.TZPATH))) if path.is_file()]
    if not found:
        raise ValueError("the set cities is made of the time zone database, which is not here; pip install tzdata")
    return found[0]


def fingerprint() -> str:
    """Changes with the file and with what is made of it."""
    return f"v{VERSION}-{hashlib.sha256(read_regular(find(), _LIMIT_BYTES)).hexdigest()}"


def degrees(text: str) -> tuple[float, float]:
    """Longitude and latitude of ISO 6709's +DDMM+DDDMM or +DDMMSS+DDDMMSS."""
    match = _PLACE.fullmatch(text)
    if match is None:
        raise ValueError(f"{find()} has a place {text!r} that is not written like +4230+00131; install tzdata again")
    signs, whole, minutes, seconds = (match.groups()[part::4] for part in range(4))
    latitude, longitude = (
        (-1 if sign == "-" else 1) * (int(d) + int(m) / 60 + int(s or 0) / 3600) for sign, d, m, s in zip(signs, whole, minutes, seconds, strict=True)
    )
    return longitude, latitude


def samples() -> Iterator[dict[str, bytes]]:
    """Members of each city: npy with longitude and latitude in degrees, float32 (2,), cls with its continent or ocean, and txt with its name."""
    for line in read_regular(find(), _LIMIT_BYTES).decode().splitlines():
        if line.startswith("#"):
            continue
        _, place, zone, *_ = line.split("\t")
        region, _, name = zone.partition("/")
        file = io.BytesIO()
        np.save(file, np.array(degrees(place), np.float32))
        text = name.rpartition("/")[2].replace("_", " ")
        yield {"npy": file.getvalue(), "cls": str(CLASS_NAMES.index(region)).encode(), "txt": text.encode()}
