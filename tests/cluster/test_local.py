"""A local head: reachable from this machine alone, with its token alone, and gone with whoever started it."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.local import PREFIX, Head, first_in, hold, local_head, sweep
from tests.cluster.listening import sockets
from tests.jobs.runs import ROOT, alive, command_of, descendants, kill, wait_until

pytestmark = pytest.mark.ray
STARTER = (
    "import sys\nfrom cluster.local import local_head\nwith local_head(cpus=1) as head: print(head.pid, head.folder, flush=True); sys.stdin.read()"
)


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    with local_head(cpus=1) as head:
        yield head


def test_it_listens_on_loopback_alone(head: Head) -> None:
    found = sockets({head.pid, *descendants(head.pid)}).values()
    assert found
    assert not [one for one in found if one.beyond_loopback]


def test_nobody_reads_logs_that_no_driver_asks_for(head: Head) -> None:
    commands = [command_of(pid) for pid in descendants(head.pid)]
    assert any("raylet" in command for command in commands)
    assert not any("log_monitor" in command for command in commands)


def test_the_job_api_needs_the_token(head: Head) -> None:
    from cluster.submit import connect

    connect(head.job_address)  # with the token of this process
    for headers in ({}, {"Authorization": "Bearer " + "0" * 64}):
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(urllib.request.Request(head.job_address + "/api/jobs/", headers=headers), timeout=10)
        assert refused.value.code in (401, 403)


def test_the_token_is_the_users_alone_and_in_no_command_line(head: Head) -> None:
    path = head.folder / "token"
    assert path.stat().st_mode & 0o077 == 0
    assert os.environ["RAY_AUTH_TOKEN_PATH"] == str(path)
    assert "RAY_AUTH_TOKEN" not in os.environ
    token = path.read_text()
    for pid in {head.pid, *descendants(head.pid)}:
        assert token.encode() not in Path(f"/proc/{pid}/cmdline").read_bytes()
    assert token not in (head.folder / "start.log").read_text()


@pytest.fixture
def own_tmp(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A temporary folder that no other starter on this machine sweeps; its path is short, for Ray's sockets lie below it."""
    with tempfile.TemporaryDirectory(prefix="t") as folder:
        monkeypatch.setenv("TMPDIR", folder)
        monkeypatch.setattr(tempfile, "tempdir", folder)
        yield Path(folder)


def test_a_killed_starter_takes_everything_with_it_and_its_folder_is_swept(own_tmp: Path) -> None:
    starter = subprocess.Popen([sys.executable, "-c", STARTER], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    pid, folder = starter.stdout.readline().split()
    below = descendants(starter.pid)
    assert int(pid) in below
    kill(starter.pid)
    starter.communicate()
    wait_until(lambda: not any(map(alive, below)), timeout_seconds=20)
    assert [path.name for path in own_tmp.glob(f"{PREFIX}*")] == [Path(folder).name]
    sweep()
    assert not list(own_tmp.glob(f"{PREFIX}*"))


def test_a_second_head_of_one_process_leaves_the_first_its_folder(own_tmp: Path) -> None:
    (own_tmp / f"{PREFIX}first").mkdir()
    with hold(own_tmp / f"{PREFIX}first"):
        sweep()
        assert (own_tmp / f"{PREFIX}first").exists()
    sweep()
    assert not (own_tmp / f"{PREFIX}first").exists()


def test_it_ends_with_its_block_and_leaves_the_environment_as_it_was() -> None:
    before = dict(os.environ)
    with local_head(cpus=1, dashboard=False) as head:
        below = {head.pid, *descendants(head.pid)}
    assert not any(map(alive, below))
    assert not head.folder.exists()
    assert dict(os.environ) == before


def test_a_folder_goes_in_front(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_PATH", "/a")
    assert first_in("SOME_PATH", Path("/b")) == "/b:/a"
    monkeypatch.delenv("SOME_PATH")
    assert first_in("SOME_PATH", Path("/b")) == "/b"
