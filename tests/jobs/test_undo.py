"""A launch that is refused, or was killed, leaves its run as it was: what the note of it does after odd ends."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from jobs.undo import accept, has_begun, undone_unless_begun


class Killed(BaseException):
    """In place of SIGKILL: nothing runs after it."""


def run_of(folder: Path) -> list[Path]:
    """A finished run of two stages; its folders."""
    roots = [folder / "run", folder / "run" / "first", folder / "run" / "second"]
    for root in roots[1:]:
        (root / "log").mkdir(parents=True)
        (root / "metrics.json").write_text("{}")
        (root / "log" / "rank_0.txt").write_text("line\n")
    (roots[0] / "run.json").write_text("{}")
    return roots


def files(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def change(roots: Sequence[Path]) -> None:
    """What a launch does."""
    for root in roots[1:]:
        (root / "metrics.json").unlink()
        with (root / "log" / "rank_0.txt").open("a") as log:
            log.write("more\n")
        (root / "data").mkdir()
        (root / "data" / "new.set").write_text("new")


def launch(roots: Sequence[Path], act: Callable[[], object], error: BaseException) -> None:
    with undone_unless_begun(roots[0], roots):
        act()
        raise error


def killed(roots: Sequence[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """A launch that ends without another word."""
    with monkeypatch.context() as patched:

        def act() -> None:
            change(roots)
            patched.setattr("jobs.undo._take_back", lambda run, roots: None)

        with pytest.raises(Killed):
            launch(roots, act, Killed())


def refused(roots: Sequence[Path], act: Callable[[], object] = lambda: None) -> None:
    with pytest.raises(ValueError, match="no"):
        launch(roots, act, ValueError("no"))


def test_a_launch_of_other_stages_takes_back_what_a_killed_one_did(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    roots = run_of(tmp_path)
    before = files(roots[0])
    killed(roots, monkeypatch)
    assert files(roots[0]) != before
    refused(roots[:2])
    assert files(roots[0]) == before


@pytest.mark.parametrize("facts", ["", "[]", "3", "{}", '{"sizes": 3, "folders": []}'])
def test_a_note_that_lost_its_facts_is_left_and_the_next_one_counts(tmp_path: Path, facts: str, monkeypatch: pytest.MonkeyPatch) -> None:
    roots = run_of(tmp_path)
    killed(roots, monkeypatch)
    (roots[0] / ".before" / "facts.json").write_text(facts)
    refused(roots)
    left = files(roots[0])
    assert not any(".before" in name for name in left)
    refused(roots, (roots[1] / "data" / "new.set").unlink)
    assert files(roots[0]) == left
    with undone_unless_begun(roots[0], roots):
        accept(roots[0])
        assert has_begun(roots[0])


def test_a_log_that_was_begun_anew_is_not_filled_with_zeros(tmp_path: Path) -> None:
    roots = run_of(tmp_path)
    log = roots[1] / "log" / "rank_0.txt"
    refused(roots, lambda: log.write_text("a\n"))
    assert log.read_text() == "a\n"
