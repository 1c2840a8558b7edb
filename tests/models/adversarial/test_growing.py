"""Networks that grow: what resolution is there after how many samples, and that the old one passes into the new without a jump."""

from __future__ import annotations

import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from genlib import checkpoint, registry
from genlib.models.adversarial.base.growing import Growing, Growth, doubled
from genlib.models.adversarial.base.growing_discriminator import GrowingDiscriminator
from genlib.models.adversarial.progan import ProGAN, ProNetworks
from genlib.models.adversarial.stylegan.settings import StyleNetworks
from genlib.models.base.health import Health
from genlib.types import DataSpec
from tests.models.stages import train_stage
from tests.processes import run_ranks

GROWING = Growing(stable_samples=100, fade_samples=50)
DATA = DataSpec(channels=1, image_size=16)


def grown(samples: int, growing: Growing = GROWING, size: int = 16) -> Growth:
    growth = Growth(growing, size)
    growth.samples.fill_(samples)
    return growth


@pytest.mark.parametrize(
    ("samples", "place"),
    [
        (0, (4, 1)), (100, (4, 1)), (101, (8, 0.02)), (125, (8, 0.5)), (149, (8, 0.98)), (150, (8, 1)), (250, (8, 1)), (275, (16, 0.5)),
        (300, (16, 1)), (10**9, (16, 1)),
    ],
)  # fmt: skip
def test_a_resolution_is_trained_then_the_next_fades_in(samples: int, place: tuple[int, float]) -> None:
    assert grown(samples).place == place


def test_without_growth_all_is_there_from_the_start() -> None:
    assert grown(0, Growing(first_size=0)).place == (16, 1)
    assert grown(0, Growing(stable_samples=0, fade_samples=0)).place == (16, 1)
    assert grown(0, Growing(first_size=0)).sides == [16]


def test_without_fading_a_resolution_is_there_at_once() -> None:
    growing = Growing(first_size=8, stable_samples=10, fade_samples=0)
    assert [grown(samples, growing).place for samples in (9, 10)] == [(8, 1), (16, 1)]


@pytest.mark.parametrize("first", [2, 6, 32])
def test_a_start_that_is_no_size_on_the_way_is_refused(first: int) -> None:
    sentence = f"growing.first_size {first} is no size on the way to images of 16 pixels; use one of 4, 8, 16, or 0"
    growing, data = Growing(first_size=first), DataSpec(image_size=16)
    for networks in (ProNetworks(growing=growing), StyleNetworks(synthesis="stylegan1", growing=growing)):
        with pytest.raises(ValueError, match=sentence):
            networks.shape(data)


