"""Models and their HTTP front in one process: what one replica on one machine is."""

from __future__ import annotations

import asyncio
import gc
import socket
import sys
from typing import Any

import uvicorn

from cluster.signals import ends_well
from serve.app import build_app
from serve.http.protocol import uvicorn_settings
from serve.models.pool import ModelPool
from serve.models.sources import ModelSource
from serve.observability import phase, start_logs
from serve.options import ServeOptions
from serve.servers.replicas import Replicas


def serve(door: socket.socket, sources: tuple[ModelSource, ...], replicas: Replicas, options: ServeOptions, grace_seconds: float) -> int:
    """Answers at `door` until a signal ends it; the exit code. What runs then has `grace_seconds` to end."""
    start_logs()
    pool = replicas.pool(sources)
    # a second less than the grace time, in which jobs and models close
    settings: dict[str, Any] = uvicorn_settings(options) | {"timeout_graceful_shutdown": max(1, int(grace_seconds - 1))}
    server = uvicorn.Server(uvicorn.Config(build_app(pool, options), **settings))

    def stop() -> None:
        server.should_exit = True

    with asyncio.Runner(loop_factory=server.config.get_loop_factory()) as runner, ends_well(stop, grace_seconds):
        runner.run(_serve(server, door, pool, replicas.reload_seconds))
    return 0


async def _serve(server: uvicorn.Server, door: socket.socket, pool: ModelPool, reload_seconds: float) -> None:
    """Listens at once, and opens the models meanwhile: `/readyz` says when they are."""

    async def open_models() -> None:
        await pool.ready()
        phase("models")
        gc.collect()
        gc.freeze()  # what was imported is not looked through again and again while requests wait
        while not server.started:
            await asyncio.sleep(0.01)
        announce([card.name for card in pool.models()], pool.problems, door)
        await pool.follow(reload_seconds)

    opening = asyncio.create_task(open_models())
    try:
        await server.serve(sockets=[door])
    finally:
        opening.cancel()
        pool.close()


def announce(names: list[str], problems: dict[str, str], door: socket.socket) -> None:
    """Says where it listens, and what it does not serve and why."""
    host, port, *_ = door.getsockname()
    for name, why in problems.items():
        print(f"{name} is not served: {why}", file=sys.stderr, flush=True)
    print(f"serving {', '.join(names) or 'nothing'} at http://{host}:{port}", flush=True)
