"""Connecting a driver: to the cluster that RAY_ADDRESS names or the job runs in, else to a head of its own that ends with it."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from cluster.local import local_head
from genlib import trusted_packages

LOG = logging.getLogger(__name__)


@contextmanager
def connected(cpus: int | None = None, meanwhile: Callable[[], object] = lambda: None) -> Iterator[None]:
    """Inside, Ray is up; `cpus` is for a head of our own, by default the machine's. `meanwhile` is called before, while such a head comes up.

    What Ray and its processes have to say stays in Ray's own log files; errors are exceptions here.
    """
    quieten_ray()
    if address := os.environ.get("RAY_ADDRESS"):
        meanwhile()
        with attached(address, passed_on()):
            yield
        return
    with local_head(cpus=cpus, dashboard=False, meanwhile=meanwhile) as head, attached(head.address):
        yield


def quieten_ray() -> None:
    """For Ray's processes that are started from now on."""
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # its default prints a warning


def is_this_machine() -> bool:
    """Whether all workers will be on this machine, so that what is not here is nowhere."""
    address = os.environ.get("RAY_ADDRESS", "")
    return not address or address.startswith(("127.0.0.1:", "localhost:"))


@contextmanager
def attached(address: str, runtime_env: dict[str, Any] | None = None) -> Iterator[None]:
    """Inside, this process is a driver of the cluster at `address`; `runtime_env` is that of its workers."""
    import ray
    from ray._private import worker

    worker.print_to_stdstream = noted  # a raylet's notices go to the terminal whatever `log_to_driver` says
    ray.init(address=address, logging_level="ERROR", log_to_driver=False, runtime_env=runtime_env)
    try:
        yield
    finally:
        ray.shutdown()


def passed_on() -> dict[str, Any] | None:
    """What workers get to know of this process's environment: which packages bring families. None where that is nothing, or the job says it."""
    named = os.environ.get(trusted_packages.VARIABLE)
    if not named or trusted_packages.VARIABLE in os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR", ""):  # Ray refuses a variable that both set
        return None
    return {"env_vars": {trusted_packages.VARIABLE: named}}


def noted(data: Mapping[str, Any], ignore_prefix: bool) -> None:
    """Lines that Ray would print go to this module's logger, which says nothing unless it is asked to."""
    for line in data["lines"]:
        LOG.info("%s: %s", data["pid"], line)
