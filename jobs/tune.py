"""Searches any recipe's hyperparameters: `python jobs/tune.py vae --trials 32`; `--list` shows all recipes, `RECIPE --help` every option.

Trials are runs of the recipe with other values; Ray Tune starts and stops them. The first has the recipe's own values. The same command
again resumes a search that was cut off, by whatever: finished trials stay, the others go on from their checkpoints.
"""

from __future__ import annotations

if __name__ == "__main__":  # before imports that take a second
    from cluster.quiet import ends_quietly

    ends_quietly()
    import genlib.phases  # noqa: F401 whose clock begins

import json
import logging
import math
import os
import secrets
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from cluster.connect import connected
from cluster.preflight import autoscaling_limit, check_cluster_fits, fit_on, fit_under, node_resources
from cluster.screen import screen
from cluster.signals import ends_well, keeps
from genlib.config import Search, nearest, to_json
from genlib.phases import phase
from genlib.recipe import Stage
from jobs import run_folder, train
from jobs.ahead import RAY_TRAIN_SETTINGS
from jobs.command_form import Command, Typed
from jobs.command_line import parsed
from jobs.control import ask_to_stop, control, control_file
from jobs.exit_codes import exit_code
from jobs.run_options import RunOptions
from jobs.trial import NUMBER, Trials, run_trial
from jobs.tune_options import TuneOptions, seconds
from jobs.undo import accept, undone_unless_begun
from tune_spaces.base import Choice, Space, check_space, points, space_of, value_of, with_values, written

TUNE_SETTINGS = {
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",  # nobody reads Ray Tune's own books: the trials' folders say where the search stands
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # the trials' own folders say all that Ray's CSV and JSON files would
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_IGNORE_UNHANDLED_ERRORS": "1",  # of trials, once the search has stopped for the first one's
}


@dataclass(frozen=True, slots=True)
class SearchSpec:
    """What is searched, and how."""

    command: Command[TuneOptions]
    stage: Stage
    """With the settings of trials."""
    space: Space
    metric: str
    mode: Literal["min", "max"]

    @property
    def options(self) -> TuneOptions:
        """How."""
        return self.command.options


def main(arguments: Sequence[str]) -> int:
    """Runs the command; the exit code."""
    command = parsed(arguments, TuneOptions(), Typed("tune", tuple(arguments)))
    with command.naming_options():
        return search_in_folder(command)


def search_in_folder(command: Command[TuneOptions]) -> int:
    """The search in its folder, which it holds meanwhile."""
    run = run_folder.run_folder(command.options.run, command.options.run_dir, f"tune-{command.recipe}")
    with (
        run_folder.only_one(run),
        undone_unless_begun(run, []),
        control(run),
        keeps(lambda: f"stopped: all trials' newest checkpoints are kept in {run}; the same command goes on"),
        screen(command.options.log_format),
    ):
        return search(command, run)


def search(command: Command[TuneOptions], run: Path) -> int:
    """The whole search: what it needs, its trials, what came out."""
    from jobs.tune_report import finish

    stage = searched(command)
    ranges = ranges_of(command, stage)
    check_space(stage, ranges)
    phase("environment")
    looked = train.spec_of_data(stage, run / "data", train.few)
    begin(run, command, stage, ranges)
    os.environ.update({name: os.environ.get(name, value) for name, value in {**RAY_TRAIN_SETTINGS, **TUNE_SETTINGS}.items()})
    if (spec := finished(command, run, stage, ranges)) is None:
        with connected():
            phase("Ray")
            spec = searched_on_ray(command, run, stage, ranges, bool(looked))
    print(finish(spec, run))
    return 0


def finished(command: Command[TuneOptions], run: Path, stage: Stage, ranges: Space) -> SearchSpec | None:
    """What is searched, where all trials are done: no Ray is needed to say what they found. None where some are to come."""
    from jobs.tune_schedulers import total

    if not (done := trials_done(run)) or (stage.needs and not (run / "upstream" / "metrics.json").exists()):
        return None
    spec = search_spec(command, stage, ranges, run, train_upstream(command, run, stage))
    return spec if done >= total(spec) else None


def trials_done(run: Path) -> int:
    """Trials of the search that ran to its end; 0 where none did."""
    return (run_folder.read_json(run / "search_done.json") or {"trials": 0})["trials"]


