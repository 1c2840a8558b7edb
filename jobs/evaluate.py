"""The end of a stage: scores over held-out data, pictures, exports. `python jobs/evaluate.py runs/clip` does it again.

With `--features` it makes pictures and measures them against real ones, with `--clip` against their captions:

    python jobs/evaluate.py runs/sdxl/denoiser --features runs/classifier --clip runs/clip --samples 1000 --sampler steps=30 guidance_scale=4

It reads a finished checkpoint and writes beside it, so a kill costs nothing but the time to do it again.
"""

from __future__ import annotations

if __name__ == "__main__":  # before imports that take a second
    from cluster.quiet import ends_quietly

    ends_quietly()
    import genlib.phases  # noqa: F401 whose clock begins

import argparse
import dataclasses
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch

from cluster.parallel import ProgressLine
from cluster.signals import keeps
from genlib import checkpoint, companions
from genlib.checkpoint import Manifest
from genlib.config import DataConfig, from_json
from genlib.phases import phase, since_last
from genlib.program import command
from genlib.recipe import chosen_strategy
from genlib.storage import Held
from genlib.types import Batch, DataSource
from jobs.exit_codes import exit_code
from jobs.held_out import note_examples
from jobs.model_export import write_export
from jobs.option_errors import Arguments
from jobs.run_copy import copied, run_argument
from jobs.run_folder import read_json, write_json


def evaluate(
    final: Path, source: DataSource, folder: Path, device: torch.device, through: Callable[[str], object] = lambda words: None
) -> dict[str, Any]:  # fmt: skip
    """Scores the checkpoint's task (its moving average where there is one), exports it, and writes metrics.json last.

    `through` is told each phase at its end. StorageError where the folder goes away meanwhile.
    """
    manifest = checkpoint.read_manifest(final)
    task = checkpoint.load_task(final, ema=True, device=device)
    through(f"model: {type(task).__name__} of {final.name}")
    with Held(*([folder] if folder.is_dir() else [])) as held:
        with torch.no_grad(), ProgressLine("scoring, samples read", None) as line:
            scores = companions.assess(task, cast(DataSource, WatchedSource(source, line)), folder)
        through("scores")
        metrics = {**scores, **facts(manifest)}
        note_examples(task, source, folder)
        write_export(task, manifest, folder, metrics)
        held.check()  # no scores where a run was
        write_json(folder / "metrics.json", metrics)
        through("export")
    return metrics


class WatchedSource:
    """A source whose batches a line of progress counts."""

    def __init__(self, source: DataSource, line: ProgressLine):
        self._source, self._line = source, line

    def __getattr__(self, name: str) -> Any:
        return getattr(self._source, name)

    def batches(self, *arguments: Any, **options: Any) -> Iterator[Batch]:
        """See `DataSource`."""
        for batch in self._source.batches(*arguments, **options):
            yield batch
            self._line.advance(int(batch["valid"].sum()))


def facts(manifest: Manifest) -> dict[str, Any]:
    """What the run cost, flat."""
    speed = manifest.samples_seen / manifest.seconds if manifest.seconds else 0.0
    return {
        "samples_seen": manifest.samples_seen, "samples_per_second": speed, "steps": manifest.step, "seconds": manifest.seconds,
        "skipped": manifest.skipped, "workers": manifest.world, "strategy": chosen_strategy(manifest.train["strategy"], manifest.world),
    }  # fmt: skip


def table(metrics: dict[str, Any]) -> str:
    """Final scores for a person: a name and a value a line."""
    shown = {
        name: f"{value:.4g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else "nan" if value is None else str(value)
        for name, value in metrics.items()
    }
    width = max(map(len, shown), default=0)
    return "\n".join(f"  {name:<{width}}  {value:>10}" for name, value in shown.items())


def stages_of(run: Path) -> list[str]:
    """Names of the stages in their order, where the folder is that of a run with several; else none."""
    stages = list((read_json(run / "run.json") or {}).get("stages", {}))
    return stages if len(stages) > 1 else []


def merged(run: Path, stages: Sequence[str]) -> dict[str, Any]:
    """The last stage's metrics, and those of earlier ones under their names."""
    *earlier, last = ((name, read_json(run / name / "metrics.json") or {}) for name in stages)
    return {**{f"{name}/{key}": value for name, metrics in earlier for key, value in metrics.items()}, **last[1]}


