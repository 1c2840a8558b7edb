"""Hostile tars: exact counts, exact survivors, no code run, nothing written, memory and time within limits, no exception."""

import io
import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from genlib.config import DataConfig
from genlib.data.index.builder import printable_key
from genlib.data.shards.shard_set import ShardSet
from genlib.data.source import open_source
from tests.data.hostile import END, members
from tests.data.hostile_cases import CASES
from tests.data.shards import pair, picture, write_set, write_tar

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], dict]:
    """What one process made of the cases; where one ended it, another goes on behind that one."""
    folder = tmp_path_factory.mktemp("hostile")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "GENLIB_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1"}
    results: dict[str, dict] = {}

    def run(names: list[str]) -> None:
        command = [sys.executable, "-m", "tests.data.hostile", *names]
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
        results.update({row["case"]: row for row in map(json.loads, done.stdout.splitlines())})
        ended = next((name for name in names if name not in results), None)
        if ended is not None:
            results[ended] = {"case": ended, "ended": f"{done.returncode}: {done.stderr[-2000:]}"}
            run(names[names.index(ended) + 1 :])

    @cache
    def all_results() -> dict[str, dict]:
        run(list(CASES))
        strange = {path.name for path in folder.iterdir() if path.suffix not in (".tar", ".idx")} - {"cache"}
        assert not strange, "something was written that nobody asked for"
        return results

    return lambda name: all_results()[name]


@pytest.mark.parametrize("name", CASES)
def test_hostile_tars_cost_what_they_must_and_no_more(result: Callable[[str], dict], name: str) -> None:
    case, found = CASES[name](), result(name)
    assert "ended" not in found, found["ended"]
    assert sorted(found["found"]) == sorted(printable_key(key.encode()) for key in case.keys)
    assert found["bad"] == case.bad
    assert found["fails"] == case.fails
    assert found["found"]["00000"] == 0
    assert found["found"].get("00002", 2) == 2
    assert {"image", "text"} <= set(found["fields"])


def test_a_shard_cut_at_any_block_keeps_what_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENLIB_CACHE", str(tmp_path / "cache"))
    good = write_set(tmp_path / "good", 10)  # says which members a sample has
    whole = members([*pair(0), *pair(1), *pair(2)]) + END
    ends = [len(members([entry for sample in range(count) for entry in pair(sample)])) for count in range(1, 4)]
    for cut in range(0, len(whole) + 1, 512):
        path = tmp_path / f"{cut}.tar"
        path.write_bytes(whole[:cut])
        samples = ShardSet.open([good / "00000.tar", path])
        assert len(samples) == 10 + sum(cut >= end for end in ends)
        assert samples.bad == ({} if cut == len(whole) else {"truncated": 1})


def test_one_shard_does_not_say_what_the_fields_of_others_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENLIB_CACHE", str(tmp_path / "cache"))
    good = [entry for number in range(5) for entry in (*pair(number), (f"{number:05d}.mask.png", picture(number)))]
    write_tar(tmp_path / "0.tar", good)
    write_tar(tmp_path / "1.tar", [*pair(9), ("00009.mask.txt", b"no mask"), *pair(8), ("00008.text.png", picture())])
    source = open_source(DataConfig(train=str(tmp_path), cache_mb=0))
    assert source.num_samples("train") == 5
    assert next(source.batches("train", 5))["mask"].shape == (5, 1, 8, 8)
    assert not source.failures


@pytest.mark.parametrize(
    "where", ["pipe:touch harmed", "|touch harmed", "`touch harmed`.tar", "$(touch harmed)/a.tar", "{touch,harmed}.tar; touch harmed"]
)
def test_a_place_is_never_a_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="there are no shards"):
        open_source(DataConfig(train=where))
    assert not list(tmp_path.iterdir())


def test_the_tars_here_are_those_of_the_standard_library() -> None:
    entries = [*pair(0), *pair(1)]
    with tarfile.open(fileobj=io.BytesIO(members(entries) + END)) as tar:
        assert [(member.name, tar.extractfile(member).read()) for member in tar] == entries
