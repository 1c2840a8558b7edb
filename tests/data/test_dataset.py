"""Filters, mixtures, partners, and sets kept for the workers of a run."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from genlib.config import DataConfig
from genlib.data.index.filters import parse
from genlib.data.index.storage_path import PathList
from genlib.data.shards.shard_set import ShardSet
from genlib.data.source import open_and_cache, open_source
from genlib.data.transforms.plain import PlainTransform
from genlib.remote.remote_file import RemoteFile
from tests.data.shards import pair, picture, write_set, write_tar


def scored(folder: Path, count: int, per_shard: int = 7) -> Path:
    """Samples whose JSON holds a score, the number modulo 10; every third has none."""
    for shard, first in enumerate(range(0, count, per_shard)):
        entries = []
        for number in range(first, min(first + per_shard, count)):
            facts = {} if number % 3 == 0 else {"score": number % 10}
            entries += [*pair(number, size=8 + number % 4), (f"{number:05d}.json", json.dumps(facts).encode())]
        write_tar(folder / f"{shard:05d}.tar", entries)
    return folder


def numbers(source, size: int, count: int, **how) -> list[int]:
    """The labels, which are the samples' numbers, of some batches."""
    stream = source.batches("train", size, **how)
    return torch.cat([next(stream)["label"] for _ in range(count)]).tolist()


@pytest.mark.parametrize(
    ("filters", "keeps"),
    [
        (("score>=5",), lambda n: n % 3 and n % 10 >= 5),
        (("score!=4", "label<20"), lambda n: n % 3 and n % 10 != 4 and n < 20),
        (("width>9", "aspect<=1", "pixels<121"), lambda n: 8 + n % 4 == 10),
        (("caption_bytes==9",), lambda n: n < 10),
    ],
)
def test_a_filter_decides_before_the_order(tmp_path: Path, filters: tuple[str, ...], keeps) -> None:
    source = open_source(DataConfig(train=str(scored(tmp_path, 50)), filters=filters, image_size=8))
    expected = [n for n in range(50) if keeps(n)]
    assert source.spec.num_samples == len(expected)
    assert sorted(numbers(source, len(expected), 1)) == expected


def test_filters_leave_held_out_and_other_samples_alone(tmp_path: Path) -> None:
    train, held = scored(tmp_path / "train", 20), write_set(tmp_path / "held", 7)
    source = open_source(DataConfig(train=str(train), validation=str(held), other=str(held), filters=("score>=5", "width>8"), image_size=8))
    assert source.num_samples("train") == sum(n % 3 > 0 and n % 10 >= 5 and n % 4 > 0 for n in range(20))
    assert torch.cat([batch["label"] for batch in source.batches("validation", 7)]).tolist() == list(range(7))
    batch = next(source.batches("train", 7, transform=PlainTransform(8, partners=("other",))))
    assert sorted(batch["other_label"].tolist()) == list(range(7))
    beside = write_set(scored(tmp_path / "both", 20), 5, prefix="validation-")
    assert open_source(DataConfig(train=str(beside), filters=("score>=5",), image_size=8)).num_samples("validation") == 5


def test_filters_are_part_of_the_identity(tmp_path: Path) -> None:
    scored(tmp_path, 20)
    digests = {open_source(DataConfig(train=str(tmp_path), filters=filters)).spec.digest for filters in [(), ("score>5",), ("score>4",)]}
    assert len(digests) == 3


@pytest.mark.parametrize(
    ("text", "sentence"),
    [("score", "no comparison"), ("score>x", "no comparison"), ("scor>1", "Did you mean 'score'"), ("score>99", "not score>99 ")],
)
def test_a_wrong_filter_is_refused_with_a_sentence(tmp_path: Path, text: str, sentence: str) -> None:
    scored(tmp_path, 20)
    with pytest.raises(ValueError, match=sentence):
        open_source(DataConfig(train=str(tmp_path), filters=(text,)))


