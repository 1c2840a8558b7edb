"""A search that stops early against one at random that trains every trial to the end, at twice the steps: what the best trial reached.

The default search (ASHA, TPE) goes first; random search then gets as many whole trials as make twice the steps that it took. Both score the
recipe's own values first. One seed a round, of the search and of training.

    OMP_NUM_THREADS=1 python -m tests.benchmarks.asha            both families
    OMP_NUM_THREADS=1 python -m tests.benchmarks.asha rbm
"""

from __future__ import annotations

import csv
import math
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tests.benchmarks.measure import report

TRIALS, SEEDS = 16, (0, 1, 2)
FAMILIES = {"vae": ("val/negative_elbo_nats", 600), "rbm": ("val/loss", 1000)}
"""The metric, of which less is better, and the steps of a whole trial."""


@dataclass(frozen=True, slots=True)
class Searched:
    """What a search came to."""

    best: float
    own: float
    """What the recipe's own values reached; where they were stopped, then."""
    trials: int
    stopped: int
    steps: int
    """Of all trials together."""


def searched(recipe: str, seed: int, trials: int, *words: str) -> Searched:
    """Runs a search."""
    metric, steps = FAMILIES[recipe]
    given = ["--trials", str(trials), "--seed", str(seed), "--train.seed", str(seed), "--train.steps", str(steps), "--concurrent", "2"]
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, "jobs/tune.py", recipe, "--run-dir", f"{folder}/run", *given, *words], check=True, stdout=subprocess.DEVNULL)
        with (Path(folder) / "run" / "trials.csv").open() as file:
            rows = list(csv.DictReader(file))
    values = {int(row["trial"]): float(row[metric]) for row in rows if row[metric]}
    return Searched(
        best=min(values.values()), own=values[0], trials=len(rows), stopped=sum(row["status"] == "stopped" for row in rows),
        steps=sum(int(row["step"]) for row in rows),
    )  # fmt: skip


def main(words: list[str]) -> None:
    for recipe in words or FAMILIES:
        ratios = []
        for seed in SEEDS:
            early = searched(recipe, seed, TRIALS)
            whole = searched(recipe, seed, math.ceil(2 * early.steps / FAMILIES[recipe][1]), "--scheduler", "none", "--search", "random")
            print(f"{recipe} seed {seed}: {early} {whole}", file=sys.stderr, flush=True)
            ratios.append(early.best / whole.best)
        report(f"{recipe}: best of {TRIALS} trials with ASHA over the best at random with twice the steps", ratios, must=1.0)


if __name__ == "__main__":
    main(sys.argv[1:])
