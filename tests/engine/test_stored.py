"""Runs in an object store: the same weights as on a disk, whatever happens to the store, to a process, or to a node's folder."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from genlib import checkpoint, distributed
from genlib.checkpoint import Mirror, saving
from genlib.checkpoint.tensor_files import FileLayout, Shard, TensorFiles
from genlib.config import TrainConfig
from genlib.engine.fit import fit
from genlib.engine.listener import Listener
from genlib.recipe import Stage
from genlib.remote.clients import RemoteSettings
from genlib.remote.store_folder import StoreFolder
from genlib.storage import StorageError
from tests.processes import run_ranks
from tests.remote.servers import object_store
from tests.saving import wait_until_saved
from tests.tiny import ArraySource, TinyConfig

CPU = torch.device("cpu")
QUICK = RemoteSettings(tries=2, total_seconds=2.0, request_seconds=2.0, stall_seconds=2.0, first_pause_seconds=0.01)


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    with object_store(monkeypatch) as client:
        yield client


@pytest.fixture
def run(s3: Any, request: pytest.FixtureRequest) -> StoreFolder:
    """A run's folder in an empty bucket of its own."""
    bucket = f"b{abs(hash(request.node.name))}-{time.time_ns()}"
    s3.create_bucket(Bucket=bucket)
    return StoreFolder(f"s3://{bucket}/runs/mine")


def stage_of(**options: Any) -> Stage:
    defaults = {"steps": 8, "global_batch": 12, "checkpoint_every_steps": 2, "keep_checkpoints": 9, "ema_halflife_samples": 30, "trackers": ()}
    return Stage(task=TinyConfig(kind="VAE"), train=TrainConfig(**{**defaults, **options}))


def train(folder: Path, stage: Stage, run: StoreFolder | None, listener: Listener | None = None) -> Path:
    mirror = Mirror(run) if run else None
    return fit(stage, recipe="tiny", source=ArraySource(), folder=folder, device=CPU, listener=listener, mirror=mirror)


def same(one: Path, other: Path) -> bool:
    """Whether two checkpoints have the same weights and averages."""
    pairs = [(checkpoint.load_weights(one, ema=ema), checkpoint.load_weights(other, ema=ema)) for ema in (False, True)]
    return all(a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a) for a, b in pairs)


def sealed(run: StoreFolder) -> list[str]:
    """Checkpoints in the store, in order."""
    return sorted(name.split("/")[1] for name in run.files() if name.endswith("/manifest.json") and "/step_" in name)


def copied(run: StoreFolder, name: str, folder: Path) -> Path:
    """A checkpoint's objects as any program copies them."""
    for file in (run / "checkpoints" / name).files():
        (folder / name / file).parent.mkdir(parents=True, exist_ok=True)
        (run / "checkpoints" / name).download(file, folder / name / file)
    return folder / name