def test_a_filter_by_the_name_of_python_code_is_no_code() -> None:
    with pytest.raises(ValueError, match="no comparison"):
        parse("__import__('os').system('true')>0")


def test_a_mixture_holds_its_shares_and_resumes_anywhere(tmp_path: Path) -> None:
    one, two = write_set(tmp_path / "one", 40), tmp_path / "two"
    write_tar(two / "0.tar", [entry for n in range(100, 106) for entry in pair(n)])
    config = DataConfig(train=f"{one}::{two}", weights=(0.75, 0.25))
    seen = numbers(open_source(config), 8, 20)
    for first in range(0, 160, 8):
        assert sum(n >= 100 for n in seen[first : first + 8]) == 2  # exact in every batch
    large = [n for n in seen if n < 100]
    assert sorted(large[:40]) == list(range(40))  # each once an epoch, while the small one repeats
    assert numbers(open_source(config), 8, 3, start=77) == seen[77:101]
    shares = [batch["label"].tolist() for rank in range(3) for batch in [next(open_source(config).batches("train", 8, rank=rank, world=3, start=16))]]
    assert [n for share in shares for n in share][:8] == seen[16:24]


def test_weights_are_part_of_the_identity_and_refused_where_they_do_not_fit(tmp_path: Path) -> None:
    where = "::".join(str(write_set(tmp_path / name, 5)) for name in ("a", "b"))
    digests = {open_source(DataConfig(train=where, weights=weights)).spec.digest for weights in [(), (1.0, 1.0), (1.0, 2.0)]}
    assert len(digests) == 3
    with pytest.raises(ValueError, match=r"3 numbers, but data.train=.* names 2 places"):
        open_source(DataConfig(train=where, weights=(1.0, 2.0, 3.0)))
    with pytest.raises(ValueError, match="above 0"):
        DataConfig(train=where, weights=(1.0, 0.0))


def test_partners_are_by_label_and_every_anchor_comes_once(tmp_path: Path) -> None:
    """Samples whose picture says their number, of three classes: what is paired can be read from the pixels."""
    entries = [member for n in range(30) for member in [(f"{n:03d}.png", picture(8 * n)), (f"{n:03d}.cls", str(n % 3).encode())]]
    write_tar(tmp_path / "0.tar", entries)
    source = open_source(DataConfig(train=str(tmp_path)))
    batch = next(source.batches("train", 30, transform=PlainTransform(partners=("positive", "negative"))))
    anchor, positive, negative = ((batch[name][:, 0, 0, 0] * 255 / 8).round().long() for name in ("image", "positive_image", "negative_image"))
    assert sorted(anchor.tolist()) == list(range(30))
    assert ((anchor - positive) % 3 == 0).all()
    assert (anchor != positive).all()
    assert ((anchor - negative) % 3 != 0).all()
    half = next(source.batches("train", 30, rank=1, world=2, transform=PlainTransform(partners=("positive",))))
    assert torch.equal(half["positive_image"], batch["positive_image"][15:])


