"""The classifier of images: what it learns, what it gives other models, and what it refuses."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
import torch
from PIL import Image

from genlib import companions
from genlib.config import DataConfig
from genlib.data.source import open_source
from genlib.data.transforms.augment import ImageAugmentation
from genlib.models.representation.classifier import Classifier, ClassifierConfig, classifier
from genlib.types import DataSpec, Step

SPEC = DataSpec(channels=1, image_size=8, class_names=("zero", "one", "two"))
SMALL = ClassifierConfig(width=8, layers=(1, 1))


def made(config: ClassifierConfig = SMALL, spec: DataSpec = SPEC) -> Classifier:
    torch.manual_seed(0)
    return config.build(spec, {})


def test_learns_digits(tmp_path: Path) -> None:
    source = open_source(DataConfig(train="digits"))
    task = made(replace(SMALL, width=16, augmentation=ImageAugmentation(shift=0.1)), source.spec)
    batches = source.batches("train", 64, transform=task.transform(train=True))
    optimizer = torch.optim.AdamW(task.parameters(), 5e-3)
    for i, batch in enumerate(islice(batches, 100)):
        optimizer.zero_grad()
        task.loss("train", batch, Step(i, 100))[0].mean().backward()
        optimizer.step()
    scores = companions.assess(task.eval(), source, tmp_path)
    assert scores["validation/accuracy"] > 0.9
    assert scores["validation/cross_entropy"] < 0.8
    with Image.open(tmp_path / "guesses.png") as sheet:
        assert sheet.width > 500


def test_features_and_maps() -> None:
    task, image = made(ClassifierConfig(width=32)).eval(), torch.rand(5, 1, 8, 8)
    features, maps = task.features(image), task.feature_maps(image)
    assert features.shape == (5, 128)
    assert [tuple(m.shape) for m in maps] == [(5, 32, 8, 8), (5, 64, 4, 4), (5, 128, 2, 2)]
    torch.testing.assert_close(task.features(image[2:3]), features[2:3])
    torch.testing.assert_close(task.features(image.expand(-1, 3, -1, -1)), features)
    torch.testing.assert_close(task.embed(image=image), features)
    assert task.embed(image=torch.rand(2, 1, 20, 12)).shape == (2, 128)
    chances = task.classify(image=image)
    assert chances.shape == (5, 3)
    torch.testing.assert_close(chances.sum(1), torch.ones(5))


def test_features_of_grey_images_in_a_network_of_three_channels() -> None:
    task, image = made(spec=replace(SPEC, channels=3)).eval(), torch.rand(2, 1, 8, 8)
    torch.testing.assert_close(task.features(image), task.features(image.expand(-1, 3, -1, -1)))


def test_smoothing_spreads_a_share_of_the_target() -> None:
    task, batch = made(replace(SMALL, label_smoothing=0.3)), companions.example(made(), 6)
    logits = task.net(batch["image"])
    target = 0.7 * torch.nn.functional.one_hot(batch["label"], 3) + 0.1
    torch.testing.assert_close(task.loss("train", batch, Step(0, 1))[0], -(target * logits.log_softmax(1)).sum(1))


def test_the_recipe_gives_between_128_and_256_features() -> None:
    (stage,) = classifier().stages
    assert isinstance(stage.task, ClassifierConfig)
    assert 128 <= stage.task.features <= 256


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        (DataSpec(image_size=8), "a classifier learns from labels, but the samples have none"),
        (replace(SPEC, image_size=0), "the samples have no images of one size; give the size with --data.image-size"),
    ],
)
def test_unfit_data_is_refused(spec: DataSpec, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        SMALL.build(spec, {})


def test_a_stage_without_blocks_is_refused() -> None:
    with pytest.raises(ValueError, match=r"task.layers \(1, 0\): every stage needs at least one block"):
        ClassifierConfig(layers=(1, 0))
