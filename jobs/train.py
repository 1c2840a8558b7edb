"""Trains any recipe: `python jobs/train.py vae --train.steps 2000 --workers 2`; `--list` shows all, `RECIPE --help` every field.

On the cluster that RAY_ADDRESS names or the job runs in, else on a local Ray that it starts and ends. The same command again
resumes a run that was cut off, by whatever.
"""

from __future__ import annotations

if __name__ == "__main__":  # before imports that take a second
    from cluster.quiet import ends_quietly

    ends_quietly()
    import sys

    import genlib.phases  # noqa: F401 whose clock begins
    from jobs.ahead import begin_training

    begin_training(sys.argv[1:] or ["--help"])

import os
import secrets
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

from cluster.ahead import connected
from cluster.connect import is_this_machine
from cluster.preflight import check_cluster_fits, node_resources
from cluster.screen import screen
from cluster.signals import ends_well, keeps
from genlib import program, registry
from genlib.checkpoint import Manifest, checkpoints, read_manifest
from genlib.config import TaskConfig
from genlib.engine.deepspeed_settings import read_settings
from genlib.engine.same_run import check_same_run
from genlib.engine.trackers import check_trackers_installed
from genlib.json_text import json_text
from genlib.phases import phase
from genlib.plurals import counted
from genlib.recipe import Stage, check_started, strategy_refusal
from genlib.remote.store_folder import checked_address, is_address
from jobs import run_folder
from jobs.ahead import set_ray_train
from jobs.command_form import Command, Typed
from jobs.command_line import parse
from jobs.control import Stopped, ask_to_stop, asked_to_stop, control, move_file
from jobs.evaluate import table
from jobs.exit_codes import exit_code
from jobs.launches import launched
from jobs.links import open_mailbox, relayed
from jobs.log_file import followed, log_path
from jobs.precision import words_on_precision
from jobs.run_options import RunOptions
from jobs.run_store import DriverStore, held, run_address, working_folder
from jobs.undo import undone_unless_begun

if TYPE_CHECKING:
    from ray.train import UserCallback

    from genlib.data.shards.usable import MapShards
    from genlib.types import DataSpec
    from jobs.scoring import Scoring
    from jobs.worker import WorkerJob


def main(arguments: Sequence[str], typed: Typed | None = None) -> int:
    """Runs the command; the exit code. `typed`: what the user typed for these words, where that is something else."""
    command = parse(arguments, typed)
    with command.naming_options():
        return run_command(command)


def run_command(command: Command) -> int:
    """Plans it, prints it, or trains it."""
    if command.options.plan:
        from jobs.plan import planned

        print(planned(command))
        return 0
    address = run_address(command.options.run, command.options.run_dir, command.recipe)
    run = working_folder(address) if address else run_folder.run_folder(command.options.run, command.options.run_dir, command.recipe)
    where = address or str(run)
    if command.options.dry_run:
        print(plan(command, where))
        return 0
    check_started(command.stages)
    if address:
        check_stored(command)
    folders = [run_folder.stage_folder(run, command.stages, stage) for stage in command.stages]
    with run_folder.only_one(run), held(address, run) as store, keeps(partial(kept, command, run, store)), undone_unless_begun(run, folders):
        if finished := run_folder.begin(run, command.recipe, command.stages, asked(command)):
            done = f"{counted(finished['steps'], 'step')}, {counted(finished['samples_seen'], 'sample')}"
            print(f"run {run.name} is finished: {done}; delete {where} or {run_folder.ANOTHER}")
            return 0
        with screen(command.options.log_format):
            phase("environment")
            print(f"run {run.name} in {where}\ncommand: {command.again}", flush=True)
            recipe = registry.load(command.recipe)
            if said := words_on_precision(command.stages, recipe.smoke if command.options.smoke else recipe.stages):
                print(said, flush=True)
            with launched(run, command.again):
                train(command, run, store)
        scores = run_folder.read_json(run / "metrics.json") or {}
        if command.options.log_format == "json":
            print(json_text(scores))
            return 0
        print(table(scores))
        print(f"curves, pictures and all else on one page: {program.command('report')} {shlex.quote(where)}")
        return 0


def asked(command: Command[RunOptions]) -> dict[str, Any]:
    """What run.json says beside what the run learns."""
    return {"command": command.again, "options": command.options.to_keep()}


def check_stored(command: Command[RunOptions]) -> None:
    """ValueError for what a run in a store cannot do."""
    if command.options.score_features:
        raise ValueError(
            "score_features needs a run's folder that all nodes mount; leave it out, and score the finished run by "
            f"{program.command('evaluate')} ADDRESS --features NETWORK"
        )


def plan(command: Command, run: str) -> str:
    """What would run, for `--dry-run`."""
    stages = {stage.name: run_folder.described(stage) for stage in command.stages}
    return json_text(
        {"recipe": command.recipe, "run": run, "workers": command.options.workers, "options": command.options.to_keep(), "stages": stages},
        indent=1,
    )