def test_every_sample_of_a_class_is_drawn_equally_often_as_a_partner(tmp_path: Path) -> None:
    entries = [member for n in range(12) for member in [(f"{n:03d}.png", picture(20 * n)), (f"{n:03d}.cls", str(n // 6).encode())]]
    write_tar(tmp_path / "0.tar", entries)
    stream = open_source(DataConfig(train=str(tmp_path))).batches("train", 1200, transform=PlainTransform(partners=("positive", "negative")))
    batch = next(stream)
    for role in ("positive", "negative"):
        counts = np.bincount((batch[f"{role}_image"][:, 0, 0, 0] * 255 / 20).round().long().numpy(), minlength=12)
        assert counts.min() > 60  # of 100
        assert counts.max() < 140


def test_an_unpaired_set_has_an_order_of_its_own(tmp_path: Path) -> None:
    one, other = write_set(tmp_path / "one", 10), tmp_path / "other"
    write_tar(other / "0.tar", [entry for n in range(100, 104) for entry in pair(n)])
    source = open_source(DataConfig(train=str(one), other=str(other)))
    batch = next(source.batches("train", 20, transform=PlainTransform(partners=("other",))))
    assert sorted(batch["other_label"].tolist()) == sorted(list(range(100, 104)) * 5)
    with pytest.raises(ValueError, match=r"--data.other"):
        next(open_source(DataConfig(train=str(one))).batches("train", 2, transform=PlainTransform(partners=("other",))))


def test_pairs_without_labels_are_refused(tmp_path: Path) -> None:
    write_tar(tmp_path / "0.tar", [(f"{n}.png", picture(n)) for n in range(4)])
    with pytest.raises(ValueError, match="4 of 4 samples have no label"):
        next(open_source(DataConfig(train=str(tmp_path))).batches("train", 2, transform=PlainTransform(partners=("positive",))))


def npy(values: np.ndarray) -> bytes:
    import io

    buffer = io.BytesIO()
    np.save(buffer, values)
    return buffer.getvalue()


def test_sequences_are_padded_and_their_lengths_kept(tmp_path: Path) -> None:
    lengths = [3, 0, 5, 1]
    entries = [(f"{n}.motion.npy", npy(np.full((length, 2), n, np.float32))) for n, length in enumerate(lengths)]
    bad = [("8.motion.npy", npy(np.array([None, {}], object))), ("9.motion.npy", npy(np.ones((4, 2)))[:-3])]
    write_tar(tmp_path / "0.tar", [*entries, *bad])
    source = open_source(DataConfig(train=str(tmp_path)))
    assert source.num_samples("train") == 4
    batch = next(source.batches("train", 4))
    order = [lengths.index(length) for length in batch["motion_length"].tolist()]
    assert sorted(order) == [0, 1, 2, 3]
    for row, number in enumerate(order):
        assert torch.equal(batch["motion"][row, : lengths[number]], torch.full((lengths[number], 2), float(number)))
        assert not batch["motion"][row, lengths[number] :].any()


def test_a_kept_set_needs_no_look_at_the_shards(tmp_path: Path) -> None:
    config = DataConfig(train=str(scored(tmp_path / "set", 50)), filters=("score>=3",), image_size=8)
    open_and_cache(config, tmp_path / "kept")
    for sidecar in (tmp_path / "set").glob("*.idx"):
        sidecar.unlink()
    opened = open_source(config, tmp_path / "kept")
    assert not list((tmp_path / "set").glob("*.idx"))
    assert opened.spec == open_source(config).spec
    assert numbers(opened, 10, 5) == numbers(open_source(config), 10, 5)
    other = DataConfig(train=config.train, image_size=8)
    assert open_source(other, tmp_path / "kept").spec.num_samples == 50  # another question is another set


def test_a_set_can_be_sent_to_another_process(tmp_path: Path) -> None:
    shards = ShardSet.open(sorted(scored(tmp_path, 20).glob("*.tar")), ("score>1",))
    sent = pickle.loads(pickle.dumps(shards))
    assert (sent.digest, len(sent), list(sent.paths)) == (shards.digest, len(shards), list(shards.paths))
    assert sent.rows(0)[0].key(1) == shards.rows(0)[0].key(1)


@pytest.mark.parametrize("names", [[], ["/a/b.tar"], ["/a/1.tar", "/a/10.tar", "/b/é.tar"], ["s3://x/1.tar", "/y/1.tar"]])
def test_a_list_of_places_is_what_it_was_made_of(names: list[str]) -> None:
    places = PathList(Path(name) if name.startswith("/") else RemoteFile(name) for name in names)
    again = PathList.of(**places.arrays())
    assert [str(place) if isinstance(place, Path) else place.url for place in again] == names
    assert again.any_remote == any("://" in name for name in names)
