"""What was encoded is a data set of shards: in the order of the original, whole or absent, and what is damaged, cut or foreign counts as missing."""

from __future__ import annotations

import multiprocessing
import os
import resource
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from genlib.config import DataConfig
from genlib.data import encoded_set
from genlib.data.encoded_set import EncodedShards
from genlib.data.source import ShardSource, open_source
from genlib.types import Batch, Samples, UnreadableSample
from tests.data.shards import pair, write_set, write_tar
from tests.jobs.runs import wait_until

COUNT, PER_SHARD = 40, 16
FORK = multiprocessing.get_context("fork")


class Mean:
    """A transform that counts as an encoder: the mean of a picture, and values of other types and shapes."""

    image_size = 8
    fields = ("image", "label")

    def __call__(self, samples: Samples) -> Batch:
        mean = torch.tensor([image.mean() for image in samples.fields["image"]])
        return {
            "mean": mean.half(),
            "label": torch.tensor(samples.fields["label"]),
            "wide": mean.view(-1, 1, 1).expand(-1, 2, 3).half(),
            "odd": mean % 2 == 1,
        }


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoded_set, "SHARD_SAMPLES", PER_SHARD)


@pytest.fixture
def source(tmp_path: Path) -> ShardSource:
    return open_source(DataConfig(train=str(write_set(tmp_path / "set", COUNT))))


def fill(kept: EncodedShards, shards: list[int] | None = None) -> EncodedShards:
    shards = kept.missing() if shards is None else shards
    made = kept.decoded(shards, 6, Mean())
    for shard in shards:
        kept.write(shard, made)
    return kept


def encoded(source: ShardSource, folder: Path) -> EncodedShards:
    return source.encoded_set("identity", str(folder / "encoded"))


def epochs(source: ShardSource, **options: object) -> list[Batch]:
    """Two epochs' batches."""
    found: list[Batch] = []
    batches: Iterator[Batch] = source.batches("train", 8, transform=Mean(), **options)  # type: ignore[arg-type]
    while len(found) < 10:
        found.append({name: value.clone() for name, value in next(batches).items()})
    return found


def test_a_source_reads_what_was_encoded_in_the_order_of_the_original(source: ShardSource, tmp_path: Path) -> None:
    kept = encoded(source, tmp_path)
    assert kept.folder == tmp_path / "encoded" / "identity"
    assert kept.missing() == [0, 1, 2]
    found = fill(kept).source()
    assert kept.missing() == []
    assert found.spec is source.spec
    assert found.keys("train", [3, 50], 8, seed=2) == source.keys("train", [3, 50], 8, seed=2)
    plain = epochs(source, seed=2)
    with_readers = encoded(open_source(DataConfig(train=str(tmp_path / "set"), readers=1)), tmp_path)
    for one in (found, with_readers.source()):
        for batch, other in zip(plain, epochs(one, seed=2), strict=True):
            assert batch.keys() == other.keys()
            for name, value in batch.items():
                assert other[name].dtype == value.dtype
                assert torch.equal(other[name], value)


def with_a_broken_sample(folder: Path) -> ShardSource:
    write_set(folder, COUNT - 1)
    broken = pair(COUNT - 1)
    png = bytearray(broken[0][1])
    png[-20:] = bytes(20)  # its header is good, so the index takes it
    write_tar(folder / "99999.tar", [(broken[0][0], bytes(png)), *broken[1:]])
    return open_source(DataConfig(train=str(folder), max_failed=0.5))


def test_a_sample_that_cannot_be_decoded_stays_invalid_and_is_counted(tmp_path: Path) -> None:
    source = with_a_broken_sample(tmp_path / "set")
    found = fill(encoded(source, tmp_path)).source()
    assert source.failures == {"undecodable": 1}
    plain, later = epochs(source), epochs(found)
    for one, other in zip(plain, later, strict=True):
        assert torch.equal(one["valid"], other["valid"])
        assert torch.equal(one["mean"][one["valid"]], other["mean"][one["valid"]])
    assert sum(int((~batch["valid"]).sum()) for batch in later) == 2
    assert isinstance(found, ShardSource)
    assert found.failures == {"undecodable": 2}
    assert "failed" not in later[0]


def test_a_sample_that_may_be_read_another_time_is_not_kept_as_bad(source: ShardSource, tmp_path: Path) -> None:
    kept = encoded(source, tmp_path)
    shutil.move(tmp_path / "set" / "00001.tar", tmp_path / "away")
    with pytest.raises(UnreadableSample, match=r"sample 00001:00010 of .*00001.tar cannot be read \(unreadable shard\); bring it back"):
        fill(kept)
    assert kept.missing() == [0, 1, 2]
    assert not list(kept.folder.glob(".*.part"))
    shutil.move(tmp_path / "away", tmp_path / "set" / "00001.tar")
    fill(encoded(open_source(DataConfig(train=str(tmp_path / "set"))), tmp_path))


def bytes_of(kept: EncodedShards) -> list[bytes]:
    return [path.read_bytes() for path in sorted(kept.folder.glob("*.tar"))]


def flip(path: Path, other: Path) -> None:
    data = bytearray(path.read_bytes())
    data[1600] ^= 1
    path.write_bytes(data)


def flip_unseen(path: Path, other: Path) -> None:
    """With the times of before, as a disk does it."""
    status = path.stat()
    flip(path, other)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


