"""A checkpoint is whole or does not exist; a manifest is data and imports nothing that is not a family."""

from __future__ import annotations

import errno
import hashlib
import itertools
import json
import os
import random
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from genlib import checkpoint
from genlib.checkpoint import tensor_files
from genlib.config import TrainConfig, to_json
from genlib.engine.fit import fit
from genlib.engine.listener import Evaluated, Listener
from genlib.recipe import Stage
from genlib.storage import StorageError
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


def write(folder: Path, manifest: bytes) -> None:
    """A manifest of other contents, sealed as the real one is."""
    (folder / "manifest.json").write_bytes(manifest)
    (folder / "manifest.sha256").write_text(f"{hashlib.sha256(manifest).hexdigest()}  manifest.json\n")


def test_manifest_says_what_it_is_of(saved: Path) -> None:
    manifest = checkpoint.verify(saved)
    assert (manifest.recipe, manifest.stage, manifest.step, manifest.samples_seen, manifest.finished) == ("tiny", "train", 4, 32, True)
    assert manifest.data_state.position == 32
    assert manifest.train == to_json(TrainConfig(steps=4, global_batch=8, checkpoint_every_steps=1, ema_halflife_samples=16, trackers=()))
    assert sorted(manifest.files) == ["ema.safetensors", "state/rank_00000.safetensors", "weights.safetensors"]


def test_who_may_read_the_folder_may_read_the_weights(saved: Path) -> None:
    assert {path.stat().st_mode & 0o777 for path in saved.rglob("*") if path.is_file()} == {saved.stat().st_mode & 0o666}


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
    write(copy, text.encode("latin-1"))
    said: list[str] = []
    assert checkpoint.newest(copy.parent, said.append) is None
    assert "passing over a checkpoint that does not verify" in said[0]


@pytest.mark.parametrize(
    "kind", ["os:system", "subprocess:Popen", "genlib.checkpoint:Manifest", "genlib.models.no_such:Config", "tests.tiny:VAE", "x"]
)
def test_manifest_cannot_name_other_code(copy: Path, kind: str) -> None:
    values = json.loads((copy / "manifest.json").read_text())
    values["blueprint"]["kind"] = kind
    write(copy, json.dumps(values).encode())
    with pytest.raises(ValueError, match=f"{re.escape(repr(kind))}, .* (is not trusted to bring families|does not have)"):
        checkpoint.load_task(copy)


def test_a_flipped_bit_of_any_byte_of_the_manifest_is_found(copy: Path) -> None:
    for name in ("manifest.json", "manifest.sha256"):
        data = (copy / name).read_bytes()
        for place in range(len(data)):
            mask = 1 << place % 8
            (copy / name).write_bytes(data[:place] + bytes([data[place] ^ mask]) + data[place + 1 :])
            with pytest.raises(ValueError, match=r"manifest\.json is damaged"):
                checkpoint.read_manifest(copy)
        (copy / name).write_bytes(data)
    checkpoint.verify(copy)


@pytest.mark.slow
def test_flipped_bits_of_every_file_are_found(copy: Path) -> None:
    draw = random.Random(0)
    for path in [path for path in copy.rglob("*") if path.is_file()]:
        data = path.read_bytes()
        for bit in draw.sample(range(8 * len(data)), min(8 * len(data), 1000)):
            place, mask = bit // 8, 1 << bit % 8
            path.write_bytes(data[:place] + bytes([data[place] ^ mask]) + data[place + 1 :])
            with pytest.raises(ValueError, match="is damaged"):
                checkpoint.verify(copy)
        path.write_bytes(data)


def test_a_manifest_that_lost_its_digest_is_refused_and_one_of_the_format_before_is_read(copy: Path) -> None:
    (copy / "manifest.sha256").unlink()
    with pytest.raises(ValueError, match=r"manifest\.sha256 is missing"):
        checkpoint.verify(copy)
    values = json.loads((copy / "manifest.json").read_text())
    (copy / "manifest.json").write_text(json.dumps({**values, "format": 1}))
    assert checkpoint.verify(copy).step == 4


def pipe_for_a_manifest(folder: Path) -> None:
    (folder / "manifest.json").unlink()
    os.mkfifo(folder / "manifest.json")


def folder_for_a_manifest(folder: Path) -> None:
    (folder / "manifest.json").unlink()
    (folder / "manifest.json").mkdir()


