"""Codes of every recipe that has an encoder and a decoder: either works without the other, from a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from genlib import checkpoint, registry
from genlib.models.autoencoders.base.image import ImageAutoencoder
from genlib.nn.coders import TransposedLinear
from genlib.task import Task
from tests.models.stages import source_of, train_stages

RECIPES = (
    "autoencoder", "autoencoder_denoising", "autoencoder_kl", "autoencoder_vq", "beta_vae", "dbn", "pca", "rbm", "rbm_gaussian", "som", "vae"
)  # fmt: skip


def encode(task: Any, image: Tensor) -> Tensor:
    return task.encode_image(2 * image - 1)[0] if isinstance(task, ImageAutoencoder) else task.embed(image=image)


def decode(task: Any, code: Tensor) -> Tensor:
    return (task.decode_latent(code) / 2 + 0.5).clamp(0, 1) if isinstance(task, ImageAutoencoder) else task.decode(code=code)


@torch.no_grad()
def spoilt(task: Task, part: str) -> Task:
    """The task without the weights of its `encoder` or its `decoder`, where these have some that are theirs alone."""
    net = task.get_submodule("net")
    tied = {id(layer.other[0].weight) for layer in net.modules() if isinstance(layer, TransposedLinear)}
    for parameter in getattr(net, part, nn.Module()).parameters():
        if id(parameter) not in tied:
            parameter.fill_(torch.nan)
    return task


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_checkpoint_encodes_alone_and_decodes_alone(recipe: str, tmp_path: Path) -> None:
    stages = registry.load(recipe).smoke
    name = stages[-1].name if recipe != "dbn" else stages[-2].name  # the top of the stack; the classifier has no decoder
    final = train_stages(recipe, tmp_path, [stage.name for stage in stages[: [stage.name for stage in stages].index(name) + 1]])[name]
    whole: Any = checkpoint.load_task(final)
    batch = next(source_of(stages[0]).batches("validation", 8, transform=whole.transform(train=False)))
    given = batch["image"] if "image" in batch else batch["x"]
    with torch.no_grad():
        code = encode(spoilt(checkpoint.load_task(final), "decoder"), given)
        made = decode(spoilt(checkpoint.load_task(final), "encoder"), code)
    assert code.isfinite().all()
    assert torch.equal(made, whole.reconstruct(image=given))
    assert made.std() > 0