def test_data_are_shown_with_the_detail_that_is_drawn() -> None:
    image = torch.rand(2, 3, 16, 16)
    at = {side: F.interpolate(F.avg_pool2d(image, 16 // side), scale_factor=16 // side) for side in (4, 8)}
    assert torch.equal(grown(0).shown(image), at[4])
    assert torch.allclose(grown(125).shown(image), (at[4] + at[8]) / 2, atol=1e-6)
    assert torch.equal(grown(150).shown(image), at[8])
    assert torch.equal(grown(300).shown(image), image)


def discriminator(**changes: int) -> GrowingDiscriminator:
    torch.manual_seed(0)
    return GrowingDiscriminator(Growth(GROWING, 16), 1, 128, 16, **changes)


def test_a_discriminator_passes_from_one_resolution_to_the_next_without_a_jump() -> None:
    network, image = discriminator(), torch.randn(3, 1, 16, 16)
    old, new = network.seen(image, 8, 1.0), network.seen(image, 16, 1.0)
    assert torch.equal(network.seen(image, 16, 0.0), old)
    assert torch.equal(new, network.b8(network.b16(network.fromrgb16(image))))  # type: ignore[operator]
    assert torch.equal(old, network.b8(network.fromrgb8(F.avg_pool2d(image, 2))))  # type: ignore[operator]
    both = network.b8((network.fromrgb8(F.avg_pool2d(image, 2)) + network.b16(network.fromrgb16(image))) / 2)  # type: ignore[operator]
    assert torch.allclose(network.seen(image, 16, 0.5), both, atol=1e-5)


def test_a_discriminator_sees_no_detail_that_has_not_grown() -> None:
    network, image = discriminator(), torch.randn(3, 1, 16, 16)
    same = doubled(F.avg_pool2d(image, 2))
    network.growth.samples.fill_(150)
    assert torch.allclose(network(image), network(same), atol=1e-6)
    network.growth.samples.fill_(300)
    assert not torch.allclose(network(image), network(same), atol=1e-3)


def test_a_discriminator_told_labels_takes_the_score_of_each_ones_own() -> None:
    network, image, labels = discriminator(classes=3), torch.randn(4, 1, 16, 16), torch.eye(3)[[0, 2, 1, 2]]
    scores = network.b4(network.blocks(image))
    assert torch.equal(network(image, None, labels)[:, 0], scores[range(4), [0, 2, 1, 2]])


@pytest.mark.parametrize("low", [0, 1])
def test_low_precision_is_of_the_largest_resolutions_alone(low: int) -> None:
    network, image = discriminator(low=low), torch.randn(3, 1, 16, 16)
    network.growth.samples.fill_(290)
    kinds: dict[str, torch.dtype] = {}
    for name in ("b16", "b8", "fromrgb16", "fromrgb8"):
        network.get_submodule(name).register_forward_hook(lambda _module, _given, found, name=name: kinds.update({name: found.dtype}))
    assert network(image).dtype == torch.float32
    large, small = torch.bfloat16 if low else torch.float32, torch.float32
    assert kinds == {"b16": large, "fromrgb16": large, "b8": small, "fromrgb8": small}


def test_both_players_have_grown_alike_and_a_checkpoint_says_so_once() -> None:
    task = ProGAN(ProNetworks(latent_dim=8, channel_base=64, channel_max=8), registry.load("progan").smoke[0].task.game, Health(), DATA)
    assert task.generator.growth is task.discriminator.growth
    state = task.state_dict()
    state["generator.growth.samples"] = state["discriminator.growth.samples"] = torch.tensor([1_000_000])
    task.load_state_dict(state)
    assert task.growth.place == task.discriminator.growth.place == (8, 0.25)


def fading(path: Path, **options: object) -> Path:
    (stage,) = registry.load("progan").smoke
    return train_stage("progan", stage, path, {}, **options)


def test_a_run_that_is_cut_off_while_a_resolution_fades_in_ends_with_the_same_weights(tmp_path: Path) -> None:
    final = fading(tmp_path / "whole", keep_checkpoints=9)
    middle = final.parent / checkpoint.step_name(4)
    assert checkpoint.load_task(middle).growth.place == (16, pytest.approx(8 / 24))
    assert checkpoint.load_task(final).growth.place == (16, 1.0)
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    shutil.rmtree(tmp_path / "cut" / "checkpoints" / final.name)
    again = checkpoint.load_weights(fading(tmp_path / "cut", keep_checkpoints=9))
    assert all(torch.equal(again[name], value) for name, value in checkpoint.load_weights(final).items())


def test_layers_that_are_not_there_yet_stay_as_they_are(tmp_path: Path) -> None:
    weights = [checkpoint.load_weights(fading(tmp_path / str(steps), steps=steps)) for steps in (0, 1)]
    moved = {name for name, value in weights[0].items() if not torch.equal(value, weights[1][name])}
    layers = {name.split(".")[1] for name in moved if name.startswith(("generator.", "discriminator."))} - {"growth"}
    assert layers == {"b4", "torgb4", "fromrgb4"}


@pytest.mark.slow
def test_uneven_ranks_count_each_sample_once(tmp_path: Path) -> None:
    run_ranks(3, partial(fading, tmp_path, strategy="ddp"))
    assert checkpoint.load_weights(tmp_path / "checkpoints" / checkpoint.step_name(8))["generator.growth.samples"].tolist() == [128]


def difference(a: Tensor, b: Tensor) -> float:
    return (a - b).abs().max().item()


def test_images_do_not_jump_where_a_resolution_begins_and_where_it_is_there() -> None:
    (stage,) = registry.load("progan").smoke
    torch.manual_seed(0)
    task = stage.task.build(replace(DATA, image_size=16), {})
    drawn = {}
    for samples in (16, 17, 39, 40):
        task.growth.samples.fill_(samples)
        drawn[samples] = task.generate(seed=[1, 2])
    assert difference(drawn[16], drawn[17]) < 0.2
    assert difference(drawn[39], drawn[40]) < 0.2
    assert difference(drawn[17], drawn[39]) > 2 * difference(drawn[16], drawn[17])
