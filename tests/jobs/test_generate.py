"""`jobs/generate.py`: every picture once, the same whoever makes it, and no others among them."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from genlib import registry
from genlib.config import DataConfig
from genlib.data.source import open_source
from genlib.engine.fit import fit
from genlib.inference import USUAL
from genlib.phases import PHASE
from jobs import generate


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the smallest class-conditional diffusion."""
    folder = tmp_path_factory.mktemp("run")
    (stage,) = registry.load("ddpm").smoke
    stage = replace(stage, train=replace(stage.train, trackers=()))
    fit(stage, recipe="ddpm", source=open_source(stage.data), folder=folder, device=torch.device("cpu"))
    return folder


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    path = tmp_path / "labels.txt"
    path.write_text("3\n1\n4\n1\n5\n")
    return path


def command(run: Path, labels: Path, out: Path, *more: str) -> list[str]:
    return [str(run), "--prompts", str(labels), "--out", str(out), "--sampler", "steps=4", *more]


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path)).astype(int)


def test_a_picture_each_and_the_same_whatever_its_block(run: Path, labels: Path, tmp_path: Path) -> None:
    assert generate.main(command(run, labels, tmp_path / "one")) == 0
    order = generate.ordered(generate.parsed(command(run, labels, tmp_path / "two", "--block", "2")))
    for block in (2, 0, 1):
        (tmp_path / "two").mkdir(exist_ok=True)
        generate.make(block, order)
    for number, label in enumerate((3, 1, 4, 1, 5)):
        name = f"{number:08d}"
        assert json.loads((tmp_path / "one" / f"{name}.json").read_text()) == {"label": label, "seed": number}
        assert np.abs(pixels(tmp_path / "one" / f"{name}.png") - pixels(tmp_path / "two" / f"{name}.png")).max() <= 1
    assert len(list((tmp_path / "one").glob("*.png"))) == 5


def test_bf16_draws_nearly_the_same(run: Path, labels: Path, tmp_path: Path) -> None:
    usual, low = tmp_path / "usual", tmp_path / "low"
    assert generate.main(command(run, labels, usual)) == generate.main(command(run, labels, low, "--precision", "bf16")) == 0
    differences = [np.abs(pixels(path) - pixels(low / path.name)) for path in sorted(usual.glob("*.png"))]
    assert len(differences) == 5
    assert 0 < np.mean(differences) < 2


def test_goes_on_where_it_was_cut_off(run: Path, labels: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert generate.main(command(run, labels, out)) == 0
    lost, kept = out / "00000003.png", out / "00000001.png"
    before, stamp = pixels(lost), kept.stat().st_mtime_ns
    lost.unlink()
    capsys.readouterr()
    assert generate.main(command(run, labels, out)) == 0
    said = capsys.readouterr()
    assert said.out == f"1 picture made, 5 in {out}\n"
    phases = [found[2] for found in map(PHASE.fullmatch, said.err.splitlines()) if found]
    assert [line.partition(":")[0] for line in phases] == ["environment", "model", "pictures"]
    assert np.abs(pixels(lost) - before).max() <= 1
    assert kept.stat().st_mtime_ns == stamp


def test_shards_are_a_data_set(run: Path, labels: Path, tmp_path: Path) -> None:
    out = tmp_path / "shards"
    assert generate.main(command(run, labels, out, "--format", "shards", "--each", "2")) == 0
    source = open_source(DataConfig(train=str(out)))
    assert source.spec.num_samples == 10
    batch = next(source.batches("train", 10))
    assert sorted(batch["label"].tolist()) == [1, 1, 1, 1, 3, 3, 4, 4, 5, 5]
    assert not list(out.glob(".train*"))


def test_other_pictures_are_not_mixed_in(run: Path, labels: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    generate.main(command(run, labels, out))
    with pytest.raises(ValueError, match="another seed"):
        generate.main(command(run, labels, out, "--seed", "7"))
    with pytest.raises(ValueError, match="another precision"):
        generate.main(command(run, labels, out, "--precision", "bf16"))
    with pytest.raises(ValueError, match="another options"):
        generate.main([str(run), "--prompts", str(labels), "--out", str(out), "--sampler", "steps=5"])
    (out / generate.NOTE).unlink()
    with pytest.raises(ValueError, match="nothing is known"):
        generate.main(command(run, labels, out))


@pytest.mark.parametrize(("text", "sentence"), [("", "is empty"), ("cat\n", "line 1: 'cat' is no label")])
def test_a_prompt_file_that_is_wrong(run: Path, tmp_path: Path, text: str, sentence: str) -> None:
    path = tmp_path / "prompts.txt"
    path.write_text(text)
    with pytest.raises(ValueError, match=sentence):
        generate.main(command(run, path, tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_lines_of_json(tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"prompt": "a bell", "seed": 4}\n{"prompt": "a key"}\n')
    lines = generate.read_prompts(path, "prompt")
    order = generate.PictureOrder(tmp_path, tmp_path, False, tuple(lines), 2, 100, (), 8, USUAL)
    assert [order.facts(number)["seed"] for number in range(4)] == [4, 5, 102, 103]
    path.write_text('{"prompt": "a bell", "size": 4}\n')
    with pytest.raises(ValueError, match="line 1"):
        generate.read_prompts(path, "prompt")


def test_over_ray(run: Path, labels: Path, tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    generate.main(command(run, labels, here))
    shutil.rmtree(there, ignore_errors=True)
    script = [sys.executable, generate.__file__, *command(run, labels, there, "--block", "2")]  # as a user runs it, not as a module
    done = subprocess.run(script, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"5 pictures made, 5 in {there}\n"
    phases = [found[2] for found in map(PHASE.fullmatch, done.stderr.splitlines()) if found]
    assert [line.partition(":")[0] for line in phases] == ["environment", "model", "Ray", "pictures"]
    assert sorted(path.name for path in there.glob("*.png")) == sorted(path.name for path in here.glob("*.png"))
    for path in here.glob("*.png"):
        assert np.abs(pixels(path) - pixels(there / path.name)).max() <= 1
