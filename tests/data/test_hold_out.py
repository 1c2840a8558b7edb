"""A set without held-out samples gives a share of its own, by their keys, and says so."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from genlib.config import DataConfig
from genlib.data.shards.writer import write_shards
from genlib.data.source import open_and_cache, open_source

COUNT = 200


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> DataConfig:
    folder = tmp_path_factory.mktemp("set")
    write_shards(folder, "train", [{"cls": str(number).encode(), "txt": b"x" * (1 + number % 2)} for number in range(COUNT)], max_count=70)
    return DataConfig(train=str(folder), hold_out=0.1)


def labels(source, split: str) -> list[int]:
    return [int(value) for batch in source.batches(split, 50) for value in batch["label"][batch["valid"]]]


def learnt(source) -> set[int]:
    return {int(source.keys("train", [position], 1)[0].rpartition(":")[2]) for position in range(source.num_samples("train"))}


def test_each_sample_is_on_one_side_and_the_line_says_how_many_and_the_way_out(config: DataConfig) -> None:
    source = open_source(config)
    held_out = labels(source, "validation")
    assert 8 <= len(held_out) <= 35
    assert source.num_samples("train") + len(held_out) == COUNT
    assert not {source.keys("validation", [at], 1)[0] for at in range(len(held_out))} & {source.keys("train", [at], 1)[0] for at in range(COUNT)}
    assert f"; held out {len(held_out)} of {COUNT} samples for scores, drawn by their keys: --data.hold_out 0 trains on all" in source.described
    assert "left out" not in source.described


def test_what_was_held_out_stays_so_where_others_come_and_filters_hold_for_both_sides(config: DataConfig, tmp_path: Path) -> None:
    held_out = labels(open_source(config), "validation")
    write_shards(tmp_path, "train", [{"cls": str(number).encode()} for number in range(COUNT + 50)], max_count=COUNT + 50)
    more = labels(open_source(DataConfig(train=str(tmp_path), hold_out=0.1)), "validation")
    assert [label for label in more if label < COUNT] == held_out
    filtered = open_source(replace(config, filters=("label<100",)))
    assert set(labels(filtered, "validation")) == {label for label in held_out if label < 100}
    assert "left out not label<100 100" in filtered.described


def test_zero_few_samples_and_a_set_of_its_own_hold_out_nothing_more(config: DataConfig, tmp_path: Path) -> None:
    whole = open_source(replace(config, hold_out=0.0))
    assert (whole.splits, whole.num_samples("train")) == (("train",), COUNT)
    assert whole.spec.digest != open_source(config).spec.digest
    assert "; nothing held out (data.validation names some)" in whole.described
    write_shards(tmp_path, "train", [{"cls": b"1"} for _ in range(49)])
    few = DataConfig(train=str(tmp_path), hold_out=0.5)
    assert open_source(few).splits == ("train",)
    assert open_source(replace(few, validation=config.train)).num_samples("validation") == COUNT


def test_workers_find_what_the_driver_held_out(config: DataConfig, tmp_path: Path) -> None:
    known = open_and_cache(config, tmp_path)
    found = open_source(config, tmp_path)
    assert found.spec == known.spec
    assert labels(found, "validation") == labels(known, "validation")
