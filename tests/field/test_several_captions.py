"""A picture may have several captions: in a JSON field, in lines of a text, in a member of their own; what is not there is counted.

bghira/SimpleTuner#1092, kohya-ss/sd-scripts#1155, mlfoundations/open_clip#1016, rom1504/img2dataset#46 and #344, mlfoundations/open_clip#398,
kohya-ss/sd-scripts#514.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from genlib.config import DataConfig
from genlib.data.shards.shard_set import ShardSet
from genlib.data.source import ShardSource, open_source
from genlib.engine.encoding import why_no_set
from genlib.types import Batch, Samples
from tests.data.shards import Entry, pair, picture, write_tar

JSON = [
    {"caption": ["a red one", "a picture in red", " "], "url": "http://h/1"},
    {"caption": "one only", "url": "http://h/2"},
    {"caption": [], "url": "http://h/3"},
    {"caption": float("nan"), "url": "http://h/4"},
    {"caption": 5, "url": "http://h/5"},
    {"caption": ["x", "y", "z"], "url": "http://h/6"},
]


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENLIB_CACHE", str(tmp_path / "cache"))


class Texts:
    """Keeps the captions of batches beside them."""

    fields, image_size = ("image", "text"), 8

    def __init__(self) -> None:
        self.seen: list[tuple[int, str]] = []

    def __call__(self, samples: Samples) -> Batch:
        self.seen += zip(samples.position.tolist(), samples.fields["text"], strict=True)
        return {}


def captions(source: ShardSource, split: str = "train", steps: int = 30, size: int = 6, world: int = 1, **how) -> dict[int, str]:
    """The caption at each position that the ranks read."""
    seen: dict[int, str] = {}
    for rank in range(world):
        keep = Texts()
        for _, _ in zip(range(steps), source.batches(split, size, rank=rank, world=world, transform=keep, **how), strict=False):
            pass
        seen.update(keep.seen)
    return seen


def json_set(folder: Path) -> Path:
    entries = [entry for n, facts in enumerate(JSON) for entry in ((f"{n}.png", picture(n)), (f"{n}.json", json.dumps(facts).encode()))]
    write_tar(folder / "0.tar", entries)
    return folder


def text_set(folder: Path, name: str = "txt", text: bytes = b"\xef\xbb\xbfone\r\ntwo\n\nthree") -> Path:
    entries: list[Entry] = [entry for n in range(4) for entry in ((f"{n}.png", picture(n)), (f"{n}.{name}", text))]
    write_tar(folder / "0.tar", entries)
    return folder


def test_captions_in_json_are_found_by_name_and_what_has_none_is_counted(tmp_path: Path) -> None:
    where = str(json_set(tmp_path / "set"))
    first = open_source(DataConfig(train=where, caption_field="caption", captions="first"), needs=("image", "text"))
    shards = ShardSet.open([tmp_path / "set" / "0.tar"], caption_field="caption")
    assert (first.spec.has_captions, len(shards), shards.bad, shards.first_bad) == (True, 3, {"missing caption": 3}, {"missing caption": "0.tar:2"})
    assert shards.seen == shards.used + shards.unused.total() == 12
    assert set(captions(first).values()) == {"a red one", "one only", "x"}
    drawn = Counter(captions(open_source(DataConfig(train=where, caption_field="caption")), steps=200).values())
    assert set(drawn) == {"a red one", "a picture in red", "one only", "x", "y", "z"}
    assert abs(drawn["a red one"] - 200) < 60
    assert abs(drawn["x"] - 133) < 50
    assert "x\ny\nz" in captions(open_source(DataConfig(train=where, caption_field="caption", captions="all"))).values()


@pytest.mark.parametrize("field", ["captoin", "nothing"])
def test_a_field_that_is_not_there_is_refused_with_those_that_are(tmp_path: Path, field: str) -> None:
    with pytest.raises(ValueError, match=r"caption_field .*: no sample has a caption there.* JSON fields with texts: caption, url"):
        open_source(DataConfig(train=str(json_set(tmp_path / "set")), caption_field=field))


def test_without_captions_the_sentence_names_the_json_fields(tmp_path: Path) -> None:
    source = open_source(DataConfig(train=str(json_set(tmp_path / "set"))), needs=("image", "text"))
    assert not source.spec.has_captions
    with pytest.raises(ValueError, match=r"no sample has a caption .*texts in the fields caption, url: .*--data.caption-field"):
        source.require("text")


def test_draws_depend_on_seed_and_position_alone(tmp_path: Path) -> None:
    config = DataConfig(train=str(text_set(tmp_path / "set", "captions.txt")), cache_mb=1)
    source = open_source(config)
    whole = captions(source, seed=3)
    assert set(whole.values()) == {"one", "two", "three"}
    assert captions(open_source(config), seed=3, world=3) == whole
    later = captions(open_source(config), seed=3, steps=10, start=60)
    assert later == {position: whole[position] for position in later}
    assert captions(source, seed=4) != whole


@pytest.mark.parametrize(("choice", "found"), [("auto", {"one\r\ntwo\n\nthree"}), ("first", {"one"}), ("random", {"one", "two", "three"})])
def test_the_lines_of_a_text_are_one_caption_or_several_by_choice(tmp_path: Path, choice, found: set[str]) -> None:
    source = open_source(DataConfig(train=str(text_set(tmp_path / "set")), captions=choice))
    assert set(captions(source).values()) == found
    assert bool(why_no_set(source, source.encoded_set("name"), Texts())) == (
        choice == "random"
    )  # what a frozen network makes of a drawn caption is not kept


def test_held_out_samples_show_their_first_caption(tmp_path: Path) -> None:
    where = str(text_set(tmp_path / "set"))
    source = open_source(DataConfig(train=where, validation=where, captions="random"))
    assert set(captions(source, "validation").values()) == {"one"}
    assert list(source.captions("train", 2)) == ["one", "one"]


def test_the_choice_is_part_of_the_identity_and_the_usual_one_is_not(tmp_path: Path) -> None:
    where = str(text_set(tmp_path / "set"))
    digests = {choice: open_source(DataConfig(train=where, captions=choice)).spec.digest for choice in ("auto", "all", "first", "random")}
    assert digests["auto"] == digests["all"]
    assert len(set(digests.values())) == 3


def test_in_a_mixture_counts_what_the_task_reads(tmp_path: Path) -> None:
    plain = [entry for n in range(3) for entry in pair(n) if not entry[0].endswith("cls")]
    rich = [entry for n in range(9) for entry in (*pair(n), (f"{n:05d}.json", b"{}"))]
    write_tar(tmp_path / "a" / "0.tar", plain)
    write_tar(tmp_path / "b" / "0.tar", rich)
    config = DataConfig(train=f"{tmp_path / 'a'}::{tmp_path / 'b'}", weights=(0.5, 0.5))
    source = open_source(config, needs=("image", "text"))
    assert source.num_samples("train") == 12
    alone, needed = (open_source(DataConfig(train=str(tmp_path / "b")), needs=needs) for needs in ((), ("image", "text")))
    assert alone.spec.digest == needed.spec.digest


def test_a_place_with_single_captions_takes_the_first_of_the_others(tmp_path: Path) -> None:
    lists = [entry for n in range(3) for entry in ((f"{n}.png", picture(n)), (f"{n}.txt", b"one"), (f"{n}.captions.txt", b"one\ntwo"))]
    write_tar(tmp_path / "a" / "0.tar", lists)
    text_set(tmp_path / "b", text=b"plain")
    mixed = open_source(DataConfig(train=f"{tmp_path / 'a'}::{tmp_path / 'b'}"), needs=("image", "text"))
    assert mixed.num_samples("train") == 7
    assert set(captions(mixed).values()) == {"one", "plain"}
    assert set(captions(open_source(DataConfig(train=str(tmp_path / "a")))).values()) == {"one", "two"}


@pytest.mark.parametrize("ending", ["caption", "TXT", "text", "transcript"])
def test_other_names_of_text_members(tmp_path: Path, ending: str) -> None:
    assert set(captions(open_source(DataConfig(train=str(text_set(tmp_path / "set", ending, b"\xef\xbb\xbfone")))), steps=1).values()) == {"one"}


def test_a_run_begins_with_what_was_taken(tmp_path: Path) -> None:
    where = str(json_set(tmp_path / "set"))
    plain = open_source(DataConfig(train=where)).described
    assert plain.startswith("data: 6 samples of 1 shard (0.tar), fields image, json; no captions, though JSON fields have texts: caption, url; ")
    assert plain.endswith("; no labels; nothing held out (data.validation names some)")
    line = open_source(DataConfig(train=where, caption_field="caption"), needs=("image", "text")).described
    assert "captions from the JSON field 'caption', of several one drawn at each visit" in line
    assert "left out missing caption 3; members 12 = 6 used + 6 not (missing caption 6)" in line
