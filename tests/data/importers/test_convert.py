"""Parts of a conversion: in the input's order, whole or absent, the same whenever they are written."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from genlib.data.codecs.decode import BadSample
from genlib.data.codecs.encode import SkippedSample
from genlib.data.importers.convert import (
    ConversionInput,
    ConversionPlan,
    InputPart,
    RawSample,
    finished,
    is_held_out,
    members,
    part_samples,
    write_part,
)
from genlib.data.shards.shard_set import ShardSet
from tests.data.shards import picture


def write(path: Path, content: bytes | str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def stored(folder: Path) -> dict[str, dict[str, dict[str, bytes]]]:
    """Members by shard, key and extension, read with the standard library."""
    found: dict[str, dict[str, dict[str, bytes]]] = {}
    for path in sorted(folder.glob("*.tar")):
        shard = found.setdefault(path.name, {})
        with tarfile.open(path) as tar:
            for member in tar:
                key, _, extension = member.name.partition(".")
                content = tar.extractfile(member)
                assert content is not None
                shard.setdefault(key, {})[extension] = content.read()
    return found


def test_files_that_cannot_be_read_say_why(tmp_path: Path) -> None:
    write(tmp_path / "dir" / "a", b"")
    for path, reason in ((tmp_path / "b.png", "missing image"), (tmp_path / "dir", "image is no file"), (Path("/dev/zero"), "image is no file")):
        with pytest.raises(SkippedSample, match=f"^{reason}$"):
            members(RawSample("x", path))
    with pytest.raises(SkippedSample, match=r"^missing image$"):
        members(RawSample("x", tmp_path / "dir" / "a" / "c.png"))
    with pytest.raises(SkippedSample, match=r"^unreadable image$"):
        members(RawSample("x", tmp_path / "nul\0"))
    good = picture()
    wrong = [(" \n", None, "missing caption"), (b"\xff", None, "non-UTF-8"), ("x\udcff", None, "non-UTF-8"), ("x", -1, "missing label")]
    for caption, label, reason in wrong:
        with pytest.raises(BadSample, match=f"^{reason}$"):
            members(RawSample("x", good, caption, label))
    assert members(RawSample("x", good, " höre\n", "007")) == {"png": good, "txt": "höre".encode(), "cls": b"7"}


def test_held_out_is_drawn_from_the_name_alone() -> None:
    chosen = [name for name in map(str, range(20_000)) if is_held_out(name, 0.1)]
    assert abs(len(chosen) / 20_000 - 0.1) < 0.01
    assert {name for name in map(str, range(20_000)) if is_held_out(name, 0.02)} < set(chosen)
    assert not is_held_out("x", 0.0)


def plain(count: int) -> ConversionInput:
    """`count` small samples, every tenth one bad."""
    return ConversionInput(
        read=_plain,
        cut=lambda size: [range(at, min(at + size, count)) for at in range(0, count, size)],
        few=lambda number: _plain(range(min(number, count))),
        identity={"count": count},
    )


def _plain(numbers: range) -> Iterator[RawSample]:
    for number in numbers:
        yield RawSample(f"n{number}", picture(number % 256) if number % 10 else b"broken", f"number {number}")


def test_parts_join_to_the_input_in_its_order(tmp_path: Path) -> None:
    source = plain(95)
    plan = ConversionPlan(out=tmp_path, read=source.read, shard_bytes=1000, validation_share=0.2)
    records = [write_part(plan, InputPart(number, content)) for number, content in enumerate(source.cut(40))]
    assert [record.bad for record in records] == [{"not an image": 4}, {"not an image": 4}, {"not an image": 2}]
    shards = stored(tmp_path)
    for split in ("train", "validation"):
        told = [int(sample["txt"].split()[1]) for name, shard in shards.items() if name.startswith(split) for sample in shard.values()]
        expected = [number for number in range(95) if number % 10 and is_held_out(f"n{number}", 0.2) == (split == "validation")]
        assert told == expected
    assert len([name for name in shards if name.startswith("train-00000-")]) == 3
    assert max(sum(len(data) for sample in shard.values() for data in sample.values()) for shard in shards.values()) < 1100
    found = ShardSet.open(sorted(tmp_path.glob("train-*.tar")))
    assert (len(found), found.bad.total()) == (sum(record.samples["train"] for record in records), 0)


def test_a_part_is_written_again_the_same_and_known_when_whole(tmp_path: Path) -> None:
    plan = ConversionPlan(out=tmp_path, read=_plain, shard_bytes=1000)
    assert finished(tmp_path, 3) is None
    record = write_part(plan, InputPart(3, range(30)))
    assert finished(tmp_path, 3) == record
    before = {path.name: path.read_bytes() for path in tmp_path.glob("*.tar")}
    next(iter(tmp_path.glob("*.tar"))).write_bytes(b"cut")
    assert finished(tmp_path, 3) is None
    write_part(plan, InputPart(3, range(30)))
    assert {path.name: path.read_bytes() for path in tmp_path.glob("*.tar")} == before


def test_a_part_whose_input_fails_leaves_nothing(tmp_path: Path) -> None:
    def failing(numbers: range) -> Iterator[RawSample]:
        yield from _plain(numbers)
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        write_part(ConversionPlan(out=tmp_path, read=failing, shard_bytes=1000), InputPart(0, range(30)))
    assert list(tmp_path.iterdir()) == []


def test_parts_are_as_large_as_a_shard() -> None:
    size = sum(len(data) for data in members(RawSample("x", picture(), "number 10")).values())
    assert part_samples(plain(1000), 0, 1000 * size) == pytest.approx(850, rel=0.1)
    assert part_samples(plain(1000), 0, 1) == 1
    assert part_samples(plain(0), 0, 1 << 40) == 65_536
