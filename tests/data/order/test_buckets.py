"""BucketOrder: SDXL's sizes, one size a batch, each sample once an epoch of its bucket, the same batches in every world and after any restart."""

import io
import itertools
import logging
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from genlib.config import DataConfig
from genlib.data.codecs.images import decode_image
from genlib.data.order.buckets import BucketOrder, _parts, bucket_numbers, bucket_sizes, nearest_bucket
from genlib.data.order.mixture import deal
from genlib.data.order.sample_order import SMALL_SET_BYTES, WINDOW, block_samples
from genlib.data.shards.discovery import find_shards
from genlib.data.shards.shard_set import ShardSet
from genlib.data.source import ShardSource, open_and_cache, open_source
from genlib.data.transforms.plain import PlainTransform, fit_box
from genlib.types import Batch, Samples
from tests.data.shards import Entry, write_tar

SDXL = {
    512: (1856, 1920, 1984, 2048), 576: (1664, 1728, 1792), 640: (1536, 1600), 704: (1344, 1408, 1472), 768: (1280, 1344), 832: (1152, 1216),
    896: (1088, 1152), 960: (1024, 1088), 1024: (960, 1024), 1088: (896, 960), 1152: (832, 896), 1216: (832,), 1280: (768,), 1344: (768,),
    1408: (704,), 1472: (704,), 1536: (640,), 1600: (640,), 1664: (576,), 1728: (576,), 1792: (576,), 1856: (512,), 1920: (512,), 1984: (512,),
    2048: (512,),
}  # fmt: skip
"""Heights and widths of Podell et al. 2023, appendix I."""
STORED = ((32, 32), (64, 40), (30, 50), (33, 30), (90, 30), (20, 60), (41, 24))
"""Widths and heights of pictures, all of them once in seven."""
COUNT, SIZES = 70, [(24, 40), (32, 32), (40, 24)]


def picture(number: int, size: tuple[int, int], kind: str = "png") -> bytes:
    """A picture whose pixels say its number."""
    buffer = io.BytesIO()
    Image.fromarray(np.full((size[1], size[0], 3), number, np.uint8)).save(buffer, kind, **({"quality": 95} if kind == "jpeg" else {}))
    return buffer.getvalue()


def write_pictures(folder: Path, count: int, prefix: str = "train-", stored: Sequence[tuple[int, int]] = STORED, kind: str = "png") -> Path:
    for shard, first in enumerate(range(0, count, 20)):
        entries: list[Entry] = []
        for number in range(first, min(count, first + 20)):
            entries += [(f"{number:05d}.{kind}", picture(number, stored[number % len(stored)], kind)), (f"{number:05d}.cls", str(number).encode())]
        write_tar(folder / f"{prefix}{shard:05d}.tar", entries)
    return folder


class WithSizes(PlainTransform):
    """Also tells what the samples were."""

    def __call__(self, samples: Samples) -> Batch:
        return {**super().__call__(samples), "original": torch.from_numpy(samples.original_sizes)}


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> DataConfig:
    folder = write_pictures(tmp_path_factory.mktemp("pictures"), COUNT)
    write_pictures(folder, 9, "validation-")
    return DataConfig(train=str(folder), image_size=32, bucket_step=8)


@pytest.fixture(scope="module")
def source(config: DataConfig) -> ShardSource:
    return open_source(config)


def take(source: ShardSource, count: int, size: int, **where) -> list[Batch]:
    return list(itertools.islice(source.batches("train", size, transform=WithSizes(32), **where), count))


def labels(batches: Sequence[Batch]) -> list[int]:
    return [label for batch in batches for label in batch["label"][batch["valid"]].tolist()]


def together(source: ShardSource, count: int, size: int, world: int, **where) -> list[tuple[list[int], torch.Size]]:
    """LabelIndex of each global batch, put together from all ranks, and the size of their pictures, which all ranks must have."""
    ranks = [take(source, count, size, rank=rank, world=world, **where) for rank in range(world)]
    found = []
    for batches in zip(*ranks, strict=True):
        (shape,) = {batch["image"].shape[2:] for batch in batches}
        found.append((labels(batches), shape))
    return found


def test_sizes_are_of_the_published_table() -> None:
    published = {(width, height) for height, widths in SDXL.items() for width in widths}
    assert len(published) == 40
    ours = bucket_sizes(1024, 64, 4.0)
    assert set(ours) <= published
    assert len(ours) == 33
    assert {width for width, _ in published} == {width for width, _ in ours}
    assert bucket_sizes(1024, 64, 1.0) == [(1024, 1024)]
    assert len(bucket_sizes(1024, 64, 2.0)) == 13
    assert bucket_sizes(32, 8, 2.0) == SIZES


