"""What is wrong with a cluster, from numbers that were measured: each fault is one sentence that names the node or the pair."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import pytest

from cluster.findings import Pair, Surveyed, Thresholds, findings, slow_links, slow_readers, table

GPU = {
    "index": "0", "name": "NVIDIA H100", "temperature.gpu": "40", "memory.used": "4", "memory.total": "81559",
    "ecc.errors.uncorrected.volatile.total": "0", "clocks_event_reasons.hw_slowdown": "Not Active",
}  # fmt: skip


def node(name: str, *, gpu: dict[str, str] | None = None, versions: dict[str, str] | None = None, **changed: Any) -> Surveyed:
    """One with nothing wrong but what is said."""
    facts = {
        "versions": {"torch": "2.13.0", **(versions or {})}, "code": changed.pop("code", "c0de"), "shm_bytes": changed.pop("shm_bytes", 8 * 10**9),
        "disk_free_bytes": changed.pop("disk_free_bytes", 10**12), "disk_folder": "/tmp", "open_files": changed.pop("open_files", 65536),
        "gpus": [{**GPU, **gpu}] if gpu is not None else [],
    }  # fmt: skip
    return Surveyed(name=name, facts=facts, **{"resources": {"CPU": 8.0, "GPU": 1.0} if gpu is not None else {"CPU": 8.0}, **changed})


def links(speeds: dict[str, float | None], usual: float = 10.0) -> list[Pair]:
    """All pairs of a, b, c and d."""
    return [Pair(pair, speeds.get("".join(pair), usual), "" if speeds.get("".join(pair), usual) else "timed out") for pair in combinations("abcd", 2)]


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"shm_bytes": 67_108_864}, "b has 0.07 GB of /dev/shm, less than 1; start its container with a larger --shm-size"),
        ({"disk_free_bytes": 3 * 10**9}, "b has 3.0 GB free in /tmp, less than 20; make room, or let TMPDIR name a larger disk"),
        ({"open_files": 1024}, "b lets a process open 1,024 files, fewer than 8,192; `ulimit -n 8192` before Ray starts there"),
        ({"skew_seconds": 12.34}, "the clock of b is 12.3 s ahead of this machine's; let both follow the same time server"),
        ({"skew_seconds": -3.0}, "the clock of b is 3.0 s behind this machine's; let both follow the same time server"),
        ({"storage": "cannot write there: Permission denied"}, "b does not share the storage: it cannot write there: Permission denied; mount"),
        ({"unseen": ["a"]}, "b does not see what a wrote into the storage; mount the same one everywhere"),
        ({"shards": "no such bucket"}, "b cannot read the shards: no such bucket"),
        ({"versions": {"torch": "2.12.1"}}, "b has torch 2.12.1, most have 2.13.0; use one image"),
        ({"versions": {"torch": ""}}, "b has torch nowhere, most have 2.13.0; use one image"),
        ({"code": "0ther"}, "b has other code (0ther), most have c0de; use one image, or submit the code with the job"),
        ({"code": ""}, "b has none of our code, most have c0de; use one image, or submit the code with the job"),
        ({"lost": "no answer within 120 s"}, "b does not answer: no answer within 120 s"),
    ],
)
def test_one_fault_is_one_sentence_on_its_node(changed: dict[str, Any], sentence: str) -> None:
    (found,) = findings([node("a"), node("b", **changed), node("c")], [], Thresholds())
    assert found.startswith(sentence)


@pytest.mark.parametrize(
    ("gpu", "counted", "sentence"),
    [
        ({"ecc.errors.uncorrected.volatile.total": "2"}, 1, "GPU 0 of b has 2 memory errors that were not corrected; exchange the node"),
        ({"clocks_event_reasons.hw_slowdown": "Active", "temperature.gpu": "92"}, 1, "GPU 0 of b is slowed down by its hardware at 92 degrees"),
        ({"memory.used": "40000"}, 1, "GPU 0 of b has 40,000 MiB in use by others; end what runs there"),
        ({}, 8, "Ray counts 8 GPUs on b and nvidia-smi 1; restart the node, or exchange it"),
        ({"error": "Unable to determine the device handle"}, 1, "nvidia-smi fails on b: Unable to determine the device handle"),
        ({"name": "NVIDIA A10"}, 1, "b has NVIDIA A10, most have NVIDIA H100"),
    ],
)
def test_a_bad_gpu_is_named(gpu: dict[str, str], counted: int, sentence: str) -> None:
    bad = node("b", gpu=gpu, resources={"GPU": float(counted)})
    assert any(found.startswith(sentence) for found in findings([node("a", gpu={}), bad, node("c", gpu={})], [], Thresholds()))


def test_a_gpu_without_error_counts_is_well() -> None:
    assert findings([node("a", gpu={"ecc.errors.uncorrected.volatile.total": "[N/A]"})], [], Thresholds()) == []


def test_nothing_is_said_of_what_is_well_or_within_what_a_clock_can_be_read_to() -> None:
    well = [node("a"), node("b", skew_seconds=2.0, skew_within_seconds=1.5), node("c", open_files=-1, shm_bytes=None)]
    assert findings(well, links({}), Thresholds()) == []


def test_a_slow_pair_is_named() -> None:
    assert slow_links(links({"bd": 2.0}), Thresholds()) == ["the link between b and d is slow: 2 GB/s, the median of all pairs is 10"]


def test_a_broken_pair_is_named() -> None:
    assert slow_links(links({"ac": None}), Thresholds()) == ["a and c cannot add up their numbers: timed out"]


def test_a_node_whose_links_are_all_slow_is_named_alone() -> None:
    assert slow_links(links({"ab": 1.0, "bc": 1.5, "bd": 0.9}), Thresholds()) == [
        "all links of b are slow or broken, and none between the others; see to its network"
    ]


def test_one_pair_alone_is_held_against_what_is_asked_for() -> None:
    pair = [Pair(("a", "b"), 1.0)]
    assert slow_links(pair, Thresholds()) == []
    assert slow_links(pair, Thresholds(link_gb_per_second=2.0)) == ["the link between a and b is slow: 1 GB/s, the median of all pairs is 1"]


def test_a_node_that_reads_slowly_is_named() -> None:
    nodes = [node(name, shard_bytes_per_second=speed) for name, speed in {"a": 1e9, "b": 0.4e9, "c": 1.2e9}.items()]
    assert slow_readers(nodes, Thresholds()) == ["b reads shards at 0.40 GB/s, the median is 1.00; see to its way to the storage"]


def test_the_table_has_a_line_a_node() -> None:
    nodes = [node("10.0.0.1", shard_bytes_per_second=2.5e8), node("10.0.0.2", storage="cannot write there"), Surveyed(name="10.0.0.3", lost="gone")]
    lines = table(nodes, [Pair(("10.0.0.1", "10.0.0.2"), 1.25)]).splitlines()
    assert " ".join(lines[0].split()) == "node CPU GPU /dev/shm GB disk GB files clock ms storage shards GB/s link GB/s"
    assert lines[1].split() == ["10.0.0.1", "8", "0", "8.00", "1000", "65,536", "+0", "ok", "0.25", "1.25"]
    assert lines[2].split() == ["10.0.0.2", "8", "0", "8.00", "1000", "65,536", "+0", "bad", "1.25"]
    assert lines[3].split() == ["10.0.0.3", "0", "0", "lost"]
