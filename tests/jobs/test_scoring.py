"""Pictures of checkpoints, scored while a run trains: when, against what, and which checkpoint is kept."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_type_hints

import pytest
import ray

from genlib import checkpoint, registry
from genlib.data.source import open_source
from genlib.engine.fit import fit
from genlib.engine.listener import Evaluated, Listener
from genlib.engine.report import Row
from genlib.recipe import Stage
from genlib.task import Task
from jobs import stylegan_train, train
from jobs.evaluations import evaluations
from jobs.scoring import Scorer, Scoring
from tests.models.stages import CPU, train_stage


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the smallest feature network."""
    folder = tmp_path_factory.mktemp("judge")
    (stage,) = registry.load("simclr").smoke
    train_stage("simclr", stage, folder, {})
    return folder


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """No other worker has room."""
    monkeypatch.setattr(Scorer, "sent_away", lambda *_: False)


def trained(folder: Path, judge: Path, every_images: int, steps: int = 8) -> list[dict]:
    """What a run says of its checkpoints, one each 32 images."""
    (stage,) = registry.load("stylegan2").smoke
    stage = replace(stage, train=replace(stage.train, trackers=(), steps=steps, checkpoint_every_steps=2))
    fit(stage, recipe="stylegan2", source=open_source(stage.data), folder=folder, device=CPU, listener=Scored(judge, stage, folder, every_images))
    return evaluations(folder)


class Scored(Listener):
    """As a worker's, without Ray."""

    def __init__(self, judge: Path, stage: Stage, folder: Path, every_images: int) -> None:
        self.scorer = Scorer(Scoring((judge,), every_images, samples=16, split="train"), stage, folder, folder / "data", CPU)

    def on_checkpoint(self, folder: Path, row: Row, evaluated: Evaluated | None) -> None:
        self.scorer.on_checkpoint(folder, row)


@pytest.mark.usefixtures("here")
def test_checkpoints_are_scored_after_so_many_images_and_at_the_end(judge: Path, tmp_path: Path) -> None:
    rows = trained(tmp_path, judge, every_images=50)
    assert [row["step"] for row in rows] == [4, 8]
    assert [row["kimg"] for row in rows] == [0.064, 0.128]
    names = {name.partition("_")[0] for name in rows[0]}
    assert {"fid", "kid", "precision", "recall", "seconds"} <= names
    for step in (4, 8):
        assert (tmp_path / "scores" / f"step_{step:08d}" / "scores.json").is_file()


@pytest.mark.usefixtures("here")
def test_the_checkpoint_of_the_lowest_fid_is_kept_as_a_run(judge: Path, tmp_path: Path) -> None:
    rows = trained(tmp_path, judge, every_images=1)
    fid = next(name for name in rows[0] if name.startswith("fid_"))
    best = checkpoint.find(tmp_path / "best")
    assert best is not None
    assert checkpoint.read_manifest(best).step == min(rows, key=lambda row: row[fid])["step"]
    assert checkpoint.load_task(best, ema=True) is not None
    (tmp_path / "metrics.json").write_text(json.dumps({"samples_per_second": 50.0}))
    stylegan_train.summarise(tmp_path)
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["s_per_kimg"] == 20
    assert metrics["fid"] == rows[-1][fid]
    assert metrics["best_fid"] == min(row[fid] for row in rows)


@pytest.mark.usefixtures("here")
def test_a_run_that_goes_on_keeps_what_it_knew(judge: Path, tmp_path: Path) -> None:
    before = trained(tmp_path, judge, every_images=50, steps=4)
    after = trained(tmp_path, judge, every_images=50, steps=8)
    assert [row["step"] for row in after] == [4, 8]
    assert after[0] == before[0]


class Apart:
    """Stands in for Ray: what is sent away is done at once, and known only when asked for, the latest first."""

    def __init__(self, room: int) -> None:
        self.room, self.sent = room, 0

    def available_resources(self) -> dict[str, float]:
        return {"CPU": float(self.sent < self.room)}

    def remote(self, **needs: float) -> Callable[[Callable[..., Any]], Any]:
        assert needs == {"num_cpus": 1, "num_gpus": 0}
        return lambda function: SimpleNamespace(remote=partial(self.send, function))

    def send(self, function: Callable[..., Any], *arguments: Any) -> tuple[int, Any]:
        self.sent += 1
        return self.sent, function(*arguments)

    def wait(self, promises: list[tuple[int, Any]], timeout: float) -> tuple[list, list]:
        return [one for one in promises if one[0] > 1], []

    def get(self, promise: tuple[int, Any]) -> Any:
        return promise[1]


