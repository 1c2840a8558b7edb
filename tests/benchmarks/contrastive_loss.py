"""The contrastive loss with 8,192 pairs of 512 dimensions, forward and backward, against the full matrix; one thread.

The full matrix is computed once and used both ways, which is the cheapest naive form; open_clip's ClipLoss multiplies twice.
Memory is the peak above the inputs, each side in a process of its own.

    OMP_NUM_THREADS=1 python -m tests.benchmarks.contrastive_loss
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from genlib.functional.contrastive import contrastive_loss
from tests.benchmarks.measure import ratios, report

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]


def ours(image: Tensor, text: Tensor, scale: Tensor) -> Tensor:
    return contrastive_loss(image, text, scale).mean()


def naive(image: Tensor, text: Tensor, scale: Tensor) -> Tensor:
    logits, target = scale * image @ text.T, torch.arange(len(image))
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def open_clip_loss(image: Tensor, text: Tensor, scale: Tensor) -> Tensor:
    from tests.open_clip_stub import open_clip

    return open_clip().loss.ClipLoss()(image, text, scale)


LOSSES = {f.__name__: f for f in (ours, naive, open_clip_loss)}


def inputs(pairs: int, size: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    image = F.normalize(torch.randn(pairs, size, generator=generator), dim=1)
    text = F.normalize(image + torch.randn(pairs, size, generator=generator) / size**0.5, dim=1)
    return [x.requires_grad_() for x in (image, text, torch.tensor([14.3]))]


def once(loss: Loss, features: list[Tensor]) -> None:
    torch.autograd.grad(loss(*features), features)


def often(loss: Loss, features: list[Tensor]) -> None:
    for _ in range(20):
        once(loss, features)


def peak_megabytes(name: str, pairs: int, size: int) -> float:
    """Peak resident memory of forward and backward above what is there before, in a fresh process."""
    command = [sys.executable, "-m", "tests.benchmarks.contrastive_loss", "--peak", name, str(pairs), str(size)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def peak_resident_kilobytes() -> int:
    """Of this program alone; getrusage would count what its parent held when it forked."""
    return int(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1])


def print_peak(name: str, pairs: int, size: int) -> None:
    once(LOSSES[name], inputs(64, size))
    features = inputs(pairs, size)
    before = peak_resident_kilobytes()
    once(LOSSES[name], features)
    print((peak_resident_kilobytes() - before) / 1024)


def main(pairs: int = 8192, size: int = 512) -> None:
    torch.set_num_threads(1)
    features = inputs(pairs, size)
    sides = {name: partial(once, loss, features) for name, loss in LOSSES.items()}
    report(f"contrastive loss N={pairs} d={size}: time over the full matrix", ratios(sides["ours"], sides["naive"], 5), must=0.7)
    report(f"contrastive loss N={pairs} d={size}: time over open_clip's ClipLoss", ratios(sides["ours"], sides["open_clip_loss"], 3), must=0.7)
    peaks = {name: peak_megabytes(name, pairs, size) for name in LOSSES}
    facts = {f"{name}_megabytes": round(peak) for name, peak in peaks.items()}
    report(f"contrastive loss N={pairs} d={size}: memory over the full matrix", [peaks["ours"] / peaks["naive"]], must=0.25, **facts)
    for dims in (128, 512):
        few_sides = [partial(often, loss, inputs(512, dims)) for loss in (ours, naive)]
        report(f"contrastive loss N=512 d={dims}: time over the full matrix", ratios(*few_sides, 9), must=1.15)


if __name__ == "__main__":
    if "--peak" in sys.argv:
        print_peak(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
    else:
        main()