def link_to_nowhere(folder: Path) -> None:
    (folder / "weights.safetensors").unlink()
    (folder / "weights.safetensors").symlink_to("nowhere")


def link_to_itself(folder: Path) -> None:
    (folder / "manifest.json").unlink()
    (folder / "manifest.json").symlink_to("manifest.json")


DAMAGE: dict[str, Callable[[Path], None]] = {
    "deep JSON": lambda folder: write(folder, b"[" * 200_000),
    "a number of a million digits": lambda folder: write(folder, b'{"format": 2, "step": ' + b"9" * 10**6 + b"}"),
    "no keys": lambda folder: write(folder, b'{"format": 2}'),
    "no files": lambda folder: changed(folder, files={}),
    "files of other names": lambda folder: changed(folder, files={"../../weights.safetensors": "0" * 64}),
    "a step of another kind": lambda folder: changed(folder, step="four"),
    "another step": lambda folder: changed(folder, step=6),
    "no digest of the data": lambda folder: changed(folder, data_state={}),
    "a pipe": pipe_for_a_manifest,
    "a folder": folder_for_a_manifest,
    "a link to nowhere": link_to_nowhere,
    "a link to itself": link_to_itself,
    "an empty folder": lambda folder: [path.unlink() for path in folder.rglob("*") if path.is_file()] and None,
}


def changed(folder: Path, **values: object) -> None:
    write(folder, json.dumps({**json.loads((folder / "manifest.json").read_text()), **values}).encode())


@pytest.mark.parametrize("kind", DAMAGE)
def test_whatever_the_damage_the_run_goes_on_from_the_checkpoint_before(tmp_path: Path, kind: str, capsys: pytest.CaptureFixture) -> None:
    whole = train(tmp_path / "whole", steps=8)
    train(tmp_path / "run", steps=4)
    DAMAGE[kind](tmp_path / "run" / "checkpoints" / "step_00000004")
    final = train(tmp_path / "run", steps=8)
    said = capsys.readouterr()
    assert "step_00000004 is set aside as damaged_step_00000004, to be looked at or deleted: " in said.err
    assert "resumed from step_00000003" in said.out
    assert (final / "weights.safetensors").read_bytes() == (whole / "weights.safetensors").read_bytes()
    assert (tmp_path / "run" / "checkpoints" / "damaged_step_00000004").is_dir()


