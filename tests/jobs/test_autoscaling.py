"""Nodes come as work asks for them and go when it is done: for a run, a search and a server, on a cloud of processes."""

from __future__ import annotations

from pathlib import Path

import pytest
from ray._raylet import GcsClient  # pyright: ignore[reportAttributeAccessIssue]

from cluster.local import Head
from tests.jobs.runs import finish, start, steps, wait_until
from tests.node_provider import growing_cluster

pytestmark = [pytest.mark.slow, pytest.mark.ray]
LIMIT_SECONDS = 400


def nodes(head: Head) -> int:
    """That work may be on."""
    return sum(one.state == 0 and not one.is_head_node for one in GcsClient(address=head.address).get_all_node_info().values())


def test_a_run_brings_nodes_and_goes_on_while_they_come(tmp_path: Path) -> None:
    words = (
        "toy",
        "--run",
        "r",
        "--workers",
        "1:2",
        "--train.steps",
        "400",
        "--train.checkpoint-every-steps",
        "50",
        "--task.seconds-per-step",
        "0.1",
    )
    with growing_cluster(most=2) as head:
        assert nodes(head) == 0
        process = start(*words, "--task.seconds-per-step", "0.1", runs=tmp_path, RAY_ADDRESS=head.address)
        wait_until(lambda: nodes(head) == 2 or process.poll() is not None, LIMIT_SECONDS)
        code, out, err = finish(process, LIMIT_SECONDS)
        assert code == 0, out + err
        assert steps(tmp_path / "r") == list(range(1, 401))
        assert "2 workers on cpu" in out
        wait_until(lambda: nodes(head) == 0, LIMIT_SECONDS)


def test_a_search_brings_nodes_for_its_trials(tmp_path: Path) -> None:
    words = ("tune", "toy", "--run", "s", "--trials", "4", "--concurrent", "2", "--space", "task.hidden=2:16", "--train.steps", "60")
    with growing_cluster(most=2) as head:
        process = start(*words, "--task.seconds-per-step", "0.3", runs=tmp_path, RAY_ADDRESS=head.address)
        wait_until(lambda: nodes(head) == 2 or process.poll() is not None, LIMIT_SECONDS)
        assert process.poll() is None, "two trials at once need two nodes"
        code, out, err = finish(process, LIMIT_SECONDS)
        assert code == 0, out + err
        assert len(list((tmp_path / "s" / "trials").glob("T*/trial.json"))) == 4
        wait_until(lambda: nodes(head) == 0, LIMIT_SECONDS)
