"""Guidance against its formulas, and what it does to samples."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from genlib.functional import diffusion, samplers
from genlib.functional.guidance import classifier_free, clip_gradient, dynamic_threshold

SCHEDULE = diffusion.cosine()


def draws(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_the_scale_extrapolates() -> None:
    with_text, without = draws(2, 3, 4, 4), draws(2, 3, 4, 4, seed=1)
    assert torch.equal(classifier_free(with_text, without, 1.0), with_text)
    assert torch.equal(classifier_free(with_text, without, 0.0), without)
    torch.testing.assert_close(classifier_free(with_text, without, 7.5), without + 7.5 * (with_text - without))


@pytest.mark.parametrize("rescale", [0.3, 0.7, 1.0])
def test_rescaling_equals_diffusers(rescale: float) -> None:
    from diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl import rescale_noise_cfg

    with_text, without = draws(2, 3, 4, 4), draws(2, 3, 4, 4, seed=1)
    plain = classifier_free(with_text, without, 7.5)
    ours = classifier_free(with_text, without, 7.5, rescale)
    torch.testing.assert_close(ours, rescale_noise_cfg(plain, with_text, guidance_rescale=rescale))
    if rescale == 1:
        torch.testing.assert_close(ours.std(dim=(1, 2, 3)), with_text.std(dim=(1, 2, 3)))


def test_a_network_that_says_nothing_stays_finite() -> None:
    silent = torch.zeros(2, 3, 4, 4)
    assert torch.equal(classifier_free(silent, silent, 5.0, 0.7), silent)


def test_guidance_of_noise_and_of_data_is_one() -> None:
    x_t, alpha, sigma = draws(2, 5), 0.6, 0.8
    words = [draws(2, 5, seed=1), draws(2, 5, seed=2)]
    as_noise = diffusion.to_x0("epsilon", classifier_free(*words, 4.0), x_t, alpha, sigma)
    as_data = classifier_free(*(diffusion.to_x0("epsilon", said, x_t, alpha, sigma) for said in words), 4.0)
    torch.testing.assert_close(as_noise, as_data)


@pytest.mark.parametrize("percentile", [0.5, 0.9, 0.995, 1.0])
def test_dynamic_thresholding_cuts_at_the_percentile(percentile: float) -> None:
    x0 = 3 * draws(4, 3, 8, 8)
    limit = torch.quantile(x0.flatten(1).abs(), percentile, dim=1).clamp(min=1)[:, None, None, None]
    ours = dynamic_threshold(x0, percentile)
    torch.testing.assert_close(ours, torch.maximum(torch.minimum(x0, limit), -limit) / limit)
    assert ours.abs().max() <= 1


def test_dynamic_thresholding_leaves_pictures_in_range() -> None:
    x0 = draws(2, 3, 8, 8).clamp(-1, 1)
    assert torch.equal(dynamic_threshold(x0, 0.9), x0)


def test_dynamic_thresholding_equals_diffusers() -> None:
    from diffusers import DDIMScheduler

    x0 = 2 * draws(3, 3, 8, 8).float()
    theirs = DDIMScheduler(thresholding=True, dynamic_thresholding_ratio=0.95, sample_max_value=100.0)
    torch.testing.assert_close(dynamic_threshold(x0, 0.95), theirs._threshold_sample(x0))


def saturated(x: Tensor) -> float:
    return (x.abs() > 0.99).double().mean().item()


def test_strong_guidance_saturates_less_with_dynamic_thresholding() -> None:
    """Pixels of each class are N(+-0.4, 0.2**2); guidance 10 pushes far beyond [-1, 1]."""
    grid, start = samplers.trailing(SCHEDULE, 30), draws(8, 3, 8, 8)

    def expected(mean: float, x: Tensor, time: Tensor) -> Tensor:
        alpha, sigma = SCHEDULE.at(time, x)
        return mean + alpha * 0.04 / (alpha**2 * 0.04 + sigma**2) * (x - alpha * mean)

    def sample(limit) -> Tensor:
        return samplers.ddim(lambda x, t: limit(classifier_free(expected(0.4, x, t), expected(0.0, x, t), 10.0)), start, grid)

    static, dynamic = sample(lambda x0: x0.clamp(-1, 1)), sample(lambda x0: dynamic_threshold(x0, 0.9))
    assert saturated(static) > 0.5
    assert saturated(dynamic) < 0.5 * saturated(static)


class ToyEmbedder(torch.nn.Module):
    """A frozen network from pictures to unit vectors; a grey picture, too, has a direction, as with CLIP."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(7)
        self.first, self.second = (torch.nn.Parameter(torch.randn(*size, generator=generator, dtype=torch.float64)) for size in ((48, 32), (32, 8)))

    def forward(self, image: Tensor) -> Tensor:
        return F.normalize(torch.tanh(image.flatten(1) @ self.first / 7 + 0.5) @ self.second, dim=1)


