"""Row "bytes a step": what a step of ZeRO-3 sends in bf16, over the same in fp32, counted from the collectives of two ranks.

BENCH_LAYERS and BENCH_WIDTH are the sizes of the network. Beside each count stands what `--plan` says of it.
"""

from __future__ import annotations

import json
import os
import tempfile
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist

from genlib.config import TrainConfig
from genlib.engine.step_traffic import step_traffic
from genlib.engine.strategies import strategy_of
from genlib.engine.trace import FakeTask
from genlib.types import Step
from tests.benchmarks.measure import report
from tests.benchmarks.sharded_rank import ROWS, Layers
from tests.processes import run_ranks
from tests.wire import CountedBytes

LAYERS, WIDTH = (int(os.environ.get(f"BENCH_{name}", default)) for name, default in (("LAYERS", 16), ("WIDTH", 1024)))
WAYS = {"fp32": TrainConfig(), "bf16": TrainConfig(precision="bf16"), "bf16, added up in fp32": TrainConfig(precision="bf16", reduction="fp32")}


def sent(config: TrainConfig) -> int:
    """Bytes of the second step."""
    strategy = strategy_of("zero3", torch.device("cpu"))
    with strategy.sharded_init or nullcontext():  # type: ignore[attr-defined]
        task = Layers(LAYERS, WIDTH)
    strategy.setup(task.train(), config)
    batch = {"sample": torch.randn(ROWS, WIDTH), "valid": torch.ones(ROWS, dtype=torch.bool), "weight": torch.ones(ROWS)}
    for index in range(2):
        with CountedBytes() as counted:
            strategy.run_phase(task.phases[0], [batch], Step(index, 2, 0))
    return counted.gathered + counted.reduced


def count(folder: Path) -> None:
    """Rank 0 writes what each way sends."""
    found = {way: sent(config) for way, config in WAYS.items()}
    if dist.get_rank() == 0:
        (folder / "found.json").write_text(json.dumps(found))


def main() -> None:
    """Prints the rows."""
    with tempfile.TemporaryDirectory() as folder:
        run_ranks(2, count, Path(folder))
        found = json.loads(Path(folder, "found.json").read_text())
    fake = FakeTask(partial(Layers, LAYERS, WIDTH))
    for way, must in (("bf16", 0.55), ("bf16, added up in fp32", None)):
        planned = step_traffic(fake, WAYS[way], "zero3", 2)
        off = round((planned.gathered + planned.reduced) / found[way], 3)
        report(f"bytes a step of ZeRO-3, {way}: over fp32", [found[way] / found["fp32"]], must=must, bytes=found[way], planned_over_counted=off)


if __name__ == "__main__":
    main()
