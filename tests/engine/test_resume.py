"""Resume: bit-equal in the same world, equal to rounding in another world or under another strategy, no row missing or twice."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from genlib import checkpoint
from genlib.config import DataConfig, OptimConfig, TrainConfig
from genlib.engine.fit import fit
from genlib.engine.listener import Listener
from genlib.recipe import Stage
from tests.processes import run_ranks
from tests.tiny import ArraySource, TinyConfig

STEPS, CUT = 8, 4
KINDS = ("WGANGP", "Momentum", "RBM")
STRATEGIES = ("ddp", "zero1", "zero2", "zero3")


def stage(kind: str, strategy: str = "auto", **train: object) -> Stage:
    optim = (
        OptimConfig(name="sgd", learning_rate=0.1, momentum=0.9)
        if kind == "RBM"
        else OptimConfig(learning_rate=1e-3, weight_decay=0.1, schedule="linear")
    )
    defaults = {"steps": STEPS, "global_batch": 24, "checkpoint_every_steps": 2, "ema_halflife_samples": 48, "trackers": (), "optim": optim}
    return Stage(task=TinyConfig(kind=kind), train=TrainConfig(**{**defaults, "strategy": strategy, **train}))


def train(folder: Path, stage: Stage, listener: Listener | None = None, source: ArraySource | None = None) -> Path:
    return fit(stage, recipe="tiny", source=source or ArraySource(), folder=folder, device=torch.device("cpu"), listener=listener)


def rewind(folder: Path, step: int = CUT) -> None:
    """As if the run had been killed after metrics of its end, but before any checkpoint after `step`."""
    for path in checkpoint.checkpoints(folder / "checkpoints"):
        if path.name > checkpoint.step_name(step):
            shutil.rmtree(path)


def weights(folder: Path, ema: bool = False) -> dict[str, torch.Tensor]:
    return checkpoint.load_weights(folder / "checkpoints" / checkpoint.step_name(STEPS), ema=ema)


def rows(folder: Path) -> list[dict]:
    timing = ("samples_per_second", "samples_per_second_per_gpu", "data_share")
    return [
        {k: v for k, v in json.loads(line).items() if k not in timing and not k.endswith("_time")}
        for line in (folder / "metrics.jsonl").read_text().splitlines()
    ]


def train_pairs(root: Path) -> None:
    for kind in KINDS:
        for strategy in STRATEGIES:
            one = stage(kind, strategy, keep_checkpoints=9)
            train(root / f"{kind}-{strategy}-whole", one)
            train(root / f"{kind}-{strategy}-cut", one)


def resume_pairs(root: Path) -> None:
    for kind in KINDS:
        for strategy in STRATEGIES:
            train(root / f"{kind}-{strategy}-cut", stage(kind, strategy, keep_checkpoints=9))
            train(root / f"{kind}-{strategy}-grown", stage(kind, strategy, keep_checkpoints=9))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Whole and cut runs of two ranks; `shrunk` goes on with one rank, `grown` was begun by one and goes on with two."""
    root = tmp_path_factory.mktemp("resume")
    run_ranks(2, train_pairs, root)
    for kind in KINDS:
        train(root / f"{kind}-single", stage(kind, keep_checkpoints=9))
        for strategy in STRATEGIES:
            name = f"{kind}-{strategy}"
            shutil.copytree(root / f"{name}-whole", root / f"{name}-shrunk")
            shutil.copytree(root / f"{kind}-single", root / f"{name}-grown")
            for how in ("cut", "shrunk", "grown"):
                rewind(root / f"{name}-{how}")
            train(root / f"{name}-shrunk", stage(kind, strategy))
    run_ranks(2, resume_pairs, root)
    return root


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("kind", KINDS)
def test_resume_is_exact(runs: Path, kind: str, strategy: str) -> None:
    whole, cut = runs / f"{kind}-{strategy}-whole", runs / f"{kind}-{strategy}-cut"
    for ema in (False, True):
        expected, found = weights(whole, ema), weights(cut, ema)
        assert all(torch.equal(found[key], value) for key, value in expected.items())
    assert rows(cut) == rows(whole)
    assert [row["step"] for row in rows(cut)] == list(range(1, STEPS + 1))


@pytest.mark.parametrize("how", ["shrunk", "grown"])
@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("kind", KINDS)
def test_another_world_goes_on(runs: Path, kind: str, strategy: str, how: str) -> None:
    for ema in (False, True):
        expected, found = weights(runs / f"{kind}-single", ema), weights(runs / f"{kind}-{strategy}-{how}", ema)
        for key, value in expected.items():
            torch.testing.assert_close(found[key], value, atol=2e-5, rtol=0)
    assert [row["step"] for row in rows(runs / f"{kind}-{strategy}-{how}")] == list(range(1, STEPS + 1))


