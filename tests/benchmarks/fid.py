"""The trace in the Frechet distance at 2,048 dimensions: ours over torchmetrics' eigenvalues of the product; one thread.

OMP_NUM_THREADS=1 python -m tests.benchmarks.fid
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from genlib.metrics.fid import Moments, frechet_distance, trace_of_root
from tests.benchmarks.measure import ratios, report

SIZE, PICTURES = 2048, 10_000


def moments(seed: int) -> Moments:
    """Of features that are not negative and fall off, as Inception's do."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(SIZE, SIZE, generator=generator) * torch.logspace(0, -2, SIZE) / SIZE**0.5
    found = Moments(SIZE)
    for _ in range(PICTURES // 1000):
        found.add((torch.randn(1000, SIZE, generator=generator) @ mixing.T + 0.3).relu())
    return found


def theirs(a: Tensor, b: Tensor) -> Tensor:
    """The term as torchmetrics takes it."""
    return torch.linalg.eigvals(a @ b).sqrt().real.sum()


def main() -> None:
    from torchmetrics.image.fid import _compute_fid

    torch.set_num_threads(1)
    a, b = moments(0), moments(1)
    reference = _compute_fid(a.mean, a.covariance, b.mean, b.covariance).item()
    off = abs(frechet_distance(a, b) / reference - 1)
    sides = [partial(trace, a.covariance, b.covariance) for trace in (trace_of_root, theirs)]
    report(f"FID trace d={SIZE}: time over torchmetrics (eigvals)", ratios(*sides, 3), must=0.5, fid=round(reference, 4), relative_difference=off)
    if off > 3e-7:
        raise SystemExit(f"the distance differs from torchmetrics' by {off:.1e} of it; at most 3e-7 is wanted")


if __name__ == "__main__":
    main()
