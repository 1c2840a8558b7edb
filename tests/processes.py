"""Several gloo processes for one function: what data-parallel tests run in."""

from __future__ import annotations

import multiprocessing
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

# A process of its own imports for ten seconds; one that is forked from a server which did so once starts in a tenth of one.
multiprocessing.set_forkserver_preload(["tests.ranks"])


def run_ranks(world: int, function: Callable[..., None], *arguments: object) -> None:
    """Calls `function(*arguments)` in `world` processes with a process group; raises what a rank raised."""
    with tempfile.TemporaryDirectory() as folder:
        shared = (world, Path(folder) / "store", dict(os.environ), function, arguments)
        mp.start_processes(_rank, args=shared, nprocs=world, start_method="forkserver")


def _rank(rank: int, world: int, store: Path, environment: dict[str, str], function: Callable[..., None], arguments: tuple) -> None:
    torch.set_num_threads(1)
    os.environ.clear()  # the server's is as old as the server
    os.environ.update(environment, RANK=str(rank), WORLD_SIZE=str(world), LOCAL_RANK=str(rank))
    dist.init_process_group("gloo", store=dist.FileStore(str(store), world), rank=rank, world_size=world)
    try:
        function(*arguments)
        dist.barrier()  # who leaves first would close connections that another still uses
    finally:
        dist.destroy_process_group()
