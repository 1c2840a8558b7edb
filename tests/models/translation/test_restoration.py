"""Restoration: what the given pictures have lost, what is refused, and that the trained networks bring some of it back."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from genlib import checkpoint, companions
from genlib.models.translation.base.translator import Patches
from genlib.models.translation.restoration import ColouriseConfig, RestorationConfig, SuperResolutionConfig
from genlib.registry import load
from genlib.types import DataSpec
from tests.models.stages import source_of, train_stage

TINY = {"width": 4, "downs": 3, "patches": Patches(width=8, layers=1)}


def test_a_picture_without_colours_has_its_grey_levels() -> None:
    colours = torch.tensor([[1.0, -1, -1], [-1, 1, -1], [-1, -1, 1], [0.5, 0.5, 0.5]])[:, :, None, None].expand(-1, -1, 4, 4)
    grey = ColouriseConfig(**TINY).lost(colours)
    assert grey.shape == colours.shape
    assert (grey == grey[:, :1]).all()
    assert grey[:, 0, 0, 0].tolist() == pytest.approx([2 * 0.299 - 1, 2 * 0.587 - 1, 2 * 0.114 - 1, 0.5])


def test_a_picture_without_detail_has_means_of_squares_alone() -> None:
    config, whole = SuperResolutionConfig(**TINY, factor=4), torch.rand(2, 3, 16, 16) * 2 - 1
    blurred = config.lost(whole)
    assert blurred.shape == whole.shape
    blocks = whole.unflatten(2, (4, 4)).unflatten(4, (4, 4)).mean((3, 5), keepdim=True).expand(-1, -1, 4, 4, 4, 4)
    means = blocks.flatten(4, 5).flatten(2, 3)
    torch.testing.assert_close(config.lost(means), blurred)
    assert (config.lost(torch.full((1, 3, 16, 16), 0.25)) - 0.25).abs().max() < 1e-6


@pytest.mark.parametrize(
    ("config", "data", "sentence"),
    [
        (ColouriseConfig(**TINY), DataSpec(channels=1, image_size=16), "learns from pictures in colour, and these are grey; take others"),
        (SuperResolutionConfig(**TINY, factor=3), DataSpec(image_size=16), "image_size 16 is not divisible by factor 3; use 18"),
        (SuperResolutionConfig(**TINY), DataSpec(image_size=20), r"image_size 20 is not divisible by 2\*\*downs = 8; use 24"),
    ],
)
def test_data_that_do_not_fit_are_refused(config: RestorationConfig, data: DataSpec, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        config.check_data(data)
    with pytest.raises(ValueError, match="backwards is of pairs, and a restoration has none"):
        replace(config, backwards=True)


def test_pairs_are_made_of_any_pictures_and_a_coloured_one_is_made_grey_first() -> None:
    (stage,) = load("colourise").smoke
    source = source_of(stage)
    task = stage.task.build(source.spec, {})
    batch = next(source.batches("train", 4, transform=task.transform(True)))
    assert torch.equal(batch["a"], stage.task.lost(batch["b"]))  # type: ignore[attr-defined]
    whole, grey = batch["b"] / 2 + 0.5, batch["a"] / 2 + 0.5
    drawn = [task.translate(image=image, seed=[0] * 4) for image in (whole, grey)]  # type: ignore[operator]
    torch.testing.assert_close(*drawn, atol=1e-4, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize(("recipe", "gain"), [("colourise", 5.0), ("super_resolution", 1.0)])
def test_trained_it_is_nearer_to_the_whole_pictures_than_what_was_given(recipe: str, gain: float, tmp_path: Path) -> None:
    (stage,) = load(recipe).stages
    task = checkpoint.load_task(train_stage(recipe, stage, tmp_path, {}, evaluate_every_steps=0))
    scores = companions.assess(task, source_of(stage), tmp_path)
    found, given = (next(value for key, value in scores.items() if key.endswith(f"/{name}")) for name in ("psnr_db", "given_psnr_db"))
    assert found > given + gain
