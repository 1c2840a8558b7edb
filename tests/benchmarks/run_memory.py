"""Peak memory of a run at birth, in its steps, at a save and at a resume: what the plan says over the kernel's high-water mark of a rank.

`python -m tests.benchmarks.run_memory` prints a JSON line for each part of a run under each strategy; BENCH_RANKS, BENCH_LAYERS and BENCH_WIDTH are
the sizes. Without a GPU host and device are the same memory. The last line of each is how long steps stand still for a save, which the plan has from
the bytes that are copied and the speed of that, here as all ranks copy at once, both in CPU seconds, which other work on the cores leaves alone.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from genlib.engine.memory_plan import PARALLELISMS
from tests.benchmarks.measure import report
from tests.run_peaks import PARTS, measured_peaks, planned_peaks, stage_of

RANKS, LAYERS, WIDTH = (int(os.environ.get(f"BENCH_{name}", default)) for name, default in (("RANKS", 2), ("LAYERS", 6), ("WIDTH", 1024)))


def main(names: Sequence[str]) -> None:
    """All ways to train, or those whose names are given, in fp32 and bf16."""
    for parallelism in PARALLELISMS:
        for precision in ("fp32", "bf16"):
            name = f"{parallelism} {precision}"
            if names and name not in names:
                continue
            world = 1 if parallelism.strategy == "single" else RANKS
            stage = stage_of(parallelism, world, width=WIDTH, layers=LAYERS, precision=precision)
            (planned, saved), measured = planned_peaks(stage, world), measured_peaks(stage, world)
            for part in PARTS:
                said, held = getattr(planned, part).together, measured[part]
                report(f"run memory, {name}, {part}: planned over measured", [said / held], must=1.1, planned_mb=said / 1e6, measured_mb=held / 1e6)
            stall = saved / measured["copied"]
            report(f"run memory, {name}, stall of a save: planned over measured", [stall / measured["stall"]], must=None, planned_seconds=stall)


if __name__ == "__main__":
    main(sys.argv[1:])
