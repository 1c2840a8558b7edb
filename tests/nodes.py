"""Clusters of several nodes on this machine: each node is a `ray start` of its own, so that it can be killed as a machine can."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from cluster import local
from cluster.local import HOST, Head
from tests.jobs.runs import descendants, wait_until

OBJECT_STORE_BYTES = 80 * 2**20
START_SECONDS = 120.0


@dataclass
class Node:
    """A node that joined: its process, which ends with all that it started."""

    process: subprocess.Popen
    log: Path

    @property
    def up(self) -> bool:
        """Whether it belongs to the cluster by its own words. RuntimeError with those where it has ended."""
        said = self.log.read_text(errors="replace")
        if self.process.poll() is not None:
            raise RuntimeError(f"a node did not start: {said[-2000:]}")
        return "Ray runtime started" in said

    def kill(self) -> None:
        """As if its machine had lost power: no process of it says goodbye."""
        for pid in (self.process.pid, *sorted(descendants(self.process.pid))):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()


@dataclass
class Nodes:
    """A head without CPUs, on which drivers run, and the nodes that joined it."""

    head: Head
    nodes: list[Node] = field(default_factory=list)

    @property
    def environment(self) -> dict[str, str]:
        """With which a command uses this cluster."""
        return {"RAY_ADDRESS": self.head.address}

    def leaves(self, node: Node, seconds: int) -> None:
        """Tells Ray that a node will be taken away by then, as `genlib cluster leave` on its machine does."""
        command = [sys.executable, "-m", "cluster", "leave", f"--seconds={seconds}", f"--node={self.id_of(node)}"]
        subprocess.run(command, check=True, stdin=subprocess.DEVNULL, env={**os.environ, **self.environment})

    def id_of(self, node: Node) -> str:
        """Ray's id of a node, of which the first to join is the first to have started."""
        from ray._raylet import GcsClient  # pyright: ignore[reportAttributeAccessIssue]

        joined = [one for one in GcsClient(address=self.head.address).get_all_node_info().values() if not one.is_head_node]
        return sorted(joined, key=lambda one: one.start_time_ms)[self.nodes.index(node)].node_id.hex()

    def join(self, cpus: int = 1) -> Node:
        """A node more, that is there."""
        self.nodes.append(node := started_node(self.head.folder, self.head.address, cpus))
        return node


def started_node(folder: Path, address: str, cpus: int, *, node_id: str = "") -> Node:
    """A node of the cluster at an address, once it has joined, with its log in a folder; two that come at once take each other's ports."""
    log = folder / f"node-{len(list(folder.glob('node-*.log')))}.log"
    own = {"RAY_OVERRIDE_NODE_ID_FOR_TESTING": node_id} if node_id else {}
    process = subprocess.Popen(
        [
            sys.executable, "-c", "from ray.scripts.scripts import main; main()", "start", f"--address={address}", "--block",
            f"--node-ip-address={HOST}", f"--object-store-memory={OBJECT_STORE_BYTES}", "--disable-usage-stats", "--min-worker-port=0",
            "--max-worker-port=0", f"--num-cpus={cpus}",
        ],
        env={**os.environ, **own, "RAY_START_HOOK": f"{__name__}.{stay_on_loopback.__name__}"},
        stdin=subprocess.DEVNULL, stderr=subprocess.STDOUT, start_new_session=True, preexec_fn=die_with_parent,
        stdout=open(log, "wb"),  # noqa: SIM115 the child keeps it
    )  # fmt: skip
    node = Node(process, log)
    wait_until(lambda: node.up, START_SECONDS)
    return node


def die_with_parent() -> None:
    """In the child: asks the kernel to end it when the thread that started it is gone (prctl PR_SET_PDEATHSIG, 1)."""
    ctypes.CDLL(None).prctl(1, signal.SIGTERM, 0, 0, 0)


def stay_on_loopback(params: Any, head: bool) -> None:
    """What `ray start` calls before it joins: Ray refuses nodes that join where it is told to stay on 127.0.0.1, as all of ours are."""
    from ray._private import ray_constants, services

    ray_constants.ENABLE_RAY_CLUSTER = True  # in the command alone: what it starts reads the environment
    services.resolve_ip_for_localhost = lambda host: host


@contextmanager
def head_alone() -> Iterator[Head]:
    """A head without CPUs that is Ray's of a user, and not one of the command's own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(local, "RENDEZVOUS", "NO_RENDEZVOUS")
        with local.local_head(cpus=0, dashboard=False) as head:
            yield head


@contextmanager
def cluster_of(*cpus: int) -> Iterator[Nodes]:
    """A cluster with a node of so many CPUs each."""
    with head_alone() as head:
        nodes = Nodes(head)
        try:
            for count in cpus:
                nodes.join(count)
            yield nodes
        finally:
            for node in nodes.nodes:
                node.kill()
