"""Samples of a class that one names: who is told the label, who is refused, and what the label changes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from genlib import checkpoint, companions
from genlib.data.source import open_source
from genlib.models.adversarial.base.labelled import Labelled, nearest_label, passed
from genlib.models.adversarial.cgan import ConditionalGAN, ConditionalGANConfig, LabelledConvolutional
from genlib.registry import load
from genlib.types import Batch, DataSpec, Step
from tests.models.stages import train_stage

PIXELS = DataSpec(channels=1, image_size=8, class_names=("a", "b", "c"))
SMALL = LabelledConvolutional(latent_dim=6, width=8)


def made(network: LabelledConvolutional = SMALL) -> ConditionalGAN:
    torch.manual_seed(0)
    return ConditionalGANConfig(network=network).build(PIXELS, {}).eval()


def relabelled(batch: Batch) -> Batch:
    return {**batch, "label": (batch["label"] + 1) % 3}


def test_both_players_are_told_the_label() -> None:
    task, step = made(), Step(0, 10)
    batch = companions.example(task, 6)
    real, fake, on_real, on_fake = task.discriminator_logits(batch, step)
    same, other, on_same, on_other = task.discriminator_logits(relabelled(batch), step)
    assert torch.equal(real, same)
    assert all((one != two).flatten(1).any(1).all() for one, two in ((fake, other), (on_real, on_same), (on_fake, on_other)))


def test_a_discriminator_may_be_left_without_the_label() -> None:
    task, step = made(replace(SMALL, label_to_discriminator=False)), Step(0, 10)
    batch = companions.example(task, 6)
    _, fake, on_real, _ = task.discriminator_logits(batch, step)
    _, other, on_same, _ = task.discriminator_logits(relabelled(batch), step)
    assert torch.equal(on_real, on_same)
    assert not torch.equal(fake, other)


def test_generate_takes_a_label_a_seed() -> None:
    task = made()
    found = task.generate(seed=[3, 3, 4], label=[0, 2, 0])
    assert found.shape == (3, 1, 8, 8)
    assert not torch.equal(found[0], found[1])
    torch.testing.assert_close(task.generate(seed=[4], label=[0]), found[2:])
    for label, words in (([0], "1 labels for 2 seeds; give one label a picture"), ([0, 3], "label 3 is not between 0 and 2")):
        with pytest.raises(ValueError, match=words):
            task.generate(seed=[1, 2], label=label)


def test_interpolation_stays_in_a_class_or_goes_through_several() -> None:
    task = made()
    torch.testing.assert_close(
        task.interpolate(first=1, last=2, label=[1], steps=4)[[0, -1]], task.generate(seed=[1, 2], label=[1, 1]), atol=1e-5, rtol=1e-5
    )
    way = task.interpolate(first=1, last=1, label=[0, 2], steps=5)
    torch.testing.assert_close(way[[0, -1]], task.generate(seed=[1, 1], label=[0, 2]), atol=1e-5, rtol=1e-5)
    assert passed(torch.eye(3), 5).tolist() == [[1, 0, 0], [0.5, 0.5, 0], [0, 1, 0], [0, 0.5, 0.5], [0, 0, 1]]
    with pytest.raises(ValueError, match="label 9 is not between 0 and 2"):
        task.interpolate(first=1, last=2, label=[9])


def test_data_without_labels_is_refused() -> None:
    config = ConditionalGANConfig(network=SMALL)
    for refuse in (config.check_data, lambda spec: config.build(spec, {})):
        with pytest.raises(ValueError, match=r"this recipe makes samples of a class, but the data names none; take .* the recipe dcgan"):
            refuse(replace(PIXELS, class_names=()))


def test_a_sample_counts_for_its_class_if_its_nearest_neighbour_is_of_it() -> None:
    real, label = torch.tensor([[0.0], [1.0], [10.0]]), torch.tensor([0, 0, 1])
    assert nearest_label(real, label, torch.tensor([[0.2], [7.0], [4.0]])).tolist() == [0, 1, 0]
    values = made().variety(real, torch.tensor([[0.2], [7.0], [4.0]]), label)
    assert values["label_accuracy"].item() == pytest.approx(1 / 3)


def accuracy(network: LabelledConvolutional, folder: Path) -> tuple[float, dict[str, float]]:
    """Of samples after a training: how many are of the class asked for, by their nearest training digit; and the final scores."""
    (stage,) = load("cgan").stages
    config = stage.task
    assert isinstance(config, ConditionalGANConfig)
    stage = replace(stage, task=replace(config, network=network), train=replace(stage.train, evaluate_every_steps=0, checkpoint_every_steps=0))
    task, source = checkpoint.load_task(train_stage("cgan", stage, folder / "run", {})), open_source(stage.data)
    assert isinstance(task, Labelled)
    batch = next(source.batches("train", 1024, transform=task.transform(train=False)))
    label = [number % 10 for number in range(500)]
    images = task.generate(seed=list(range(500)), label=label)
    found = nearest_label(batch["image"].flatten(1), batch["label"], images.flatten(1))
    return (found == torch.tensor(label)).float().mean().item(), companions.assess(task, source, folder)


@pytest.mark.slow
def test_samples_are_of_their_class_if_the_discriminator_is_told_it_and_else_not(tmp_path: Path) -> None:
    told, scores = accuracy(LabelledConvolutional(width=32), tmp_path)
    assert told > 0.9
    assert scores["validation/label_accuracy"] > 0.9
    assert scores["validation/modes"] == 1
    assert (tmp_path / "samples.png").stat().st_size > 10_000
    blind, _ = accuracy(LabelledConvolutional(width=32, label_to_discriminator=False), tmp_path / "blind")
    assert blind < 0.3
