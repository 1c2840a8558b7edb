"""The files of a run in a store, beside its checkpoints: whose they are, how they go up and come down, and what a launch takes back."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from genlib.json_text import json_text
from genlib.remote.store_folder import StoreFolder
from genlib.storage import StorageError
from jobs import run_folder
from jobs.run_files import RunFiles, of_data, of_driver, of_rank_0
from jobs.run_store import StoredJob, held, open_on_worker, run_address, working_folder
from jobs.undo import accept, undone_unless_begun
from tests.remote.servers import object_store


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    with object_store(monkeypatch) as client:
        yield client


@pytest.fixture
def store(s3: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> StoreFolder:
    monkeypatch.setenv("GENLIB_CACHE", str(tmp_path / "cache"))
    bucket = f"files-{time.time_ns()}"
    s3.create_bucket(Bucket=bucket)
    return StoreFolder(f"s3://{bucket}/runs/mine")


def everything(name: str) -> bool:
    return True


def write(folder: Path, **files: str) -> None:
    for name, text in files.items():
        path = folder / name.replace("__", "/").replace("_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


@pytest.mark.parametrize(
    ("name", "driver", "rank_0"),
    [
        ("run.json", True, False),
        ("log.txt", True, False),
        ("error.log", True, False),
        ("data/train.set", True, False),
        ("second/data/train.set", True, False),
        ("metrics.jsonl", False, True),
        ("second/metrics.json", False, True),
        ("pictures/step_00000002.png", False, True),
        ("log/worker_00000.txt", False, True),
        ("log/worker_00001.txt", False, False),
        ("checkpoints/step_00000002/manifest.json", False, False),
        ("second/checkpoints/step_00000002/manifest.json", False, False),
        (".lock", False, False),
        (".before/run.json", False, False),
        ("second/.metrics.json.partial", False, False),
    ],
)
def test_every_file_is_of_one_process(name: str, driver: bool, rank_0: bool) -> None:
    assert (of_driver(name), of_rank_0(name)) == (driver, rank_0)


def test_what_goes_up_comes_down_and_what_is_gone_goes(tmp_path: Path, store: StoreFolder) -> None:
    one = RunFiles(store, tmp_path / "one", everything)
    write(tmp_path / "one", metrics_jsonl="1\n", pictures__a_png="a", checkpoints__x_txt="weights")
    assert one.push() == ["pictures/a.png", "metrics.jsonl"]
    assert one.push() == []
    write(tmp_path / "other", stale_txt="of a run that is not there any more")
    other = RunFiles(store, tmp_path / "other", everything)
    other.pull()
    assert {str(path.relative_to(tmp_path / "other")) for path in (tmp_path / "other").rglob("*.*")} == {"metrics.jsonl", "pictures/a.png"}
    write(tmp_path / "other", metrics_jsonl="1\n2\n")
    (tmp_path / "other/pictures/a.png").unlink()
    assert other.push() == ["metrics.jsonl"]
    assert sorted(store.files()) == ["metrics.jsonl"]
    assert store.read("metrics.jsonl")[0] == b"1\n2\n"  # type: ignore[index]


def test_exports_go_up_and_are_left_there(tmp_path: Path, store: StoreFolder) -> None:
    write(tmp_path / "one", export__model_txt="large", metrics_json="{}")
    assert RunFiles(store, tmp_path / "one", everything).push() == ["export/model.txt", "metrics.json"]  # scores last: with them it is finished
    other = RunFiles(store, tmp_path / "other", everything)
    other.pull()
    other.push()
    assert not (tmp_path / "other/export").exists()
    assert sorted(store.files()) == ["export/model.txt", "metrics.json"]


def test_when_a_file_was_written_is_when_it_went_up(tmp_path: Path, store: StoreFolder) -> None:
    store.write("metrics.jsonl", b"1\n")
    RunFiles(store, tmp_path, everything).pull()
    assert abs((tmp_path / "metrics.jsonl").stat().st_mtime - time.time()) < 60


# --- where a run is


def test_a_run_is_named_by_an_address_or_by_the_root_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    assert run_address("", "s3://bucket/runs/mine/", "vae") == "s3://bucket/runs/mine"
    assert run_address("", "/runs/mine", "vae") == ""
    monkeypatch.setenv("GENLIB_RUNS", "gs://bucket/runs/")
    assert run_address("", "", "vae") == "gs://bucket/runs/vae"
    assert run_address("mine", "", "vae") == "gs://bucket/runs/mine"
    assert run_address("", "/runs/mine", "vae") == ""
    with pytest.raises(ValueError, match="GENLIB_RUNS is gs://bucket/runs/, which is no folder on a disk"):
        run_folder.runs_root()


def test_a_name_beside_an_address_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert run_address("mine", "s3://bucket/runs/mine", "vae") == ""
    with pytest.raises(ValueError, match="--run mine says nothing"):
        run_folder.run_folder("mine", "s3://bucket/runs/mine", "vae")


def test_runs_at_two_addresses_have_two_folders(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GENLIB_CACHE", str(tmp_path))
    one, other = working_folder("s3://one/runs/mine"), working_folder("s3://other/runs/mine")
    assert one != other
    assert one.name == other.name == "mine"
    assert tmp_path in one.parents


# --- a launch


def launch(store: StoreFolder, run: Path, run_json: dict[str, Any], begins: bool) -> None:
    """What a driver does, without workers."""
    run.mkdir(parents=True, exist_ok=True)
    with held(store.url, run) as driver:
        assert driver is not None
        with undone_unless_begun(run, [run]):
            run_folder.write_json(run / "run.json", run_json)
            write(run, data__train_set="samples")
            (run / "metrics.json").unlink(missing_ok=True)
            driver.job(None)
            with driver.brought_up():
                assert store.read("data/train.set")
                if not begins:
                    raise ValueError("refused")
                accept(run)


def test_a_launch_that_is_refused_leaves_the_store_as_it_was(tmp_path: Path, store: StoreFolder) -> None:
    store.write("run.json", b'{"before": 1}')
    store.write("metrics.json", b'{"steps": 1}')
    with pytest.raises(ValueError, match="refused"):
        launch(store, tmp_path / "run", {"after": 1}, begins=False)
    assert sorted(store.files()) == ["metrics.json", "run.json"]
    assert store.read("run.json")[0] == b'{"before": 1}'  # type: ignore[index]
    assert (tmp_path / "run/run.json").read_text() == '{"before": 1}'


def test_scores_that_are_taken_back_are_gone_before_run_json_says_why(tmp_path: Path, store: StoreFolder) -> None:
    store.write("run.json", b'{"before": 1}')
    store.write("metrics.json", b'{"steps": 1}')
    launch(store, tmp_path / "run", {"after": 1}, begins=True)
    assert sorted(store.files()) == ["data/train.set", "run.json"]
    assert store.read("run.json")[0] == b'{\n "after": 1\n}\n'  # type: ignore[index]


def test_a_worker_on_an_empty_node_finds_what_it_has_to_know(tmp_path: Path, store: StoreFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("metrics.jsonl", "metrics.json", "second/data/train.set", "export/model.txt", "checkpoints/step_00000002/manifest.json"):
        store.write(name, b"{}")
    launch(store, tmp_path / "run", {}, begins=True)
    monkeypatch.setenv("GENLIB_CACHE", str(tmp_path / "node"))
    worker = open_on_worker(StoredJob(store.url, None, forget=("metrics.json",)))
    assert worker.run == working_folder(store.url)
    found = {str(path.relative_to(worker.run)) for path in worker.run.rglob("*") if path.is_file() and path.name != ".place"}
    assert found == {"metrics.jsonl", "data/train.set", "second/data/train.set"}


def test_a_store_that_is_away_is_said_on_every_rank(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, s3: Any) -> None:
    monkeypatch.setenv("GENLIB_CACHE", str(tmp_path))
    with pytest.raises(OSError, match="there is no such bucket"):
        open_on_worker(StoredJob("s3://not-there-for-workers/runs/mine", None))


def test_a_second_launch_is_refused_and_a_folder_tells_what_the_store_has(
    tmp_path: Path, store: StoreFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("genlib.remote.lease.RENEW_SECONDS", 0.5)
    (store / "checkpoints/step_00000004").write("manifest.json", b"of a later time")
    (store / "second/checkpoints/step_00000002").write("weights.safetensors", b"without a manifest")
    run = tmp_path / "run"
    (run / "second/checkpoints/step_00000009").mkdir(parents=True)
    with held(store.url, run):
        assert run_folder.read_json(run / "run.json") is None
        assert [path.name for path in run.glob("checkpoints/*")] == ["step_00000004"]
        assert not any(run.glob("second/checkpoints/*"))
        refused = r"^run run is running \(pid \d+ on .*\); wait for it, or give another --run or --run-dir"
        with pytest.raises(ValueError, match=refused), held(store.url, tmp_path / "elsewhere/run"):
            pass


def test_where_a_run_cannot_be_kept_is_said(s3: Any, tmp_path: Path) -> None:
    said = r"^the run cannot be kept in s3://not-there-at-all/runs/mine/\.lease: there is no such bucket"
    with pytest.raises(ValueError, match=said), held("s3://not-there-at-all/runs/mine", tmp_path):
        pass


def test_a_launch_that_was_taken_over_ends_with_a_sentence(tmp_path: Path, store: StoreFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("genlib.remote.lease.RENEW_SECONDS", 0.2)
    with pytest.raises(StorageError, match="run run was taken over by pid 7 on far-away, as this launch was not heard of in s3://"):
        be_taken_over(store, tmp_path / "run")


def be_taken_over(store: StoreFolder, run: Path) -> None:
    lost = threading.Event()
    with held(store.url, run) as driver:
        assert driver is not None
        driver.on_lost = lost.set
        store.write(".lease", json_text({"pid": 7, "host": "far-away", "machine": "other", "token": "theirs"}).encode())
        assert lost.wait(10)
        raise KeyboardInterrupt


def test_a_disk_has_no_store(tmp_path: Path) -> None:
    with held("", tmp_path) as driver:
        assert driver is None
    assert not of_data("run.json")
