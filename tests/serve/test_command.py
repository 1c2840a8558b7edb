"""`python -m serve` says in one sentence what it cannot do, before it starts anything."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from serve.__main__ import bound, main
from tests.models.stages import train_stages


def test_a_port_that_is_taken_or_none_is_refused_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENLIB_RUNS", str(tmp_path))
    run = next(iter(train_stages("gan", tmp_path / "run").values())).parents[1]
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ValueError, match=rf"port {port} of 127.0.0.1 cannot be used: Address already in use; give another --port"):
            main([str(run), "--port", str(port)])
    with pytest.raises(ValueError, match=r"port 80000 of 127.0.0.1 cannot be used: a port is a number up to 65535"):
        main([str(run), "--port", "80000"])


def test_nobody_can_connect_before_it_serves() -> None:
    with bound("127.0.0.1", 0) as door, pytest.raises(ConnectionRefusedError):
        socket.create_connection(door.getsockname(), timeout=5)