def test_another_strategy_goes_on(runs: Path, tmp_path: Path) -> None:
    shutil.copytree(runs / "WGANGP-zero3-whole", tmp_path / "run")
    rewind(tmp_path / "run")
    train(tmp_path / "run", stage("WGANGP", "single"))
    for key, value in weights(runs / "WGANGP-single").items():
        torch.testing.assert_close(weights(tmp_path / "run")[key], value, atol=2e-5, rtol=0)


def test_resume_of_a_resume(tmp_path: Path) -> None:
    train(tmp_path / "whole", stage("VAE"))
    for step in (6, 2, 4):
        train(tmp_path / "cut", stage("VAE", keep_checkpoints=9))
        rewind(tmp_path / "cut", step)
    train(tmp_path / "cut", stage("VAE"))
    assert all(torch.equal(weights(tmp_path / "cut")[key], value) for key, value in weights(tmp_path / "whole").items())
    assert rows(tmp_path / "cut") == rows(tmp_path / "whole")


def test_damaged_newest_checkpoint_falls_back(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    folder = train(tmp_path / "run", stage("VAE"))
    before = {key: value.clone() for key, value in weights(tmp_path / "run").items()}  # files are mapped, not read
    damaged = folder / "weights.safetensors"
    data = bytearray(damaged.read_bytes())
    data[len(data) // 2] ^= 1
    damaged.write_bytes(data)
    train(tmp_path / "run", stage("VAE"))
    assert "weights.safetensors is damaged" in capsys.readouterr().err
    assert all(torch.equal(weights(tmp_path / "run")[key], value) for key, value in before.items())


def test_finished_run_is_left_alone(tmp_path: Path) -> None:
    folder = train(tmp_path, stage("VAE"))
    stamp = (folder / "manifest.json").stat().st_mtime_ns
    assert train(tmp_path, stage("VAE")) == folder
    assert (folder / "manifest.json").stat().st_mtime_ns == stamp


@pytest.mark.parametrize(
    ("other", "source", "words"),
    [
        (replace(stage("VAE"), task=TinyConfig(kind="RBM")), None, "task.kind"),
        (stage("VAE", seed=3), None, "train.seed = 0, now it is 3"),
        (stage("VAE", optim=OptimConfig(learning_rate=2e-3, weight_decay=0.1, schedule="linear")), None, "train.optim.learning_rate"),
        (replace(stage("VAE"), data=DataConfig(image_size=8)), None, "data.image_size"),
        (stage("VAE"), ArraySource(rows=95), "training data changed"),
        (replace(stage("VAE"), name="other"), None, "not tiny (other)"),
    ],
)
def test_checkpoint_of_another_run_is_refused(tmp_path: Path, other: Stage, source: ArraySource | None, words: str) -> None:
    train(tmp_path, stage("VAE"))
    with pytest.raises(ValueError, match=words.replace("(", r"\(").replace(")", r"\)")):
        train(tmp_path, other, source=source)


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_takes_over_another_ones_checkpoint_with_all_its_state(kind: str, tmp_path: Path) -> None:
    """What a search does with a trial that falls behind: weights, average, optimizer and position of the donor, settings of its own."""
    donor = stage(kind, keep_checkpoints=9)
    train(tmp_path / "donor", donor)
    taken = tmp_path / "donor" / "checkpoints" / checkpoint.step_name(CUT)
    other = stage(kind, keep_checkpoints=9, optim=replace(donor.train.optim, learning_rate=3 * donor.train.optim.learning_rate))
    for name, settings in (("same", donor), ("other", other)):
        train(tmp_path / name, stage(kind, keep_checkpoints=9, seed=5))
        checkpoint.inherit(taken, tmp_path / name / "checkpoints", settings.task, settings.train)
        assert [path.name for path in checkpoint.checkpoints(tmp_path / name / "checkpoints")] == [taken.name]
        train(tmp_path / name, settings)
    for ema in (False, True):
        whole, same, changed = (weights(tmp_path / name, ema) for name in ("donor", "same", "other"))
        assert all(torch.equal(same[name], value) for name, value in whole.items())
        assert any(not torch.equal(changed[name], value) for name, value in whole.items())
    assert [row["train/lr"] for row in rows(tmp_path / "other")][CUT:] == [3 * row["train/lr"] for row in rows(tmp_path / "donor")][CUT:]
