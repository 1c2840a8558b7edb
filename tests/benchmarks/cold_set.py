"""From nothing to the first batch of 1,000 shards at URLs that nobody has indexed, on a web server that takes 50 ms for each answer.

Waiting is the point: seconds, each over that of asking for all shards one after the other. The second launch finds the index in the
node's cache, and its segments on the node's disk.

    OMP_NUM_THREADS=1 python -m tests.benchmarks.cold_set
"""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path

from genlib.config import DataConfig
from genlib.data.source import open_source
from tests.benchmarks.measure import report
from tests.data.shards import write_set
from tests.remote.servers import FileServer

SHARDS, SAMPLES_EACH, BATCH, ANSWER_SECONDS = 1000, 20, 64, 0.05


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        os.environ["GENLIB_CACHE"] = f"{folder}/cache"
        write_set(Path(folder, "set"), SHARDS * SAMPLES_EACH, per_shard=SAMPLES_EACH)
        files = {f"/{path.name}": path.read_bytes() for path in Path(folder, "set").glob("*.tar")}
        with FileServer(files, hold_seconds=ANSWER_SECONDS) as server:
            config = DataConfig(train=f"{server.url}/{{00000..{SHARDS - 1:05d}}}.tar")
            for name in ("cold", "warm"):
                begin, asked = time.perf_counter(), len(server.asked)
                source = open_source(config)
                opened = time.perf_counter() - begin
                next(source.batches("train", BATCH))
                seconds, requests = time.perf_counter() - begin, len(server.asked) - asked
                facts = {"seconds": round(seconds, 1), "opened_after": round(opened, 1), "requests": requests}
                report(
                    f"first batch of {SHARDS:,} remote shards, {name}, over asking for each in turn",
                    [seconds / (SHARDS * ANSWER_SECONDS)],
                    must=1.0,
                    **facts,
                )


if __name__ == "__main__":
    main()
