"""Filling pictures: what is known stays, what is hidden is filled better than by the mean, in both ways."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from genlib import checkpoint, companions
from genlib.data.source import open_source
from genlib.engine.fit import fit
from genlib.models.diffusion.base.masks import random_masks
from genlib.models.diffusion.base.pixels import PixelUNet
from genlib.models.diffusion.ddpm import ClassDDPMConfig, DDPMConfig
from genlib.models.diffusion.inpainting import Inpainting, InpaintingConfig, Resampling, ResamplingConfig, inpainting
from genlib.models.diffusion.inpainting_assess import assess_filling, mean_filled, psnr
from genlib.types import DataSpec, Step
from jobs.precision import fitting_precision

SMALL = PixelUNet(widths=(16, 16), norm_groups=4)
DATA = DataSpec(channels=3, image_size=8, class_names=("a", "b"))
IMAGE = torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))
MASK = (torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(1)) > 0.5).float()


def fillers() -> list[Inpainting | Resampling]:
    """One that was made for it, and one over each kind of diffusion."""
    torch.manual_seed(0)
    tasks: list[Inpainting | Resampling] = [Inpainting(InpaintingConfig(unet=SMALL), DATA)]
    for config in (DDPMConfig(unet=SMALL), ClassDDPMConfig(unet=SMALL)):
        upstream = {"model": config.build(DATA, {})}
        tasks.append(ResamplingConfig().build(DATA, upstream))
    for task in tasks:
        for p in task.parameters():
            p.data.add_(0.05 * torch.randn_like(p))
    return tasks


every_filler = pytest.mark.parametrize("task", fillers(), ids=["trained", "resampled", "resampled-classes"])


@every_filler
def test_known_pixels_come_back_bit_for_bit_and_hidden_ones_do_not(task: Inpainting | Resampling) -> None:
    filled = task.inpaint(image=IMAGE, mask=MASK, seed=[1, 2, 3], steps=6)
    known = (MASK == 0).expand_as(IMAGE)
    assert torch.equal(filled[known], IMAGE[known])
    assert not torch.equal(filled[~known], IMAGE[~known])
    assert filled.min() >= 0
    assert filled.max() <= 1


@every_filler
@pytest.mark.parametrize(("top", "left", "corner"), [(0.5, 0.5, (2, 1)), (0.0, 1.0, (0, 2)), (1.0, 0.0, (4, 0))])
def test_outpainting_keeps_the_crop_bit_for_bit(task: Inpainting | Resampling, top: float, left: float, corner: tuple[int, int]) -> None:
    crop = IMAGE[:, :, :4, :6]
    whole = task.outpaint(image=crop, seed=[1, 2, 3], top=top, left=left, steps=4)
    assert whole.shape == IMAGE.shape
    up, before = corner
    assert torch.equal(whole[:, :, up : up + 4, before : before + 6], crop)


@every_filler
def test_a_filling_belongs_to_its_picture_mask_and_seed_alone(task: Inpainting | Resampling) -> None:
    many = task.inpaint(image=IMAGE, mask=MASK, seed=[1, 2, 3], steps=4)
    torch.testing.assert_close(task.inpaint(image=IMAGE[1:2], mask=MASK[1:2], seed=[2], steps=4)[0], many[1], atol=1e-4, rtol=0)
    assert not torch.equal(task.inpaint(image=IMAGE, mask=MASK, seed=[4, 5, 6], steps=4), many)
    same = task.inpaint(image=IMAGE, mask=MASK[:1], seed=[1, 2, 3], steps=4)
    torch.testing.assert_close(same[0], many[0], atol=1e-4, rtol=0)


@every_filler
@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"image": IMAGE[:, :1]}, r"the model fills \(B, 3, 8, 8\)"),
        ({"mask": MASK[:, :, :4]}, r"must be \(3, 1, 8, 8\)"),
        ({"mask": MASK.expand(-1, 3, -1, -1)}, r"must be \(3, 1, 8, 8\)"),
        ({"seed": [1]}, "seed has 1 entry for 3 images"),
    ],
)
def test_refuses_to_fill_in_a_sentence(task: Inpainting | Resampling, change: dict, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        task.inpaint(**{"image": IMAGE, "mask": MASK, "seed": [1, 2, 3], **change})


@every_filler
def test_refuses_to_continue_what_is_too_large(task: Inpainting | Resampling) -> None:
    with pytest.raises(ValueError, match="at most 8 x 8 pixels"):
        task.outpaint(image=torch.rand(1, 3, 9, 4), seed=[1])
    with pytest.raises(ValueError, match="must be between 0 and 1"):
        task.outpaint(image=torch.rand(1, 3, 4, 4), seed=[1], top=2.0)


def test_resampling_refuses_what_is_no_diffusion() -> None:
    for upstream in ({}, {"model": Inpainting(InpaintingConfig(unet=SMALL), DATA)}):
        with pytest.raises(ValueError, match="resampling fills with a pixel diffusion"):
            ResamplingConfig().build(DATA, upstream)


def test_the_network_sees_the_mask_and_nothing_of_what_it_hides() -> None:
    task = fillers()[0]
    assert isinstance(task, Inpainting)
    x, when = torch.randn(3, 3, 8, 8), torch.tensor([10, 500, 900])
    prediction = task.network({"image": IMAGE, "mask": MASK})(x, when)
    torch.testing.assert_close(task.network({"image": torch.where(MASK > 0, 9.0, IMAGE), "mask": MASK})(x, when), prediction)
    assert not torch.equal(task.network({"image": torch.where(MASK > 0, IMAGE, 0.0), "mask": MASK})(x, when), prediction)
    assert not torch.equal(task.network({"image": IMAGE * (1 - MASK), "mask": torch.zeros_like(MASK)})(x, when), prediction)


def test_masks_belong_to_the_position_and_hide_some_of_all_kinds() -> None:
    position = torch.arange(4000)
    masks = random_masks(position, 16, 16, seed=0)
    assert masks.unique().tolist() == [0, 1]
    assert torch.equal(random_masks(position[70:90], 16, 16, seed=0), masks[70:90])
    assert not torch.equal(random_masks(position, 16, 16, seed=1), masks)
    hidden = masks.mean((1, 2, 3))
    assert hidden.min() > 0.03
    assert (hidden == 1).float().mean().item() == pytest.approx(0.05, abs=0.015)
    border = (masks[:, 0, 0] == 1).all(1) & (hidden < 1)
    assert 0.1 < border.float().mean() < 0.3
    assert (masks.mean(0) > 0.2).all()  # every pixel is hidden now and then


def test_the_loss_hides_other_parts_in_other_steps_of_the_run() -> None:
    task = fillers()[0]
    batch = companions.example(task, 4)
    first, again, other = (task.loss("train", {**batch, "position": batch["position"] + shift}, Step(0, 1))[0] for shift in (0, 0, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_mean_filling_and_its_score_are_what_their_names_say() -> None:
    image = torch.zeros(1, 1, 2, 2)
    image[..., 0, 0] = 1.0
    mask = torch.tensor([[[[0.0, 0.0], [1.0, 1.0]]]])
    filled = mean_filled(image, mask)
    assert filled.flatten().tolist() == [1.0, 0.0, 0.5, 0.5]
    assert psnr(filled, image, mask) == pytest.approx(6.0206, abs=1e-3)


@pytest.mark.slow
def test_d4_hidden_pixels_are_3_db_better_than_the_mean(tmp_path: Path) -> None:
    (stage,) = fitting_precision(inpainting().stages)
    stage = replace(stage, train=replace(stage.train, trackers=()))
    source = open_source(stage.data)
    task = checkpoint.load_task(fit(stage, recipe="inpainting", source=source, folder=tmp_path, device=torch.device("cpu")))
    assert isinstance(task, Inpainting)
    scores = assess_filling(task, source, tmp_path)
    assert scores["validation/hidden_psnr_db"] > scores["validation/hidden_psnr_of_mean_db"] + 3
    assert scores["validation/known_pixels_largest_change"] < 1 / 255
