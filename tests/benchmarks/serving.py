"""Requests a second and waiting at 1, 8 and 32 clients: `python -m serve` over a FastAPI with a micro-batcher and the same model, by turns.

The models draw digits of 16 pixels (DCGANs after a step; their speed is that of trained ones): a wide one takes about 5 ms for one picture and
22 ms for 32, a narrow one a tenth of that. Every answer is a PNG as base64. The peer is one process: requests wait in a queue, a thread takes
all that wait and draws them at once. Ours is what the command starts, with all checks: one process, too. Clients are one process more, and all
share the machine's cores. Wall time, as waiting is the point.

    OMP_NUM_THREADS=1 python -m tests.benchmarks.serving
"""

from __future__ import annotations

import asyncio
import base64
import gc
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import aiohttp
import torch
from fastapi import FastAPI, Request

from genlib import checkpoint, registry
from genlib.data.source import open_source
from genlib.engine.fit import fit
from serve.models.image_encoding import files
from tests.benchmarks.measure import report

CLIENTS, SECONDS, ROUNDS = (1, 8, 32), 6.0, 3
WIDTHS = {"5 ms": 256, "0.5 ms": 32}
"""Channels of the last layer but one, by the time that one picture takes."""
PATH = "/v1/images/generations"


def trained(folder: Path, width: int) -> Path:
    """A run's folder."""
    stage = registry.load("dcgan").stages[-1]
    task = replace(stage.task, network=replace(stage.task.network, width=width))  # type: ignore[attr-defined]
    stage = replace(stage, task=task, train=replace(stage.train, steps=1, checkpoint_every_steps=1, evaluate_every_steps=0, trackers=()))
    fit(stage, recipe="dcgan", source=open_source(stage.data), folder=folder, device=torch.device("cpu"))
    return folder


def peer(run: str) -> None:
    """The other server, in this process: prints its address."""
    import uvicorn

    torch.set_num_threads(1)
    task = checkpoint.load_task(checkpoint.find(Path(run)))
    app, waiting = FastAPI(), asyncio.Queue()

    @app.post(PATH)
    async def generate(request: Request) -> dict:
        body = await request.json()
        future = asyncio.get_running_loop().create_future()
        await waiting.put((body["seed"], future))
        png = await future
        return {"created": int(time.time()), "data": [{"b64_json": base64.b64encode(png).decode(), "seed": body["seed"]}]}

    def draw(seeds: list[int]) -> list[bytes]:
        with torch.no_grad():
            return files(task.generate(seed=seeds))

    async def batches() -> None:
        while True:
            batch = [await waiting.get()]
            while not waiting.empty() and len(batch) < 32:
                batch.append(waiting.get_nowait())
            for (_, future), png in zip(batch, await asyncio.to_thread(draw, [seed for seed, _ in batch]), strict=True):
                if not future.done():
                    future.set_result(png)

    async def serve() -> None:
        gc.collect()
        gc.freeze()  # as ours does
        server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error", access_log=False))
        batching, serving = asyncio.create_task(batches()), asyncio.create_task(server.serve())
        while not server.started:
            await asyncio.sleep(0.05)
        print(f"serving at http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}", flush=True)
        await serving
        batching.cancel()

    asyncio.run(serve())


@contextmanager
def server(words: list[str], runs: Path) -> Iterator[str]:
    """The address of a server, started for the block."""
    environment = {**os.environ, "GENLIB_RUNS": str(runs)}
    process = subprocess.Popen([sys.executable, "-m", *words], env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout
    try:
        yield process.stdout.readline().split()[-1]
    finally:
        process.terminate()
        process.wait()


async def load(address: str, clients: int) -> tuple[float, float]:
    """(requests a second, median seconds of one) of so many clients that ask again and again."""
    waits: list[float] = []
    end = time.perf_counter() + SECONDS

    async def client(number: int, session: aiohttp.ClientSession) -> None:
        seed = number
        while time.perf_counter() < end:
            began = time.perf_counter()
            async with session.post(address + PATH, json={"model": "dcgan", "seed": seed, "n": 1}) as answer:
                body = await answer.json()
                assert answer.status == 200, body
            waits.append(time.perf_counter() - began)
            seed += clients

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        began = time.perf_counter()
        await asyncio.gather(*(client(number, session) for number in range(clients)))
        return len(waits) / (time.perf_counter() - began), statistics.median(waits)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        for takes, width in WIDTHS.items():
            run = str(trained(Path(folder) / takes / "dcgan", width))
            with server(["serve", run, "--port", "0"], Path(folder)) as ours, server(["tests.benchmarks.serving", run], Path(folder)) as theirs:
                for clients in CLIENTS:
                    faster, facts = compared(ours, theirs, clients)
                    report(f"serving a model of {takes}, {clients} clients: requests a second of FastAPI over ours", faster, must=1.05, **facts)


def compared(ours: str, theirs: str, clients: int) -> tuple[list[float], dict[str, float]]:
    """How many times as fast the other is, round by round, and single figures."""
    asyncio.run(load(ours, clients)), asyncio.run(load(theirs, clients))
    rounds = [(asyncio.run(load(ours, clients)), asyncio.run(load(theirs, clients))) for _ in range(ROUNDS)]
    facts = {"ours_a_second": round(statistics.median(our[0] for our, _ in rounds)), "ours_p50_ms": p50([our for our, _ in rounds])}
    return [their[0] / our[0] for our, their in rounds], {**facts, "theirs_p50_ms": p50([their for _, their in rounds])}


def p50(found: list[tuple[float, float]]) -> float:
    """Milliseconds."""
    return round(1000 * statistics.median(seconds for _, seconds in found), 2)


if __name__ == "__main__":
    peer(sys.argv[1]) if len(sys.argv) > 1 else main()
