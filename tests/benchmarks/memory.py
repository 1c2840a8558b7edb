"""Peak memory of a training step on each device, what the plan says of it over what it really is: the small U-Net, two processes.

`python -m tests.benchmarks.memory` prints one JSON line a strategy. Without a GPU host and device are the same memory, so with offload
the plan's two numbers are added.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch

from genlib.engine.memory_plan import PARALLELISMS, Parallelism, estimate_memory
from genlib.engine.trace import FakeTask
from tests.benchmarks.measure import report
from tests.peak import UNet, config, write_peak
from tests.processes import run_ranks

VARIANTS = {"": {}, "bf16": {"precision": "bf16"}, "checkpointed": {"checkpointing": True}, "accumulated": {"accumulation": 2}}
MICRO_BATCH = 8


def ratio(parallelism: Parallelism, *, precision: str = "fp32", accumulation: int = 1, checkpointing: bool = False) -> tuple[float, float]:
    """Predicted and measured megabytes of the worse moment."""
    train, world = config(parallelism, precision, accumulation), 1 if parallelism.strategy == "single" else 2
    memory = estimate_memory(FakeTask(lambda: UNet(checkpointing=checkpointing)), train, MICRO_BATCH).at(parallelism, world, MICRO_BATCH)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "peak")
        run_ranks(world, write_peak, out, parallelism, train, MICRO_BATCH, checkpointing)
        measured = int(out.read_text())
    predicted = memory.device_bytes + (0 if torch.cuda.is_available() else memory.host_bytes)
    return predicted / 1e6, measured / 1e6


def main(names: Sequence[str]) -> None:
    """All ways, or those whose names are given; then variants of some."""
    for parallelism in PARALLELISMS:
        for variant, options in VARIANTS.items():
            name = f"{parallelism} {variant}".strip()
            if names and name not in names:
                continue
            predicted, measured = ratio(parallelism, **options)
            report(f"peak memory, {name}: predicted over measured", [predicted / measured], must=1.1, predicted_mb=predicted, measured_mb=measured)


if __name__ == "__main__":
    main(sys.argv[1:])
