"""Nodes on which no work is to begin: those that answer no more, though Ray has not noticed it yet, and those that are about to be taken away."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

NODE_LABEL = "ray.io/node-id"
"""Ray's label of a node, by which bundles are kept off it."""
_ANSWER_SECONDS = 2.0
_AT_ONCE = 32


def leaving_nodes() -> dict[str, float]:
    """Nodes that are being drained, by id: when they are gone, in seconds since 1970, or 0 where nobody said. Ray has no public call for it."""
    from ray._private.state import state

    return {node: milliseconds / 1000 for node, milliseconds in state.get_draining_nodes().items()}


def silent_nodes() -> dict[str, str]:
    """Nodes that Ray takes for alive and on which nothing listens any more: their addresses by id.

    Ray itself notices a machine that is gone after 15 seconds and more, by its health checks.
    """
    import ray

    nodes = [node for node in ray.nodes() if node["Alive"]]
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        answers = pool.map(_answers, nodes)
    return {node["NodeID"]: node["NodeManagerAddress"] for node, answer in zip(nodes, answers, strict=True) if not answer}


def _answers(node: dict[str, Any]) -> bool:
    try:
        with socket.create_connection((node["NodeManagerAddress"], node["NodeManagerPort"]), _ANSWER_SECONDS):
            return True
    except OSError:
        return False


def elsewhere(nodes: Sequence[str]) -> dict[str, str] | None:
    """The label selector of a bundle that is to be on none of these nodes; None where there are none."""
    return {NODE_LABEL: f"!in({','.join(sorted(nodes))})"} if nodes else None
