"""Networks of the translators: the published sizes, what a discriminator looks at, and dropout that is a function of its key."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn

from genlib import registry
from genlib.models.translation.cyclegan import residual_generator
from genlib.models.translation.pix2pix import UNet
from genlib.nn.centred_conv import CentredConv, CentredConvTranspose
from genlib.nn.patch_discriminator import PatchDiscriminator
from genlib.task import Task
from genlib.types import DataSpec


def on_meta(recipe: str) -> Task:
    with torch.device("meta"):
        return registry.load(recipe).stages[0].task.build(DataSpec(channels=3, image_size=256, num_samples=1), {})


def count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def test_pix2pix_has_the_published_size() -> None:
    task = on_meta("pix2pix_256")
    assert (count(task.player("generator")), count(task.player("discriminator"))) == (54_413_955, 2_768_705)
    image = torch.zeros(2, 3, 256, 256, device="meta")
    assert task.player("generator")(image, torch.zeros(2, dtype=torch.int64, device="meta"), 0).shape == image.shape
    assert task.player("discriminator")(torch.cat([image, image], 1)).shape == (2, 1, 30, 30)


def test_cyclegan_has_the_published_size() -> None:
    task = on_meta("cyclegan_256")
    assert [count(task.get_submodule(f"translators.{domain}")) for domain in "AB"] == [11_378_179] * 2
    assert [count(task.get_submodule(f"discriminators.{domain}")) for domain in "AB"] == [2_764_737] * 2
    assert task.get_submodule("pools.A").pictures.shape == (50, 3, 256, 256)
    with torch.device("meta"):
        assert count(residual_generator(3, 64, 6)) == 7_837_699  # for 128 pixels


@pytest.mark.parametrize(("layers", "side"), [(1, 16), (2, 34), (3, 70), (4, 142)])
def test_a_logit_looks_at_a_patch_of_the_computed_size(layers: int, side: int) -> None:
    network = PatchDiscriminator(3, 8, layers, norm=lambda _: nn.Identity())  # a normalisation over the picture would look at all of it
    assert network.receptive_field() == side
    image = torch.randn(1, 3, 3 * side, 3 * side, requires_grad=True)
    logits = network(image)
    middle = logits.shape[-1] // 2
    logits[0, 0, middle, middle].backward()
    assert image.grad is not None
    for axis in (2, 3):
        touched = image.grad.abs().sum([one for one in range(4) if one != axis]).nonzero()
        assert touched.max() - touched.min() + 1 == side


@pytest.mark.parametrize(
    ("centred", "plain"),
    [
        (CentredConv(3, 4, 3, 2, 1), partial(nn.Conv2d, 3, 4, 3, 2, 1)),
        (CentredConvTranspose(3, 4, 3, 2, 1, output_padding=1), partial(nn.ConvTranspose2d, 3, 4, 3, 2, 1, output_padding=1)),
    ],
)
def test_before_a_normalisation_a_bias_changes_nothing_and_does_not_move(centred: nn.Module, plain: partial) -> None:
    same, norm, x = plain(), nn.InstanceNorm2d(4), torch.randn(2, 3, 8, 8)
    same.load_state_dict(centred.state_dict())
    with torch.no_grad():
        centred.bias.add_(3)  # type: ignore[operator]
    torch.testing.assert_close(norm(centred(x)), norm(same(x)), atol=1e-5, rtol=1e-5)
    norm(centred(x)).square().sum().backward()
    assert centred.bias.grad is not None
    assert torch.equal(centred.bias.grad, torch.zeros(4))  # type: ignore[arg-type]


def test_dropout_is_a_function_of_its_key_and_seed() -> None:
    torch.manual_seed(0)
    network = UNet(3, 4, 4, 0.5).eval()
    x, key = torch.randn(3, 3, 16, 16), torch.tensor([5, 9, 5])
    with torch.no_grad():
        made = network(x, key, 0)
        torch.testing.assert_close(network(x[1:2], key[1:2], 0)[0], made[1], atol=1e-5, rtol=1e-5)
        same = network(x[:1].expand(3, -1, -1, -1), key, 0)
    assert torch.equal(same[0], same[2])
    assert not torch.allclose(same[0], same[1])
    with torch.no_grad():
        assert not torch.allclose(network(x, key, 1), made)


def test_dropout_keeps_the_mean() -> None:
    network, x = UNet(3, 4, 4, 0.3), torch.ones(64, 8, 4, 4)
    dropped = network._dropped(x, 0, torch.arange(64), 0)
    assert dropped.mean().item() == pytest.approx(1, abs=0.02)
    assert (dropped == 0).float().mean().item() == pytest.approx(0.3, abs=0.02)
