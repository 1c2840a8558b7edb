"""Losses of two players against their definitions, and how the adversarial one is weighed."""

from __future__ import annotations

import math

import pytest
import torch

from genlib.functional import adversarial


def test_hinge_asks_for_a_margin_and_no_more() -> None:
    real, fake = torch.tensor([[2.0, 0.0], [-1.0, 1.0]]), torch.tensor([[-3.0, -1.0], [0.0, 1.0]])
    assert adversarial.hinge_discriminator(real, fake).tolist() == [0.25, 1.25]
    assert adversarial.hinge_generator(fake).tolist() == [2.0, -0.5]


def test_non_saturating_losses_are_cross_entropies() -> None:
    real, fake = torch.randn(3, 1, 4, 4), torch.randn(3, 1, 4, 4)
    chance = -(real.sigmoid().log() + (1 - fake.sigmoid()).log()).mean((1, 2, 3))
    torch.testing.assert_close(adversarial.non_saturating_discriminator(real, fake), chance)
    torch.testing.assert_close(adversarial.non_saturating_generator(fake), -fake.sigmoid().log().mean((1, 2, 3)))
    blind = adversarial.non_saturating_discriminator(torch.zeros(1, 1), torch.zeros(1, 1))
    assert blind.item() == pytest.approx(2 * math.log(2))


def test_adaptive_weight_makes_both_pulls_equal_within_limits() -> None:
    main, other = torch.randn(4, 5), 3 * torch.randn(4, 5)
    weight = adversarial.adaptive_weight(main, other)
    assert (weight * other).norm().item() == pytest.approx(main.norm().item(), rel=1e-3)
    assert adversarial.adaptive_weight(main, 0 * other).item() == adversarial.LARGEST_WEIGHT


def test_gradient_of_the_last_kernels_from_what_went_in_and_out() -> None:
    layer, x = torch.nn.Conv2d(5, 3, 3, padding=1), torch.randn(2, 5, 8, 8)
    out = layer(x)
    gradient = torch.randn_like(out)
    torch.testing.assert_close(adversarial.last_layer_gradient(x, gradient), torch.autograd.grad(out, layer.weight, gradient)[0])


def test_a_value_is_handed_on_with_a_gradient_of_its_own() -> None:
    made, gradient = torch.randn(2, 3, 4, 4, requires_grad=True), torch.randn(2, 3, 4, 4)
    value = adversarial.handed_on(torch.tensor([1.5, -2.0]), gradient, made)
    assert value.tolist() == [1.5, -2.0]
    value.sum().backward()
    assert made.grad is not None
    torch.testing.assert_close(made.grad, gradient)