def test_a_disk_that_fails_to_read_is_passed_over(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(path: Path) -> bytes:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(Path, "read_bytes", failing)
    said: list[str] = []
    assert checkpoint.newest(copy.parent, said.append) is None
    assert "step_00000004 cannot be read (OSError: [Errno 5] Input/output error)" in said[0]


@pytest.mark.parametrize(
    "name", ["step_best", "step_4", "step_0000004", "step_000000004", "step_00000004.old", "step_00000004 (copy)", "step_٠٠٠٠٠٠٠٤"]
)
def test_only_the_exact_form_of_a_name_counts(tmp_path: Path, name: str) -> None:
    final = train(tmp_path, steps=4, keep_checkpoints=1)
    shutil.copytree(final, final.with_name(name))
    assert checkpoint.checkpoints(final.parent) == [final]
    longer = train(tmp_path, steps=6, keep_checkpoints=1)
    assert checkpoint.verify(longer).step == 6
    assert sorted(path.name for path in final.parent.iterdir()) == sorted([name, "step_00000006"])
    assert checkpoint.verify(final.with_name(name)).step == 4  # served or evaluated by its own path


def linked(folder: Path, *checkpoints: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for path in checkpoints:
        (folder / path.name).symlink_to(path)


def test_links_to_anothers_checkpoints_never_cost_it_one(tmp_path: Path) -> None:
    donor = checkpoint.checkpoints(train(tmp_path / "donor", keep_checkpoints=9).parent)
    folder = tmp_path / "run" / "checkpoints"
    linked(folder, *donor[1:])
    (folder / ".step_00000004.partial").symlink_to(donor[0])
    assert train(tmp_path / "run", keep_checkpoints=1).name == "step_00000004"
    assert [path.name for path in folder.iterdir()] == ["step_00000004"]  # the links are gone, and left nothing to write through
    assert [checkpoint.verify(path).step for path in donor] == [4, 3, 2, 1]


def test_links_to_nowhere_make_room_for_checkpoints(tmp_path: Path) -> None:
    linked(tmp_path / "checkpoints", *(tmp_path / "nowhere" / checkpoint.step_name(step) for step in (1, 2, 3, 4)))
    assert checkpoint.verify(train(tmp_path)).step == 4


def test_a_file_behind_a_link_that_is_damaged_is_noticed(tmp_path: Path, copy: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    os.rename(copy / "weights.safetensors", elsewhere)
    (copy / "weights.safetensors").symlink_to(elsewhere)
    history = checkpoint.History(tmp_path, lambda manifest: True, lambda text: None)
    assert history.newest()
    data = elsewhere.read_bytes()
    elsewhere.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    assert history.newest() is None


def test_what_a_later_version_wrote_is_no_damage(tmp_path: Path) -> None:
    folder = train(tmp_path).parent
    for path in checkpoint.checkpoints(folder):
        changed(path, format=checkpoint.FORMAT + 1)
    before = sorted(folder.iterdir())
    with pytest.raises(ValueError, match=r"is of another checkpoint format.*; go on with the version that wrote it, or use another run name"):
        train(tmp_path, steps=6)
    assert sorted(folder.iterdir()) == before


def test_names_are_in_the_order_of_their_steps(tmp_path: Path) -> None:
    for step in (99_999_999, 100_000_000, 7):
        (tmp_path / checkpoint.step_name(step)).mkdir()
    assert [checkpoint.step_of(path.name) for path in checkpoint.checkpoints(tmp_path)] == [100_000_000, 99_999_999, 7]


def make_valid(folder: Path, step: int) -> None:
    """The run's own checkpoint."""


def make_damaged(folder: Path, step: int) -> None:
    path = folder / checkpoint.step_name(step) / "weights.safetensors"
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))


def make_foreign(folder: Path, step: int) -> None:
    """Another run's whole checkpoint."""
    changed(folder / checkpoint.step_name(step), recipe="another")


def make_renamed(folder: Path, step: int) -> None:
    """A whole checkpoint under the name of another step."""
    changed(folder / checkpoint.step_name(step), step=step - 1)


def make_absent(folder: Path, step: int) -> None:
    shutil.rmtree(folder / checkpoint.step_name(step))


MAKE = {"valid": make_valid, "damaged": make_damaged, "foreign": make_foreign, "renamed": make_renamed, "absent": make_absent}
STEPS = (2, 4, 6)


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tmp_path_factory.mktemp("three"), steps=6, checkpoint_every_steps=2, keep_checkpoints=9).parent


CASES = list(itertools.product((1, 2), itertools.product(MAKE, repeat=3)))
FAST = [case for number, case in enumerate(CASES) if "absent" not in case[1] and number % 4 == 0]


@pytest.mark.parametrize(("keep", "kinds"), [pytest.param(*case, marks=[] if case in FAST else [pytest.mark.slow]) for case in CASES])
def test_of_any_three_checkpoints_what_must_remain_remains(tmp_path: Path, three: Path, keep: int, kinds: tuple[str, ...]) -> None:
    """The run goes on to step 10 and saves 8 and 10, or those after its newest valid one."""
    folder = tmp_path / "checkpoints"
    shutil.copytree(three, folder)
    for step, kind in zip(STEPS, kinds, strict=True):
        MAKE[kind](folder, step)
    state = dict(zip(STEPS, kinds, strict=True))
    readable = [step for step in STEPS if state[step] in ("valid", "foreign")]
    options = {"steps": 10, "checkpoint_every_steps": 2, "keep_checkpoints": keep}
    if readable and state[readable[-1]] == "foreign":
        before = {path.name for path in folder.iterdir() if not path.name.startswith("damaged_")}
        with pytest.raises(ValueError, match="the checkpoint is of recipe another"):
            train(tmp_path, **options)
        passed_over = {checkpoint.step_name(step) for step in STEPS if step > readable[-1]}
        assert {path.name for path in folder.iterdir()} == {f"damaged_{n}" if n in passed_over else n for n in before}
        return
    final = train(tmp_path, **options)
    start = max([step for step in STEPS if state[step] == "valid"], default=0)
    saved = [step for step in (2, 4, 6, 8, 10) if step > start]
    own = sorted({*(step for step in STEPS if state[step] == "valid"), *saved})[-keep:]
    foreign = [step for step in STEPS if state[step] == "foreign"]
    aside = [step for step in STEPS if state[step] in ("damaged", "renamed")]
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        [*map(checkpoint.step_name, {*own, *foreign}), *(f"damaged_{checkpoint.step_name(step)}" for step in aside)]
    )
    assert checkpoint.verify(final).step == 10
    assert all(checkpoint.verify(folder / checkpoint.step_name(step)).recipe == "tiny" for step in own)


