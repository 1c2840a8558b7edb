"""How a command's lines are shown: on a terminal with a bar in the place of the lines of steps, elsewhere as they are, or as lines of JSON."""

from __future__ import annotations

import io
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal, TextIO

from genlib.json_text import json_text
from genlib.phases import PHASE

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

LogFormat = Literal["auto", "text", "json"]
_PROGRESS = re.compile(r"(?P<name>step) +(?P<done>\d+)/(?P<total>\d+) +(?P<rest>.*)|(?P<trials>\d+) of (?P<of>\d+) trials? done: (?P<left>.*)")
"""A training's line of a step, and the first line of a search's table."""


def progress_of(line: str) -> tuple[str, int, int, str] | None:
    """What the line counts, how many are done, of how many, and what else it says; None of any other line."""
    found = _PROGRESS.fullmatch(line)
    if found is None:
        return None
    if found["name"]:
        return "step", int(found["done"]), int(found["total"]), found["rest"].partition("  ETA ")[0]
    return "trials", int(found["trials"]), int(found["of"]), found["left"]


class _Lines(io.TextIOBase):
    """A stream that shows each whole line in its own way; `to` is where."""

    def __init__(self, to: TextIO) -> None:
        self.to, self.pending, self.lock = to, "", threading.Lock()

    def writable(self) -> bool:
        return True

    def isatty(self) -> bool:
        return self.to.isatty()

    def fileno(self) -> int:
        return self.to.fileno()

    def flush(self) -> None:
        self.to.flush()

    def write(self, text: str) -> int:
        with self.lock:
            *lines, self.pending = (self.pending + text).split("\n")
            for line in lines:
                self.show(line)
        return len(text)

    def end(self) -> None:
        """Shows what is left."""
        with self.lock:
            if self.pending:
                self.show(self.pending)
            self.pending = ""

    def show(self, line: str) -> None:
        raise NotImplementedError


class _Json(_Lines):
    """A JSON object a line: time, level, message; step and steps of a step, seconds of a phase."""

    def show(self, line: str) -> None:
        said: dict[str, Any] = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "level": "info", "message": line.strip()}
        if progress := progress_of(line):
            name, done, total, _ = progress
            said |= {"step": done, "steps": total} if name == "step" else {"trials_done": done, "trials": total}
        elif found := PHASE.fullmatch(line):
            said |= {"message": found[2], "seconds": float(found[1])}
        self.to.write(json_text(said) + "\n")


class _Bar(_Lines):
    """A bar below the lines; in the place of lines of steps, but for the last of a training."""

    def __init__(self, to: TextIO) -> None:
        super().__init__(to)
        self.progress: Progress | None = None
        self.task: TaskID | None = None
        self.last = ""

    def show(self, line: str) -> None:
        progress = progress_of(line)
        if progress is None:
            self.above(line)
            return
        name, done, total, rest = progress
        if self.progress is None:
            self.progress = _bar(self.to)
            self.task = self.progress.add_task(name, completed=done, total=total, rest=rest)
            self.progress.start()
        assert self.task is not None
        if name == "step" and self.progress.tasks[0].completed > done:  # the next stage, or a run that went back to its checkpoint
            self.progress.reset(self.task, total=total, rest=rest)
        self.last = line if name == "step" else ""
        if name == "trials":
            self.above(line)  # it heads a table
        self.progress.update(self.task, description=name, completed=done, total=total, rest=rest)

    def above(self, line: str) -> None:
        """A line that stays."""
        if self.progress is None:
            self.to.write(line + "\n")
        else:
            self.progress.console.print(line, markup=False, highlight=False, emoji=False, soft_wrap=True)

    def end(self) -> None:
        super().end()
        with self.lock:
            if self.progress is not None:
                self.progress.stop()
                self.progress = None
                self.to.write(f"{self.last}\n" if self.last else "")


def _bar(to: TextIO) -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
    from rich.table import Column

    rest = TextColumn("{task.fields[rest]}", table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis"), markup=False)
    columns = (TextColumn("{task.description}"), BarColumn(20), MofNCompleteColumn(), TimeRemainingColumn(), rest)
    return Progress(*columns, console=Console(file=to), transient=True, expand=True, redirect_stdout=False, redirect_stderr=True)


@contextmanager
def screen(log_format: LogFormat = "auto") -> Iterator[None]:
    """Inside, what is printed is shown in that way; auto is with a bar where stdout is a terminal, and as it is elsewhere."""
    if log_format == "json":
        lines: _Lines = _Json(sys.stdout)
    elif log_format == "auto" and sys.stdout and sys.stdout.isatty():
        lines = _Bar(sys.stdout)
    else:
        yield
        return
    try:
        with redirect_stdout(lines):
            yield
    finally:
        lines.end()
