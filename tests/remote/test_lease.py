"""One process works in a folder of a store: a second one is refused, and a dead one's place is taken."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from genlib.json_text import json_text
from genlib.remote import lease
from genlib.remote.lease import LEASE, Lease, LeaseHeld
from genlib.remote.store_folder import StoreFolder
from tests.remote.servers import object_store


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    with object_store(monkeypatch) as client:
        yield client


@pytest.fixture
def folder(s3: Any) -> StoreFolder:
    bucket = f"lease-{time.time_ns()}"
    s3.create_bucket(Bucket=bucket)
    return StoreFolder(f"s3://{bucket}/runs/mine")


def lease_of(folder: StoreFolder, said: list[str] | None = None, seconds: float = 1.5, lost: Any = lambda: None) -> Lease:
    return Lease(folder, (said if said is not None else []).append, lost, lease_seconds=seconds)


def test_a_second_holder_is_refused_while_the_first_lives_and_not_after(folder: StoreFolder) -> None:
    said: list[str] = []
    with lease_of(folder):
        time.sleep(1.0)  # it is written again and again
        with pytest.raises(LeaseHeld, match=r"^pid \d+ on "), lease_of(folder, said):
            pass
        assert "waiting up to 1.5 s to see whether that still runs" in said[0]
    begin = time.monotonic()
    with lease_of(folder):
        assert time.monotonic() - begin < 1
    assert folder.files() == {}


def test_a_holder_on_another_machine_that_is_silent_counts_as_dead_after_the_lease(folder: StoreFolder) -> None:
    said: list[str] = []
    folder.write(LEASE, json_text({"pid": 7, "host": "far-away", "machine": "other", "token": "theirs"}).encode())
    begin = time.monotonic()
    with lease_of(folder, said):
        assert 1.4 < time.monotonic() - begin < 5
    assert "is held by pid 7 on far-away" in said[0]


def test_a_process_that_is_gone_from_this_machine_is_not_waited_for(folder: StoreFolder) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    folder.write(LEASE, json_text({"pid": dead.pid, "host": "here", "machine": lease._machine(), "token": "theirs"}).encode())
    begin = time.monotonic()
    with lease_of(folder):
        assert time.monotonic() - begin < 1


def test_a_lease_that_makes_no_sense_is_waited_for_and_taken(folder: StoreFolder) -> None:
    folder.write(LEASE, b"\xff[")
    with lease_of(folder):
        pass


def test_a_holder_hears_that_it_was_taken_over(folder: StoreFolder) -> None:
    lost = threading.Event()
    with lease_of(folder, lost=lost.set) as held:
        theirs = json_text({"pid": 7, "host": "far-away", "machine": "other", "token": "theirs"}).encode()
        folder.write(LEASE, theirs)
        assert lost.wait(5)
        assert held.taken_by == "pid 7 on far-away"
    found = folder.read(LEASE)
    assert found is not None
    assert found[0] == theirs  # which is not ours to delete
