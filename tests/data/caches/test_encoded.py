"""What was encoded is kept and read by sample number; what is torn, damaged, cut or foreign is absent and costs nothing but its making."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import pickle
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from genlib.config import DataConfig
from genlib.data.caches.encoded import EncodedStore
from genlib.data.source import ShardSource, open_source
from genlib.types import Batch, Samples
from tests.data.shards import pair, write_set, write_tar
from tests.jobs.runs import ROOT, wait_until

COUNT = 40
FORK = multiprocessing.get_context("fork")


def made(samples: np.ndarray, side: int = 3) -> Batch:
    """What a network might make of samples: a function of their numbers."""
    numbers = torch.from_numpy(samples)
    return {"code": (numbers[:, None, None] + torch.zeros(2, side)).half(), "label": numbers % 10, "good": numbers % 2 == 0}


def filled(folder: Path, samples: np.ndarray | None = None, shard_samples: int = 16) -> EncodedStore:
    store = EncodedStore(folder, COUNT, shard_samples)
    samples = np.arange(COUNT) if samples is None else samples
    store.write(samples, made(samples), np.ones(len(samples), bool))
    return store


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix != ".json")


def test_rows_come_back_in_any_order_and_in_another_process(tmp_path: Path) -> None:
    store = filled(tmp_path)
    wanted = np.array([39, 0, 7, 7, 16])
    for reader in (store, pickle.loads(pickle.dumps(store)), EncodedStore(tmp_path, COUNT, 16)):
        found = reader.read(wanted)
        assert found is not None
        for name, value in made(wanted).items():
            assert found[name].dtype == value.dtype
            assert torch.equal(found[name], value)
    assert store.has(wanted).all()
    assert store.share() == 1


def test_only_rows_that_are_to_be_kept_are(tmp_path: Path) -> None:
    store, samples = EncodedStore(tmp_path, COUNT, 16), np.arange(8)
    store.write(samples, made(samples), samples != 3)
    assert store.has(np.arange(COUNT)).tolist() == [number < 8 and number != 3 for number in range(COUNT)]
    assert store.read(np.array([2, 4])) is not None
    assert store.read(np.array([2, 3, 4])) is None
    store.write(samples, made(samples), samples == 3)
    assert store.read(samples) is not None


def test_what_is_whole_is_not_written_again(tmp_path: Path) -> None:
    store, samples = filled(tmp_path), np.arange(COUNT)
    store.write(samples, {**made(samples), "label": torch.full((COUNT,), 7)}, np.ones(COUNT, bool))
    found = store.read(samples)
    assert found is not None
    assert torch.equal(found["label"], made(samples)["label"])


def test_several_shapes_lie_beside_each_other(tmp_path: Path) -> None:
    writer, reader = (EncodedStore(tmp_path, COUNT) for _ in range(2))
    wide, narrow = np.arange(0, COUNT, 2), np.arange(1, COUNT, 2)
    for samples, side in ((wide, 5), (narrow, 2)):
        writer.write(samples, made(samples, side), np.ones(len(samples), bool))
        found = reader.read(samples)  # which has looked before the second shape came
        assert found is not None
        assert torch.equal(found["code"], made(samples, side)["code"])
    assert reader.read(np.array([0, 1])) is None
    assert reader.has(np.arange(COUNT)).all()


def test_a_layout_costs_no_disk_where_nothing_is_written(tmp_path: Path) -> None:
    store = EncodedStore(tmp_path, 10**9)
    samples = np.array([0, 10**9 - 1])
    batch = {"code": torch.zeros(2, 4, 64, 64).half()}
    store.write(samples, batch, np.ones(2, bool))
    assert store.read(samples) is not None
    assert sum(path.stat().st_blocks * 512 for path in files(tmp_path)) < 20 * store.record_bytes(batch)


@pytest.mark.parametrize("where", [0, 5, 10, 16, 30])
def test_a_damaged_record_is_absent_and_mended(tmp_path: Path, where: int) -> None:
    store, samples = filled(tmp_path), np.arange(COUNT)
    path, stride = files(tmp_path)[1], store.record_bytes(made(samples))
    data = bytearray(path.read_bytes())
    data[2 * stride + where] ^= 1
    path.write_bytes(data)
    for reader in (store, EncodedStore(tmp_path, COUNT, 16)):
        assert reader.read(np.array([18])) is None
        assert reader.read(np.array([17, 19])) is not None
    store.write(samples, made(samples), np.ones(COUNT, bool))
    assert store.read(samples) is not None


@pytest.mark.parametrize("damage", ["cut", "empty", "longer", "gone", "a folder", "another's"])
def test_a_damaged_file_is_absent(tmp_path: Path, damage: str) -> None:
    filled(tmp_path)
    path, other = files(tmp_path)[:2]
    data = path.read_bytes()
    path.unlink()
    if damage == "a folder":
        path.mkdir()
    elif damage != "gone":
        path.write_bytes({"cut": data[:-1], "empty": b"", "longer": data + b"x", "another's": other.read_bytes()}[damage])
    store = EncodedStore(tmp_path, COUNT, 16)
    assert store.read(np.array([3])) is None
    assert store.read(np.array([20])) is not None
    if damage != "a folder":
        store.write(np.array([3]), made(np.array([3])), np.ones(1, bool))
        assert store.read(np.array([3])) is not None


@pytest.mark.parametrize(
    "content",
    [
        b"", b"[", b"[" * 100_000, b"null", b"{}", b"[]", b"[1]", b"[[1,2,3]]", b'[["code","float16",[-1]]]', b'[["code","float16",[true]]]',
        b'[["code","float16",[1000000000000]]]', b'[["code","object",[1]]]', b'[["code",["float16"],[1]]]', b'[["../x","float16",[1]]]',
        b'[["weight","float16",[1]]]', b'[["code","float16",[1]],["code","float16",[1]]]', b"\xff\xfe", b'[["code","float16",1e999]]',
        b'[["code","float16",[' + b"1," * 200 + b"1]]]", b'[["code","float16",[' + b"99999999999999999999," * 9 + b"1]]]",
    ],
)  # fmt: skip
def test_layouts_that_anybody_wrote_are_passed_over(tmp_path: Path, content: bytes) -> None:
    filled(tmp_path)
    name = hashlib.sha256(content).hexdigest()[:16]  # a name that fits, so that the content is what is judged
    (tmp_path / f"{name}.json").write_bytes(content)
    (tmp_path / name).mkdir()
    (tmp_path / name / "00000000").write_bytes(files(tmp_path)[0].read_bytes())
    (tmp_path / "0123456789abcdef.json").write_bytes(next(tmp_path.glob("*.json")).read_bytes())
    store = EncodedStore(tmp_path, COUNT, 16)
    assert store.has(np.arange(COUNT)).all()
    assert store.read(np.arange(COUNT)) is not None


def test_what_cannot_be_kept_is_said(tmp_path: Path) -> None:
    store = EncodedStore(tmp_path, COUNT)
    with pytest.raises(ValueError, match="'weight' is no name of a field"):
        store.write(np.arange(2), {"weight": torch.ones(2)}, np.ones(2, bool))
    with pytest.raises(ValueError, match="code is of type bfloat16"):
        store.write(np.arange(2), {"code": torch.ones(2, dtype=torch.bfloat16)}, np.ones(2, bool))


def test_a_folder_that_cannot_be_written_costs_nothing_but_the_cache(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("no folder")
    store = filled(tmp_path / "file" / "store")
    filled(tmp_path / "file" / "store")
    assert store.read(np.arange(COUNT)) is None
    assert not store.has(np.arange(COUNT)).any()
    store.write(np.arange(4), made(np.arange(4)), np.ones(4, bool))
    assert sum("what is encoded is not kept while that is so" in line for line in caplog.messages) == 2  # once a store


def limited_write(folder: str, most_bytes: int) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, most_bytes))
    store = filled(Path(folder))
    print(int(store.has(np.arange(COUNT)).sum()), flush=True)


def test_a_full_disk_costs_nothing_but_the_cache(tmp_path: Path) -> None:
    code = f"from tests.data.caches.test_encoded import limited_write; limited_write({str(tmp_path)!r}, 1000)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, "0\n"), done.stderr
    assert "File too large" in done.stderr
    assert filled(tmp_path).read(np.arange(COUNT)) is not None


def write_and_wait(folder: Path) -> None:
    samples = np.arange(COUNT)
    batch = {"code": (torch.from_numpy(samples)[:, None] + torch.zeros(1, 100_000)).half()}
    EncodedStore(folder, COUNT, 16).write(samples, batch, np.ones(COUNT, bool))
    time.sleep(1000)


def test_kills_while_writing_leave_nothing_wrong(tmp_path: Path) -> None:
    for least in range(1, COUNT, 3):
        store = EncodedStore(tmp_path / str(least), COUNT, 16)
        process = FORK.Process(target=write_and_wait, args=(store.folder,))
        process.start()
        wait_until(lambda store=store, least=least: store.has(np.arange(COUNT)).sum() >= least)
        process.kill()
        process.join()
        found = [store.read(np.array([sample])) for sample in range(COUNT)]
        assert sum(one is not None for one in found) >= least - 1  # all but the one that was being written
        assert all((one["code"] == float(sample)).all() for sample, one in enumerate(found) if one is not None)


def write_beside(folder: Path, number: int) -> None:
    rng = np.random.default_rng(number)
    store = EncodedStore(folder, COUNT, 16)
    for _ in range(50):
        samples = rng.permutation(COUNT)[:16]
        store.write(samples, made(samples), np.ones(16, bool))
        if (found := store.read(samples)) is not None:
            assert torch.equal(found["code"], made(samples)["code"])
    assert store.read(samples) is not None


def test_processes_write_and_read_beside_each_other(tmp_path: Path) -> None:
    processes = [FORK.Process(target=write_beside, args=(tmp_path, number)) for number in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0, 0, 0]


class Mean:
    """A transform that counts as an encoder: the mean of a picture."""

    image_size = 8
    fields = ("image", "label")

    def __call__(self, samples: Samples) -> Batch:
        return {"mean": torch.tensor([image.mean() for image in samples.fields["image"]]).half()}


def source_with_a_broken_sample(folder: Path, readers: int) -> ShardSource:
    write_set(folder, COUNT - 1)
    broken = pair(COUNT - 1)
    png = bytearray(broken[0][1])
    png[-20:] = bytes(20)  # its header is good, so the index takes it
    write_tar(folder / "99999.tar", [(broken[0][0], bytes(png)), *broken[1:]])
    return open_source(DataConfig(train=str(folder), readers=readers, max_failed=0.5))


def epochs(source: ShardSource, store: EncodedStore, *, keep: bool) -> list[Batch]:
    """Two epochs' batches; those that were decoded are kept."""
    found = []
    for batch in source.batches("train", 8, transform=Mean(), stored=pickle.loads(pickle.dumps(store))):
        if keep and "encoded" not in batch:
            store.write(batch["sample"].numpy(), {"mean": batch["mean"]}, batch["valid"].numpy())
        found.append({name: value.clone() for name, value in batch.items()})
        if len(found) == 10:
            return found
    raise AssertionError