class Ends(Listener):
    """Ends the run by an exception once the checkpoint of a step is sealed."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_checkpoint(self, folder: Path, row: dict, evaluated: object) -> None:
        if row["step"] >= self.step:
            raise KeyboardInterrupt


def test_what_is_in_the_store_is_a_checkpoint_as_on_a_disk(tmp_path: Path, run: StoreFolder) -> None:
    on_disk = train(tmp_path / "disk", stage_of(), None)
    final = train(tmp_path / "node", stage_of(), run)
    assert sealed(run) == [checkpoint.step_name(step) for step in (2, 4, 6, 8)]
    copy = copied(run, final.name, tmp_path / "copy")
    assert checkpoint.verify(copy).files == checkpoint.verify(final).files == checkpoint.verify(on_disk).files
    assert [path.name for path in checkpoint.checkpoints(tmp_path / "node/checkpoints")] == [final.name]  # older ones are in the store


def test_another_machine_goes_on_and_ends_with_the_same_weights(tmp_path: Path, run: StoreFolder, capsys: pytest.CaptureFixture) -> None:
    on_disk = train(tmp_path / "disk", stage_of(), None)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "one", stage_of(), run, Ends(4))
    final = train(tmp_path / "other", stage_of(), run)
    assert same(final, on_disk)
    assert "resumed from step_0000000" in capsys.readouterr().out
    again = train(tmp_path / "third", stage_of(), run)  # it is finished: nothing is trained
    assert same(again, on_disk)


def test_older_checkpoints_and_what_killed_saves_left_go(tmp_path: Path, run: StoreFolder) -> None:
    (run / "checkpoints/step_00000003").write("weights.safetensors", b"half")
    (run / "checkpoints").write("notes.txt", b"somebody's")
    train(tmp_path / "node", stage_of(keep_checkpoints=2), run)
    assert sealed(run) == ["step_00000006", "step_00000008"]
    assert not (run / "checkpoints/step_00000003").files()
    assert (run / "checkpoints").read("notes.txt")


def test_a_damaged_object_is_passed_over_for_the_checkpoint_before(tmp_path: Path, run: StoreFolder, capsys: pytest.CaptureFixture) -> None:
    on_disk = train(tmp_path / "disk", stage_of(), None)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "one", stage_of(), run, Ends(4))
    newest = sealed(run)[-1]
    found = (run / "checkpoints" / newest).read("weights.safetensors")
    assert found is not None
    content = bytearray(found[0])
    content[-1] ^= 1
    (run / "checkpoints" / newest).write("weights.safetensors", bytes(content))
    before = sealed(run)[-2]
    final = train(tmp_path / "other", stage_of(), run)
    said = capsys.readouterr()
    assert f"resumed from {before}" in said.out
    assert f"{newest} is set aside as damaged_{newest}" in said.err
    assert "weights.safetensors is damaged (its sha256 is not the manifest's)" in said.err
    assert same(final, on_disk)
    assert (run / "checkpoints" / f"damaged_{newest}").read("manifest.json")


def test_a_file_damaged_on_the_node_is_fetched_anew(tmp_path: Path, run: StoreFolder, capsys: pytest.CaptureFixture) -> None:
    final = train(tmp_path / "node", stage_of(), run)
    (final / "weights.safetensors").write_bytes(b"rot")
    assert checkpoint.verify(train(tmp_path / "node", stage_of(), run)).step == 8
    assert "aside" not in capsys.readouterr().err


def test_training_starts_from_weights_at_an_address(tmp_path: Path, run: StoreFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENLIB_CACHE", str(tmp_path / "cache"))
    final = train(tmp_path / "node", stage_of(), run)
    for where in (run.url, f"{run}/checkpoints/{final.name}"):
        taken = train(tmp_path / str(len(where)), stage_of(steps=0, start_from=where), None)
        expected, found = checkpoint.load_weights(final, ema=True), checkpoint.load_weights(taken)
        assert all(torch.equal(expected[name], found[name]) for name in expected)
    with pytest.raises(ValueError, match="holds no checkpoint; name the address of a run, of one of its stages, or of a checkpoint"):
        train(tmp_path / "none", stage_of(steps=0, start_from=f"{run}-other"), None)


class Outage:
    """Saves from one step on until another meet another store, which has no such bucket."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, begin: int, end: int) -> None:
        create = saving._Save.create

        def refused(save: saving._Save) -> None:
            if begin <= save.snapshot.manifest.step < end:
                save.stored.store = StoreFolder("s3://gone-with-the-store/runs/mine/checkpoints", QUICK)  # type: ignore[union-attr]
            else:
                save.stored.store = save.stored.mirror.store  # type: ignore[union-attr]
            create(save)

        monkeypatch.setattr(saving._Save, "create", refused)


def test_a_store_that_is_down_for_a_while_costs_those_saves_alone(
    tmp_path: Path, run: StoreFolder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    on_disk = train(tmp_path / "disk", stage_of(), None)
    Outage(monkeypatch, 4, 8)
    final = train(tmp_path / "node", stage_of(), run)
    assert sealed(run) == ["step_00000002", "step_00000008"]
    assert same(final, on_disk)
    (first, second) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("training goes on without it")]
    assert "checkpoint step_00000004 could not be written to s3://gone-with-the-store/runs/mine/checkpoints: " in first
    assert "there is no such bucket; make it, or name another" in first
    assert "step_00000006" in second


