"""In a mixture of sets a sample counts by what the task reads, not by what another set has beside it (mlfoundations/open_clip#398)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from genlib import registry
from genlib.config import DataConfig
from genlib.data.shards.writer import png, write_shards
from genlib.data.source import open_source
from genlib.recipe import Stage

MEMBERS = {"text": ("txt", b"a word"), "label": ("cls", b"1")}
STAGES: dict[str, Stage] = {type(stage.task).__name__: stage for name in registry.RECIPES for stage in registry.load(name).smoke}


def written(folder: Path, count: int, **members: bytes) -> Path:
    rng = np.random.default_rng(count)
    write_shards(folder, "train", [{"png": png(rng.integers(0, 256, (8, 8, 1), dtype=np.uint8)), **members} for _ in range(count)])
    return folder


@pytest.mark.parametrize("kind", list(STAGES))
def test_samples_of_a_mixture_count_by_what_the_task_reads(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENLIB_CACHE", str(tmp_path / "cache"))
    needs = STAGES[kind].task.fields
    assert needs, "it says what it reads"
    few = written(tmp_path / "a", 20, **dict(MEMBERS[name] for name in needs if name in MEMBERS))
    many = written(tmp_path / "b", 30, **dict(MEMBERS.values()), json=b'{"score": 1}')
    assert open_source(DataConfig(train=f"{few}::{many}"), needs=needs).num_samples("train") == 50


def test_vectors_count_as_vectors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENLIB_CACHE", str(tmp_path / "cache"))
    np.save(tmp_path / "vector.npy", np.arange(3.0))
    vectors = [{"npy": (tmp_path / "vector.npy").read_bytes()}] * 5
    write_shards(tmp_path / "a", "train", vectors)
    write_shards(tmp_path / "b", "train", [{**one, "cls": b"1"} for one in (*vectors, *vectors)])
    source = open_source(DataConfig(train=f"{tmp_path / 'a'}::{tmp_path / 'b'}"), needs=("image|array",))
    assert (source.num_samples("train"), source.spec.vector_size) == (15, 3)
