"""The end of a stage: scores over held-out data, pictures, exports. `python jobs/evaluate.py runs/clip` does it again.

It reads a finished checkpoint and writes beside it, so a kill costs nothing but the time to do it again.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from genlib import checkpoint
from genlib.checkpoint import Manifest
from genlib.config import DataConfig, from_json
from genlib.types import DataSource
from jobs.command_line import exit_code
from jobs.run_folder import write_json


def evaluate(final: Path, source: DataSource, folder: Path, device: torch.device) -> dict[str, Any]:
    """Scores the checkpoint's task (its moving average where there is one), exports it, and writes metrics.json last."""
    manifest = checkpoint.read_manifest(final)
    task = checkpoint.load_task(final, ema=True, device=device)
    with torch.no_grad():
        scores = task.assess(source, folder)
    task.export(folder / "export")
    metrics = {**scores, **facts(manifest)}
    write_json(folder / "metrics.json", metrics)
    return metrics


def facts(manifest: Manifest) -> dict[str, Any]:
    """What the run cost, flat."""
    speed = manifest.samples_seen / manifest.seconds if manifest.seconds else 0.0
    return {
        "samples_seen": manifest.samples_seen, "samples_per_second": speed, "steps": manifest.step, "seconds": manifest.seconds,
        "skipped": manifest.skipped, "workers": manifest.world, "strategy": manifest.train["strategy"],
    }  # fmt: skip


def table(metrics: dict[str, Any]) -> str:
    """Final scores for a person: a name and a value a line."""
    shown = {
        name: f"{value:.4g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)
        for name, value in metrics.items()
    }
    width = max(map(len, shown), default=0)
    return "\n".join(f"  {name:<{width}}  {value:>10}" for name, value in shown.items())


def main(arguments: Sequence[str]) -> int:
    """`python jobs/evaluate.py FOLDER`: evaluates the newest checkpoint of a run (or of one stage of it) in this process."""
    parser = argparse.ArgumentParser(prog="python jobs/evaluate.py", description=main.__doc__)
    parser.add_argument("folder", type=Path, help="a run's folder, or that of one of its stages")
    parser.add_argument("--data.validation", dest="validation", default=None, help="other held-out shards than the run's own")
    options = parser.parse_args(arguments)
    found = checkpoint.newest(options.folder / "checkpoints")
    if found is None:
        raise ValueError(f"{options.folder} holds no checkpoint")
    from genlib.data.source import open_source

    data = from_json(DataConfig, found[1].data)
    if options.validation is not None:
        data = dataclasses.replace(data, validation=options.validation)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    source = open_source(data)
    # other held-out samples have a folder of their own: the run's scores and pictures stay
    folder = options.folder if options.validation is None else options.folder / f"on-{source.spec.validation_name}"
    print(table(evaluate(found[0], source, folder, device)))
    return 0


if __name__ == "__main__":
    sys.exit(exit_code(lambda: main(sys.argv[1:])))
