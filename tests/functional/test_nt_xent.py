"""NT-Xent and its gradient against the plain full matrix, in one to four processes."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from genlib import distributed
from genlib.functional.nt_xent import nt_xent
from tests.processes import run_ranks

SAMPLES, SIZE = 24, 8


def views(noise: float = 0.5) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    first = torch.randn(SAMPLES, SIZE, generator=generator, dtype=torch.float64)
    second = first + noise * torch.randn(SAMPLES, SIZE, generator=generator, dtype=torch.float64)
    return F.normalize(first, dim=1), F.normalize(second, dim=1)


PRICES = torch.linspace(0.5, 2, SAMPLES, dtype=torch.float64)
"""What each sample's loss counts: unequal, so that no error in a single gradient averages out."""


def plain(first: Tensor, second: Tensor, temperature: float, counts: Tensor) -> Tensor:
    """Equation 1 of the paper, view by view. -> (B,) with zeros for samples that do not count."""
    together, losses = torch.cat([first, second]), torch.zeros_like(first[:, 0])
    for i in counts.nonzero()[:, 0].tolist():
        for anchor, partner in ((i, i + SAMPLES), (i + SAMPLES, i)):
            others = counts.repeat(2)
            others[anchor] = False
            logits = together @ together[anchor] / temperature
            losses[i] = losses[i] + (logits[others].logsumexp(0) - logits[partner]) / 2
    return losses


def gradients(losses: Tensor, prices: Tensor, *inputs: Tensor) -> list[Tensor]:
    return [losses.detach(), *torch.autograd.grad((losses * prices).mean(), inputs)]


@cache
def expected(temperature: float, mask: str) -> list[Tensor]:
    inputs = [x.requires_grad_() for x in views()]
    return gradients(plain(*inputs, temperature, masks()[mask]), PRICES, *inputs)


def masks() -> dict[str, Tensor]:
    everyone = torch.ones(SAMPLES, dtype=torch.bool)
    some, one_rank, one = everyone.clone(), everyone.clone(), ~everyone
    some[[0, 5, 22, 23]] = False
    one_rank[18:] = False  # with four ranks, all of the last one's
    one[3] = True
    return {"all": everyone, "some": some, "one rank": one_rank, "one sample": one}


@pytest.mark.parametrize("tile", [3, 5, 48, 1000])
@pytest.mark.parametrize("mask", list(masks()))
@pytest.mark.parametrize("temperature", [1.0, 0.1, 0.01])
def test_equals_the_plain_reference(temperature: float, mask: str, tile: int) -> None:
    counts = masks()[mask]
    for kind in (torch.float64, torch.float32):
        tolerance = torch.finfo(kind).eps * max(20, 3 / temperature)  # of logits, which are as large as 1 / temperature
        inputs = [x.to(kind, copy=True).requires_grad_() for x in views()]
        losses = nt_xent(*inputs, temperature, valid=counts, tile=tile)
        for found, value in zip(gradients(losses, PRICES.to(kind), *inputs), expected(temperature, mask), strict=True):
            assert (found.double() - value).abs().max() <= tolerance * max(1.0, value.abs().max().item())


def test_logits_that_are_not_kept_are_computed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("genlib.functional.nt_xent.KEPT_BYTES", 3 * 5**2 * 8)
    inputs = [x.requires_grad_() for x in views()]
    found = gradients(nt_xent(*inputs, 0.1, tile=5), PRICES, *inputs)
    for value, reference in zip(found, expected(0.1, "all"), strict=True):
        torch.testing.assert_close(value, reference, atol=1e-12, rtol=1e-10)


def shares(folder: Path) -> None:
    rank, world = distributed.rank(), distributed.world_size()
    mine = slice(rank * SAMPLES // world, (rank + 1) * SAMPLES // world)
    for tile in (5, 512):
        for name, counts in masks().items():
            first, second = (x[mine].clone().requires_grad_() for x in views())
            losses = nt_xent(first, second, 0.1, valid=counts[mine], tile=tile)
            value, to_first, to_second = gradients(losses, PRICES[mine], first, second)
            # what data parallelism does: gradients of weights are averaged over ranks
            total = [distributed.all_gather(value), distributed.all_gather(to_first) / world, distributed.all_gather(to_second) / world]
            if rank == 0:
                torch.save(total, folder / f"{tile}-{name}.pt")


@pytest.mark.parametrize("world", [2, 3, 4])
def test_ranks_together_equal_the_full_matrix(world: int, tmp_path: Path) -> None:
    run_ranks(world, shares, tmp_path)
    for tile in (5, 512):
        for name in masks():
            for value, reference in zip(torch.load(tmp_path / f"{tile}-{name}.pt"), expected(0.1, name), strict=True):
                torch.testing.assert_close(value, reference, atol=1e-12, rtol=1e-10)


def test_views_that_agree_alone_are_worth_less_than_those_that_do_not() -> None:
    first, second = views()
    assert (nt_xent(first, first, 0.1) < nt_xent(first, -first, 0.1)).all()
    torch.testing.assert_close(nt_xent(first, second, 0.1), nt_xent(second, first, 0.1))


def test_a_sample_alone_has_nothing_to_tell_apart() -> None:
    first, second = (x[:1].requires_grad_() for x in views())
    loss = nt_xent(first, second, 0.1)
    assert abs(loss.item()) < 1e-12
    assert all(grad.abs().max() < 1e-12 for grad in torch.autograd.grad(loss.sum(), (first, second)))


def test_huge_logits_and_bf16_are_safe() -> None:
    first, second = (x.float() for x in views())
    assert nt_xent(first, -first, 1e-4).isfinite().all()
    with torch.autocast("cpu", torch.bfloat16):
        found = nt_xent(first.bfloat16(), second.bfloat16(), 0.05)
    assert found.dtype == torch.float32
    rounded = [x.bfloat16().double() for x in (first, second)]
    torch.testing.assert_close(found.double(), plain(*rounded, 0.05, masks()["all"]), rtol=1e-5, atol=1e-5)
