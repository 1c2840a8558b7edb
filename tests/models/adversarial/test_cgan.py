"""Samples of a class that one names: who is told the label, who is refused, and what the label changes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from genlib import checkpoint, companions
from genlib.data.source import open_source
from genlib.metrics.probe import linear_probe
from genlib.models.adversarial.base.labelled import nearest_label, passed
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
    for label, words in (([0], "label has 1 entry for 2 seeds; give one label a picture"), ([0, 3], "label 3 is not between 0 and 2")):
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


def trained(folder: Path, **network: bool) -> ConditionalGAN:
    """The recipe's task, in other respects than its own where they are given."""
    (stage,) = load("cgan").stages
    config = stage.task
    assert isinstance(config, ConditionalGANConfig)
    config = replace(config, network=replace(config.network, **network))
    stage = replace(stage, task=config, train=replace(stage.train, evaluate_every_steps=0, checkpoint_every_steps=0))
    task = checkpoint.load_task(train_stage("cgan", stage, folder, {}))
    assert isinstance(task, ConditionalGAN)
    return task


@pytest.fixture(scope="module")
def condition(tmp_path_factory: pytest.TempPathFactory) -> ConditionalGAN:
    return trained(tmp_path_factory.mktemp("cgan"))


def digits(task: ConditionalGAN, split: str, count: int) -> Batch:
    return next(open_source(load("cgan").stages[0].data).batches(split, count, transform=task.transform(train=False)))


def accuracy(task: ConditionalGAN) -> float:
    """Of how many samples the nearest training digit is of the class asked for."""
    batch, label = digits(task, "train", 1024), [number % 10 for number in range(500)]
    images = task.generate(seed=list(range(500)), label=label)
    return (nearest_label(batch["image"].flatten(1), batch["label"], images.flatten(1)) == torch.tensor(label)).float().mean().item()


@pytest.mark.slow
def test_samples_are_of_their_class_if_the_discriminator_is_told_it_and_else_not(condition: ConditionalGAN, tmp_path: Path) -> None:
    assert accuracy(condition) > 0.9
    scores = companions.assess(condition, open_source(load("cgan").stages[0].data), tmp_path)
    assert scores["validation/label_accuracy"] > 0.9
    assert scores["validation/modes"] == 1
    assert (tmp_path / "samples.png").stat().st_size > 10_000
    assert accuracy(trained(tmp_path / "blind", label_to_discriminator=False)) < 0.3


@pytest.mark.slow
def test_what_was_learnt_serves_a_classifier_with_few_labels(condition: ConditionalGAN) -> None:
    """Of ten labels a class, means over five draws: the discriminator's features do better than pixels, and samples of a generator that learnt from
    the whole set, added to these, do no harm."""
    train, held = digits(condition, "train", 1438), digits(condition, "validation", 359)
    pixels, features, added = [], [], []
    for draw in range(5):
        order = torch.randperm(1438, generator=torch.Generator().manual_seed(draw))
        rows = torch.cat([order[train["label"][order] == number][:10] for number in range(10)])
        image, label, asked = train["image"][rows], train["label"][rows], [number % 10 for number in range(500)]
        made = condition.generate(seed=list(range(1000 * draw, 1000 * draw + 500)), label=asked)
        both, labels = torch.cat([image, made]), torch.cat([label, torch.tensor(asked)])
        for found, known, names in ((pixels, image, label), (added, both, labels)):
            found.append(linear_probe(known.flatten(1), names, held["image"].flatten(1)))
        features.append(linear_probe(condition.embed(image=image), label, condition.embed(image=held["image"])))
    by_pixels, by_features, by_added = ((torch.stack(found) == held["label"]).float().mean().item() for found in (pixels, features, added))
    assert by_features > by_pixels + 0.01
    assert by_added > by_pixels - 0.01
