"""Batches: exactly once an epoch for every world size and any restart, slices of one sequence, failures kept in their places."""

import itertools
import json
import logging
import os
import pickle
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from genlib.config import DataConfig
from genlib.data.reading.reader import SampleReader
from genlib.data.shards.discovery import find_shards
from genlib.data.shards.shard_set import ShardSet
from genlib.data.source import ShardSource, open_source
from genlib.data.transforms.augment import ImageAugmentation, Views
from genlib.types import Batch
from tests.data.shards import pair, picture, write_set, write_tar

NUM_SAMPLES = 23


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> ShardSource:
    folder = tmp_path_factory.mktemp("shards")
    write_set(folder, NUM_SAMPLES, prefix="train-")
    write_set(folder, 7, prefix="validation-")
    return open_source(DataConfig(train=str(folder)))


def take(source: ShardSource, count: int, size: int, split: str = "train", **where) -> list[Batch]:
    return list(itertools.islice(source.batches(split, size, **where), count))


def labels(batches: list[Batch]) -> list[int]:
    """Labels of the rows that count."""
    return [label for batch in batches for label in batch["label"][batch["valid"]].tolist()]


def together(source: ShardSource, count: int, size: int, world: int, **where) -> list[list[int]]:
    """Labels of each global batch, put together from all ranks."""
    ranks = [take(source, count, size, rank=rank, world=world, **where) for rank in range(world)]
    return [labels([batches[number] for batches in ranks]) for number in range(count)]


def test_spec_says_what_the_shards_hold(source: ShardSource) -> None:
    spec = source.spec
    assert (spec.channels, spec.image_size, spec.num_samples, spec.has_captions) == (3, 8, NUM_SAMPLES, True)
    assert spec.class_names == tuple(str(label) for label in range(NUM_SAMPLES))
    assert source.splits == ("train", "validation")
    assert spec.validation_name == "validation"


