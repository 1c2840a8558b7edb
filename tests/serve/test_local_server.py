"""One process that listens, and holds the models: it answers before they are open, and while they compute."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx2
import pytest
import uvicorn

from serve.__main__ import bound, server
from serve.app import build_app
from serve.http.protocol import uvicorn_settings
from serve.models.pool import ModelPool
from serve.options import ServeOptions
from serve.servers.local import _serve
from serve.servers.local import serve as one_process
from serve.servers.ray import serve as of_ray
from serve.servers.replicas import Replicas
from tests.serve.models import SOON, run, until


@asynccontextmanager
async def served(pool: ModelPool, folder: Path) -> AsyncIterator[httpx2.AsyncClient]:
    """A client of the server over these models."""
    options = ServeOptions(jobs_folder=folder)
    server = uvicorn.Server(uvicorn.Config(build_app(pool, options), **uvicorn_settings(options)))
    with bound("127.0.0.1", 0) as door:
        serving = asyncio.create_task(_serve(server, door, pool, 0.0))
        await until(lambda: server.started)
        async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{door.getsockname()[1]}", timeout=SOON) as client:
            yield client
        server.should_exit = True
        await serving


def test_it_listens_before_its_models_are_open(
    local: ModelPool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    async def asked() -> None:
        go, opened = asyncio.Event(), ModelPool.runner

        async def slow(self: ModelPool, name: str):
            await go.wait()
            return await opened(self, name)

        monkeypatch.setattr(ModelPool, "runner", slow)
        pool = ModelPool((local.sources["gan"],), device="cpu")
        async with served(pool, tmp_path) as client:
            assert (await client.get("/healthz")).status_code == 200
            early = [await client.get("/readyz"), await client.post("/v1/models/gan/actions/generate", json={"seed": [1]})]
            assert [(one.status_code, one.headers["retry-after"]) for one in early] == [(503, "5")] * 2
            assert capsys.readouterr().out == ""
            go.set()
            await until(lambda: bool(pool.models()))
            assert (await client.get("/readyz")).status_code == 200
            assert (await client.post("/v1/models/gan/actions/generate", json={"seed": [1]})).status_code == 200
            await asyncio.sleep(0.1)
            assert capsys.readouterr().out.startswith("serving gan at http://127.0.0.1:")

    run(asked())


def test_small_requests_do_not_wait_for_large_ones(local: ModelPool, tmp_path: Path) -> None:
    async def asked() -> list[float]:
        pool, waits = ModelPool((local.sources["ddpm"],), device="cpu"), []
        async with served(pool, tmp_path) as client:
            await until(lambda: bool(pool.models()))
            body = {"model": "ddpm", "prompt": "3", "n": 16, "seed": 1, "num_inference_steps": 50}
            large = asyncio.create_task(client.post("/v1/images/generations", json=body))
            while not large.done():
                began = time.perf_counter()
                assert (await client.get("/healthz")).status_code == 200
                waits.append(time.perf_counter() - began)
            assert large.result().status_code == 200
        return waits

    waits = run(asked())
    assert len(waits) > 5
    assert statistics.median(waits) < 0.25  # on a machine that does much else; alone it is some milliseconds


def test_ray_is_for_more_than_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert server(Replicas()) is one_process
    assert server(Replicas(most=2)) is of_ray
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:6379")
    assert server(Replicas()) is of_ray