DAMAGE = {
    "a bit": flip,
    "a bit of old times": flip_unseen,
    "cut": lambda path, other: os.truncate(path, path.stat().st_size - 2000),
    "empty": lambda path, other: os.truncate(path, 0),
    "gone": lambda path, other: path.unlink(),
    "without an index": lambda path, other: path.with_name(f"{path.name}.idx").unlink(),
    "another shard": lambda path, other: [shutil.copy(f"{other}{end}", f"{path}{end}") for end in ("", ".idx")],
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_shard_that_is_not_whole_is_made_again(source: ShardSource, tmp_path: Path, damage: str) -> None:
    kept = fill(encoded(source, tmp_path))
    before = bytes_of(kept)
    DAMAGE[damage](kept.path(1), kept.path(0))
    assert kept.missing() == [1]
    fill(kept)
    assert kept.missing() == []
    assert bytes_of(kept) == before


def test_another_sets_shard_is_foreign_and_a_copy_is_not(source: ShardSource, tmp_path: Path) -> None:
    kept = fill(encoded(source, tmp_path))
    other = source.encoded_set("other", str(tmp_path / "encoded"))
    shutil.copytree(kept.folder, other.folder)
    assert other.missing() == [0, 1, 2]
    moved = source.encoded_set("identity", str(tmp_path / "elsewhere"))
    shutil.copytree(kept.folder, moved.folder, copy_function=shutil.copyfile)  # with new times
    assert moved.missing() == []


def test_damage_while_a_run_reads_names_the_file(source: ShardSource, tmp_path: Path) -> None:
    kept = fill(encoded(source, tmp_path))
    found = kept.source()
    flip(kept.path(1), kept.path(0))
    with pytest.raises(ValueError, match=rf"{kept.path(1)} was damaged or lost .*identity-000000\d\d.*; delete it and run again"):
        epochs(found)


def test_what_cannot_be_kept_is_said(source: ShardSource, tmp_path: Path) -> None:
    kept = encoded(source, tmp_path)
    facts = {"sample": torch.arange(16), "failed": torch.zeros(16, dtype=torch.uint8)}
    for made, words in (
        ({"Code": torch.ones(16)}, "'Code' is no name of at most 24 of a-z, 0-9 and _"),
        ({"code": torch.ones(16, *[1] * 6)}, "reads as .*bad array.*16"),
    ):
        with pytest.raises(ValueError, match=f"what the task's encode returns cannot be kept: .*{words}"):
            kept.write(0, iter([{**made, **facts}]))


def test_a_shard_that_is_whole_meanwhile_stays(source: ShardSource, tmp_path: Path) -> None:
    kept = encoded(source, tmp_path)
    made = kept.decoded([0], 16, Mean())
    fill(encoded(source, tmp_path), [0])
    before = kept.path(0).stat().st_ino
    kept.write(0, made)
    assert kept.path(0).stat().st_ino == before
    assert not list(kept.folder.glob(".*.part"))


def test_the_disk_keeps_room_for_checkpoints(source: ShardSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = encoded(source, tmp_path)
    monkeypatch.setattr(kept, "free_bytes", lambda: 10**9)
    with pytest.raises(OSError, match="less than 1 GB of the disk is free"):
        fill(kept)


def write_with_limit(kept: EncodedShards, most_bytes: int) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, most_bytes))
    with pytest.raises(OSError, match="File too large"):
        fill(kept)


def test_a_disk_that_is_full_leaves_nothing_half(source: ShardSource, tmp_path: Path) -> None:
    kept = encoded(source, tmp_path)
    process = FORK.Process(target=write_with_limit, args=(kept, 20_000))
    process.start()
    process.join(60)
    assert process.exitcode == 0
    assert list(kept.folder.iterdir()) == []


def write_slowly(kept: EncodedShards) -> None:
    def made() -> Iterator[Batch]:
        for number, batch in enumerate(kept.decoded([0, 1, 2], 4, Mean())):
            yield batch
            (kept.folder.parent / str(number)).touch()
            time.sleep(0.05)

    batches = made()
    for shard in range(3):
        kept.write(shard, batches)


def test_a_kill_leaves_whole_shards_and_the_next_one_goes_on(source: ShardSource, tmp_path: Path) -> None:
    whole = bytes_of(fill(source.encoded_set("identity", str(tmp_path / "whole"))))
    for number in range(1, 9, 2):
        kept = source.encoded_set("identity", str(tmp_path / f"encoded-{number}"))
        kept.folder.parent.mkdir()
        process = FORK.Process(target=write_slowly, args=(kept,))
        process.start()
        wait_until((kept.folder.parent / str(number)).exists)
        process.kill()
        process.join()
        assert len(kept.missing()) == 3 - (number + 1) // 4 or number % 4 == 3  # there it may be killed just before the shard gets its name
        assert list(kept.folder.glob(".*.part")) or number % 4 == 3
        assert bytes_of(fill(kept)) == whole
        assert not list(kept.folder.glob(".*.part"))


def test_a_trial_measures_and_leaves_nothing(source: ShardSource, tmp_path: Path) -> None:
    kept = encoded(source, tmp_path)
    write, read, size = kept.trial(list(kept.decoded([0], 6, Mean())))
    assert read > 0
    assert write > 0
    assert 5 * 512 < size < 12 * 1024
    assert list((tmp_path / "encoded").iterdir()) == []


def test_a_source_gives_chosen_samples_once(source: ShardSource) -> None:
    wanted = np.array([3, 1, 30, 12, 5])
    batches = list(source.once([wanted, wanted[:1]], 2, Mean()))
    assert [len(batch["valid"]) for batch in batches] == [2, 2, 1, 1]
    assert torch.cat([batch["sample"] for batch in batches]).tolist() == [*wanted, 3]
    assert torch.cat([batch["mean"] for batch in batches]).tolist() == [*wanted, 3]