@pytest.mark.parametrize("world", [1, 2, 3, 4])
def test_each_sample_once_an_epoch_for_any_world(source: ShardSource, world: int) -> None:
    size, epochs = 5, 5
    seen = list(itertools.chain(*together(source, NUM_SAMPLES * epochs // size, size, world, seed=3)))
    for epoch in range(epochs):
        assert Counter(seen[epoch * NUM_SAMPLES : (epoch + 1) * NUM_SAMPLES]) == Counter(range(NUM_SAMPLES))


@settings(max_examples=40, deadline=None)
@given(size=st.integers(1, 30), world=st.integers(1, 5), start=st.integers(0, 10**12), seed=st.integers(0, 99))
def test_world_size_never_changes_a_global_batch(source: ShardSource, size: int, world: int, start: int, seed: int) -> None:
    assert together(source, 2, size, world, seed=seed, start=start) == together(source, 2, size, 1, seed=seed, start=start)


@settings(max_examples=25, deadline=None)
@given(cuts=st.lists(st.tuples(st.integers(1, 6), st.integers(1, 4)), min_size=2, max_size=5))
def test_restarts_in_other_worlds_go_on_exactly(source: ShardSource, cuts: list[tuple[int, int]]) -> None:
    size, start, seen = 6, 0, []
    for steps, world in cuts:
        seen += together(source, steps, size, world, seed=1, start=start)
        start += steps * size
    assert seen == together(source, len(seen), size, 1, seed=1)


def test_every_rank_has_equally_many_rows_and_true_positions(source: ShardSource) -> None:
    ranks = [take(source, 1, 10, rank=rank, world=4, start=100)[0] for rank in range(4)]
    assert [batch["valid"].tolist() for batch in ranks] == [[1, 1, 1], [1, 1, 1], [1, 1, 1], [1, 0, 0]]
    assert torch.cat([batch["position"] for batch in ranks]).tolist() == [*range(100, 110), 109, 109]
    assert all(batch["image"].shape == (3, 3, 8, 8) and batch["image"].dtype == torch.float32 for batch in ranks)


def test_pixels_labels_and_names_belong_together(source: ShardSource) -> None:
    batch = take(source, 1, NUM_SAMPLES, seed=5, start=40)[0]
    assert torch.equal((batch["image"][:, 0, 0, 0] * 255).round().long(), batch["label"])
    names = source.keys("train", batch["position"].tolist(), len(batch["position"]), seed=5)
    assert names == [f"train-{label // 10:05d}:{label:05d}" for label in batch["label"].tolist()]


def test_validation_is_one_pass_in_stored_order(source: ShardSource) -> None:
    assert together(source, 2, 4, 3, split="validation") == [[0, 1, 2, 3], [4, 5, 6]]
    assert len(list(source.batches("validation", 4))) == 2
    assert list(source.captions("validation", 2)) == ["picture 0", "picture 1"]
    assert len(list(source.captions("train", 100))) == NUM_SAMPLES


def test_a_split_that_is_not_there_is_empty(tmp_path: Path) -> None:
    source = open_source(DataConfig(train=str(write_set(tmp_path, 5))))
    assert list(source.batches("validation", 4)) == []
    assert list(source.captions("validation", 4)) == []
    with pytest.raises(ValueError, match="split 'test'"):
        source.batches("test", 4)


def cut_png() -> bytes:
    """A PNG whose header is sound and whose pixels are cut off."""
    return picture(7)[:45]


def test_a_failing_sample_keeps_its_place_and_is_not_valid(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    bad = [("00001.png", cut_png()), ("00001.txt", b"cut"), ("00001.cls", b"1")]
    write_tar(tmp_path / "0.tar", [*pair(0), *bad, *pair(2)])
    source = open_source(DataConfig(train=str(tmp_path)))
    assert source.spec.num_samples == 3
    with caplog.at_level(logging.WARNING):
        batches = take(source, 4, 3)
    assert [batch["valid"].sum().item() for batch in batches] == [2, 2, 2, 2]
    failed = ~batches[0]["valid"]
    assert batches[0]["image"][failed].abs().max() == 0
    assert source.failures == {"undecodable": 4}
    assert caplog.text.count("0:00001") == 1


def test_the_cache_is_bounded_and_changes_nothing(tmp_path: Path) -> None:
    where = str(write_set(tmp_path, 20))
    cached, plain = open_source(DataConfig(train=where)), open_source(DataConfig(train=where, cache_mb=0))
    for warm, cold in zip(take(cached, 12, 5), take(plain, 12, 5), strict=True):
        assert all(torch.equal(warm[name], cold[name]) for name in warm)
    reader = SampleReader(ShardSet.open(find_shards(where)), cache_bytes=10_000)
    reader.read(np.arange(20), ("image", "text"))
    assert 0 < sum(row[1].nbytes for row in reader._cache.values()) < 10_000
    assert 0 <= reader._cache_left < 10_000


def test_labels_may_lie_in_json(tmp_path: Path) -> None:
    write_tar(tmp_path / "0.tar", [("a.png", picture(1)), ("a.json", b'{"label": 4}'), ("b.png", picture(2)), ("b.json", b'{"label": 5}')])
    batch = take(open_source(DataConfig(train=str(tmp_path))), 1, 2)[0]
    assert sorted(batch["label"].tolist()) == [4, 5]


def test_class_names_come_from_the_writer(tmp_path: Path) -> None:
    write_set(tmp_path, 3)
    (tmp_path / "dataset.json").write_text(json.dumps({"class_names": ["cat", "dog", "owl"]}))
    assert open_source(DataConfig(train=str(tmp_path))).spec.class_names == ("cat", "dog", "owl")


def test_images_of_many_sizes_need_one(tmp_path: Path) -> None:
    write_tar(tmp_path / "0.tar", [*pair(0, size=8), *pair(1, size=16)])
    with pytest.raises(ValueError, match=r"--data\.image-size"):
        take(open_source(DataConfig(train=str(tmp_path))), 1, 2)
    source = open_source(DataConfig(train=str(tmp_path), image_size=12))
    assert source.spec.image_size == 12
    assert take(source, 1, 2)[0]["image"].shape == (2, 3, 12, 12)


class OnlyText:
    """A transform that needs captions alone."""

    image_size = 0
    fields = ("text",)

    def __call__(self, samples) -> Batch:
        assert list(samples.fields) == ["text"]
        return {"length": torch.tensor([len(text) for text in samples.fields["text"]])}


def test_a_transform_reads_only_the_fields_it_names(source: ShardSource) -> None:
    batch = take(source, 1, 4, transform=OnlyText())[0]
    assert set(batch) == {"length", "position", "sample", "valid"}


def test_a_shard_that_changes_under_a_reader_costs_its_samples_and_stops_the_run_that_reads_on(tmp_path: Path) -> None:
    source = open_source(DataConfig(train=str(write_set(tmp_path, 10)), cache_mb=0))
    write_set(tmp_path, 5)
    batches = source.batches("train", 10)
    batch = next(batches)
    assert batch["label"][batch["valid"]].tolist() == [label for label in batch["sample"].tolist() if label < 5]
    assert source.failures == {"changed since it was indexed": 5}
    with pytest.raises(ValueError, match=r"changed since it was indexed 25.* of .*00000.tar.* begin a new run, which indexes them") as caught:
        list(batches)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        (DataConfig(), "data.train is empty"),
        (DataConfig(train="/nowhere/at/all"), "there are no shards"),
        (DataConfig(train="/nowhere/{00..09}.tar"), "there are no shards"),
        (DataConfig(train="/nowhere/{00..09.tar"), "a brace is not closed"),
        (DataConfig(train="icon"), "Did you mean 'icons'"),
    ],
)
def test_wrong_places_get_a_sentence(config: DataConfig, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence) as caught:
        open_source(config)
    assert "\n" not in str(caught.value)


def test_nothing_usable_and_no_captions_get_a_sentence(tmp_path: Path) -> None:
    write_tar(tmp_path / "bad" / "0.tar", [("a.png", b"no image")])
    with pytest.raises(ValueError, match="no usable sample; dropped: undecodable header 1"):
        open_source(DataConfig(train=str(tmp_path / "bad")))
    write_tar(tmp_path / "mute" / "0.tar", [("a.png", picture())])
    source = open_source(DataConfig(train=str(tmp_path / "mute")))
    source.require("image")
    with pytest.raises(ValueError, match=r"no sample has a caption \(.txt member\)"):
        source.require("text")


def test_more_failures_than_allowed_stop_the_run_with_a_sentence(tmp_path: Path) -> None:
    entries = [entry for n in range(40) for entry in (pair(n) if n % 2 else [(f"{n:05d}.png", cut_png()), *pair(n)[1:]])]
    write_tar(tmp_path / "0.tar", entries)
    with pytest.raises(ValueError, match=r"2[0-9] of the [0-9]+ samples read could not be decoded \(undecodable 2[0-9]\), the last 0:000"):
        take(open_source(DataConfig(train=str(tmp_path))), 20, 8)
    take(open_source(DataConfig(train=str(tmp_path), max_failed=0.6)), 20, 8)


@pytest.mark.parametrize("readers", [1, 3])
def test_reader_processes_change_nothing(tmp_path: Path, readers: int) -> None:
    """Also with a sample that fails, a transform of one's own, a start in the middle and a world of two."""
    bad = [("00100.png", cut_png()), ("00100.txt", b"cut"), ("00100.cls", b"100")]
    write_tar(tmp_path / "0.tar", [*[entry for n in range(30) for entry in pair(n)], *bad])
    make = Views(ImageAugmentation(degrees=20), 8)
    for transform in (None, make):
        batches = []
        for number in (0, readers):
            source = open_source(DataConfig(train=str(tmp_path), readers=number))
            stream = source.batches("train", 7, rank=1, world=2, start=11, seed=3, transform=transform)
            batches.append([{name: value.clone() for name, value in next(stream).items()} for _ in range(20)])
            stream.close()
            assert source.failures["undecodable"] > 0
        for one, other in zip(*batches, strict=True):
            assert one.keys() == other.keys()
            assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_large_set_is_dealt_out_by_place_and_every_sample_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of four samples: a rank reads whole blocks where a batch holds them, and the batches are the same in any world."""
    monkeypatch.setattr("genlib.data.order.sample_order.SMALL_SET_BYTES", 0)
    write_set(tmp_path, 1100, per_shard=300)
    size = sum(path.stat().st_size for path in tmp_path.glob("*.tar")) // 1100
    monkeypatch.setattr("genlib.data.order.sample_order.BLOCK_BYTES", 4 * size + size // 2)
    source = open_source(DataConfig(train=str(tmp_path)))
    whole = torch.cat([batch["label"] for batch in take(source, 11, 100)])
    assert sorted(whole.tolist()) == list(range(1100))
    for world in (2, 3):
        ranks = [take(source, 11, 100, rank=rank, world=world) for rank in range(world)]
        for step in range(11):
            kept = [batch["label"][batch["valid"]] for batch in (share[step] for share in ranks)]
            assert sorted(torch.cat(kept).tolist()) == sorted(whole[step * 100 : step * 100 + 100].tolist())
            assert all(len(set(mine.tolist())) == len(mine) for mine in kept)
            ends = [(mine.min().item(), mine.max().item()) for mine in kept]
            assert all(high < low for (_, high), (low, _) in itertools.pairwise(ends))  # each rank has a stretch of storage


@pytest.mark.parametrize("content", ["[1]", "{", '{"class_names": 3}', '{"class_names": [3]}', "7"])
def test_wrong_facts_beside_the_shards_get_a_sentence(tmp_path: Path, content: str) -> None:
    write_set(tmp_path, 5)
    (tmp_path / "dataset.json").write_text(content)
    with pytest.raises(ValueError, match=r"dataset\.json is no JSON object"):
        open_source(DataConfig(train=str(tmp_path)))


def test_a_name_with_escape_codes_is_written_out(tmp_path: Path) -> None:
    write_tar(tmp_path / "0.tar", [("\x1b[2Ja.png", picture())])
    assert open_source(DataConfig(train=str(tmp_path))).keys("train", [0], 1) == ["0:\\x1b[2Ja"]


class Harm:
    def __reduce__(self):
        return os.system, ("touch harmed",)


def test_reader_processes_open_nothing_but_what_is_allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    harm = [(f"00000.{name}", pickle.dumps(Harm())) for name in ("pkl", "pyd", "pth", "image.pickle")]
    write_tar(tmp_path / "0.tar", [*pair(0), *harm, *pair(1), ("00002.npy", pickle.dumps(Harm()))])
    batch = next(open_source(DataConfig(train=str(tmp_path), readers=1)).batches("train", 2))
    assert sorted(batch["label"].tolist()) == [0, 1]
    assert not (tmp_path / "harmed").exists()