def train(command: Command, run: Path, store: DriverStore | None = None) -> None:
    """Through Ray Train to the end; what stops it is one sentence here and a traceback in error.log."""
    set_ray_train()
    (run / "error.log").unlink(missing_ok=True)
    check_start(command, run)
    many: list[Stage] = []
    with connected(meanwhile=lambda: many.extend(before_ray(command, run))):
        phase("Ray")
        each = worker_resources(command.options)
        check_cluster_fits(command.options.worker_range[0], each)
        look_at_data(command, run, many, spread)
        from jobs.worker import WorkerJob

        with control(run) as path, followed(log_path(run)), ends_well(partial(ask_to_stop, path), command.options.grace_seconds):
            work = WorkerJob(
                command.recipe, command.stages, run, secrets.token_hex(8), path, scoring=scoring_of(command),
                stall_seconds=command.options.stall_seconds,
            )  # fmt: skip
            with in_store(work, store) as work:
                fit_on_ray(work, workers=command.options.worker_range, each=each, retries=command.options.retries)


@contextmanager
def in_store(work: WorkerJob, store: DriverStore | None) -> Iterator[WorkerJob]:
    """Inside, the work of a run in a store goes on between the store and the workers' nodes; that of a run on a disk is as it was."""
    if store is None:
        yield work
        return
    store.on_lost = partial(ask_to_stop, work.control)
    mailbox = open_mailbox()
    with store.brought_up(), relayed(mailbox, work.run, work.control):
        yield replace(work, stored=store.job(mailbox))
    store.files.fetch("metrics.json")


def before_ray(command: Command, run: Path) -> list[Stage]:
    """What needs no Ray, done while it comes up; the stages with more shards than `few`."""
    many = look_at_data(command, run, command.stages, few)
    import jobs.worker  # noqa: F401 brings Ray Train in, which reads its settings from the environment

    return many


def scoring_of(command: Command) -> Scoring | None:
    """How pictures are scored while the run goes on; None where no network is named."""
    from jobs.scoring import Scoring

    options = command.options
    features = tuple(Path(where).absolute() for where in options.score_features)
    split = None if options.score_against == "auto" else options.score_against
    return Scoring(features, options.score_every_images, options.score_samples, split) if features else None


def kept(command: Command, run: Path, store: DriverStore | None = None) -> str:
    """What a run has that was stopped, and how it goes on."""
    if store and (name := store.newest()):
        return f"stopped: {name} is kept in {store.address}; the same command resumes it"
    if run_folder.read_json(run / "metrics.json"):
        return f"run {run.name} is finished"
    for stage in reversed(command.stages):
        if found := checkpoints(run_folder.stage_folder(run, command.stages, stage) / "checkpoints"):
            of = f" of stage {stage.name}" if len(command.stages) > 1 else ""
            return f"stopped: {found[0].name}{of} of {stage.train.steps} steps is kept in {found[0].parent}; the same command resumes it"
    return "stopped before the first checkpoint; the same command begins again"


def worker_resources(options: RunOptions) -> dict[str, float]:
    """What one worker reserves."""
    gpus = options.gpus_per_worker
    if gpus is None:
        gpus = 1.0 if any(node.get("GPU") for node in node_resources()) else 0.0
    return {"CPU": options.cpus_per_worker} | ({"GPU": gpus} if gpus else {})


def look_at_data(command: Command, run: Path, stages: Sequence[Stage], each: MapShards) -> list[Stage]:
    """Indexes what is not yet, before any GPU waits for it, and keeps what the workers need to know of it; the stages with more shards than `few`.

    ValueError where a stage cannot learn from its data, or its run from other data than before.
    """
    many = []
    for stage in stages:
        with command.naming_options(stage):
            spec = spec_of_data(stage, run_folder.set_folder(run, command.stages, stage), each)
            many += [stage] if spec is None else []
            folder = run_folder.stage_folder(run, command.stages, stage)
            if spec and (manifest := newest_manifest(folder)):
                check_same_run(manifest, command.recipe, stage, spec, folder)
    return many


def newest_manifest(folder: Path) -> Manifest | None:
    """Of a stage's newest checkpoint, not verified; None where there is none, or it is one for a worker to set aside."""
    with suppress(OSError, ValueError):
        for path in checkpoints(folder / "checkpoints")[:1]:
            return read_manifest(path)
    return None


def spec_of_data(stage: Stage, cached: Path, each: MapShards) -> DataSpec | None:
    """Indexes a stage's data; what they are, None where `each` leaves it to others or this machine does not see them.

    ValueError where it cannot learn from them: now, and not when the stages before it have trained.
    """
    from genlib.data.dataset import NoShards
    from genlib.data.source import open_and_cache

    try:
        source = open_and_cache(stage.data, cached, each, stage.task.fields)
    except (TooManyShards, OSError):
        return None
    except NoShards:
        if is_this_machine():
            raise
        return None
    phase(source.described)
    stage.task.check_data(source.spec)
    return source.spec