@settings(max_examples=60, deadline=None)
@given(step=st.integers(1, 64), sides=st.integers(1, 20), max_aspect=st.floats(1, 5))
def test_no_size_could_be_larger(step: int, sides: int, max_aspect: float) -> None:
    side = step * sides
    sizes = bucket_sizes(side, step, max_aspect)
    assert (side, side) in sizes
    assert sizes == sorted(set(sizes), key=lambda size: Fraction(*size))
    assert {(height, width) for width, height in sizes} == set(sizes)
    for width, height in sizes:
        assert width % step == height % step == 0
        assert width * height <= side**2 < max((width + step) * height, width * (height + step))
        assert max(width, height) <= max_aspect * min(width, height)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 70_000), st.integers(1, 70_000)), min_size=1, max_size=20))
def test_a_picture_goes_to_the_nearest_aspect(pixels: list[tuple[int, int]]) -> None:
    sizes = bucket_sizes(1024, 64, 4.0)
    for (height, width), number in zip(pixels, nearest_bucket(np.array(pixels, np.int32), sizes).tolist(), strict=True):
        far = [abs(math.log(width / height) - math.log(w / h)) for w, h in sizes]
        assert far[number] <= min(far) + 1e-12


def test_every_batch_is_of_one_bucket_and_every_sample_in_its_own(source: ShardSource) -> None:
    seen = Counter()
    for batch in take(source, 60, 5):
        width, height = batch["image"].shape[3], batch["image"].shape[2]
        seen[width, height] += 1
        assert batch["original"].tolist() == [list(STORED[label % 7]) for label in batch["label"].tolist()]
        original = batch["original"].numpy()[:, ::-1]
        assert {SIZES[number] for number in nearest_bucket(original, SIZES).tolist()} == {(width, height)}
        assert torch.equal((batch["image"][:, 0, 0, 0] * 255).round().long(), batch["label"])
    assert seen == {(32, 32): 60 * 2 / 7 // 1, (24, 40): 17, (40, 24): 26}


@pytest.mark.parametrize("epochs", [1, 2, 5])
@pytest.mark.parametrize(("size", "seed"), [(5, 0), (6, 3), (1, 1)])
def test_each_sample_once_an_epoch(source: ShardSource, epochs: int, size: int, seed: int) -> None:
    """Exactly, but for what is in a bucket's batch that is not full yet, or came one batch early."""
    counts = Counter(labels(take(source, epochs * COUNT // size, size, seed=seed)))
    for bucket in range(3):
        own = [label for label in range(COUNT) if nearest_bucket(np.array([STORED[label % 7][::-1]]), SIZES)[0] == bucket]
        times = [counts[label] for label in own]
        assert max(times) - min(times) <= 1  # no sample twice before all others once
        assert abs(sum(times) - epochs * len(own)) < 3 * size


def test_the_last_batch_of_a_buckets_epoch_runs_on(source: ShardSource) -> None:
    by_bucket: dict[torch.Size, list[int]] = {}
    for some, shape in together(source, 100, 6, 1):
        by_bucket.setdefault(shape, []).extend(some)
    for seen in by_bucket.values():
        own = sorted(set(seen))
        for first in range(0, len(seen) - len(own), len(own)):
            assert sorted(seen[first : first + len(own)]) == own


@pytest.mark.parametrize("world", [2, 3, 4])
@settings(max_examples=15, deadline=None)
@given(size=st.integers(1, 20), first=st.integers(0, 10**10), seed=st.integers(0, 99))
def test_world_size_never_changes_a_global_batch(source: ShardSource, world: int, size: int, first: int, seed: int) -> None:
    start = first * size
    assert together(source, 3, size, world, seed=seed, start=start) == together(source, 3, size, 1, seed=seed, start=start)


@settings(max_examples=20, deadline=None)
@given(cuts=st.lists(st.tuples(st.integers(1, 6), st.integers(1, 4)), min_size=2, max_size=5))
def test_restarts_in_other_worlds_go_on_exactly(source: ShardSource, cuts: list[tuple[int, int]]) -> None:
    size, start, seen = 6, 0, []
    for steps, world in cuts:
        seen += together(source, steps, size, world, seed=1, start=start)
        start += steps * size
    assert seen == together(source, len(seen), size, 1, seed=1)


def test_names_belong_to_positions(source: ShardSource) -> None:
    for batch in take(source, 20, 6, seed=5, start=60):
        names = source.keys("train", batch["position"].tolist(), 6, seed=5)
        assert [int(name.partition(":")[2]) for name in names] == batch["label"].tolist()


def test_readers_and_cache_change_nothing(config: DataConfig, source: ShardSource) -> None:
    there = take(open_source(replace(config, readers=1, cache_mb=0)), 12, 5)
    for one, other in zip(take(source, 12, 5), there, strict=True):
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) for name in one)


def test_validation_is_one_pass_of_squares(source: ShardSource) -> None:
    batches = list(source.batches("validation", 4))
    assert labels(batches) == list(range(9))
    assert {batch["image"].shape[1:] for batch in batches} == {(3, 32, 32)}


def test_chosen_samples_come_once_by_bucket(source: ShardSource) -> None:
    wanted = np.random.default_rng(0).permutation(COUNT)[:50]
    batches = list(source.once([wanted], 4, WithSizes(32)))
    assert sorted(labels(batches)) == sorted(wanted.tolist())
    assert all(len(set(nearest_bucket(batch["original"].numpy()[:, ::-1], SIZES).tolist())) == 1 for batch in batches)


def test_what_was_encoded_before_comes_in_the_same_batches(source: ShardSource, tmp_path: Path) -> None:
    kept = source.encoded_set("identity", str(tmp_path))
    kept.write(0, ({name: batch[name] for name in ("image", "sample", "failed")} for batch in kept.decoded([0], 8, WithSizes(32))))
    assert kept.missing() == []
    encoded = kept.source().batches("train", 6)
    for plain, batch in zip(take(source, 20, 6), encoded, strict=False):
        assert set(batch) == {"image", "sample", "position", "valid"}
        assert all(torch.equal(plain[name], value) for name, value in batch.items())


def test_batches_are_dealt_without_drift() -> None:
    """Also where shares are no whole millionths, after ten thousand epochs."""
    counts = [1, 7, 333_331, 1_000_003]
    start = sum(counts) * 10_000
    bucket, place = deal(np.arange(start, start + 1000), counts)
    for number, count in enumerate(counts):
        assert abs(place[bucket == number] - 10_000 * count).max(initial=0) <= 1000 * count / sum(counts) + 2


def test_dealing_is_exact_up_to_its_limit() -> None:
    counts, start = [2**31 - 8, 7], 10**18
    bucket, place = deal(np.arange(start, start + 1000), counts)
    before = (2 * start * counts[0] + 2**31 - 1) // (2 * (2**31 - 1))  # rounded, by integers of any length
    assert place[0] == (before if bucket[0] == 0 else start - before)
    assert (bucket == 0).sum() >= 999
    parts = _parts([3 * 10**9, 10**9, 1])
    assert sum(parts) < 2**31
    assert parts[0] / parts[1] == pytest.approx(3)
    assert parts[2] == 1


def test_large_buckets_keep_blocks_and_any_position_is_exact() -> None:
    numbers = np.where(np.arange(100_000) % 50 == 0, 2, np.arange(100_000) % 2)
    buckets, block = BucketOrder(SIZES, numbers, 2 * SMALL_SET_BYTES), block_samples(100_000, 2 * SMALL_SET_BYTES)
    assert buckets.block == block > 1
    assert [order.block for order in buckets._orders] == [block, block, 2000 // WINDOW]
    size, t = 64, 10**12
    positions = np.arange(t * size, (t + 3) * size)
    samples = buckets(positions, 7, size)
    assert [buckets(np.array([position]), 7, size)[0] for position in positions[::50]] == samples[::50].tolist()
    for first in range(0, len(samples), size):
        assert {SIZES[number] for number in numbers[samples[first : first + size]]} == {buckets.size_of(int(positions[first]), size)}


def test_small_buckets_are_named(config: DataConfig, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        take(open_source(config), 1, 21)
    assert "buckets 24x40, 32x32 have fewer samples than a batch of 21" in caplog.text


def test_workers_take_what_was_kept(config: DataConfig, tmp_path: Path) -> None:
    def refuse(function, items):
        raise AssertionError("a shard was looked at")

    open_and_cache(config, tmp_path)
    kept = open_source(config, tmp_path, refuse)
    assert [labels([batch]) for batch in take(kept, 12, 5)] == [labels([batch]) for batch in take(open_source(config), 12, 5)]
    with pytest.raises(AssertionError, match="looked at"):
        open_source(replace(config, bucket_step=16), tmp_path, refuse)


def test_filters_leave_the_rest_in_place(config: DataConfig) -> None:
    filtered = open_source(replace(config, filters=("aspect<=2",)))
    seen = {tuple(pair) for batch in take(filtered, 40, 5) for pair in batch["original"].tolist()}
    assert seen == {size for size in STORED if max(size) <= 2 * min(size)}


def test_numbers_are_those_of_the_index(config: DataConfig) -> None:
    shards = ShardSet.open(find_shards(config.train))
    assert bucket_numbers(shards, SIZES).tolist() == [int(nearest_bucket(np.array([STORED[n % 7][::-1]]), SIZES)[0]) for n in range(COUNT)]


@pytest.mark.parametrize("stored", [(1600, 400), (400, 1600), (1000, 700), (700, 1000), (600, 600)])
@pytest.mark.parametrize("box", [(24, 40), (32, 32), (200, 100), (640, 400)])
def test_scaled_decode_still_covers_the_box(stored: tuple[int, int], box: tuple[int, int]) -> None:
    content, (width, height) = picture(100, stored, "jpeg"), box
    small = decode_image(content, 3, (height, width))
    assert small.shape[0] >= min(height, stored[1])
    assert small.shape[1] >= min(width, stored[0])
    if stored[0] >= 8 * width and stored[1] >= 8 * height:
        assert small.shape[1] == -(-stored[0] // 8)
    assert np.abs(fit_box(small, width, height)[0].astype(int) - 100).max() <= 1


def test_a_long_picture_is_not_blurred_by_scaled_decoding(tmp_path: Path) -> None:
    """Its shorter side alone would allow an eighth: then the longer one would be short of its bucket's."""
    folder = write_pictures(tmp_path, 8, stored=((264, 264), (330, 250)), kind="jpeg")
    seen = set()

    class Sizes(PlainTransform):
        def __call__(self, samples: Samples) -> Batch:
            assert samples.bucket_size is not None
            for image in samples.fields["image"]:
                covers = image.shape[1] >= samples.bucket_size[0] and image.shape[0] >= samples.bucket_size[1]
                seen.add((samples.bucket_size, covers, image.shape[1] < 250))
            return super().__call__(samples)

    source = open_source(DataConfig(train=str(folder), image_size=128, bucket_step=16))
    list(itertools.islice(source.batches("train", 4, transform=Sizes(128)), 4))
    assert seen == {((128, 128), True, True), ((144, 112), True, True)}


def test_a_box_is_covered_and_cut() -> None:
    ramp = np.broadcast_to(np.arange(80, dtype=np.uint8)[None, :, None], (20, 80, 3))
    middle, crop = fit_box(ramp, 20, 20)
    assert crop == (30, 0)
    assert middle[0, :, 0].tolist() == list(range(30, 50))
    assert fit_box(ramp, 20, 20, x=0)[1] == (0, 0)
    assert fit_box(ramp, 20, 20, x=1)[0][0, 0, 0] == 60
    half, crop = fit_box(ramp, 10, 10, x=1)
    assert crop == (30, 0)
    assert half.shape == (10, 10, 3)
    assert half[0, :, 0].tolist() == pytest.approx(np.arange(60, 80).reshape(10, 2).mean(1), abs=1)
    assert fit_box(ramp[:, :, :1].transpose(1, 0, 2), 40, 40, y=0.25)[1] == (0, 30)


@settings(max_examples=80, deadline=None)
@given(st.integers(1, 60), st.integers(1, 60), st.integers(1, 40), st.integers(1, 40), st.floats(0, 1), st.floats(0, 1))
def test_a_box_is_inside_the_scaled_picture(high: int, wide: int, width: int, height: int, x: float, y: float) -> None:
    cut, (left, top) = fit_box(np.full((high, wide, 1), 7, np.uint8), width, height, x, y)
    assert cut.shape == (height, width, 1)
    assert (cut == 7).all()
    scale = max(width / wide, height / high)
    assert 0 <= left <= max(0, math.floor(wide * scale + 0.5 + 1e-9) - width)
    assert 0 <= top <= max(0, math.floor(high * scale + 0.5 + 1e-9) - height)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"bucket_step": 8}, "data.image_size is 0"),
        ({"bucket_step": 12, "image_size": 32}, "data.image_size 32 is not divisible by data.bucket_step 12; use 24"),
        ({"bucket_step": 64, "image_size": 32}, "data.image_size 32 is not divisible by data.bucket_step 64; use 64"),
        ({"bucket_step": 8, "image_size": 32, "weights": (1.0, 2.0)}, "data.weights and data.bucket_step do not go together"),
        ({"bucket_max_aspect": 0.5}, "bucket_max_aspect is 0.5; it must be at least 1"),
        ({"bucket_step": -8}, "bucket_step is -8; it must be at least 0"),
    ],
)
def test_settings_that_cannot_be(settings: dict, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        DataConfig(**settings)


def test_samples_without_images_are_refused(tmp_path: Path) -> None:
    write_tar(tmp_path / "0.tar", [("a.cls", b"1"), ("b.cls", b"0")])
    with pytest.raises(ValueError, match=r"bucket_step is 8, but the samples of data.train=.* have no images"):
        open_source(DataConfig(train=str(tmp_path), image_size=32, bucket_step=8))