def denoise_gaussian(x: Tensor, time: Tensor) -> Tensor:
    """E[x_0 | x_t] of standard normal pixels times 0.5."""
    alpha, sigma = SCHEDULE.at(time, x)
    return alpha * 0.25 / (alpha**2 * 0.25 + sigma**2) * x


@pytest.mark.parametrize("through_network", [True, False])
def test_the_clip_gradient_raises_similarity(through_network: bool) -> None:
    embed, grid, start = ToyEmbedder(), samplers.trailing(SCHEDULE, 30), draws(6, 3, 4, 4)
    wanted = F.normalize(draws(6, 8, seed=3), dim=1)

    def similarity(image: Tensor) -> Tensor:
        return (embed(image) * wanted).sum(1)

    def sample(scale: float) -> Tensor:
        def guided(x: Tensor, time: Tensor) -> Tensor:
            alpha, sigma = SCHEDULE.at(time, x)
            return clip_gradient(lambda point: denoise_gaussian(point, time), x, alpha, sigma, similarity, scale, through_network=through_network)

        with torch.no_grad():
            return similarity(samplers.ddim(guided, start, grid))

    none, some, more = sample(0.0), sample(3.0), sample(10.0)
    assert (some > none).all()
    assert (more > some).all()
    assert more.mean() > none.mean() + 0.4
    assert embed.first.grad is None


def test_the_clip_gradient_shifts_by_the_posterior_covariance() -> None:
    """For x_0 ~ N(0, s**2) and a similarity w x_0: the shift is Var[x_0 | x_t] w; held at the estimate it is sigma**2 w."""
    time, x, weight = torch.tensor(400), draws(3, 2), torch.tensor([0.3, -2.0], dtype=torch.float64)
    alpha, sigma = SCHEDULE.at(time, x)
    plain = denoise_gaussian(x, time)

    def shift(through_network: bool) -> Tensor:
        guided = clip_gradient(
            lambda point: denoise_gaussian(point, time), x, alpha, sigma, lambda x0: (x0 * weight).sum(1), 1.0, through_network=through_network
        )
        return guided - plain

    variance = sigma**2 * 0.25 / (alpha**2 * 0.25 + sigma**2)
    torch.testing.assert_close(shift(True), (variance * weight).expand(3, 2))
    torch.testing.assert_close(shift(False), (sigma**2 * weight).expand(3, 2))


def test_the_clip_gradient_rests_in_pure_noise() -> None:
    x = draws(2, 3)
    ours = clip_gradient(lambda point: 0.5 * point, x, 0.0, 1.0, lambda x0: x0.sum(1), 5.0)
    assert torch.equal(ours, 0.5 * x)
    assert not ours.requires_grad


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda x: classifier_free(x, x, 2.0, rescale=1.5), r"rescale 1\.5 is not a share"),
        (lambda x: dynamic_threshold(x, 99.5), r"percentile 99\.5 of absolute"),
        (lambda x: dynamic_threshold(x, 0.0), r"percentile 0\.0"),
    ],
)
def test_wrong_values_get_one_sentence(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(draws(2, 3, 4, 4))
