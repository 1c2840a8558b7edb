"""Any damage to a tar: what it did not touch survives with the same bytes, nothing is invented, nothing is raised, nothing hangs."""

import json
import random
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from genlib.config import DataConfig
from genlib.data.codecs.decode import BadSample, decode_json, decode_label, decode_text
from genlib.data.codecs.image_header import image_header
from genlib.data.codecs.images import decode_image
from genlib.data.index import tar
from genlib.data.shards.shard_set import ShardSet
from genlib.data.source import open_source
from tests.data.hostile_images import encoded
from tests.data.index.mutation import BLOCK, IN_PLACE, TARS, mutant, plain_reading, sound, untouched
from tests.data.shards import pair, tar_bytes

FAST, MANY = range(400), range(400, 20_000)
SIZES = [("fast", FAST), pytest.param("many", MANY, marks=pytest.mark.slow)]
CPU_SECONDS = 120  # of what takes one: a bound against hanging


@pytest.fixture(autouse=True)
def _no_hang(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    def stop(*_: object) -> None:
        raise TimeoutError(f"no end after {CPU_SECONDS} s of work")

    monkeypatch.setenv("GENLIB_CACHE", str(tmp_path / "cache"))
    before = signal.signal(signal.SIGVTALRM, stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, CPU_SECONDS)
    yield
    signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    signal.signal(signal.SIGVTALRM, before)


def found(data: bytes) -> list[tuple[bytes, int, int]]:
    """Whole members that our parser finds."""
    members = tar.scan(data)
    return [member for member in zip(members.names, members.offsets, members.sizes, strict=True) if member[1] + member[2] <= len(data)]


@pytest.mark.parametrize(("size", "seeds"), SIZES)
def test_what_damage_did_not_touch_survives(size: str, seeds: range) -> None:
    for seed in seeds:
        name, data = mutant(seed)
        members = found(data)
        missing = [piece.name for piece, shift in untouched(name, data) if (piece.name, piece.offset + shift, piece.size) not in members]
        assert not missing, f"seed {seed}, {name}"


@pytest.mark.parametrize(("size", "seeds"), SIZES)
def test_nothing_is_invented(size: str, seeds: range) -> None:
    for seed in seeds:
        name, data = mutant(seed)
        plain = {(piece.offset, piece.size) for piece in plain_reading(data)}
        for _, offset, length in found(data):
            assert sound(data[offset - BLOCK : offset]), f"seed {seed}, {name}"
            assert (offset, length) in plain, f"seed {seed}, {name}"


@pytest.mark.parametrize(("size", "seeds"), SIZES)
def test_no_member_goes_by_another_name(size: str, seeds: range) -> None:
    """A header that names the next member may be lost; then so is the member, whose own header has but a part of the name.

    The text of such a header has no checksum, and two flips may leave another one true: where names were touched nobody can tell.
    """
    for seed in seeds:
        name, data = mutant(seed, IN_PLACE)
        good = {piece.offset: piece for piece in plain_reading(TARS[name])}
        for member, offset, _ in found(data):
            start = good[offset].first * BLOCK
            names = slice(min(start + BLOCK, offset - BLOCK), offset)
            if data[names] == TARS[name][names]:
                assert member == good[offset].name, f"seed {seed}, {name}"


@pytest.mark.parametrize(("size", "seeds"), [("fast", FAST[::8]), pytest.param("many", MANY[::8], marks=pytest.mark.slow)])
def test_samples_are_whole_and_counted(tmp_path: Path, size: str, seeds: range) -> None:
    path = tmp_path / "0.tar"
    for seed in seeds:
        name, data = mutant(seed)
        path.write_bytes(data)
        samples = ShardSet.open([path])
        index, rows = samples.rows(0)
        columns = {
            column: extension for extension, column in zip(("png", "txt", "cls"), map(index.fields.get, ("image", "text", "label")), strict=True)
        }
        got = {
            index.key(row): {columns[c]: data[start : start + length] for c, (start, length) in enumerate(index.spans[row].tolist())}
            for row in rows.tolist()
        }
        assert len(got) == len(samples)
        once = Counter(member for member, _, _ in found(data))
        intact: dict[str, dict[str, bytes]] = {}
        for piece, shift in untouched(name, data):
            key, _, extension = piece.name.decode().rpartition(".")
            if once[piece.name] == 1:
                intact.setdefault(key, {})[extension] = data[piece.offset + shift : piece.offset + shift + piece.size]
        for key, members in intact.items():
            if len(members) == 3 and samples.fields == ["image", "label", "text"]:
                assert got[key] == members, f"seed {seed}, {name}"
        lost = len(TARS[name]) != len(data) or data[: len(TARS[name])] != TARS[name]
        if len(samples) < len(plain_reading(TARS[name])) // 3:
            assert lost
            assert samples.bad, f"seed {seed}, {name}: samples are gone without a word"


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp"])
def test_damaged_images_are_read_or_refused(kind: str) -> None:
    whole = encoded(kind, 24)
    for seed in range(400):
        rng = random.Random(seed)
        data = bytearray(whole)
        for _ in range(rng.choice([0, 1, 3, 30])):
            data[rng.randrange(len(data))] = rng.randrange(256)
        data = bytes(data[: rng.choice([len(data), rng.randrange(len(data))])])
        try:
            header = image_header(data)
            image = decode_image(data, rng.choice([1, 3, 4]), rng.choice([0, 8]))
        except BadSample:
            continue
        assert image.shape[0] <= header.height
        assert image.shape[1] <= header.width


@pytest.mark.parametrize("decode", [decode_json, decode_text, decode_label])
def test_damaged_words_are_read_or_refused(decode) -> None:
    whole = {decode_json: json.dumps({"é": [1.5, None, {"a": "b"}] * 3, "n": 10**30}).encode(), decode_text: "café ☕".encode(), decode_label: b"12"}[
        decode
    ]
    for seed in range(2000):
        rng = random.Random(seed)
        data = bytearray(whole)
        for _ in range(rng.choice([1, 2, 5])):
            data[rng.randrange(len(data))] = rng.randrange(256)
        try:
            value = decode(bytes(data[: rng.randrange(len(data) + 1)]))
        except BadSample:
            continue
        assert isinstance(value, {decode_json: dict, decode_text: str, decode_label: int}[decode])


def test_a_mutated_shard_can_be_trained_on(tmp_path: Path) -> None:
    (tmp_path / "good.tar").write_bytes(tar_bytes(pair(0)))
    for seed in range(0, 60, 3):
        (tmp_path / f"{seed}.tar").write_bytes(mutant(seed)[1])
    source = open_source(DataConfig(train=str(tmp_path), image_size=8, cache_mb=0, max_failed=1.0))
    count = source.num_samples("train")
    assert count > 60
    batch = next(source.batches("train", count))
    assert batch["image"].shape == (count, 3, 8, 8)
    assert batch["valid"].sum().item() + source.failures.total() == count
