"""Whichever replica is asked, the metrics of all are told, each series with its replica."""

from __future__ import annotations

import asyncio
import os
import stat
import time
from pathlib import Path

from prometheus_client import generate_latest

from serve.observability import Metrics
from serve.servers.shared_metrics import SharedMetrics
from tests.serve.models import run, until


def told(shared: SharedMetrics) -> set[str]:
    """Lines about pictures."""
    return {line for line in generate_latest(shared).decode().splitlines() if line.startswith("serve_pictures_total{")}


def test_each_tells_of_all_that_live(tmp_path: Path) -> None:
    async def asked() -> None:
        ones, shared, writing = [Metrics(), Metrics()], [], []
        for number, metrics in enumerate(ones):
            metrics.pictures.labels("gan").inc(number + 1)
            shared.append(SharedMetrics(metrics.registry, tmp_path / "metrics", f"replica{number}"))
            writing.append(asyncio.create_task(shared[-1].keep_writing()))
        await until(lambda: len(shared[0].others()) == len(shared[1].others()) == 1)
        both = {'serve_pictures_total{model="gan",replica="replica0"} 1.0', 'serve_pictures_total{model="gan",replica="replica1"} 2.0'}
        assert told(shared[0]) == told(shared[1]) == both
        text = generate_latest(shared[0]).decode()
        assert text.count("# TYPE serve_pictures_total counter") == 1
        assert text.count("# TYPE serve_request_seconds histogram") == 1
        file = tmp_path / "metrics" / "replica0.prom"
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        writing[0].cancel()
        await asyncio.wait(writing[:1])
        assert told(shared[1]) == {'serve_pictures_total{model="gan",replica="replica1"} 2.0'}
        writing[1].cancel()

    run(asked())


def test_a_replica_that_died_is_forgotten(tmp_path: Path) -> None:
    (file := tmp_path / "dead.prom").write_bytes(generate_latest(Metrics().registry))
    minutes_ago = time.time() - 120
    os.utime(file, (minutes_ago, minutes_ago))
    assert SharedMetrics(Metrics().registry, tmp_path, "mine").others() == {}
    assert not file.exists()
