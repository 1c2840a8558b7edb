"""Masked resampling: known pixels stay, unknown ones follow from them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from genlib.functional import diffusion, samplers
from genlib.functional.inpainting import extend, inpaint, visit_order

SCHEDULE = diffusion.cosine()
SIZE = 6


def source(*shape: int) -> Callable[[int], Tensor]:
    """Noise by the number of the call."""
    return lambda call: torch.randn(*shape, generator=torch.Generator().manual_seed(call), dtype=torch.float64)


def covariance(size: int = SIZE) -> Tensor:
    """Of a picture's pixels (N, N): smooth, nearly flat."""
    row, column = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    place = torch.stack([row, column], -1).view(-1, 2).double()
    return 0.25 * torch.exp(-(torch.cdist(place, place) ** 2) / 18) + 1e-4 * torch.eye(size**2)


def smooth_pictures(count: int, size: int = SIZE, seed: int = 9) -> Tensor:
    noise = torch.randn(count, size**2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (noise @ torch.linalg.cholesky(covariance(size)).T).view(count, 1, size, size)


def denoise_smooth(x: Tensor, time: Tensor) -> Tensor:
    """E[x_0 | x_t] of those pictures, exactly."""
    alpha, sigma = (level.item() for level in SCHEDULE.levels(time))
    prior = covariance(x.shape[-1])
    gain = alpha * prior @ torch.linalg.inv(alpha**2 * prior + sigma**2 * torch.eye(len(prior)))
    return (x.flatten(1) @ gain.T).view_as(x)


def half(size: int = SIZE) -> Tensor:
    keep = torch.zeros(1, 1, size, size, dtype=torch.bool)
    keep[..., : size // 2] = True
    return keep


def fill(image: Tensor, keep: Tensor, steps: int = 40, **options: int) -> Tensor:
    grid, noise = samplers.trailing(SCHEDULE, steps), source(*image.shape)
    return inpaint(denoise_smooth, noise(10**6), grid, image=image, keep=keep, noise=noise, **options)


def error(filled: Tensor, image: Tensor, keep: Tensor) -> float:
    """Mean squared error of unknown pixels."""
    return (filled - image).square().masked_select(~keep.expand_as(image)).mean().item()


def test_known_pixels_are_returned_unchanged() -> None:
    image, keep = smooth_pictures(3), half()
    filled = fill(image, keep, jump=5, passes=3)
    assert torch.equal(filled[..., : SIZE // 2], image[..., : SIZE // 2])
    assert filled.isfinite().all()
    grid, noise = samplers.leading(SCHEDULE, 20, 1, end=0), source(3, 1, SIZE, SIZE)
    above_zero = inpaint(denoise_smooth, noise(99), grid, image=image, keep=keep, noise=noise, passes=1)
    assert torch.equal(above_zero[..., : SIZE // 2], image[..., : SIZE // 2])
    everything = torch.ones_like(keep)
    assert torch.equal(fill(image, everything, passes=1), image)


def test_unknown_pixels_follow_from_known_ones() -> None:
    """A hole is filled at least 3 dB better than by the mean of what is around it, and than without resampling."""
    image, keep = smooth_pictures(64), torch.ones(1, 1, SIZE, SIZE, dtype=torch.bool)
    keep[..., 1:-1, 1:-1] = False
    mean = image.masked_select(keep).view(64, -1).mean(1).view(-1, 1, 1, 1)
    resampled, blended = (error(fill(image, keep, jump=5, passes=passes), image, keep) for passes in (8, 1))
    assert resampled < 10**-0.3 * error(mean.expand_as(image), image, keep)
    assert resampled < 10**-0.3 * blended


def test_an_empty_mask_draws_from_the_model() -> None:
    image = smooth_pictures(400)
    drawn = fill(image, torch.zeros(1, 1, SIZE, SIZE, dtype=torch.bool), passes=1)
    assert drawn.var().item() == pytest.approx(0.25, rel=0.1)


def test_known_pixels_have_the_noise_of_their_level() -> None:
    """Also after jumps back, whenever the network is asked."""
    image = torch.full((1, 1, 100, 100), 2.0, dtype=torch.float64)
    grid, noise = samplers.trailing(SCHEDULE, 12), source(*image.shape)
    asked = []

    def denoise(x: Tensor, time: Tensor) -> Tensor:
        asked.append((time.item(), x.mean().item(), x.std().item()))
        return torch.zeros_like(x)

    inpaint(
        denoise, grid.noised(image, noise(10**6)), grid, image=image, keep=torch.ones(1, 1, 1, 1, dtype=torch.bool), noise=noise, jump=4, passes=3
    )
    assert len(asked) == 12 + 2 * 4 * 2
    for time, mean, std in asked:
        alpha, sigma = (level.item() for level in SCHEDULE.levels(torch.tensor(time)))
        assert mean == pytest.approx(2 * alpha, abs=0.05 * sigma)
        assert std == pytest.approx(sigma, rel=0.03)


def test_outpainting_keeps_the_crop_bit_for_bit() -> None:
    picture = smooth_pictures(2, 4)
    canvas, keep = extend(picture, left=1, top=0, right=1, bottom=2)
    assert canvas.shape == (2, 1, 6, 6)
    assert keep.shape == (1, 1, 6, 6)
    assert keep.sum() == 16
    painted = fill(canvas, keep, jump=4, passes=2)
    assert torch.equal(painted[..., :4, 1:5], picture)
    assert painted[..., 4:, :].abs().min() > 0


def test_each_sample_may_have_its_own_mask() -> None:
    image = smooth_pictures(2)
    keep = torch.cat([half(), ~half()])
    filled = fill(image, keep, passes=2)
    assert torch.equal(filled.masked_select(keep), image.masked_select(keep))
    assert (filled != image).masked_select(~keep).all()


@pytest.mark.parametrize(("steps", "jump", "passes"), [(20, 5, 3), (20, 5, 1), (7, 3, 2), (5, 10, 4), (250, 10, 10)])
def test_the_walk_is_the_papers(steps: int, jump: int, passes: int) -> None:
    """Against the paper's schedule, which counts noise levels down to -1 and steps back one level at a time."""
    level, theirs, jumps = steps - 1, [steps - 1], dict.fromkeys(range(0, steps - jump, jump), passes - 1)
    while level >= 0:
        if jumps.get(level, 0) > 0:
            jumps[level] -= 1
            level += jump
        else:
            level -= 1
        theirs.append(level)
    assert visit_order(steps, jump, passes) == [steps - 1 - level for level in theirs]
    calls = sum(there > here for here, there in zip(theirs[1:], theirs, strict=False))
    assert calls == steps + jump * (passes - 1) * len(range(0, steps - jump, jump))


def test_filling_begins_in_pure_noise_and_can_be_cancelled() -> None:
    schedule = diffusion.zero_terminal_snr(SCHEDULE)
    grid, noise, image = samplers.trailing(schedule, 12), source(1, 1, SIZE, SIZE), smooth_pictures(1)
    filled = inpaint(lambda x, _: 0.5 * x, noise(99), grid, image=image, keep=half(), noise=noise, jump=4, passes=2)
    assert filled.isfinite().all()

    def cancel(index: int, x: Tensor, x0: Tensor) -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        inpaint(lambda x, _: 0.5 * x, noise(99), grid, image=image, keep=half(), noise=noise, on_step=cancel)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda image: fill(image, half().float()), r"the mask is torch\.float32; give booleans"),
        (lambda image: fill(image, half(4)), "the mask is .* and the picture"),
        (lambda image: fill(image, half(), jump=0), "jump 0 steps"),
        (lambda image: fill(image, half(), passes=0), "passes 0 times"),
        (lambda image: extend(image, -1, 0, 0, 0), "outpainting adds -1"),
        (
            lambda image: inpaint(
                denoise_smooth, torch.zeros(1, 1, 2, 2), samplers.trailing(SCHEDULE, 5), image=image, keep=half(), noise=source(*image.shape)
            ),
            "give noise of the picture's shape",
        ),
    ],
)
def test_wrong_values_get_one_sentence(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(smooth_pictures(2))