def searched_on_ray(command: Command[TuneOptions], run: Path, stage: Stage, ranges: Space, looked: bool) -> SearchSpec:
    """Runs the trials that are to come; what was searched. `looked`: the data is known already."""
    from jobs.tune_schedulers import total

    options = command.options
    each = train.worker_resources(RunOptions(cpus_per_worker=options.cpus_per_worker, gpus_per_worker=options.gpus_per_worker))
    check_cluster_fits(options.workers, each)
    if not looked:
        train.spec_of_data(stage, run / "data", train.spread)
    accept(run)
    upstream = train_upstream(command, run, stage)
    spec = search_spec(command, stage, ranges, run, upstream)
    phase(f"model: {type(stage.task).__name__.removesuffix('Config')}, ranked by {spec.metric.removeprefix('val/')}")
    if trials_done(run) < total(spec):
        trials = Trials(command.recipe, spec.stage, run, run / "data", upstream, spec.metric, options.workers, each, options.scheduler == "pbt")
        trials.forget_marks()
        with ends_well(partial(ask_to_stop, trials.control), options.grace_seconds, lambda: not trials.marked()):
            run_trials(spec, trials, together(options, each))
        run_folder.write_json(run / "search_done.json", {"trials": total(spec)})
    return spec


def searched(command: Command[TuneOptions]) -> Stage:
    """The stage to search, with the settings that trials have."""
    known = {stage.name: stage for stage in command.stages}
    name = command.options.stage or command.stages[-1].name
    if name not in known:
        raise ValueError(f"there is no stage {name!r}; the recipe has {', '.join(known)}")
    stage = known[name]
    if not stage.train.steps:
        raise ValueError(f"stage {name} trains nothing, so there is nothing to search; give --{'' if len(known) == 1 else name + '.'}train.steps")
    every = math.ceil(stage.train.steps / command.options.evaluations)
    return replace(stage, train=replace(stage.train, evaluate_every_steps=every, checkpoint_every_steps=every))


def ranges_of(command: Command[TuneOptions], stage: Stage) -> Space:
    """Where the search looks. ValueError where a range is of no field."""
    ranges = dict(map(written, command.options.space)) or space_of(command.recipe, stage)
    for name in ranges:
        value_of(stage, name)
    return ranges


def begin(run: Path, command: Command[TuneOptions], stage: Stage, ranges: Space) -> None:
    """Notes what the search is of. ValueError naming the first thing in which the one that is there differs."""
    options = to_json(command.options)
    free = {"run", "run_dir", "config", "retries", "space", "trials", "concurrent", "grace_seconds", "log_format"}
    now = {
        "recipe": command.recipe, "stage": stage.name, "space": {name: described(one) for name, one in ranges.items()},
        "options": {name: value for name, value in options.items() if name not in free},
        "stages": {one.name: run_folder.described(stage if one.name == stage.name else one) for one in command.stages},
    }  # fmt: skip
    print(f"search {run.name} in {run}\ncommand: {command.again}", flush=True)
    before = run_folder.read_json(run / "search.json")
    if before is None:
        return run_folder.write_json(run / "search.json", {**now, "command": command.again})
    before.pop("command", None)
    from genlib.engine.same_run import differences

    for name, old, new in differences(before, now):
        raise ValueError(f"search {run.name} was started with {name} = {old!r}, now it is {new!r}; restore it, {run_folder.ANOTHER}, or delete {run}")


def described(one: Search | Choice) -> Any:
    """A range as JSON has it."""
    return json.loads(json.dumps(one.values)) if isinstance(one, Choice) else {"low": one.low, "high": one.high, "log": one.log}


def train_upstream(command: Command[TuneOptions], run: Path, stage: Stage) -> dict[str, Path]:
    """Final checkpoints of the stages that the searched one needs, by role; trained first, and once."""
    if not stage.needs:
        return {}
    from genlib import checkpoint
    from genlib.recipe import check_started
    from jobs.log_file import followed, log_path
    from jobs.worker import WorkerJob

    needed = before(command.stages, stage)
    folder = run / "upstream"
    folder.mkdir(exist_ok=True)
    check_started(needed)
    if not (folder / "metrics.json").exists():
        options = command.options
        each = train.worker_resources(RunOptions(cpus_per_worker=options.cpus_per_worker, gpus_per_worker=options.gpus_per_worker))
        with followed(log_path(folder)):
            path = control_file(run)
            work = WorkerJob(command.recipe, needed, folder, secrets.token_hex(8), path, scores=False)
            with ends_well(partial(ask_to_stop, path), options.grace_seconds):
                train.fit_on_ray(work, workers=(options.workers, options.workers), each=each, retries=options.retries)
    finals = {one.name: checkpoint.find(run_folder.stage_folder(folder, needed, one)) for one in needed}
    return {role: final for role, name in stage.needs.items() if (final := finals[name])}


def before(stages: Sequence[Stage], stage: Stage) -> tuple[Stage, ...]:
    """The stages that it needs, directly or not, in their order."""
    known, wanted = {one.name: one for one in stages}, set(stage.needs.values())
    while more := {name for one in wanted for name in known[one].needs.values()} - wanted:
        wanted |= more
    return tuple(one for one in stages if one.name in wanted)


