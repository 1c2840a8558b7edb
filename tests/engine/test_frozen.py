"""Frozen networks inside a task that trains: in which type they are, where, and for how long."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from genlib import checkpoint, registry
from genlib.config import TrainConfig
from genlib.encoded_batch import encode
from genlib.engine.encoding import frozen_state, identity
from genlib.engine.fit import fit, fresh_task
from genlib.engine.frozen import lower
from genlib.models.autoencoders.base.image import ImageAutoencoder
from genlib.recipe import Stage
from genlib.task import Task
from genlib.upstream import every_upstream
from jobs.encoder import EncodingWork
from tests.models.stages import CPU, built_untrained, source_of, train_stages

ENCODING = [("sdxl_tiny", "denoiser"), ("sd3_tiny", "denoiser"), ("text_gan", "pictures"), ("rectified_flow", "reflow")]


def smoke(recipe: str, name: str, **train: object) -> Stage:
    (stage,) = (stage for stage in registry.load(recipe).smoke if stage.name == name)
    return replace(stage, train=replace(stage.train, trackers=(), **train))


def prepared(recipe: str, name: str) -> tuple[Task, dict[str, torch.Tensor]]:
    """The task as it is before training, and a batch of its samples."""
    task, stage = built_untrained(recipe)[name], smoke(recipe, name)
    return task, next(iter(source_of(stage).batches("train", 16, transform=task.transform(train=True))))


@pytest.mark.parametrize(("recipe", "name"), ENCODING)
def test_encodings_in_bf16_are_within_two_hundredths_of_their_spread(recipe: str, name: str) -> None:
    task, batch = prepared(recipe, name)
    whole, own = encode(task, batch), {key: value.clone() for key, value in task.state_dict().items() if key not in frozen_state(task)}
    lower(task)
    apart = 0.0
    for key, value in encode(task, batch).items():
        assert value.dtype == whole[key].dtype
        if not value.is_floating_point() or "latent" in key:
            assert torch.equal(value, whole[key]), key
            continue
        error = (value.float() - whole[key].float()).square().mean().sqrt() / whole[key].float().std()
        apart = max(apart, error.item())
    assert 1e-5 < apart < 0.02
    assert all(torch.equal(task.state_dict()[key], value) and value.dtype == task.state_dict()[key].dtype for key, value in own.items())


def test_image_autoencoders_stay_whole_and_layers_of_all_others_take_half() -> None:
    task = built_untrained("sdxl_tiny")["refiner"]
    lower(task)
    for one in every_upstream(task):
        types = {weight.dtype for weight in one.parameters()}
        assert types == ({torch.float32} if isinstance(one, ImageAutoencoder) else {torch.float32, torch.bfloat16})


def test_frozen_networks_follow_the_precision_unless_they_are_told() -> None:
    lowers = {(p, f): TrainConfig(precision=p, frozen_precision=f).lowers_frozen for p in ("fp32", "bf16") for f in ("auto", "fp32", "bf16")}  # type: ignore[arg-type]
    assert [key for key, low in lowers.items() if low] == [("fp32", "bf16"), ("bf16", "auto"), ("bf16", "bf16")]


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_stages("rectified_flow", tmp_path_factory.mktemp("teacher"), ["flow"])["flow"]


def reflow(folder: Path, teacher: Path, **train: object) -> Path:
    """Trains the small reflow; its final checkpoint."""
    stage = smoke(
        "rectified_flow", "reflow", checkpoint_every_steps=2, keep_checkpoints=9, steps=4, encoded_dir=str(folder.parent / "encoded"), **train
    )
    return fit(stage, recipe="rectified_flow", source=source_of(stage), folder=folder, device=CPU, upstream={"teacher": teacher})


def equal(one: Path, other: Path) -> bool:
    expected, found = checkpoint.load_weights(one), checkpoint.load_weights(other)
    return all(torch.equal(found[name], value) and found[name].dtype == value.dtype for name, value in expected.items())


def test_a_run_with_frozen_networks_in_bf16_goes_on_as_it_was_and_the_same_either_way(teacher: Path, tmp_path: Path) -> None:
    whole = reflow(tmp_path / "whole", teacher, frozen_precision="bf16", encode="fly")
    types = {value.dtype for name, value in checkpoint.load_weights(whole).items() if "teacher" in name}
    assert torch.bfloat16 in types
    assert {value.dtype for name, value in checkpoint.load_weights(whole).items() if name.startswith("net.")} == {torch.float32}
    shutil.copytree(tmp_path / "whole", tmp_path / "again")
    shutil.rmtree(tmp_path / "again" / "checkpoints" / checkpoint.step_name(4))
    assert equal(whole, reflow(tmp_path / "again", teacher, frozen_precision="bf16", encode="ahead"))
    assert not equal(whole, reflow(tmp_path / "fp32", teacher, encode="fly"))
    with pytest.raises(ValueError, match=r"was started with train\.frozen_precision = 'bf16', now it is 'fp32'"):
        reflow(tmp_path / "whole", teacher, frozen_precision="fp32")


def test_what_is_encoded_in_bf16_is_a_set_of_its_own_that_other_workers_make_too(teacher: Path, tmp_path: Path) -> None:
    names = {}
    for precision in ("fp32", "bf16"):
        stage = smoke("rectified_flow", "reflow", frozen_precision=precision)
        source = source_of(stage)
        task, blueprint = fresh_task(stage, recipe="rectified_flow", source=source, folder=tmp_path, upstream={"teacher": teacher})
        names[precision] = identity(task, stage, source.spec)
        work = EncodingWork.of(stage, task, blueprint, tmp_path, tmp_path)
        assert work.identity == names[precision]
        batch = next(iter(source.batches("train", 8, transform=task.transform(train=True))))
        there, here = encode(work.restored(), batch), encode(task.eval(), batch)
        assert all(torch.equal(there[name], value) for name, value in here.items())
    assert names["fp32"] != names["bf16"]
