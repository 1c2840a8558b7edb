"""Connecting a driver: to the cluster that RAY_ADDRESS names or the job runs in, else to a head of its own that ends with it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from cluster.local import local_head


@contextmanager
def connected(cpus: int | None = None) -> Iterator[None]:
    """Inside, Ray is up; `cpus` is for a head of our own, by default the machine's.

    What Ray and its processes have to say stays in Ray's own log files; errors are exceptions here.
    """
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # its default prints a warning
    if address := os.environ.get("RAY_ADDRESS"):
        with attached(address):
            yield
        return
    with local_head(cpus=cpus, dashboard=False) as head, attached(head.address):
        yield


@contextmanager
def attached(address: str) -> Iterator[None]:
    """Inside, this process is a driver of the cluster at `address`."""
    import ray

    ray.init(address=address, logging_level="ERROR", log_to_driver=False)
    try:
        yield
    finally:
        ray.shutdown()
