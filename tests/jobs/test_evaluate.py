"""`jobs/evaluate.py` on runs: scores and exports again, and scores of generated pictures with their cards and a sheet."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from genlib import checkpoint
from genlib.config import DataConfig
from genlib.data.source import open_source
from genlib.engine.fit import fit
from genlib.metrics import scorecard
from genlib.models.diffusion.ddpm import ddpm
from genlib.models.representation.classifier import classifier
from genlib.models.representation.clip import clip_tiny
from genlib.phases import PHASE
from genlib.recipe import Stage
from jobs.evaluate import main
from jobs.exit_codes import exit_code
from jobs.run_folder import write_json
from tests.jobs import toy
from tests.metrics import painter

CPU = torch.device("cpu")
SHAPES = DataConfig(train="shapes", image_size=32)


def trained(folder: Path, stage: Stage, recipe: str) -> None:
    one = replace(stage, train=replace(stage.train, trackers=(), checkpoint_every_steps=0, steps=min(stage.train.steps, 8)))
    fit(one, recipe=recipe, source=open_source(one.data), folder=folder, device=CPU)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("runs")
    trained(root / "classifier", classifier().smoke[0], "classifier")
    trained(root / "clip", clip_tiny().smoke[0], "clip_tiny")
    trained(root / "ddpm", ddpm().smoke[0], "ddpm")
    trained(root / "painter", painter.stage("prompt", SHAPES), "painter")
    trained(root / "toy", toy.stage(), "toy")
    for name in ("first", "second"):
        trained(root / "chain" / name, toy.stage(name), "chain")
    write_json(root / "chain" / "run.json", {"recipe": "chain", "stages": {"first": {}, "second": {}}})
    return root


@pytest.fixture
def runs(made: Path, tmp_path: Path) -> Path:
    return shutil.copytree(made, tmp_path / "runs")


def metrics(folder: Path) -> dict:
    return json.loads((folder / "metrics.json").read_text())


def test_a_run_is_evaluated_again(runs: Path, capsys: pytest.CaptureFixture) -> None:
    assert main([str(runs / "toy")]) == 0
    assert {"digits/mse", "steps"} <= metrics(runs / "toy").keys()
    assert (runs / "toy" / "export" / "README.md").exists()
    said = capsys.readouterr()
    assert said.out.startswith("  digits/mse ")  # what scripts read is the table alone
    phases = [found[2] for found in map(PHASE.fullmatch, said.err.splitlines()) if found]
    assert [line.partition(":")[0] for line in phases] == ["environment", "data", "model", "scores", "export"]


def test_scoring_of_much_is_no_silence(runs: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cluster.parallel._LINE_SECONDS", 0.0)
    assert main([str(runs / "classifier")]) == 0
    assert "scoring, samples read: " in capsys.readouterr().err


def test_of_several_stages_the_last_or_the_one_named(runs: Path) -> None:
    main([str(runs / "chain")])
    assert metrics(runs / "chain" / "second")["steps"] == 8
    assert not (runs / "chain" / "first" / "metrics.json").exists()
    assert not (runs / "chain" / "metrics.json").exists(), "a run that is not finished does not become so"


def test_a_finished_runs_own_scores_follow_those_of_its_stages(runs: Path) -> None:
    write_json(runs / "chain" / "metrics.json", {"old": 1})
    main([str(runs / "chain" / "first")])
    main([str(runs / "chain" / "second")])
    assert {"first/digits/mse", "digits/mse"} <= metrics(runs / "chain").keys()
    assert "old" not in metrics(runs / "chain")


def test_a_checkpoint_by_itself_leaves_the_runs_scores_alone(runs: Path) -> None:
    final = checkpoint.find(runs / "toy")
    main([str(final)])
    assert metrics(runs / "toy" / f"at-{final.name}")["steps"] == 8
    assert not (runs / "toy" / "metrics.json").exists()
    checkpoint.verify(final)


def test_a_run_that_stopped_or_whose_last_checkpoint_is_damaged_does_not_become_finished(runs: Path, capsys: pytest.CaptureFixture) -> None:
    final = checkpoint.find(runs / "toy")
    one = replace(toy.stage(), train=replace(toy.stage().train, steps=8, checkpoint_every_steps=4))
    shutil.rmtree(final.parent)
    final = fit(one, recipe="toy", source=open_source(one.data), folder=runs / "toy", device=CPU)
    (final / "weights.safetensors").write_bytes(b"damaged")
    assert main([str(runs / "toy")]) == 0
    assert "passing over a checkpoint that does not verify" in capsys.readouterr().err
    assert metrics(runs / "toy" / "at-step_00000004")["steps"] == 4
    assert not (runs / "toy" / "metrics.json").exists()


def test_pictures_by_label_are_scored_against_held_out_ones(runs: Path) -> None:
    folder = runs / "ddpm"
    main([str(folder), "--features", str(runs / "classifier"), "--samples", "30", "--batch", "16", "--sampler", "steps=3", "guidance_scale=2"])
    cards = scorecard.load(folder / "scores.json")
    assert [card.score for card in cards] == ["fid", "kid", "precision", "recall", "is"]
    assert {(card.n_generated, card.image_size) for card in cards} == {(30, 8)}
    assert cards[0].sampler == {"steps": 3, "guidance_scale": 2.0}
    assert cards[0].generator.startswith("ddpm/train/step_00000008-")
    found = metrics(folder)
    assert found["steps"] == 8
    assert all(found[f"{card.score}_{card.network}"] == card.value for card in cards)
    with Image.open(folder / "samples.png") as sheet:
        assert sheet.width > 8 * 8


def test_the_same_command_gives_the_same_scores_and_one_card_each(runs: Path) -> None:
    words = [str(runs / "ddpm"), "--features", str(runs / "classifier"), "--samples", "10", "--sampler", "steps=2"]
    main(words)
    first = scorecard.load(runs / "ddpm" / "scores.json")
    main(words)
    assert scorecard.load(runs / "ddpm" / "scores.json") == first
    main([*words, "--split", "train", "--reference", "50"])
    second = scorecard.load(runs / "ddpm" / "scores.json")[len(first) :]
    assert [card.n_reference for card in second] == [50, 50, 50, 50, 0]
    with pytest.raises(ValueError, match="cannot be compared: n_reference is"):
        scorecard.compare(first[0], second[0])


def test_pictures_by_prompt_have_clip_scores_and_keep_the_runs_own(runs: Path) -> None:
    folder = runs / "painter"
    write_json(folder / "metrics.json", {"validation/loss": 0.5})
    main([str(folder), "--clip", str(runs / "clip"), "--features", str(runs / "clip"), "--samples", "20"])
    found = metrics(folder)
    assert found.pop("validation/loss") == 0.5
    names = {name.partition("_clip_tiny-")[0] for name in found}
    assert names == {"fid", "kid", "precision", "recall", "clip_score", "clip_score_shuffled"}
    assert not (folder / "export").exists()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["nowhere"], "nowhere holds no checkpoint"),
        (["toy", "--features", "classifier"], "Toy makes no pictures"),
        (["ddpm", "--features", "toy"], "is a Toy, which names no features of pictures"),
        (["ddpm", "--features", "nowhere"], "is no feature network"),
        (["ddpm", "--clip", "classifier"], "is no CLIP of ours"),
        (["ddpm", "--features", "classifier", "--sampler", "step=3"], "'step=3' sets nothing of ClassDDPM.generate"),
        (["ddpm", "--features", "classifier", "--sampler", "sampler=magic"], "sampler=magic is refused: it must be one of"),
        (["ddpm", "--features", "classifier", "--samples", "2"], "ask for more with --samples"),
    ],
)  # fmt: skip
def test_wrong_words_are_refused_in_a_sentence(words: list[str], sentence: str, runs: Path, capsys: pytest.CaptureFixture) -> None:
    for name in ("toy", "ddpm"):
        write_json(runs / name / "metrics.json", {"steps": 8})
    words = [str(runs / word) if word in ("nowhere", "toy", "ddpm", "classifier") else word for word in words]
    assert exit_code(lambda: main(words)) == 2
    *phases, said = capsys.readouterr().err.strip("\n").split("\n")
    assert sentence in said
    assert all(map(PHASE.fullmatch, phases))
