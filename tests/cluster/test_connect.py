"""What Ray has to say stays away from the user's terminal."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.jobs.runs import ROOT

pytestmark = [pytest.mark.ray, pytest.mark.slow]

MANY_ACTORS = """
import logging, sys, time
from cluster.connect import connected
if sys.argv[1] == "told":
    logging.basicConfig(stream=sys.stdout, format="%(message)s")
    logging.getLogger("cluster").setLevel("INFO")
with connected(cpus=1):
    import ray
    actor = ray.remote(num_cpus=0)(type("Idle", (), {"ready": lambda self: True}))
    actors = [actor.remote() for _ in range(12)]
    assert all(ray.get([one.ready.remote() for one in actors]))
    time.sleep(8)
"""


@pytest.mark.parametrize("asked", ["told", ""])
def test_a_raylets_notices_are_for_who_asks(asked: str) -> None:
    done = subprocess.run([sys.executable, "-c", MANY_ACTORS, asked], cwd=ROOT, capture_output=True, text=True, check=True, timeout=180)
    assert ("worker processes have been started" in done.stdout) == bool(asked)
    assert done.stdout == "" or asked