def search_spec(command: Command[TuneOptions], stage: Stage, ranges: Space, run: Path, upstream: Mapping[str, Path]) -> SearchSpec:
    """What trials are ranked by. ValueError where the recipe does not report it."""
    import torch

    from genlib import checkpoint
    from genlib.data.source import open_source
    from genlib.encoded_batch import encoded

    source = open_source(stage.data, run / "data", needs=stage.task.fields)
    tasks = {role: checkpoint.load_task(path) for role, path in upstream.items()}
    task = stage.task.build(source.spec, tasks).eval()
    task.prepare(source)
    batches = source.batches("validation", min(64, stage.train.global_batch), transform=task.transform(train=False))
    if (batch := next(iter(batches), None)) is None:
        raise ValueError("the data has no held-out samples to rank trials by; give --data.validation")
    with torch.no_grad():
        known = list(task.evaluate(encoded(task, batch)))
    name, mode = task.objective
    name, mode = (command.options.metric.removeprefix("val/"), command.options.mode) if command.options.metric else (name, mode)
    if name not in known:
        raise ValueError(f"held-out samples have no score {name!r}.{nearest(name, known)} They have {', '.join(known)}; choose with --metric")
    return SearchSpec(command, stage, only_mutable(ranges, stage, source.spec, tasks, command.options), f"val/{name}", mode or "min")


def only_mutable(ranges: Space, stage: Stage, spec: Any, upstream: Mapping[str, Any], options: TuneOptions) -> Space:
    """Under pbt what a running model can change: not the shapes of its weights, nor how its samples are counted."""
    if options.scheduler != "pbt":
        return ranges
    shapes = weight_shapes(stage, spec, upstream)
    fixed = [
        name for name, one in ranges.items()
        if not name.startswith(("task.", "train.optim.", "train.players."))
        or any(weight_shapes(with_values(stage, {name: value}), spec, upstream) != shapes for value in points(one, 2))
    ]  # fmt: skip
    if fixed:
        print(f"pbt leaves {', '.join(fixed)} as they are: a model cannot change them while it trains")
    if len(fixed) == len(ranges):
        raise ValueError("pbt changes values of running models, and the space has none that they could change; use --scheduler asha")
    return {name: one for name, one in ranges.items() if name not in fixed}


def weight_shapes(stage: Stage, spec: Any, upstream: Mapping[str, Any]) -> dict[str, Any]:
    """Shapes of all weights of the stage's task."""
    return {name: value.shape for name, value in stage.task.build(spec, upstream).state_dict().items()}


def together(options: TuneOptions, each: Mapping[str, float]) -> int:
    """Trials at the same time: what the user says, but no more than the cluster can hold once it has grown, and at least one."""
    workers, limit = fit_on(node_resources(), each), autoscaling_limit()
    fit = max(1, max(workers, fit_under(limit, each) if limit else 0) // options.workers)
    return min(options.concurrent or fit, fit)


def run_trials(spec: SearchSpec, trials: Trials, concurrent: int) -> None:
    """Through Ray Tune to the end, from where an earlier start of the search was cut off: the trials' own folders say where."""
    from ray import tune

    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # tracebacks of trials, of which the follower tells what matters
    from jobs.tune_progress import Follower, spent_seconds
    from jobs.tune_schedulers import scheduler, search_algorithm, total
    from jobs.tune_trials import results

    storage, known = trials.run / "tune", results(spec, trials.run)
    shutil.rmtree(storage, ignore_errors=True)  # Ray Tune's own books, which a kill leaves behind the truth
    left_seconds = None if (budget := seconds(spec.options.time_budget)) is None else budget - spent_seconds(trials.run)
    left = total(spec) - sum(one.ended for one in known)
    if not left or (left_seconds is not None and left_seconds <= 0):
        return
    tune.Tuner(
        tune.with_resources(tune.with_parameters(run_trial, trials=trials), reserved(trials)), param_space=dict.fromkeys([*spec.space, NUMBER]),
        tune_config=tune.TuneConfig(
            num_samples=left, search_alg=search_algorithm(spec, known), scheduler=scheduler(spec, known), max_concurrent_trials=concurrent,
            time_budget_s=left_seconds, reuse_actors=True,
        ),
        run_config=tune.RunConfig(
            name=storage.name, storage_path=str(trials.run), verbose=0, failure_config=tune.FailureConfig(max_failures=spec.options.retries),
            stop=stop_hopeless, callbacks=[Follower(spec, trials, concurrent, left_seconds)],
        ),
    ).fit()  # fmt: skip


def stop_hopeless(trial: str, result: Mapping[str, Any]) -> bool:
    """Ends a trial whose task says that it is no use to train on."""
    return bool(result.get("trouble"))


def reserved(trials: Trials) -> dict[str, float]:
    """What a trial's own process reserves: all it uses, or next to nothing where workers of its own do the work."""
    if trials.workers > 1:
        only_node = len(node_resources()) == 1  # else next to no CPU: with none reserved Ray puts all of them on the head
        return {"memory": 1.0} if only_node else {"cpu": 0.1}
    return {name.lower(): amount for name, amount in trials.each.items()}


if __name__ == "__main__":
    sys.exit(exit_code(lambda: main(sys.argv[1:])))
