"""Encodes a recipe's samples by its frozen networks before training, on other workers; what is there already stays.

    python jobs/encode.py sdxl --workers 16 --cpus-per-worker 2 --denoiser.train.encoded_dir /shared/encoded

It takes the words of jobs/train.py, and the stages that a stage needs from the same run. Training with `train.encode` auto or ahead
then finds it all.
"""

from __future__ import annotations

if __name__ == "__main__":  # before imports that take a second
    from cluster.quiet import ends_quietly

    ends_quietly()

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from cluster.connect import connected
from cluster.preflight import check_cluster_fits
from genlib import checkpoint
from genlib.engine.encoding import why_no_set
from genlib.engine.fit import fresh_task
from genlib.recipe import Stage
from jobs import run_folder
from jobs.command_form import Command, Typed
from jobs.command_line import parse
from jobs.encoder import EncodingWork, Workers, encode_by_workers
from jobs.exit_codes import exit_code
from jobs.train import few, look_at_data, spread
from jobs.undo import undone_unless_begun


def main(arguments: Sequence[str]) -> int:
    """Runs the command; the exit code. ValueError where no stage encodes, or what it needs is not trained."""
    command = parse(arguments, Typed("encode", tuple(arguments)))
    with command.naming_options():
        return encode(command)


def encode(command: Command) -> int:
    """Encodes what the command's stages need."""
    options = command.options
    run = run_folder.run_folder(options.run, options.run_dir, command.recipe)
    workers = Workers(options.worker_range[0], options.cpus_per_worker, options.gpus_per_worker or 0)
    folders = [run_folder.stage_folder(run, command.stages, stage) for stage in command.stages]
    with run_folder.only_one(run), undone_unless_begun(run, folders):
        many = look_at_data(command, run, command.stages, few)
        with connected():
            check_cluster_fits(workers.count, {"CPU": workers.cpus} | ({"GPU": workers.gpus} if workers.gpus else {}))
            look_at_data(command, run, many, spread)
            if not sum(encode_stage(command, run, stage, workers) for stage in command.stages):
                raise ValueError(f"recipe {command.recipe} encodes nothing: no stage of it learns on what a frozen network makes of samples")
    return 0


def encode_stage(command: Command, run: Path, stage: Stage, workers: Workers) -> bool:
    """Encodes the samples of one stage; whether it has such."""
    from genlib.data.source import open_source

    if not stage.needs and len(command.stages) > 1:
        return False
    kept = run_folder.set_folder(run, command.stages, stage)
    folder = run_folder.stage_folder(run, command.stages, stage)
    upstream = {role: final_of(command, run, name) for role, name in stage.needs.items()}
    source = open_source(stage.data, kept, needs=stage.task.fields)
    task, blueprint = fresh_task(stage, recipe=command.recipe, source=source, folder=folder, upstream=upstream)
    if not task.encodes:
        return False
    if why_not := why_no_set(source, source.encoded_set("", stage.train.encoded_dir), task.transform(train=True)):
        raise ValueError(f"stage {stage.name} cannot be encoded ahead: {why_not}; train with train.encode fly")
    with stderr_in(run / "log" / "encode.txt"):  # Ray's core writes there how it finds that Ray Data starts actors
        encode_by_workers(EncodingWork.of(stage, task, blueprint, folder, kept), workers)
    return True


@contextmanager
def stderr_in(path: Path) -> Iterator[None]:
    """Inside, what this process writes to stderr, from C++ too, is added to a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    before = os.dup(2)
    try:
        with open(path, "ab") as file:
            os.dup2(file.fileno(), 2)
        yield
    finally:
        os.dup2(before, 2)
        os.close(before)


def final_of(command: Command, run: Path, name: str) -> Path:
    """The last checkpoint of a stage that is trained. ValueError where it is not."""
    stage = next(stage for stage in command.stages if stage.name == name)
    found = checkpoint.newest(run_folder.stage_folder(run, command.stages, stage) / "checkpoints")
    if found is None or not found[1].finished:
        raise ValueError(f"stage {name} of run {run.name} is not trained, but others encode with it; train it first with `python jobs/train.py`")
    return found[0]


if __name__ == "__main__":
    sys.exit(exit_code(lambda: main(sys.argv[1:])))
