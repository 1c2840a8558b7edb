"""A run that is named by its address: what of it comes to this machine, and what goes back."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from genlib import checkpoint
from genlib.checkpoint import Mirror
from genlib.config import TrainConfig
from genlib.engine.fit import fit
from genlib.recipe import Stage
from genlib.remote.store_folder import StoreFolder
from jobs.evaluate import located
from jobs.run_copy import at_hand, copied, run_argument
from serve.models.sources import model_sources
from tests.remote.servers import object_store
from tests.tiny import ArraySource, TinyConfig


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[StoreFolder]:
    """A finished run with two checkpoints in a store."""
    monkeypatch.setenv("GENLIB_CACHE", str(tmp_path / "cache"))
    bucket = f"copies-{time.time_ns()}"
    with object_store(monkeypatch) as client:
        client.create_bucket(Bucket=bucket)
        store = StoreFolder(f"s3://{bucket}/runs/mine")
        stage = Stage(task=TinyConfig(kind="VAE"), train=TrainConfig(steps=4, global_batch=12, checkpoint_every_steps=2, trackers=()))
        fit(stage, recipe="tiny", source=ArraySource(), folder=tmp_path / "node", device=torch.device("cpu"), mirror=Mirror(store))
        store.write("metrics.jsonl", b"{}\n")
        yield store


def test_a_folder_is_what_it_is(tmp_path: Path) -> None:
    assert run_argument(str(tmp_path)) == tmp_path
    assert at_hand(tmp_path) == tmp_path


def test_a_run_comes_with_its_newest_checkpoint_and_scores_go_back(run: StoreFolder) -> None:
    where = run_argument(run.url)
    assert where == run
    folder, bring_up = copied(where)
    assert folder.name == "mine"
    final, results = located(folder)
    assert (final.name, results) == ("step_00000004", folder)
    assert (folder / "metrics.jsonl").read_text() == "{}\n"
    (folder / "metrics.json").write_text("{}")
    bring_up()
    assert run.read("metrics.json")
    assert checkpoint.sealed((run / "checkpoints").files()) == ["step_00000004", "step_00000002"]  # which are never changed


def test_a_checkpoint_comes_by_itself(run: StoreFolder) -> None:
    final, results = located(at_hand(run / "checkpoints/step_00000002"))
    assert checkpoint.verify(final).step == 2
    assert results.name == "at-step_00000002"


def test_a_damaged_checkpoint_is_passed_over(run: StoreFolder, capsys: pytest.CaptureFixture) -> None:
    (run / "checkpoints/step_00000004").write("weights.safetensors", b"rot")
    assert located(at_hand(run))[0].name == "step_00000002"
    assert "passing over a checkpoint that does not verify" in capsys.readouterr().err


def test_a_report_needs_no_weights(run: StoreFolder) -> None:
    folder = at_hand(run, weights=False)
    (newest,) = checkpoint.checkpoints(folder / "checkpoints")
    assert checkpoint.read_manifest(newest).step == 4
    assert not list(folder.rglob("*.safetensors"))


def test_what_names_files_outside_is_refused(run: StoreFolder, tmp_path: Path) -> None:
    hostile = run / "checkpoints/step_00000004"
    manifest = checkpoint.read_manifest(at_hand(hostile))
    draft = tmp_path / "draft"
    draft.mkdir()
    for name in ("../../outside", str(tmp_path / "outside")):
        checkpoint.write_manifest(draft, manifest.__class__(**{**vars_of(manifest), "files": {name: "0" * 64}}))
        for file in ("manifest.json", "manifest.sha256"):
            hostile.upload(draft / file, file)
        with pytest.raises(ValueError, match="is no name of a file in it"):
            at_hand(hostile)
    assert not (tmp_path / "outside").exists()
    assert not any(path.name == "outside" for path in (tmp_path / "cache").rglob("*"))


def vars_of(manifest: Any) -> dict[str, Any]:
    return {name: getattr(manifest, name) for name in manifest.__slots__}


def test_an_address_is_served(run: StoreFolder) -> None:
    (mine,) = model_sources([run.url], Path(os.devnull))
    assert mine.name == "mine"
    newest = mine.newest()
    assert newest is not None
    assert checkpoint.verify(newest).step == 4
    (run / "checkpoints").delete(["step_00000004/manifest.json"])
    assert [path.name for path in mine.checkpoints()] == ["step_00000002"]  # what is there now


def test_what_is_there_is_not_fetched_again(run: StoreFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    at_hand(run)
    fetched, download = [], StoreFolder.download
    monkeypatch.setattr(StoreFolder, "download", lambda folder, name, path: (fetched.append(name), download(folder, name, path)))
    at_hand(run)
    assert fetched == []
    time.sleep(1.1)  # a store tells times in seconds
    run.write("metrics.jsonl", b"[]\n")
    assert (at_hand(run) / "metrics.jsonl").read_text() == "[]\n"
    assert fetched == ["metrics.jsonl"]


def test_an_address_without_a_run_is_refused(run: StoreFolder) -> None:
    with pytest.raises(ValueError, match="holds no checkpoint; name the address of a run, of one of its stages, or of a checkpoint"):
        at_hand(StoreFolder(f"{run.url}-other"))
