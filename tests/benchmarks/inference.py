"""A run's answers in bf16 and fp16 beside those in fp32: `python -m tests.benchmarks.inference runs/clip`; without a run, a small model of each kind.

A row a model, action and precision: seconds over those of fp32 (a ratio; where a processor imitates the type it is above 1), the share of
values further than one and than two of 255 levels from fp32's, and the weights' bytes over fp32's.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from genlib.actions import Action
from genlib.inference import TYPES, Inference
from serve.models.runner import Runner
from tests.benchmarks.measure import report
from tests.models.stages import train_stages

SMALL = ("classifier", "clip_tiny", "ddpm", "dcgan", "ldm_tiny", "stylegan2", "vae")
ROWS, ROUNDS = 4, 5


def main(runs: list[Path]) -> None:
    """Prints the rows."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    for run in runs:
        runners = {precision: Runner.load(run, device=device, inference=Inference(precision)) for precision in TYPES}  # type: ignore[arg-type]
        usual = runners["fp32"]
        for action in usual.actions.values():
            given = action.taken(action.example(usual.card().sizes, ROWS))
            expected = answer(usual, action, given)
            for precision, runner in runners.items():
                if expected is not None and precision != "fp32":
                    row(runner, usual, action, given, expected)
        for runner in runners.values():
            runner.close()


def row(runner: Runner, usual: Runner, action: Action, given: dict[str, Any], expected: Tensor) -> None:
    """One line."""
    made = answer(runner, action, given)
    assert made is not None
    away = (made - expected).abs() / expected.abs().max().clamp_min(1e-9) * 255
    ratios = [seconds(lambda: answer(runner, action, given)) / seconds(lambda: answer(usual, action, given)) for _ in range(ROUNDS)]
    report(
        f"{runner.card().name} {action.name} in {runner.inference.precision}", ratios, must=None,
        beyond_1=share(away > 1), beyond_2=share(away > 2), memory=round(runner.memory_bytes() / usual.memory_bytes(), 2),
    )  # fmt: skip


def share(found: Tensor) -> float:
    """Of the values."""
    return round(float(found.double().mean()), 4)


@torch.no_grad()
def answer(runner: Runner, action: Action, given: dict[str, Any]) -> Tensor | None:
    """What the action gives, on the CPU; None where the model has no such action, or it gives choices."""
    try:
        made = runner.compute(getattr(runner.task, action.name), **given)
    except ValueError:
        return None
    return made.cpu() if made.is_floating_point() else None


def seconds(function: Callable[[], object]) -> float:
    """Of the wall: a GPU works beside the process."""
    began = time.perf_counter()
    function()
    return time.perf_counter() - began


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        main([Path(name) for name in sys.argv[1:]] or [list(train_stages(name, Path(folder, name)).values())[-1].parents[1] for name in SMALL])
