"""Losses of two players against their definitions, and how the adversarial one is weighed."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

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


def test_least_squares_pull_data_to_one_and_fakes_to_zero() -> None:
    real, fake = torch.tensor([[[1.0, 3.0]], [[0.0, 1.0]]]), torch.tensor([[[0.0, 2.0]], [[1.0, -1.0]]])
    assert adversarial.least_squares_discriminator(real, fake).tolist() == [0.5 * (2 + 2), 0.5 * (0.5 + 1)]
    assert adversarial.least_squares_generator(fake).tolist() == [1.0, 2.0]


def test_the_minimax_game_in_probabilities() -> None:
    logits = torch.linspace(-5, 5, 11, dtype=torch.float64)[:, None]
    torch.testing.assert_close(adversarial.saturating_generator(logits), (1 - logits.sigmoid()).log()[:, 0])


def test_a_discriminator_of_fakes_plays_the_same_game() -> None:
    """With D' = 1 - D, which finds fakes, log D'(G(z)) + log(1 - D'(x)) is the value of the game."""
    torch.manual_seed(0)
    real, fake = torch.randn(2, 50, 1, dtype=torch.float64)
    finds_real, finds_fake = real.sigmoid(), (-fake).sigmoid()  # D'(x) = 1 - D(x) has the logits' opposite
    quotient = finds_fake.log() + (1 - (-real).sigmoid()).log()
    torch.testing.assert_close(finds_real.log() + (1 - fake.sigmoid()).log(), quotient, atol=1e-7, rtol=0)
    torch.testing.assert_close(-adversarial.non_saturating_discriminator(real, fake), quotient[:, 0], atol=1e-7, rtol=0)


@pytest.mark.parametrize("chance", [0.001, 0.2, 0.5, 0.9])
def test_where_fakes_are_found_out_the_non_saturating_gradient_is_larger(chance: float) -> None:
    slopes = []
    for loss in (adversarial.non_saturating_generator, adversarial.saturating_generator):
        logit = torch.tensor([[math.log(chance / (1 - chance))]], dtype=torch.float64, requires_grad=True)
        loss(logit).sum().backward()
        assert logit.grad is not None
        slopes.append(logit.grad.item())
    assert slopes[0] < 0
    assert slopes[1] < 0
    assert slopes[0] / slopes[1] == pytest.approx((1 - chance) / chance)


def test_a_step_of_each_player_goes_the_way_of_the_worked_example() -> None:
    """G(h) = h v against D(x) = sigmoid(|x_1| w_1 + |x_2| w_2) with data h (0.98, 0.2); v and w are scaled to length 1 after a step."""
    h, data = torch.randn(4096, 1, generator=torch.Generator().manual_seed(0)), torch.tensor([0.98, 0.2])
    v, w = torch.tensor([0.2, 0.98], requires_grad=True), torch.tensor([0.71, -0.71], requires_grad=True)

    def logits(direction: Tensor) -> Tensor:
        return ((h * direction).abs() @ w)[:, None]

    for generator in (adversarial.non_saturating_generator, adversarial.saturating_generator):
        (slope,) = torch.autograd.grad(generator(logits(v)).mean(), v)
        moved = F.normalize(v - 0.6 * slope, dim=0)
        assert moved[0] > 0.2  # printed: 0.39 and 0.92
        assert moved[1] < 0.98
        (slope,) = torch.autograd.grad(adversarial.non_saturating_discriminator(logits(data), logits(moved.detach())).mean(), w)
        turned = F.normalize(w - 0.6 * slope, dim=0)
        assert turned[0] < 0.7  # printed: 0.67 and -0.74
        assert turned[1] < -0.71


def test_targets_are_smoothed_on_one_side_and_flipped_at_their_rate() -> None:
    position = torch.arange(200_000)
    for smoothing in (0.0, 0.1, 0.25):
        real, fake = (adversarial.noisy_targets(position, real=real, smoothing=smoothing, flips=0, seed=0) for real in (True, False))
        assert real.mean().item() == pytest.approx(1 - smoothing)
        assert fake.abs().max() == 0
    for flips in (0.05, 0.3):
        real, fake = (adversarial.noisy_targets(position, real=real, smoothing=0.1, flips=flips, seed=0) for real in (True, False))
        assert (real == 0).float().mean().item() == pytest.approx(flips, abs=0.01)
        assert (fake > 0).float().mean().item() == pytest.approx(flips, abs=0.01)
        assert torch.equal(fake.unique(), real.unique())
        assert fake.unique().tolist() == [0.0, pytest.approx(0.9)]
        both = ((real == 0) & (fake > 0)).float().mean().item()
        assert both == pytest.approx(flips**2, abs=0.01), "data and fakes are flipped apart"


def test_flips_are_keyed_by_position() -> None:
    position = torch.tensor([5, 9, 70, 71, 72])
    whole = adversarial.noisy_targets(torch.arange(100), real=True, smoothing=0, flips=0.5, seed=3)
    assert torch.equal(adversarial.noisy_targets(position, real=True, smoothing=0, flips=0.5, seed=3), whole[position])


def test_targets_of_one_and_nothing_are_the_discriminators_own_loss() -> None:
    real, fake = torch.randn(4, 1, 3, 3), torch.randn(4, 1, 3, 3)
    parts = adversarial.targeted_discriminator(real, torch.ones(4)) + adversarial.targeted_discriminator(fake, torch.zeros(4))
    torch.testing.assert_close(parts, adversarial.non_saturating_discriminator(real, fake))
    target = torch.rand(4)
    expected = F.binary_cross_entropy_with_logits(real[:, 0, 0], target[:, None].expand(4, 3), reduction="none").mean(1)
    torch.testing.assert_close(adversarial.targeted_discriminator(real[:, 0, 0], target), expected)


def test_a_linear_critic_has_its_slopes_length_everywhere() -> None:
    slope, x = torch.tensor([3.0, -4.0]), torch.randn(7, 2)
    norm = adversarial.gradient_norm(lambda points: points @ slope, x)
    torch.testing.assert_close(norm, torch.full((7,), 5.0))
    torch.testing.assert_close(adversarial.gradient_penalty(norm), torch.full((7,), 16.0))


def test_the_penalty_has_the_gradient_of_its_definition() -> None:
    torch.manual_seed(0)
    critic, x = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1)).double(), torch.randn(6, 3, dtype=torch.float64)

    def penalty() -> Tensor:
        return adversarial.gradient_penalty(adversarial.gradient_norm(critic, x)).mean()

    weight = critic[0].weight
    (slope,) = torch.autograd.grad(penalty(), weight)
    with torch.no_grad():
        before, step = weight[2, 1].item(), 1e-4
        values = []
        for change in (step, -step):
            weight[2, 1] = before + change
            values.append(penalty().item())
    assert slope[2, 1].item() == pytest.approx((values[0] - values[1]) / (2 * step), rel=1e-5)


