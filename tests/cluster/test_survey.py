"""Preflight: which pairs meet when, what a node says of itself, and the command on a real node that lets a process open few files."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from itertools import combinations
from pathlib import Path

import pytest

from cluster.probe import Probe, digest
from cluster.survey import named, parsed, rounds, see_storage
from tests.jobs.runs import ROOT

FEW = 2048


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 5, 8])
def test_every_two_nodes_meet_once_and_no_node_meets_two_at_the_same_time(count: int) -> None:
    names = [f"n{number}" for number in range(count)]
    played = rounds(names)
    assert sorted(tuple(sorted(pair)) for matches in played for pair in matches) == sorted(combinations(names, 2))
    for matches in played:
        assert len({name for pair in matches for name in pair}) == 2 * len(matches)


def test_nodes_of_one_address_are_told_apart() -> None:
    nodes = [{"NodeManagerAddress": "10.0.0.2", "NodeID": "abcdef01"}, *({"NodeManagerAddress": "10.0.0.1", "NodeID": f"{n}23456789"} for n in "12")]
    assert list(named(nodes)) == ["10.0.0.1/123456", "10.0.0.1/223456", "10.0.0.2"]


def test_the_digest_is_that_of_the_code_and_of_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    package = tmp_path / "some_code"
    package.mkdir()
    (package / "__init__.py").write_text("a = 1")
    first = digest(["some_code"])
    (package / "notes.txt").write_text("none of the code")
    assert digest(["some_code"]) == first
    (package / "__init__.py").write_text("a = 2")
    assert digest(["some_code"]) not in (first, "")
    assert digest(["no_such_code"]) == ""


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--link-megabytes", "0"], "link_megabytes is 0; it must be above 0"),
        (["--timeout-seconds", "nan"], "timeout_seconds is nan; it must be above 0"),
        (["--shard"], "unrecognized arguments: --shard; `genlib cluster preflight --help` shows what it takes"),
        (["--shm-gb", "much"], "argument --shm-gb: invalid float value: 'much'"),
    ],
)
def test_what_it_cannot_take_is_a_sentence(words: list[str], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        parsed(words)


def test_each_option_reaches_what_it_names() -> None:
    asked, limits = parsed(["--storage", "/mnt/runs", "--link-gb-per-second", "5", "--open-files", "100"])
    assert (asked.storage, limits.link_gb_per_second, limits.open_files) == ("/mnt/runs", 5.0, 100)


@pytest.mark.ray
def test_the_command_names_what_is_wrong_with_a_real_node(tmp_path: Path) -> None:
    (tmp_path / "shard.tar").write_bytes(bytes(3 << 20))
    words = ["--storage", str(tmp_path / "storage"), "--shards", str(tmp_path / "shard.tar"), "--shard-megabytes", "2"]
    ended = subprocess.run(
        [sys.executable, "-m", "cluster", "preflight", *words, "--shm-gb", "0", "--disk-gb", "0", "--open-files", str(FEW + 1)],
        cwd=ROOT, env={name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}, capture_output=True, text=True, timeout=300,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (FEW, resource.getrlimit(resource.RLIMIT_NOFILE)[1])),
    )  # fmt: skip
    _, node, *wrong = ended.stdout.splitlines()
    few = f"127.0.0.1 lets a process open {FEW:,} files, fewer than {FEW + 1:,}; `ulimit -n {FEW + 1}` before Ray starts there"
    assert (ended.returncode, wrong) == (1, [few]), ended.stderr
    name, *_, files, clock, storage, read = node.split()
    assert (name, files, storage) == ("127.0.0.1", f"{FEW:,}", "ok")
    assert float(read) > 0
    assert abs(float(clock)) < 1000  # one machine has one clock
    assert list((tmp_path / "storage").iterdir()) == []


PAIRS = """
import ray
from cluster import probe, survey
from cluster.connect import connected
from cluster.findings import Thresholds, slow_links
with connected(cpus=2):
    actors = {name: ray.remote(num_cpus=0)(probe.Probe).remote() for name in "abc"}
    asked, _ = survey.parsed(["--link-megabytes", "4"])
    pairs = [pair for matches in survey.rounds(list(actors)) for pair in survey.reduced(asked, actors, matches)]
    print(*sorted("".join(pair.nodes) for pair in pairs if pair.gb_per_second > 0), flush=True)
    ray.kill(actors["c"])
    (pair,) = survey.reduced(asked, actors, [("c", "a")])
    print(*slow_links([pair], Thresholds()), flush=True)
"""


@pytest.mark.ray
def test_every_two_add_up_their_numbers_and_one_that_is_lost_is_said() -> None:
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    ended = subprocess.run([sys.executable, "-c", PAIRS], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    met, lost = ended.stdout.splitlines() or ["", ended.stderr]
    assert met == "ab ac bc"
    assert lost.startswith("c and a cannot add up their numbers: The actor")


def test_a_storage_that_cannot_be_written_is_said_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    asked, _ = parsed(["--storage", str(tmp_path / "file")])
    with pytest.raises(ValueError, match=r"storage .*file cannot be written on this machine: Not a directory; name a folder with --storage"):
        see_storage(asked, {}, {})


def test_a_node_that_has_another_folder_under_the_storages_name_is_found(tmp_path: Path) -> None:
    (tmp_path / "driver").write_text("of another run")
    assert Probe().sees(str(tmp_path), "token") == "holds another file there than the driver's"
    assert Probe().sees(str(tmp_path / "nowhere"), "token") == "cannot read the driver's file there: No such file or directory"
    (tmp_path / "a").write_text("token")
    assert Probe().others(str(tmp_path), ["a", "b"], "token") == ["b"]


def test_shards_are_read_as_far_as_is_asked_and_those_that_are_not_there_are_an_error(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / f"{name}.tar").write_bytes(bytes(1000))
    assert Probe().reads(str(tmp_path), 10**6, 1)[0] == 2000
    with pytest.raises((OSError, ValueError), match="nowhere"):
        Probe().reads(str(tmp_path / "nowhere"), 10**6, 0)
