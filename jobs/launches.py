"""When a run was started, how that ended, and why its workers began again meanwhile: `launches.jsonl` in its folder, a line for each.

A kill leaves the first alone.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from genlib.engine.timeline import Timeline
from genlib.json_text import json_text
from genlib.storage import LineFile
from jobs.control import Stopped

LAUNCHES = "launches.jsonl"
BEFELL = ("lost", "hung", "slow", "leaving", "joined", "waits")
"""What can befall a run's workers between a launch and its end."""


@contextmanager
def launched(run: Path, command: str) -> Iterator[None]:
    """Inside, the command works in the run's folder."""
    file, how = LineFile(run / LAUNCHES), "finished"
    _add(file, {"what": "launch", "time": time.time(), "command": command})
    try:
        yield
    except (Stopped, KeyboardInterrupt):
        how = "stopped"
        raise
    except BaseException:
        how = "failed"
        raise
    finally:
        _add(file, {"what": "end", "time": time.time(), "how": how})


def note(run: Path, what: str, why: str) -> None:
    """Keeps what befell the run's workers, as of `befell`."""
    with suppress(OSError):  # the folder is gone, which others say
        LineFile(run / LAUNCHES).append(befell(what, why))


def befell(what: str, why: str) -> str:
    """A line on what befell the run's workers, one of `BEFELL`; `why` is a sentence."""
    assert what in BEFELL
    return json_text({"what": what, "time": time.time(), "why": why}) + "\n"


def note_data(folder: Path, described: str) -> None:
    """Keeps what a stage took for samples, captions and labels, in its timeline."""
    Timeline(folder).add("data", 0, 0.0, described=described)


def _add(file: LineFile, line: dict[str, Any]) -> None:
    with suppress(OSError):  # the folder is gone, which others say
        file.append(json_text(line) + "\n")


def lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a file with one a line; what a kill or a disk left of others is passed over, and a missing file has none."""
    found = []
    with suppress(OSError):
        for line in path.read_bytes().splitlines():
            with suppress(ValueError, RecursionError):
                if isinstance(value := json.loads(line), dict):
                    found.append(value)
    return found