def test_the_penalty_has_a_gradient_where_the_critic_is_flat() -> None:
    critic = nn.Linear(3, 1)
    nn.init.zeros_(critic.weight)
    adversarial.gradient_penalty(adversarial.gradient_norm(critic, torch.randn(4, 3))).sum().backward()
    assert critic.weight.grad is not None
    assert critic.weight.grad.isfinite().all()


def test_interpolates_lie_between_data_and_fakes() -> None:
    real, fake = torch.randn(3, 2, 4, 4), torch.randn(3, 2, 4, 4)
    mixed = adversarial.interpolates(real, fake, torch.tensor([0.0, 0.25, 1.0]))
    assert torch.equal(mixed[0], fake[0])
    torch.testing.assert_close(mixed[1], 0.25 * real[1] + 0.75 * fake[1])
    assert torch.equal(mixed[2], real[2])


def test_a_critic_of_slope_one_estimates_the_shift_between_two_sets() -> None:
    x = torch.randn(1000, 1)
    assert -adversarial.wasserstein_critic(x + 3, x).mean().item() == pytest.approx(3, abs=1e-4)
    assert adversarial.wasserstein_generator(x).tolist() == (-x[:, 0]).tolist()


def train(critic: nn.Module, loss: Callable[[], Tensor], steps: int, learning_rate: float) -> None:
    optimizer = torch.optim.Adam(critic.parameters(), learning_rate, betas=(0.5, 0.9))
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
        decay.step()


def network(inputs: int = 1, width: int = 32, seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(inputs, width), nn.LeakyReLU(0.2), nn.Linear(width, width), nn.LeakyReLU(0.2), nn.Linear(width, 1))


def test_the_best_discriminator_is_the_ratio_of_densities() -> None:
    """Of N(0, 1) and N(1, 1), within 0.05 of p / (p + q) = 1 / (1 + exp(x - 1/2)) (Goodfellow et al. 2014, proposition 1)."""
    judge, generator = network(), torch.Generator().manual_seed(1)

    def loss() -> Tensor:
        a, b = torch.randn(2, 256, 1, generator=generator)
        return adversarial.non_saturating_discriminator(judge(a), judge(b + 1)).mean()

    train(judge, loss, 400, 5e-3)
    x = torch.linspace(-2, 3, 101)[:, None]
    with torch.no_grad():
        assert (judge(x).sigmoid() - (0.5 - x).sigmoid()).abs().max() < 0.05


@pytest.mark.parametrize(("inputs", "seed"), [(1, 1), (1, 3), (2, 0), (2, 1)])
def test_the_critics_estimate_is_the_earth_movers_distance(inputs: int, seed: int) -> None:
    """Of two standard normal sets that lie 1 apart, within 10%.

    On a line the seeds matter: a critic that happens to start with the wrong slope is held there, as the penalty asks for -1 as well as for 1
    and a slope of 0 lies between; in the plane a gradient turns around.
    """
    critic, generator, shift = network(inputs, seed=seed), torch.Generator().manual_seed(1), torch.eye(inputs)[0]

    def loss() -> Tensor:
        a, b = torch.randn(2, 256, inputs, generator=generator)
        norm = adversarial.gradient_norm(critic, adversarial.interpolates(a, b + shift, torch.rand(256, generator=generator)))
        return (adversarial.wasserstein_critic(critic(a), critic(b + shift)) + 10 * adversarial.gradient_penalty(norm)).mean()

    train(critic, loss, 300, 5e-3)
    a, b = torch.randn(2, 20_000, inputs, generator=generator)
    with torch.no_grad():
        estimate = -adversarial.wasserstein_critic(critic(a), critic(b + shift)).mean().item()
    assert estimate == pytest.approx(1, rel=0.1)


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


def test_a_value_has_the_custom_gradient() -> None:
    made, gradient = torch.randn(2, 3, 4, 4, requires_grad=True), torch.randn(2, 3, 4, 4)
    value = adversarial.with_custom_gradient(torch.tensor([1.5, -2.0]), gradient, made)
    assert value.tolist() == [1.5, -2.0]
    value.sum().backward()
    assert made.grad is not None
    torch.testing.assert_close(made.grad, gradient)