@pytest.mark.parametrize("room", [1, 2, 9])
def test_what_is_scored_apart_is_noted_in_the_order_of_steps(judge: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: int) -> None:
    """Also where the second one is done before the first, and where there is no room for a later one."""
    here = trained_here(tmp_path / "here", judge, monkeypatch)
    apart = Apart(room)
    for name in ("available_resources", "remote", "wait", "get"):
        monkeypatch.setattr(ray, name, getattr(apart, name))
    rows = trained(tmp_path / "apart", judge, every_images=1)
    assert apart.sent == min(room, 3), "the last one is scored where it is"
    assert [{name: value for name, value in row.items() if name not in ("time", "seconds")} for row in rows] == here
    assert not (tmp_path / "apart" / "scoring").exists() or not any((tmp_path / "apart" / "scoring").iterdir())


def trained_here(folder: Path, judge: Path, monkeypatch: pytest.MonkeyPatch) -> list[dict]:
    with monkeypatch.context() as patch:
        patch.setattr(Scorer, "sent_away", lambda *_: False)
        rows = trained(folder, judge, every_images=1)
    assert [row["step"] for row in rows] == [2, 4, 6, 8]
    return [{name: value for name, value in row.items() if name not in ("time", "seconds")} for row in rows]


@pytest.mark.usefixtures("here")
def test_scoring_changes_no_weight(judge: Path, tmp_path: Path) -> None:
    (stage,) = registry.load("stylegan2").smoke
    trained(tmp_path / "scored", judge, every_images=1)
    plain = train_stage("stylegan2", stage, tmp_path / "plain", {}, checkpoint_every_steps=2)
    found = checkpoint.load_weights(tmp_path / "scored" / "checkpoints" / plain.name)
    for name, value in checkpoint.load_weights(plain).items():
        assert value.equal(found[name]), name


@pytest.mark.usefixtures("here")
def test_what_cannot_be_scored_says_so_and_training_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = trained(tmp_path, tmp_path / "nothing", every_images=50)
    assert rows == []
    assert "step 8 is not scored: " in capsys.readouterr().out


def test_a_network_that_is_not_there_is_refused_before_ray_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobs.train.connected", lambda: pytest.fail("Ray was started"))
    with pytest.raises(ValueError, match="--score-features names /no/such, which does not exist; name a run of a classifier or CLIP, or Inception's"):
        train.main(["stylegan2", "--smoke", "--run-dir", str(tmp_path / "run"), "--score-features", "/no/such"])


@pytest.mark.parametrize(
    ("word", "value", "sentence"),
    [
        ("--data.image-size", "12", "image_size 12 is no power of two from 8 on, as StyleGAN and ProGAN need; use 8 or 16"),
        ("--train.strategy", "zero3", "StyleGAN cannot train under zero3: its penalties go back .*; use zero2"),
    ],
)
def test_what_a_stylegan_cannot_do_is_refused_before_a_judge_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, word: str, value: str, sentence: str
) -> None:
    monkeypatch.setattr(train, "main", lambda words: pytest.fail(f"{words[0]} was trained"))
    with pytest.raises(ValueError, match=sentence):
        stylegan_train.main(["--data.train", "digits", "--data.image-size", "16", word, value, "--run-dir", str(tmp_path / "run")])
    assert not (tmp_path / "run").exists()


def test_what_makes_no_pictures_is_refused_before_a_judge_is_trained(tmp_path: Path, judge: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train, "connected", lambda: pytest.fail("Ray starts"))
    with pytest.raises(ValueError, match="CLIP makes no pictures that could be scored while it trains"):
        stylegan_train.main(["--recipe", "clip_tiny", "--smoke", "--run-dir", str(tmp_path / "run")])
    words = ["simclr", "--smoke", "--run-dir", str(tmp_path / "plain"), "--score-features", str(judge)]
    with pytest.raises(ValueError, match="SimCLR makes no pictures"):
        train.main(words)
    for recipe in registry.RECIPES:
        kind = get_type_hints(type(registry.load(recipe).smoke[-1].task).build)["return"]
        assert issubclass(kind, Task), recipe
        assert kind is not Task, f"{recipe} does not say what it builds"


def test_the_judge_is_trained_on_the_same_images_by_as_many_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []
    monkeypatch.setattr(train, "main", lambda words: asked.append(list(words)) or 1)
    assert stylegan_train.main(["--data.train", "digits", "--data.image-size", "16", "--workers", "1", "--run-dir", str(tmp_path / "run")]) == 1
    command = train.parse(asked[0])
    assert (command.recipe, command.options.workers, command.stages[0].data.train, command.stages[0].data.image_size) == ("simclr", "1", "digits", 16)
