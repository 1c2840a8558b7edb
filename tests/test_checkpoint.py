"""A checkpoint is whole or does not exist; a manifest is data and imports nothing that is not a family."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch

from genlib import checkpoint
from genlib.config import TrainConfig, to_json
from genlib.engine.fit import Listener, fit
from genlib.recipe import Stage
from tests.tiny import ArraySource, TinyConfig


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tmp_path_factory.mktemp("run"))


@pytest.fixture
def copy(saved: Path, tmp_path: Path) -> Path:
    target = tmp_path / saved.name
    for path in saved.rglob("*"):
        if path.is_file():
            (target / path.relative_to(saved)).parent.mkdir(parents=True, exist_ok=True)
            (target / path.relative_to(saved)).write_bytes(path.read_bytes())
    return target


def train(folder: Path, listener: Listener | None = None, **options: object) -> Path:
    config = TrainConfig(**{"steps": 4, "global_batch": 8, "checkpoint_every_steps": 1, "ema_halflife_samples": 16, "trackers": (), **options})
    return fit(
        Stage(task=TinyConfig(), train=config), recipe="tiny", source=ArraySource(), folder=folder, device=torch.device("cpu"), listener=listener
    )


def test_manifest_says_what_it_is_of(saved: Path) -> None:
    manifest = checkpoint.verify(saved)
    assert (manifest.recipe, manifest.stage, manifest.step, manifest.samples_seen, manifest.finished) == ("tiny", "train", 4, 32, True)
    assert manifest.data_state["position"] == 32
    assert manifest.train == to_json(TrainConfig(steps=4, global_batch=8, checkpoint_every_steps=1, ema_halflife_samples=16, trackers=()))
    assert sorted(manifest.files) == ["ema.safetensors", "state/rank_00000.safetensors", "weights.safetensors"]


def test_task_is_rebuilt_from_the_folder_alone(saved: Path) -> None:
    for ema in (False, True):
        state = checkpoint.load_task(saved, ema=ema).state_dict()
        assert all(torch.equal(state[key], value) for key, value in checkpoint.load_weights(saved, ema=ema).items())


@pytest.mark.parametrize("name", ["weights.safetensors", "ema.safetensors", "state/rank_00000.safetensors"])
def test_any_flipped_byte_is_found(copy: Path, name: str) -> None:
    data = (copy / name).read_bytes()
    for place in torch.randint(len(data), (20,), generator=torch.Generator().manual_seed(0)).tolist():
        (copy / name).write_bytes(data[:place] + bytes([data[place] ^ 0x10]) + data[place + 1 :])
        with pytest.raises(ValueError, match=f"{name} is damaged"):
            checkpoint.verify(copy)


def test_missing_truncated_and_extra_files_are_named(copy: Path) -> None:
    (copy / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"pytorch_model\.bin is not in the manifest"):
        checkpoint.verify(copy)
    (copy / "pytorch_model.bin").unlink()
    os.truncate(copy / "weights.safetensors", 100)
    with pytest.raises(ValueError, match=r"weights\.safetensors is damaged"):
        checkpoint.verify(copy)
    (copy / "weights.safetensors").unlink()
    with pytest.raises(ValueError, match=r"weights\.safetensors is missing"):
        checkpoint.verify(copy)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": 99}', "null", "\xff\xfe"])
def test_a_folder_without_a_readable_manifest_does_not_exist(copy: Path, text: str) -> None:
    (copy / "manifest.json").write_bytes(text.encode("latin-1"))
    said: list[str] = []
    assert checkpoint.newest(copy.parent, said.append) is None
    assert "passing over a checkpoint that does not verify" in said[0]


@pytest.mark.parametrize(
    "kind", ["os:system", "subprocess:Popen", "genlib.checkpoint:Manifest", "genlib.models.no_such:Config", "tests.tiny:VAE", "x"]
)
def test_manifest_cannot_name_other_code(copy: Path, kind: str) -> None:
    values = json.loads((copy / "manifest.json").read_text())
    values["blueprint"]["kind"] = kind
    (copy / "manifest.json").write_text(json.dumps(values))
    with pytest.raises(ValueError, match="does not have; use the version that wrote it"):
        checkpoint.load_task(copy)


def test_old_checkpoints_and_partial_folders_are_deleted(tmp_path: Path) -> None:
    (tmp_path / "checkpoints" / ".step_00000002.partial").mkdir(parents=True)
    train(tmp_path, keep_checkpoints=2)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["step_00000003", "step_00000004"]


class FillTheDisk(Listener):
    """After step 2 the folder of the next checkpoint cannot be made; after step 4 it can."""

    def __init__(self, folder: Path, steps: tuple[int, ...]) -> None:
        self.blocks = [folder / "checkpoints" / f".{checkpoint.step_name(step)}.partial" for step in steps]

    def on_checkpoint(self, folder: Path, row: dict) -> None:
        if row["step"] == 2:
            for block in self.blocks:
                block.write_text("a file where a folder is needed")


def test_a_save_that_fails_costs_the_checkpoint_not_the_run(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    final = train(tmp_path, FillTheDisk(tmp_path, (3,)), keep_checkpoints=9)
    assert "training goes on without it: checkpoint step_00000003 could not be written" in capsys.readouterr().out
    assert [path.name for path in checkpoint.checkpoints(tmp_path / "checkpoints")] == [f"step_0000000{i}" for i in (4, 2, 1)]
    assert checkpoint.verify(final).finished


def test_saves_that_keep_failing_stop_the_run(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="step_00000005 could not be written"):
        train(tmp_path, FillTheDisk(tmp_path, (3, 4, 5)), steps=9)
    assert checkpoint.newest(tmp_path / "checkpoints")[0].name == "step_00000002"
