"""The tiled loss and its gradients against the full matrix, in one, two and four processes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from genlib import distributed
from genlib.functional.contrastive import contrastive_loss
from tests.processes import run_ranks

PAIRS, SIZE = 24, 8


def pairs(seed: int = 0, noise: float = 0.3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    image = F.normalize(torch.randn(PAIRS, SIZE, generator=generator), dim=1)
    return image, F.normalize(image + noise * torch.randn(PAIRS, SIZE, generator=generator), dim=1)


def full_matrix(image: Tensor, text: Tensor, scale: Tensor, counts: Tensor) -> Tensor:
    """Mean over all pairs (zeros for those that do not count) in double precision."""
    logits = scale.double() * image.double()[counts] @ text.double()[counts].T
    target = torch.arange(len(logits))
    return (F.cross_entropy(logits, target, reduction="sum") + F.cross_entropy(logits.T, target, reduction="sum")) / 2 / len(image)


def gradients(loss: Tensor, *inputs: Tensor) -> list[Tensor]:
    return [loss.detach(), *torch.autograd.grad(loss, inputs)]


def expected(scale: float, counts: Tensor) -> list[Tensor]:
    inputs = [x.double().requires_grad_() for x in (*pairs(), torch.tensor([scale]))]
    return gradients(full_matrix(*inputs, counts), *inputs)


def masks() -> dict[str, Tensor]:
    some = torch.ones(PAIRS, dtype=torch.bool)
    some[[0, 5, 22, 23]] = False
    one_rank = torch.ones(PAIRS, dtype=torch.bool)
    one_rank[18:] = False  # with four ranks, all of the last one's
    return {"all": torch.ones(PAIRS, dtype=torch.bool), "some": some, "one_rank": one_rank}


@pytest.mark.parametrize("tile", [1, 5, 8, 24, 1000])
@pytest.mark.parametrize("mask", list(masks()))
@pytest.mark.parametrize("scale", [1.0, 14.3, 100.0])
def test_equals_the_full_matrix(scale: float, mask: str, tile: int) -> None:
    counts = masks()[mask]
    for kind, tolerance in ((torch.float64, 1e-9), (torch.float32, 1e-6)):
        inputs = [x.to(kind, copy=True).requires_grad_() for x in (*pairs(), torch.tensor([scale]))]
        found = gradients(contrastive_loss(*inputs, valid=counts, tile=tile).mean(), *inputs)
        for value, reference in zip(found, expected(scale, counts), strict=True):
            error = (value.double() - reference).abs().max()
            assert error <= tolerance * max(1.0, reference.abs().max())


def shares(folder: Path) -> None:
    rank, world = distributed.rank(), distributed.world_size()
    mine = slice(rank * PAIRS // world, (rank + 1) * PAIRS // world)
    for scale in (1.0, 100.0):
        for name, counts in masks().items():
            image, text = (x[mine].double().requires_grad_() for x in pairs())
            factor = torch.tensor([scale], dtype=torch.float64, requires_grad=True)
            loss = contrastive_loss(image, text, factor, valid=counts[mine], tile=5).mean()
            value, to_image, to_text, to_scale = gradients(loss, image, text, factor)
            # what data parallelism does: values and gradients of weights are averaged over ranks
            total = [
                distributed.mean_over_ranks(value),
                distributed.all_gather(to_image) / world,
                distributed.all_gather(to_text) / world,
                distributed.mean_over_ranks(to_scale),
            ]
            if rank == 0:
                torch.save(total, folder / f"{scale}-{name}.pt")


@pytest.mark.parametrize("world", [2, 4])
def test_ranks_together_equal_the_full_matrix(world: int, tmp_path: Path) -> None:
    run_ranks(world, shares, tmp_path)
    for scale in (1.0, 100.0):
        for name, counts in masks().items():
            for value, reference in zip(torch.load(tmp_path / f"{scale}-{name}.pt"), expected(scale, counts), strict=True):
                torch.testing.assert_close(value, reference, atol=1e-9, rtol=1e-7)


def test_losses_are_per_pair_and_safe_where_logits_are_huge() -> None:
    image, text = pairs(noise=0.0)
    losses = contrastive_loss(image, text, torch.tensor([1e4]))
    assert losses.shape == (PAIRS,)
    assert losses.isfinite().all()
    opposite = contrastive_loss(image, -image, torch.tensor([100.0]))
    assert opposite.isfinite().all()
    assert opposite.min() > 50


def test_bf16_features_lose_nothing_more_than_their_rounding() -> None:
    image, text = (x.bfloat16() for x in pairs())
    with torch.autocast("cpu", torch.bfloat16):
        loss = contrastive_loss(image, text, torch.tensor([100.0])).mean()
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss.double(), full_matrix(image.float(), text.float(), torch.tensor([100.0]), masks()["all"]), rtol=1e-5, atol=1e-6)
