"""An exported StyleGAN draws what its checkpoint draws: in another process, in blocks of any size, and served among strangers."""

from __future__ import annotations

import asyncio
import io
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import torch
from PIL import Image

from genlib import checkpoint, registry
from genlib.engine.fit import fresh_task
from genlib.recipe import Stage
from jobs import export, generate
from jobs.evaluate import evaluate
from jobs.export import push
from jobs.model_export import write_export
from serve.models.runner import Runner
from serve.models.sources import model_sources
from tests.jobs.runs import ROOT
from tests.models.stages import CPU, source_of, train_stage
from tests.sharing.hub_server import serving
from tests.sharing.run_cards import code_of
from tests.sharing.test_hub import to

RECIPES = ("stylegan2", *(pytest.param(name, marks=pytest.mark.slow) for name in ("stylegan2_labelled", "stylegan3_t")))


@pytest.fixture(scope="module", params=RECIPES)
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with its export, whose network says more than so short a training leaves."""
    folder = tmp_path_factory.mktemp("run") / request.param
    stage: Stage = registry.load(request.param).smoke[0]
    final = train_stage(request.param, stage, folder, {}, ema_halflife_samples=64)
    evaluate(final, source_of(stage), folder, CPU)
    return folder


def asked(run: Path, tmp_path: Path) -> list[str]:
    """What a command line says of the pictures; of a model with classes a file of them."""
    words = ["--sampler", "truncation=0.8"]
    if run.name == "stylegan2_labelled":
        (tmp_path / "labels.txt").write_text("3\n1\n4\n1\n5\n")
        return ["--prompts", str(tmp_path / "labels.txt"), *words]
    return ["--each", "5", *words]


def pictures(folder: Path) -> np.ndarray:
    return np.stack([np.asarray(Image.open(path)) for path in sorted(folder.glob("*.png"))]).astype(int)


def test_the_same_pixels_in_another_process_alone_and_among_others(run: Path, tmp_path: Path) -> None:
    words = asked(run, tmp_path)
    assert generate.main([str(run), "--out", str(tmp_path / "checkpoint"), *words]) == 0
    for name, block in (("alone", "1"), ("together", "64")):
        command = [sys.executable, "jobs/generate.py", str(run / "export"), "--out", str(tmp_path / name), "--block", block, *words]
        subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    expected = pictures(tmp_path / "checkpoint")
    assert len(np.unique(expected.reshape(5, -1), axis=0)) == 5
    assert (pictures(tmp_path / "together") == expected).all()
    assert np.abs(pictures(tmp_path / "alone") - expected).max() <= 1, "sums of another batch may round otherwise"


def test_served_among_strangers_it_draws_the_same(run: Path, tmp_path: Path) -> None:
    assert generate.main([str(run), "--out", str(tmp_path / "checkpoint"), *asked(run, tmp_path)]) == 0
    (source,) = model_sources([str(run / "export")], tmp_path)
    assert source.name == run.name
    runner = Runner.load(Path(source.folder), device="cpu")
    label = {"label": [3, 1, 4, 1, 5]} if run.name == "stylegan2_labelled" else {}

    async def crowd() -> list:
        rows = [{"seed": [seed], "truncation": 0.8, **{name: value[seed : seed + 1] for name, value in label.items()}} for seed in range(5)]
        return await asyncio.gather(*(runner.run("generate", row) for row in rows))

    try:
        served = np.stack([np.asarray(Image.open(io.BytesIO(result.images[0]))) for result in asyncio.run(crowd())])
    finally:
        runner.close()
    assert np.abs(served.astype(int) - pictures(tmp_path / "checkpoint")).max() <= 1


def test_an_export_can_do_all_that_its_checkpoint_can(run: Path) -> None:
    final = checkpoint.find(run)
    assert final
    one, other = checkpoint.load_task(final), checkpoint.load_task(run / "export")
    image = one.draw(code=torch.randn(2, one.networks.style_dim, generator=torch.Generator().manual_seed(0)))
    assert torch.equal(one.embed(image=image), other.embed(image=image))
    words = {**one.asked([3]), "truncation": 0.5}
    assert torch.equal(one.mix(**words, style_seed=[4], style_layer=2), other.mix(**words, style_seed=[4], style_layer=2))


def test_training_starts_from_an_export(run: Path, tmp_path: Path) -> None:
    stage: Stage = registry.load(run.name).smoke[0]
    stage = replace(stage, train=replace(stage.train, start_from=str(run / "export")))
    fresh, _ = fresh_task(stage, recipe=run.name, source=source_of(stage), folder=tmp_path, upstream={})
    expected = checkpoint.load_task(run / "export")
    for player in ("generator", "discriminator"):
        there = expected.player(player).state_dict()
        assert all(torch.equal(value, there[name]) for name, value in fresh.player(player).state_dict().items())


def test_what_the_settings_say_is_what_was_built(run: Path) -> None:
    settings = json.loads((run / "export" / "generator" / "config.json").read_text())["synthesis_kwargs"]
    task = checkpoint.load_task(run / "export")
    if run.name == "stylegan3_t":
        design = task.networks.alias_free
        assert (settings["num_layers"], settings["margin_size"], settings["conv_kernel"]) == (design.num_layers, design.margin, 3)
    else:
        assert settings["use_noise"] is task.networks.layer_noise


def test_a_damaged_export_is_refused(run: Path, tmp_path: Path) -> None:
    path = run / "export" / "generator" / "model.safetensors"
    kept = path.read_bytes()
    try:
        path.write_bytes(kept[:-1] + bytes([kept[-1] ^ 1]))
        with pytest.raises(ValueError, match=r"generator/model.safetensors is damaged \(its sha256 is not the manifest's\)"):
            generate.main([str(run / "export"), "--out", str(tmp_path / "out"), *asked(run, tmp_path)])
    finally:
        path.write_bytes(kept)


def test_a_pushed_one_is_opened_and_says_no_path_of_this_machine(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    final = checkpoint.find(run)
    assert final
    task, manifest = checkpoint.load_task(final), checkpoint.read_manifest(final)
    manifest = replace(manifest, data={**manifest.data, "train": "/home/bob/secret/photos"})
    metrics = json.loads((run / "metrics.json").read_text())
    made = write_export(task, manifest, run, metrics, out=tmp_path / "export")
    with serving(tmp_path / "hub") as server:
        to(server.url, monkeypatch, tmp_path)
        push(made, "me/style", private=False, manifest=manifest)
        back = Path(huggingface_hub.snapshot_download("me/style", cache_dir=tmp_path / "cache", endpoint=server.url))
    assert (back / ".gitattributes").exists(), "the hub's own file is among those that come back"
    other, asked = checkpoint.load_task(back), task.asked([3])  # type: ignore[attr-defined]
    assert torch.equal(other.generate(**asked), task.generate(**asked))  # type: ignore[operator]
    assert not any(b"secret" in path.read_bytes() for path in back.rglob("*") if path.is_file())
    assert "`photos`" in (back / "README.md").read_text()
    assert not list(tmp_path.glob(".hub-*"))


def test_the_card_says_what_was_reached_and_its_code_runs(run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    folder = run / "export"
    card = (folder / "README.md").read_text()
    scores = json.loads((run / "metrics.json").read_text())
    assert sum(f"| {name} |" in card for name in scores) >= 3
    assert (folder / "sample.png").exists()
    monkeypatch.chdir(folder)
    exec(code_of(folder), {})
    assert "torch.Size([4, " in capsys.readouterr().out
    checkpoint.verify(folder)


def test_the_command_exports_again_with_a_licence_and_onnx_files_go_with_other_weights(run: Path, capsys: pytest.CaptureFixture) -> None:
    (run / "export" / "onnx").mkdir()
    (run / "export" / "onnx" / "mapping.onnx").write_bytes(b"old")
    assert export.main([str(run), "--license", "cc-by-4.0"]) == 0
    said = capsys.readouterr()
    assert "was of other weights and is gone" in said.err
    assert "license: cc-by-4.0" in (run / "export" / "README.md").read_text()
    checkpoint.verify(run / "export")
    evaluate(checkpoint.find(run), source_of(registry.load(run.name).smoke[0]), run, CPU)  # type: ignore[arg-type]
    assert "license: cc-by-4.0" in (run / "export" / "README.md").read_text(), "it is kept"


def test_what_was_not_evaluated_is_not_exported(run: Path, tmp_path: Path) -> None:
    final = checkpoint.find(run)
    assert final
    with pytest.raises(ValueError, match=r"has no scores yet, which its card shows; `python jobs/evaluate\.py"):
        export.main([str(final)])