FEW_SHARDS = 64
"""Below which they are indexed in the command itself, before Ray starts."""


class TooManyShards(Exception):
    """To look at without a cluster."""


def few(function: Callable, paths: Any) -> Iterable:
    """Maps a function over shards in this process. TooManyShards where that would take long."""
    if len(paths) >= FEW_SHARDS:
        raise TooManyShards
    return spread(function, paths)


def spread(function: Callable, paths: Any) -> Iterable:
    """The same over the whole cluster."""
    from cluster.parallel import parallel_map

    return parallel_map(function, paths, label="indexing", local_below=FEW_SHARDS)


def check_start(command: Command, run: Path) -> None:
    """ValueError where it is known before Ray starts that a stage cannot begin."""
    for stage in command.stages:
        with command.naming_options(stage):
            check_stage_start(command, stage, run)


def check_stage_start(command: Command, stage: Stage, run: Path) -> None:
    """ValueError where it is known before Ray starts that this stage cannot begin."""
    train = stage.train
    if reason := strategy_refusal(stage.task, train.strategy, command.options.worker_range[0]):
        raise ValueError(reason)
    if not is_this_machine():
        return
    check_trackers_installed(train.trackers)
    read_settings(train.deepspeed)
    if command.options.score_features and stage is command.stages[-1]:
        check_draws(stage.task)
    if missing := next((where for where in command.options.score_features if not Path(where).exists()), None):
        raise ValueError(f"score_features names {missing}, which does not exist; name a run of a classifier or CLIP, or Inception's safetensors")
    begins = not checkpoints(run_folder.stage_folder(run, command.stages, stage) / "checkpoints")
    if begins and train.start_from and is_address(train.start_from):
        checked_address(train.start_from)
    elif begins and train.start_from and not Path(train.start_from).is_dir():
        raise ValueError(f"train.start_from is {train.start_from!r}, which is no folder; name a run or a checkpoint")


def check_draws(config: TaskConfig) -> None:
    """ValueError where the task makes no pictures that could be scored."""
    kind = get_type_hints(type(config).build)["return"]
    if not any(action.name == "generate" for action in kind.actions()):
        raise ValueError(f"{kind.__name__} makes no pictures that could be scored while it trains; take a generative recipe, see --list")


def fit_on_ray(work: WorkerJob, *, workers: tuple[int, int], each: dict[str, float], retries: int, callbacks: Sequence[UserCallback] = ()) -> None:
    """Runs so many workers, at least and at most, to their end. Stopped where they were asked to end before it."""
    from ray.exceptions import RayError
    from ray.train import FailureConfig, LoggingConfig, RunConfig, ScalingConfig, TrainingFailedError

    from cluster.local import RENDEZVOUS
    from jobs import worker
    from jobs.elastic import ElasticTrainer, Watch
    from jobs.lean_trainer import LeanTrainer
    from jobs.problem import sentence_of
    from jobs.process_group import ProcessGroup
    from jobs.watchdog import WorkerGuard

    run, (low, high) = work.run, workers
    (run / ".token").write_text(work.token)
    snapshot = run / "checkpoint_manager_snapshot.json"  # Ray's own list of checkpoints, which a kill leaves behind; the engine's folder is the truth
    snapshot.unlink(missing_ok=True)
    tracked = os.environ.setdefault("RAY_TRAIN_ENABLE_STATE_TRACKING", "1")  # a cluster's dashboard knows of the run
    lean = RENDEZVOUS in os.environ and tracked == "0"  # what tracks a run asks its controller, which must be an actor then
    guard = WorkerGuard(run, work.link, work.stall_seconds, retries)
    trainer = (partial(LeanTrainer, guard=guard) if lean else partial(ElasticTrainer, watch=Watch(run, work.link, guard)))(
        worker.work,
        train_loop_config={"work": work},
        torch_config=ProcessGroup(),
        scaling_config=ScalingConfig(num_workers=low if low == high else (low, high), use_gpu="GPU" in each, resources_per_worker=each),
        run_config=RunConfig(
            name=run.name, storage_path=str(run.parent), failure_config=FailureConfig(max_failures=retries),
            callbacks=[worker.Retries(retries, run, work.link), *callbacks], logging_config=LoggingConfig(log_level="CRITICAL"),
        ),
    )  # fmt: skip
    try:
        trainer.fit()
    except (TrainingFailedError, RayError) as error:
        raise sentence_of(error, run) from None
    else:
        if asked_to_stop(work.control):
            raise Stopped
    finally:
        for leftover in (snapshot, move_file(run), run / ".token", run / ".validate_storage_marker"):
            leftover.unlink(missing_ok=True)


if __name__ == "__main__":
    sys.exit(exit_code(lambda: main(sys.argv[1:])))
