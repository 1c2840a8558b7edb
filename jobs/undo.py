"""A launch that is refused leaves its run's folder as it was: what it changes there can be taken back until the first step is through.

    RUN/.before/            what the launch changes, as it was: there while it can be taken back
    RUN/.before/facts.json  how long the files were that it adds to

Workers drop it when a run has begun (`accept`); a launch that finds the one of a launch that was killed takes that back first.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from genlib.files import write_atomically
from genlib.json_text import json_text

REWRITTEN = ("run.json", "search.json", "metrics.json", "error.log", "data/*.set", "data/*.buckets")
"""Files of a run and of its stages that a launch writes anew or deletes; none is changed in place."""
ADDED_TO = ("log.txt", "log/*.txt", "launches.jsonl")
MADE = ("data", "log", "checkpoints", "trials")
"""Folders that it makes; they are deleted where they are empty."""
_BEFORE, _FACTS = ".before", "facts.json"
_NEW, _TAKEN, _DROPPED = ".before.new", ".before.taken", ".before.dropped"
"""While it is noted, while it is put back, which a kill may interrupt, and when nobody needs it any more."""


@contextmanager
def undone_unless_begun(run: Path, folders: Sequence[Path]) -> Iterator[None]:
    """Inside, a run is launched: what leaves by an exception before `accept` leaves the run's folder as it was.

    folders: those of its stages. An error.log that the launch wrote stays, as it says what happened.
    """
    roots = list(dict.fromkeys([run, *folders]))
    _take_back(run, roots)  # of a launch that was killed
    try:
        _note(run, roots)
    except OSError:  # there is no room for it: a refusal leaves what there is
        shutil.rmtree(run / _NEW, ignore_errors=True)
    try:
        yield
    except BaseException:
        _take_back(run, roots)
        raise
    accept(run)


def accept(run: Path) -> None:
    """The run has begun: from here on nothing is taken back."""
    _drop(run / _BEFORE)


def has_begun(run: Path) -> bool:
    """Whether nothing can be taken back any more."""
    return not (run / _BEFORE).is_dir()


def _drop(noted: Path) -> None:
    """Deletes what is noted: under its name it is whole or not there."""
    dropped = noted.with_name(_DROPPED)
    shutil.rmtree(dropped, ignore_errors=True)
    with suppress(OSError):  # of this and a driver that takes back one comes first
        os.rename(noted, dropped)
    shutil.rmtree(dropped, ignore_errors=True)


def _files(roots: Sequence[Path], patterns: Sequence[str]) -> list[Path]:
    return [path for root in roots for pattern in patterns for path in sorted(root.glob(pattern)) if path.is_file()]


def _note(run: Path, roots: Sequence[Path]) -> None:
    """Keeps what is there; the last thing written is the name by which it counts."""
    partial = run / _NEW
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    for path in _files(roots, REWRITTEN):
        _linked(path, partial / path.relative_to(run))
    sizes = {str(path.relative_to(run)): path.stat().st_size for path in _files(roots, ADDED_TO)}
    folders = [str(folder.relative_to(run)) for folder in _made(roots) if folder.is_dir()]
    noted = {"roots": [str(root.relative_to(run)) for root in roots], "sizes": sizes, "folders": folders}
    write_atomically(partial / _FACTS, json_text(noted).encode())
    os.rename(partial, run / _BEFORE)


def _linked(path: Path, target: Path) -> None:
    """The same file under a second name, or a copy where the file system knows no such names."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(path, target)
    except OSError:
        shutil.copy2(path, target)


def _made(roots: Sequence[Path]) -> list[Path]:
    """Folders that a launch makes, inner ones first."""
    return [*(root / name for root in roots for name in MADE), *roots[1:]]


def _take_back(run: Path, roots: Sequence[Path]) -> None:
    """Puts back what was there and deletes what was not; nothing where the run has begun, or nothing was noted.

    What was noted tells of which folders, as another launch may be of other stages; `roots` are those of this one.
    """
    before = run / _TAKEN
    with suppress(OSError):
        os.rename(run / _BEFORE, before)
    if not before.is_dir():
        return
    try:
        facts = json.loads((before / _FACTS).read_text())
        sizes, folders = dict(facts["sizes"]), set(facts["folders"])
        roots = [run / name for name in facts.get("roots", ())] or roots
    except (OSError, ValueError, KeyError, TypeError):  # a machine that lost its power
        _drop(before)
        return
    kept = {path.relative_to(before) for path in _files([before / root.relative_to(run) for root in roots], REWRITTEN)}
    for path in _files(roots, REWRITTEN):
        if path.relative_to(run) not in kept and path.name != "error.log":
            path.unlink(missing_ok=True)
    for name in kept:
        if name.name != "error.log" or not (run / name).exists():
            partial = run / f"{_BEFORE}.partial"
            partial.unlink(missing_ok=True)
            _linked(before / name, partial)
            (run / name).parent.mkdir(parents=True, exist_ok=True)
            os.replace(partial, run / name)
            partial.unlink(missing_ok=True)  # where both are one file, replacing leaves them
    for path in _files(roots, ADDED_TO):
        size = sizes.get(str(path.relative_to(run)))
        if size is None:
            path.unlink(missing_ok=True)
        elif size < path.stat().st_size:  # a file that was begun anew meanwhile stays
            os.truncate(path, size)
    for folder in _made(roots):
        if str(folder.relative_to(run)) not in folders:
            with suppress(OSError):  # there is none, or something is in it
                folder.rmdir()
    _drop(before)