def test_a_server_that_goes_and_comes_back_costs_the_saves_between(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    from moto.server import ThreadedMotoServer

    class Restarts(Listener):
        """No server answers from the third step to the seventh."""

        def on_log(self, row: dict) -> None:
            wait_until_saved()
            if row["step"] == 3:
                server.stop()
            if row["step"] == 7:
                again.start()

    bucket = f"down-{time.time_ns()}"
    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    port = server.get_host_and_port()[1]
    again = ThreadedMotoServer("127.0.0.1", port=port, verbose=False)
    keys = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing", "AWS_REGION": "us-east-1"}
    for name, value in {**keys, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}"}.items():
        monkeypatch.setenv(name, value)
    urllib.request.urlopen(urllib.request.Request(f"http://127.0.0.1:{port}/{bucket}", method="PUT")).close()
    run = StoreFolder(f"s3://{bucket}/runs/mine", QUICK)
    final = train(tmp_path / "node", stage_of(log_every_seconds=1e-6), run, Restarts())
    assert sealed(run) == ["step_00000002", "step_00000008"]
    assert checkpoint.verify(final).step == 8
    assert capsys.readouterr().out.count("training goes on without it") == 2
    again.stop()


def test_a_store_that_stays_down_ends_the_run(tmp_path: Path, run: StoreFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    Outage(monkeypatch, 4, 99)
    with pytest.raises(StorageError, match="3 saves in a row failed: see to the store, then the same command goes on"):
        train(tmp_path / "node", stage_of(steps=20), run)
    assert sealed(run) == ["step_00000002"]


# --- nodes without a shared disk


def train_on_a_node(root: Path, url: str, strategy: str, steps: int) -> None:
    """Each rank has a folder of its own."""
    folder = root / f"node{distributed.rank()}"
    stage = stage_of(strategy=strategy, steps=steps, keep_checkpoints=2)
    final = train(folder, stage, StoreFolder(url))
    assert checkpoint.verify(final).step == steps
    assert checkpoint.verify(final).world == distributed.world_size()


@pytest.mark.parametrize("strategy", ["ddp", "zero2", "zero3"])
def test_ranks_with_folders_of_their_own_save_what_ranks_on_one_disk_do(tmp_path: Path, run: StoreFolder, strategy: str) -> None:
    run_ranks(2, train_on_a_disk, tmp_path, strategy)
    run_ranks(2, train_on_a_node, tmp_path, run.url, strategy, 8)
    on_disk = checkpoint.newest(tmp_path / "disk/checkpoints")
    assert on_disk is not None
    assert same(tmp_path / "node1/checkpoints/step_00000008", on_disk[0])
    shutil.rmtree(tmp_path / "node0")
    run_ranks(2, train_on_a_node, tmp_path, run.url, strategy, 8)  # finished: what node0 lacks is fetched


def train_on_a_disk(root: Path, strategy: str) -> None:
    train(root / "disk", stage_of(strategy=strategy, keep_checkpoints=2), None)


def end_on_a_node(root: Path, url: str) -> None:
    folder = root / f"node{distributed.rank()}"
    with pytest.raises(KeyboardInterrupt):
        train(folder, stage_of(), StoreFolder(url), Ends(4))


def test_nodes_that_were_lost_are_replaced_by_empty_ones(tmp_path: Path, run: StoreFolder) -> None:
    run_ranks(2, train_on_a_disk, tmp_path, "ddp")
    run_ranks(2, end_on_a_node, tmp_path / "first", run.url)
    run_ranks(2, train_on_a_node, tmp_path / "second", run.url, "ddp", 8)
    on_disk = checkpoint.newest(tmp_path / "disk/checkpoints")
    assert on_disk is not None
    assert same(tmp_path / "second/node0/checkpoints/step_00000008", on_disk[0])


# --- kills


def train_for_ever(folder: str, url: str) -> None:
    class Waits(Listener):
        def on_log(self, row: dict) -> None:
            wait_until_saved()

    train(Path(folder), stage_of(steps=100_000, checkpoint_every_steps=1, keep_checkpoints=2, log_every_seconds=1e-6), StoreFolder(url), Waits())


@pytest.mark.slow
def test_a_kill_at_any_moment_of_an_upload_leaves_the_newest_sealed_checkpoint_valid(tmp_path: Path, run: StoreFolder) -> None:
    random.seed(0)
    steps = []
    for number in range(6):
        command = "from tests.engine import test_stored; import sys; test_stored.train_for_ever(*sys.argv[1:])"
        process = subprocess.Popen([sys.executable, "-c", command, str(tmp_path / f"node{number % 2}"), run.url], env=os.environ)
        before, deadline = len(steps), time.monotonic() + 300
        while time.monotonic() < deadline and sealed(run) == (steps[-1:] and steps[-1]):
            time.sleep(0.05)
        time.sleep(random.uniform(0, 0.5))
        process.kill()
        process.wait()
        names = sealed(run)
        assert names, before
        for name in names:
            shutil.rmtree(tmp_path / "copy", ignore_errors=True)
            manifest = checkpoint.bring(run / "checkpoints" / name, tmp_path / "copy" / name)
            assert manifest.step == checkpoint.step_of(name)
        steps.append(names)
    assert steps[-1][-1] > steps[0][-1]


# --- pieces of weights from one node to another


class Wire:
    """Two ranks in one thread: what one sends the other receives."""

    def __init__(self) -> None:
        self.sent: list[torch.Tensor] = []

    def send(self, values: torch.Tensor) -> None:
        self.sent.append(values.clone())

    def receive(self, values: torch.Tensor, sender: int) -> None:
        values.copy_(self.sent.pop(0))


@pytest.mark.parametrize("chunk_bytes", [1, 7, 64, 1000, 1 << 20])
def test_pieces_arrive_where_they_belong_whatever_the_size_of_a_chunk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk_bytes: int) -> None:
    monkeypatch.setattr(saving, "_CHUNK_BYTES", chunk_bytes)
    tensors = {"a": torch.randn(3, 5), "b": torch.arange(7), "c": torch.randn(0), "d": torch.randn(11, dtype=torch.float64)}
    layout = FileLayout(tensors, "weights")
    layout.create(tmp_path)
    halves = {name: value.reshape(-1).split(max(1, value.numel() // 2 + 1)) for name, value in tensors.items()}
    layout.write(tmp_path, [Shard(name, 0, parts[0]) for name, parts in halves.items()])
    rest = layout.extents([Shard(name, parts[0].numel(), parts[1]) for name, parts in halves.items() if len(parts) > 1])
    wire = Wire()
    for values in saving.in_chunks(rest):
        wire.send(values)
    saving.receive_pieces(tmp_path, [[], [extent for extent, _ in rest]], wire)  # type: ignore[arg-type]
    assert wire.sent == []
    with TensorFiles(tmp_path, "weights") as files:
        assert all(torch.equal(files[name], value) for name, value in tensors.items())
