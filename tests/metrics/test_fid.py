"""The Frechet distance against closed forms and torchmetrics, and sums that neither order, batches nor ranks change."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from genlib import distributed
from genlib.metrics.fid import Moments, frechet_distance, trace_of_root
from tests.processes import run_ranks


def rows(count: int, size: int = 8, seed: int = 0) -> Tensor:
    return torch.randn(count, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def of(values: Tensor) -> Moments:
    moments = Moments(values.shape[1])
    moments.add(values)
    return moments


def test_two_known_gaussians() -> None:
    """Covariances with the same eigenvectors have a closed form: |m|^2 + sum (sqrt a - sqrt b)^2."""
    turn = torch.linalg.qr(rows(8, seed=1)).Q
    a, b, shift = torch.linspace(0.1, 3, 8).double(), torch.linspace(2, 0.5, 8).double(), torch.linspace(-1, 1, 8).double()
    exact = (shift.square().sum() + (a.sqrt() - b.sqrt()).square().sum()).item()
    x, y = rows(50_000, seed=2) * a.sqrt() @ turn.T, rows(50_000, seed=3) * b.sqrt() @ turn.T + shift
    assert frechet_distance(of(x), of(y)) == pytest.approx(exact, rel=0.01)


def test_covariances_of_different_eigenvectors_agree_with_torchmetrics() -> None:
    from torchmetrics.image.fid import _compute_fid

    x, y = (of(rows(500, 64, seed) @ rows(64, 64, seed + 2) + seed) for seed in (0, 1))
    expected = _compute_fid(x.mean, x.covariance, y.mean, y.covariance).item()
    assert frechet_distance(x, y) == pytest.approx(expected, rel=3e-7)


@pytest.mark.parametrize("count", [1000, 20])
def test_a_set_is_at_no_distance_from_itself(count: int) -> None:
    """With fewer pictures than features too, where the covariance has no inverse."""
    x = rows(count, 64)
    assert frechet_distance(of(x), of(x)) == pytest.approx(0, abs=1e-6)


def test_covariances_without_an_inverse() -> None:
    """Of rank one each: the root's trace is |u . v|."""
    u, v = rows(2, 8)
    assert trace_of_root(u.outer(u), v.outer(v)).item() == pytest.approx((u @ v).abs().item(), abs=1e-6)
    assert trace_of_root(torch.zeros(8, 8, dtype=torch.float64), v.outer(v)).item() == 0


def test_batches_and_their_order_change_nothing() -> None:
    x = rows(1000) + 1e4  # far from zero, where sums of squares lose digits
    whole, parts = of(x), [of(part) for part in x.split([7, 400, 1, 592])]
    for order in ([0, 1, 2, 3], [3, 1, 0, 2]):
        total = Moments(8)
        for i in order:
            total.merge(parts[i])
        assert total.count == 1000
        torch.testing.assert_close(total.mean, whole.mean, rtol=1e-12, atol=0)
        torch.testing.assert_close(total.covariance, x.T.cov(), rtol=1e-8, atol=1e-8)
        assert frechet_distance(total, whole) == pytest.approx(0, abs=1e-8)


def test_float32_features_are_summed_in_float64() -> None:
    x = rows(1000).float() + 1000
    moments = Moments(8)
    for part in x.split(64):
        moments.add(part)
    torch.testing.assert_close(moments.covariance, x.double().T.cov(), rtol=1e-10, atol=1e-10)


def add_on_rank(folder: Path) -> None:
    mine, moments = (rows(1000) + 100).split([301, 699])[distributed.rank()], Moments(8)
    for part in mine.split(64):
        moments.add(part)
    whole = moments.over_ranks()
    found = {"count": torch.tensor(whole.count), "mean": whole.mean, "covariance": whole.covariance}
    save_file(found, folder / f"{distributed.rank()}.safetensors")


def test_ranks_together_equal_one_pass(tmp_path: Path) -> None:
    run_ranks(2, add_on_rank, tmp_path)
    one = of(rows(1000) + 100)
    for rank in range(2):
        found = load_file(tmp_path / f"{rank}.safetensors")
        assert found["count"] == 1000
        torch.testing.assert_close(found["mean"], one.mean, rtol=1e-8, atol=1e-8)
        torch.testing.assert_close(found["covariance"], one.covariance, rtol=1e-8, atol=1e-8)


def test_one_picture_has_no_covariance() -> None:
    with pytest.raises(ValueError, match="a covariance needs at least two pictures, there are 1"):
        frechet_distance(of(rows(1)), of(rows(10)))
