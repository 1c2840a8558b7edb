"""The same stages in one process and under every strategy of two, for a test that compares what they leave."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from genlib.recipe import Stage
from tests.processes import run_ranks

STRATEGIES = ("ddp", "zero1", "zero2", "zero3")
Train = Callable[[Path, Stage], Path]
Variants = Callable[[], dict[str, Stage]]


def train_all(root: Path, variants: Variants, train: Train) -> None:
    """Trains each of `variants` in `root/NAME-single`, and by two ranks in `root/NAME-STRATEGY`. Both functions are a module's own."""
    for name, one in variants().items():
        train(root / f"{name}-single", one)
    run_ranks(2, _train_on_ranks, root, variants, train)


def _train_on_ranks(root: Path, variants: Variants, train: Train) -> None:
    for name, one in variants().items():
        for strategy in STRATEGIES:
            train(root / f"{name}-{strategy}", replace(one, train=replace(one.train, strategy=strategy)))
