"""What one node of a cluster says of itself: an actor that is pinned to it.

It is sent to the node as it stands here, so that a node with other code, or none, answers too; so it imports nothing of ours at its top.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import os
import platform
import resource
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

PACKAGES = ("torch", "ray", "deepspeed", "accelerate", "transformers", "diffusers", "numpy", "safetensors")
"""What has to be of one version on all nodes: tensors, checkpoints and messages pass between them."""
CODE = ("genlib", "jobs", "cluster", "serve", "tune_spaces")
"""Packages of ours."""
_GPU = (
    "index", "name", "temperature.gpu", "memory.used", "memory.total", "ecc.errors.uncorrected.volatile.total", "clocks_event_reasons.hw_slowdown",
)  # fmt: skip


class Probe:
    """Measures its node. Every method returns plain values, or raises what the node raised."""

    def facts(self) -> dict[str, Any]:
        """Versions, code, memory of /dev/shm and free disk (bytes), open files allowed, GPUs as nvidia-smi sees them."""
        return {
            "host": socket.gethostname(),
            "versions": {"python": platform.python_version()} | {name: version(name) for name in PACKAGES},
            "code": digest(),
            "shm_bytes": _bytes_of("/dev/shm") if os.path.isdir("/dev/shm") else None,
            "disk_free_bytes": shutil.disk_usage(tempfile.gettempdir()).free,
            "disk_folder": tempfile.gettempdir(),
            "open_files": resource.getrlimit(resource.RLIMIT_NOFILE)[0],
            "gpus": gpus(),
        }

    def clock(self) -> float:
        """Seconds since the epoch."""
        return time.time()

    def sees(self, folder: str, token: str) -> str:
        """Reads the driver's file in a folder of the storage, and writes one of its own; what is wrong, empty where nothing is."""
        place = Path(folder).expanduser()
        try:
            if (place / "driver").read_text() != token:
                return "holds another file there than the driver's"
        except OSError as error:
            return f"cannot read the driver's file there: {error.strerror}"
        try:
            (place / self.name()).write_text(token)
        except OSError as error:
            return f"cannot write there: {error.strerror}"
        return ""

    def others(self, folder: str, names: Sequence[str], token: str) -> list[str]:
        """Those of the nodes whose file this one does not see in the storage, by `name`."""
        place = Path(folder).expanduser()
        missing = []
        for name in names:
            try:
                missing += [] if (place / name).read_text() == token else [name]
            except OSError:
                missing.append(name)
        return missing

    def name(self) -> str:
        """Of this node's file in the storage: its id in Ray."""
        import ray

        return ray.get_runtime_context().get_node_id()

    def reads(self, shards: str, most_bytes: int, number: int) -> tuple[int, float]:
        """Bytes read of shards, from the one of that number on, and the seconds that it took. OSError or ValueError where they cannot be read."""
        from genlib.data.shards.discovery import all_shards
        from genlib.remote import remote_file

        found = all_shards(shards)
        first = number % len(found)
        start, read = time.perf_counter(), 0
        for shard in [*found[first:], *found[:first]]:
            chunks = remote_file.stream(shard) if isinstance(shard, remote_file.RemoteFile) else _chunks(shard)
            for chunk in chunks:
                read += len(chunk)
                if read >= most_bytes:
                    return read, time.perf_counter() - start
        return read, time.perf_counter() - start

    def address(self) -> tuple[str, int]:
        """Where this node's store for a pair listens: on the node's own address, from now until the pair is through."""
        import ray

        self.door = socket.socket()
        self.door.bind((ray.util.get_node_ip_address(), 0))
        return self.door.getsockname()

    def all_reduce(self, rank: int, address: tuple[str, int], megabytes: int, timeout_seconds: float) -> float:
        """Gigabytes a second at which two nodes add up their numbers, the best of three times; NCCL where this process has a GPU, else gloo."""
        import torch
        import torch.distributed as dist

        timeout = timedelta(seconds=timeout_seconds)
        door = self.door.detach() if rank == 0 else None
        store = dist.TCPStore(*address, 2, rank == 0, timeout, False, master_listen_fd=door)  # pyright: ignore[reportPrivateImportUsage]
        gpu = torch.cuda.is_available()
        dist.init_process_group("nccl" if gpu else "gloo", store=store, rank=rank, world_size=2, timeout=timeout)
        try:
            numbers = torch.ones(megabytes * 2**20 // 4, device="cuda" if gpu else "cpu")
            seconds = [_seconds(lambda: dist.all_reduce(numbers), torch.cuda.synchronize if gpu else lambda: None) for _ in range(4)]
            return megabytes * 2**20 / 1e9 / min(seconds[1:])
        finally:
            dist.destroy_process_group()


def version(package: str) -> str:
    """Of an installed package; empty where it is not."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def digest(packages: Sequence[str] = CODE) -> str:
    """Of the source files of packages, where this process would import them from; empty where it has none of them."""
    total, found = hashlib.sha256(), False
    for name in packages:
        spec = importlib.util.find_spec(name)
        for folder in map(Path, spec.submodule_search_locations or () if spec else ()):
            for path in sorted(folder.rglob("*.py")):
                total.update(f"{name}/{path.relative_to(folder).as_posix()}\n".encode())
                total.update(path.read_bytes())
                found = True
    return total.hexdigest()[:12] if found else ""


def gpus() -> list[dict[str, str]]:
    """What nvidia-smi says of each GPU; nothing where there is none."""
    if not (program := shutil.which("nvidia-smi")):
        return []
    asked = [program, f"--query-gpu={','.join(_GPU)}", "--format=csv,noheader,nounits"]
    said = subprocess.run(asked, capture_output=True, text=True, timeout=60)
    if said.returncode:
        return [{"error": (said.stdout + said.stderr).strip().splitlines()[0]}]
    return [dict(zip(_GPU, [word.strip() for word in line.split(",")], strict=True)) for line in said.stdout.splitlines()]


def _bytes_of(folder: str) -> int:
    system = os.statvfs(folder)
    return system.f_frsize * system.f_blocks


def _chunks(path: Path) -> Any:
    with open(path, "rb") as file:
        while chunk := file.read(8 << 20):
            yield chunk


def _seconds(work: Callable[[], object], ended: Callable[[], object]) -> float:
    ended()
    start = time.perf_counter()
    work()
    ended()
    return time.perf_counter() - start
