"""The auxiliary classifier: its losses as printed, and whether samples are of their class."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from genlib import checkpoint, companions
from genlib.data.source import open_source
from genlib.models.adversarial.acgan import ACGAN, ACGANConfig, ClassGame
from genlib.models.adversarial.dcgan import Convolutional
from genlib.registry import load
from genlib.types import DataSpec, Step
from tests.models.stages import train_stage

PIXELS = DataSpec(channels=1, image_size=8, class_names=("a", "b", "c"))


def made(weight: float) -> ACGAN:
    torch.manual_seed(0)
    task = ACGANConfig(network=Convolutional(latent_dim=6, width=8), game=ClassGame(class_weight=weight)).build(PIXELS, {})
    with torch.no_grad():
        for parameter in task.parameters():  # which start so small that all logits are near 0
            parameter.add_(torch.randn_like(parameter), alpha=0.2)
    return task


@pytest.mark.parametrize("weight", [1.0, 0.25])
def test_losses_are_the_printed_ones(weight: float) -> None:
    task = made(weight)
    batch, step = companions.example(task, 6), Step(0, 10)
    label = batch["label"]
    _, _, real, fake = task.discriminator_logits(batch, step)
    classes = -real[:, 1:].softmax(1)[torch.arange(6), label].log()
    expected = -real[:, 0].sigmoid().log() - (1 - fake[:, 0].sigmoid()).log() + weight * classes
    torch.testing.assert_close(task.loss("discriminator", batch, step)[0], expected)
    passed = task.generator_logits(batch, step)
    expected = -passed[:, 0].sigmoid().log() + weight * F.cross_entropy(passed[:, 1:], label, reduction="none")
    loss, metrics = task.loss("generator", batch, step)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(metrics["class_loss"], F.cross_entropy(passed[:, 1:], label, reduction="none"))


def test_the_generator_is_told_the_label_and_the_discriminator_is_not() -> None:
    task, step = made(1.0), Step(0, 10)
    batch = companions.example(task, 6)
    real, fake, on_real, _ = task.discriminator_logits(batch, step)
    same, other, on_same, _ = task.discriminator_logits({**batch, "label": (batch["label"] + 1) % 3}, step)
    assert torch.equal(real, same)
    assert torch.equal(on_real, on_same)
    assert not torch.equal(fake, other)


def test_it_classifies() -> None:
    task = made(1.0).eval()
    image = torch.rand(4, 1, 8, 8)
    found = task.classify(image=image)
    torch.testing.assert_close(found.sum(1), torch.ones(4))
    torch.testing.assert_close(task.classify(image=image[2:3]), found[2:3])
    with pytest.raises(ValueError, match=r"images of shape \(1, 9, 9\) are given"):
        task.classify(image=torch.rand(4, 1, 9, 9))


def test_evaluation_says_how_often_the_head_is_right() -> None:
    task = made(1.0).eval()
    batch = companions.example(task, 12)
    with torch.no_grad():
        values = task.evaluate(batch)
        seen = task.evaluation_features(batch)
    assert {"real_class_accuracy", "fake_class_accuracy", "label_accuracy", "sliced_wasserstein"} <= values.keys()
    torch.testing.assert_close(values["fake_class_accuracy"], (seen["fake_class"] == batch["label"]).float())


@pytest.mark.slow
def test_the_head_knows_the_class_of_samples(tmp_path: Path) -> None:
    (stage,) = load("acgan").stages
    task, source = checkpoint.load_task(train_stage("acgan", stage, tmp_path / "run", {})), open_source(stage.data)
    assert isinstance(task, ACGAN)
    scores = companions.assess(task, source, tmp_path)
    assert scores["validation/label_accuracy"] > 0.9
    with torch.no_grad():
        batch = next(source.batches("validation", 256, transform=task.transform(train=False)))
        assert task.evaluate(batch)["fake_class_accuracy"].mean().item() > 0.9
