"""NT-Xent of 1,024 and more samples in two views of 128 dimensions, forward and backward, against lightly's; one thread.

Memory is the peak above the inputs, each side in a process of its own.

    OMP_NUM_THREADS=1 python -m tests.benchmarks.nt_xent
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from genlib.functional.nt_xent import nt_xent
from tests.benchmarks.contrastive_loss import peak_resident_kilobytes
from tests.benchmarks.measure import ratios, report
from tests.open_clip_stub import lightly_losses

Loss = Callable[[Tensor, Tensor], Tensor]
TEMPERATURE = 0.2


def ours(first: Tensor, second: Tensor) -> Tensor:
    return nt_xent(F.normalize(first, dim=1), F.normalize(second, dim=1), TEMPERATURE).mean()


def lightly(first: Tensor, second: Tensor) -> Tensor:
    return lightly_losses().NTXentLoss(TEMPERATURE)(first, second)


LOSSES: dict[str, Loss] = {f.__name__: f for f in (ours, lightly)}


def inputs(samples: int, size: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    first = torch.randn(samples, size, generator=generator)
    return [x.requires_grad_() for x in (first, first + torch.randn(samples, size, generator=generator))]


def often(loss: Loss, features: list[Tensor], times: int) -> None:
    for _ in range(times):
        torch.autograd.grad(loss(*features), features)


def peak_megabytes(name: str, samples: int, size: int) -> float:
    """Peak resident memory of forward and backward above what is there before, in a fresh process."""
    command = [sys.executable, "-m", "tests.benchmarks.nt_xent", "--peak", name, str(samples), str(size)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def print_peak(name: str, samples: int, size: int) -> None:
    often(LOSSES[name], inputs(64, size), 1)
    features = inputs(samples, size)
    before = peak_resident_kilobytes()
    often(LOSSES[name], features, 1)
    print((peak_resident_kilobytes() - before) / 1024)


def main() -> None:
    torch.set_num_threads(1)
    for samples, times, size, rounds in ((1024, 4, 128, 9), (1024, 4, 512, 9), (4096, 1, 128, 3)):
        sides = [partial(often, loss, inputs(samples, size), times) for loss in (ours, lightly)]
        torch.testing.assert_close(*(loss(*inputs(samples, size)) for loss in (ours, lightly)))
        report(f"NT-Xent N={samples} d={size}: time over lightly's NTXentLoss", ratios(*sides, rounds), must=0.8)
    peaks = {name: peak_megabytes(name, 4096, 128) for name in LOSSES}
    facts = {f"{name}_megabytes": round(peak) for name, peak in peaks.items()}
    report("NT-Xent N=4096 d=128: memory over lightly's NTXentLoss", [peaks["ours"] / peaks["lightly"]], must=0.25, **facts)


if __name__ == "__main__":
    if "--peak" in sys.argv:
        print_peak(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
    else:
        main()
