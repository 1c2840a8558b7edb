"""What a trial of a search reached, by step: a list in its folder. A value that is not finite stands there as null."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from genlib.json_text import json_text
from genlib.storage import why


class Evaluations:
    """A trial's own list of what it reached. What cannot be written now is written with the next."""

    def __init__(self, folder: Path) -> None:
        self.path, self.rows, self.failing = _path(folder), evaluations(folder), False

    def add(self, values: Mapping[str, Any]) -> None:
        """Adds an evaluation, in place of what was there from that step on."""
        self.rows = [row for row in self.rows if row["step"] < values["step"]] + [{**values, "time": time.time()}]
        try:
            partial = self.path.with_name(".evaluations.partial")
            partial.write_text("".join(json_text(row) + "\n" for row in self.rows))
            os.replace(partial, self.path)
        except OSError as error:
            if not self.failing:
                print(f"{why(self.path, error)}; what the trial reached waits in memory", flush=True)
            self.failing = True
        else:
            self.failing = False


def evaluations(folder: Path) -> list[dict[str, Any]]:
    """What the trial reached, by step, NaN where a value was not finite; a line that was damaged is as good as none."""
    path = _path(folder)
    lines = path.read_bytes().splitlines() if path.exists() else []
    rows = [row for row in map(_row, lines) if isinstance(row, dict) and isinstance(row.get("step"), int)]
    return [{name: math.nan if value is None else value for name, value in row.items()} for row in rows]


def _row(line: bytes) -> object:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def _path(folder: Path) -> Path:
    return folder / "evaluations.jsonl"