class Damages(Listener):
    """After each save the one before is damaged: what counts is what verifies now."""

    def on_checkpoint(self, folder: Path, row: dict, evaluated: Evaluated | None) -> None:
        before = folder.with_name(checkpoint.step_name(row["step"] - 1))
        if before.exists():
            os.truncate(before / "weights.safetensors", 10)


def test_a_checkpoint_damaged_while_the_run_goes_on_does_not_count(tmp_path: Path) -> None:
    train(tmp_path, Damages(), keep_checkpoints=2)
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert names == ["damaged_step_00000001", "damaged_step_00000002", "step_00000003", "step_00000004"]


class Foresees(Listener):
    """Somebody copies a later checkpoint in while the run goes on."""

    def __init__(self, later: Path) -> None:
        self.later = later

    def on_checkpoint(self, folder: Path, row: dict, evaluated: Evaluated | None) -> None:
        if row["step"] == 2:
            shutil.copytree(self.later, folder.with_name(self.later.name))


def test_what_fit_returns_exists(tmp_path: Path, saved: Path) -> None:
    final = train(tmp_path, Foresees(saved), steps=3, keep_checkpoints=1)
    assert checkpoint.verify(final).step == 3


def test_old_checkpoints_and_partial_folders_are_deleted(tmp_path: Path) -> None:
    (tmp_path / "checkpoints" / ".step_00000002.partial").mkdir(parents=True)
    train(tmp_path, keep_checkpoints=2)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["step_00000003", "step_00000004"]


class FillTheDisk(Listener):
    """After step 2 the folder of the next checkpoint cannot be made; after step 4 it can."""

    def __init__(self, folder: Path, steps: tuple[int, ...]) -> None:
        self.blocks = [folder / "checkpoints" / f".{checkpoint.step_name(step)}.partial" for step in steps]

    def on_checkpoint(self, folder: Path, row: dict, evaluated: Evaluated | None) -> None:
        if row["step"] == 2:
            for block in self.blocks:
                block.write_text("a file where a folder is needed")


def test_a_save_that_fails_costs_the_checkpoint_not_the_run(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    final = train(tmp_path, FillTheDisk(tmp_path, (3,)), keep_checkpoints=9)
    assert "training goes on without it: checkpoint step_00000003 could not be written" in capsys.readouterr().out
    assert [path.name for path in checkpoint.checkpoints(tmp_path / "checkpoints")] == [f"step_0000000{i}" for i in (4, 2, 1)]
    assert checkpoint.verify(final).finished


def test_saves_that_keep_failing_stop_the_run(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"step_00000005 could not be written.* has .* free; 3 saves in a row failed"):
        train(tmp_path, FillTheDisk(tmp_path, (3, 4, 5)), steps=9)
    assert checkpoint.newest(tmp_path / "checkpoints")[0].name == "step_00000002"


def test_more_than_the_field_puts_into_a_file_lies_in_several_with_an_index(saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from accelerate import load_checkpoint_in_model

    monkeypatch.setattr(tensor_files, "FILE_BYTES", 4_000)
    folder = train(tmp_path)
    names = sorted(path.name for path in folder.glob("weights*"))
    assert names[-1] == "weights.safetensors.index.json"
    assert len(names) > 2
    assert names[0] == f"weights-00001-of-{len(names) - 1:05d}.safetensors"
    for ema in (False, True):
        found, expected = checkpoint.load_weights(folder, ema=ema), checkpoint.load_weights(saved, ema=ema)
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], value) for name, value in expected.items())
    task = checkpoint.verify(folder).blueprint.build()
    load_checkpoint_in_model(task, str(folder / names[-1]))
    assert all(torch.equal(task.state_dict()[name], value) for name, value in checkpoint.load_weights(saved).items())
    os.truncate(folder / names[0], 100)
    with pytest.raises(ValueError, match=rf"{names[0]} is damaged"):
        checkpoint.verify(folder)


def test_a_run_goes_on_from_several_files(saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensor_files, "FILE_BYTES", 4_000)
    shutil.rmtree(train(tmp_path))
    again = checkpoint.load_weights(train(tmp_path))
    assert all(torch.equal(again[name], value) for name, value in checkpoint.load_weights(saved).items())