@pytest.mark.parametrize("readers", [0, 1])
def test_a_source_reads_what_is_there_and_decodes_the_rest(tmp_path: Path, readers: int) -> None:
    source = source_with_a_broken_sample(tmp_path / "set", readers)
    store = source.encoded("identity", str(tmp_path / "encoded"))
    assert store.folder == tmp_path / "encoded" / "identity"
    plain = epochs(source, store, keep=False)
    first, later = epochs(source, store, keep=True), epochs(source, store, keep=False)
    assert not any("encoded" in batch for batch in plain + first[:5])
    assert all("encoded" in batch for batch in later)  # the sample that fails does not stand in the way
    for one, other in zip(plain, later, strict=True):
        good = one["valid"]
        assert torch.equal(one["mean"][good], other["mean"][good])
        assert all(torch.equal(one[name], other[name]) for name in ("position", "sample", "valid"))
    assert sum(int((~batch["valid"]).sum()) for batch in later) == 2
    assert not store.has(np.array([COUNT - 1]))[0]


def test_a_source_gives_chosen_samples_once(tmp_path: Path) -> None:
    source = open_source(DataConfig(train=str(write_set(tmp_path, COUNT))))
    wanted = np.array([3, 1, 30, 12, 5])
    batches = list(source.once(wanted, 2, Mean()))
    assert [len(batch["valid"]) for batch in batches] == [2, 2, 1]
    assert torch.cat([batch["sample"] for batch in batches]).tolist() == wanted.tolist()
    assert torch.cat([batch["mean"] for batch in batches]).tolist() == wanted.tolist()


def test_layout_is_json(tmp_path: Path) -> None:
    filled(tmp_path)
    (path,) = tmp_path.glob("*.json")
    assert json.loads(path.read_text()) == [["code", "float16", [2, 3]], ["good", "bool", []], ["label", "int64", []]]
