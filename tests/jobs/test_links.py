"""What drivers and workers hear of each other where they share no folder."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest

from jobs.control import ask_to_stop, control
from jobs.links import ActorLink, FolderLink, Mailbox, relayed
from jobs.log_file import LineStream


def test_a_mailbox_gives_what_was_said_once_and_in_order() -> None:
    mailbox = Mailbox()
    mailbox.add("log.txt", "one\n")
    mailbox.add("error.log", "trouble\n")
    mailbox.add("log.txt", "two\n")
    assert mailbox.take(stop=False) == ([("log.txt", "one\n"), ("error.log", "trouble\n"), ("log.txt", "two\n")], False)
    mailbox.accept()
    assert mailbox.take(stop=True) == ([], True)
    mailbox.take(stop=False)
    assert mailbox.stop_asked()
    assert mailbox.has_begun()


def test_a_mailbox_that_nobody_empties_stays_small() -> None:
    mailbox = Mailbox()
    for _ in range(100):
        mailbox.add("log.txt", "x" * 100_000)
    assert 900_000 < sum(len(text) for _, text in mailbox.take(stop=False)[0]) <= 1 << 20


def test_a_folder_tells_the_same(tmp_path: Path) -> None:
    with control(tmp_path) as path:
        link = FolderLink(tmp_path, path)
        assert not link.stop_asked()
        ask_to_stop(path)
        assert link.stop_asked()
    (tmp_path / ".before").mkdir()
    assert not link.has_begun()
    link.accept()
    assert link.has_begun()
    print("a line", file=link.log())
    link.trouble("trouble\n")
    assert ((tmp_path / "log.txt").read_text(), (tmp_path / "error.log").read_text()) == ("a line\n", "trouble\n")


def test_a_stream_hands_on_whole_lines() -> None:
    heard: list[str] = []
    stream = LineStream(heard.append)
    print("one", end="", file=stream)
    print("\ntwo\nthree", end="", file=stream)
    assert heard == ["one\ntwo\n"]


@pytest.mark.slow
@pytest.mark.ray
def test_an_actor_carries_lines_to_the_driver_and_its_request_to_workers(tmp_path: Path) -> None:
    import ray

    from cluster.connect import connected
    from jobs.links import open_mailbox

    (tmp_path / ".before").mkdir()
    with connected(), control(tmp_path) as path:
        mailbox: Any = open_mailbox()
        link = ActorLink(mailbox)
        with relayed(mailbox, tmp_path, path):
            assert not link.has_begun()
            assert not link.stop_asked()
            print("a line", file=link.log())
            link.accept()
            threading.Timer(0.5, ask_to_stop, [path]).start()
            deadline = time.monotonic() + 30
            while not link.stop_asked():
                assert time.monotonic() < deadline
                time.sleep(0.05)
            link.trouble("trouble\n")
            link.flush()
        assert ((tmp_path / "log.txt").read_text(), (tmp_path / "error.log").read_text()) == ("a line\n", "trouble\n")
        assert not (tmp_path / ".before").exists()
        ray.kill(mailbox, no_restart=True)
        deadline = time.monotonic() + 30
        while link.stop_asked():  # until it is lost, and asks for nothing
            assert time.monotonic() < deadline
            time.sleep(0.05)