def gather(run: Path, stages: Sequence[str]) -> None:
    """Makes what the last stage made that of the run: its export and pictures move up, and the scores of all are put together."""
    last = run / stages[-1]
    for made in [last / "export", *last.glob("*.png")]:
        if made.exists():
            if made.is_dir():
                shutil.rmtree(run / made.name, ignore_errors=True)
            os.replace(made, run / made.name)
    write_json(run / "metrics.json", merged(run, stages))


def refresh(run: Path) -> None:
    """Brings the results of a finished run with several stages up to date with theirs."""
    if (stages := stages_of(run)) and (run / "metrics.json").exists():
        gather(run, stages)


def located(folder: Path) -> tuple[Path, Path]:
    """The checkpoint that a user means, and where its scores go: with the run whose end it is, else into a folder of its own there.

    Scores with a run tell that it is finished, which one named by itself, or one of a run that stopped or whose last is damaged, does not.
    """
    if stages := stages_of(folder):
        folder = folder / stages[-1]
    final = checkpoint.find(folder)
    if final is None:
        raise ValueError(f"{folder} holds no checkpoint")
    is_the_end = final != folder and (checkpoint.read_manifest(final).finished or (folder / "trial.json").exists())  # a search ends trials early
    return final, folder if is_the_end else final.parent.parent / f"at-{final.name}"


def parsed(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    parser = Arguments(prog=command("evaluate"), description=main.__doc__)
    parser.add_argument("folder", type=run_argument, help="a run's folder or address, that of one of its stages (else the last), or a checkpoint")
    parser.add_argument("--data.validation", dest="validation", default=None, help="other held-out shards than the run's own")
    pictures = parser.add_argument_group("scores of generated pictures")
    pictures.add_argument(
        "--features", type=Path, nargs="+", default=[], help="feature networks: runs of a classifier or CLIP, Inception safetensors"
    )
    pictures.add_argument("--clip", type=Path, help="run of a CLIP, for CLIP scores")
    pictures.add_argument("--samples", type=whole_number, default=1000, help="pictures to make (default %(default)s)")
    pictures.add_argument("--reference", type=whole_number, default=50_000, help="most real pictures to compare with (default %(default)s)")
    pictures.add_argument(
        "--split", choices=("train", "validation"), help="where captions, labels and real pictures are from (default held-out, else train)"
    )
    pictures.add_argument("--batch", type=whole_number, default=64, help="pictures at a time (default %(default)s)")
    pictures.add_argument("--seed", type=int, default=0, help="of the first picture; the others follow (default %(default)s)")
    pictures.add_argument("--sampler", nargs="+", default=[], metavar="NAME=VALUE", help="arguments of the task's generate, such as steps=30")
    return parser.parse_args(arguments)


def whole_number(text: str) -> int:
    """An integer above 0."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is not above 0")
    return number


def main(arguments: Sequence[str]) -> int:
    """Evaluates the newest checkpoint of a run (or of one stage of it) in this process; adds scores of pictures with --features and --clip."""
    options = parsed(arguments)
    phase("environment", aside=True)
    return scored(options)


def scored(options: argparse.Namespace) -> int:
    """The same for a command that has run for a while."""
    since_last()
    with keeps(lambda: "stopped before the scores were whole: what was there is kept; the same command begins again"):
        return evaluate_folder(options)


def evaluate_folder(options: argparse.Namespace) -> int:
    """What the command line asks for."""
    copy, bring_up = copied(options.folder)
    final, folder = located(copy)
    from genlib.data.source import open_source

    # read one after the other and square: pictures are compared at one size
    manifest = checkpoint.read_manifest(final)
    data = dataclasses.replace(from_json(DataConfig, manifest.data), bucket_step=0)
    if options.validation is not None:
        data = dataclasses.replace(data, validation=options.validation)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    source = open_source(data, needs=manifest.blueprint.config_class().fields)
    phase(source.described, aside=True)
    # other held-out samples have a folder of their own: the run's scores and pictures stay
    folder = folder if options.validation is None else folder / f"on-{source.spec.validation_name}"
    metrics, measured = read_json(folder / "metrics.json"), bool(options.features or options.clip)
    if metrics is None or not measured:
        metrics = evaluate(final, source, folder, device, partial(phase, aside=True))
    if measured:
        from jobs.picture_scores import score_pictures

        metrics = {**metrics, **score_pictures(final, source, folder, device, options)}
        write_json(folder / "metrics.json", metrics)
        phase("pictures and their scores", aside=True)
    refresh(folder.parent)
    bring_up()
    print(table(metrics))
    return 0


if __name__ == "__main__":
    sys.exit(exit_code(lambda: main(sys.argv[1:])))
