"""Layers with an equalised learning rate: the scale of what comes out, and of what a step of Adam changes."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from genlib.models.adversarial.base.equalized import EqualizedConv, EqualizedLinear


@pytest.mark.parametrize("inputs", [16, 256])
def test_weights_are_scaled_by_the_root_of_their_inputs_where_they_are_used(inputs: int) -> None:
    torch.manual_seed(0)
    layer = EqualizedConv(inputs, 8, 3, activation="lrelu")
    x = torch.randn(2, inputs, 8, 8)
    expected = nn.functional.leaky_relu(nn.functional.conv2d(x, layer.weight / math.sqrt(9 * inputs), padding=1), 0.2) * math.sqrt(2)
    assert torch.allclose(layer(x), expected, atol=1e-5)
    # with LeakyReLU's gain of the root of 2 the scale of a weight is the root of 2 over its inputs
    assert layer.weight_gain * layer.gain == pytest.approx(math.sqrt(2 / (9 * inputs)))


def test_what_comes_out_of_unit_variance_has_about_unit_variance() -> None:
    torch.manual_seed(0)
    assert EqualizedLinear(512, 512)(torch.randn(512, 512)).std().item() == pytest.approx(1, abs=0.03)
    assert EqualizedConv(64, 64, 3)(torch.randn(8, 64, 16, 16))[:, :, 1:-1, 1:-1].std().item() == pytest.approx(1, abs=0.05)


def test_adam_moves_layers_of_any_width_at_one_rate() -> None:
    torch.manual_seed(0)
    layers = [EqualizedLinear(inputs, 64) for inputs in (8, 64, 512)]
    before = [layer.weight.detach() * layer.weight_gain for layer in layers]
    optimizer = torch.optim.Adam([weight for layer in layers for weight in layer.parameters()], 1e-3)
    for layer in layers:
        layer(torch.randn(32, layer.weight.shape[1])).square().mean().backward()
    optimizer.step()
    rates = [
        ((layer.weight.detach() * layer.weight_gain - old).norm() / old.norm()).item() for layer, old in zip(layers, before, strict=True)
    ]  # fmt: skip
    assert max(rates) / min(rates) < 1.1


def test_a_slow_layer_starts_as_any_and_learns_slower() -> None:
    torch.manual_seed(0)
    fast, slow = EqualizedLinear(64, 64), EqualizedLinear(64, 64, learning_rate=0.01)
    assert (slow.weight * slow.weight_gain).std().item() == pytest.approx((fast.weight * fast.weight_gain).std().item(), rel=0.05)
    moved = {}
    for name, layer in (("fast", fast), ("slow", slow)):
        before = layer.weight.detach() * layer.weight_gain
        optimizer = torch.optim.Adam(layer.parameters(), 1e-3)
        layer(torch.randn(32, 64)).square().mean().backward()
        optimizer.step()
        moved[name] = (layer.weight.detach() * layer.weight_gain - before).norm().item()
    assert moved["slow"] == pytest.approx(0.01 * moved["fast"], rel=0.05)


def test_gain_and_clamp_are_of_what_comes_out() -> None:
    torch.manual_seed(0)
    layer = EqualizedConv(4, 4, 3, activation="lrelu", clamp=0.5)
    plain = EqualizedConv(4, 4, 3, activation="lrelu", gain=0.5)
    plain.load_state_dict(layer.state_dict())
    x = torch.randn(2, 4, 8, 8)
    assert layer(x).abs().max() == 0.5
    assert torch.allclose(plain(x).clamp(-0.25, 0.25) * 2, layer(x), atol=1e-6)
