"""Searches any recipe's hyperparameters: `python jobs/tune.py vae --trials 32`; `--list` shows all recipes, `RECIPE --help` every option.

Trials are runs of the recipe with other values; Ray Tune starts and stops them. The first has the recipe's own values. The same command
again resumes a search that was cut off, by whatever: finished trials stay, the others go on from their checkpoints.
"""

from __future__ import annotations

import math
import os
import re
import secrets
import sys
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from cluster.connect import connected
from cluster.preflight import fit_on, node_resources, refuse_impossible
from genlib.config import Search, nearest, to_json
from genlib.recipe import Stage
from jobs import run_folder, train
from jobs.command_line import Command, RunOptions, exit_code, parsed
from jobs.trial import Trials, run_trial
from tune_spaces.base import Choice, Space, clamped, defaults, is_integer, points, refuse_contradictions, space_of, value_of, with_values, written

TUNE_SETTINGS = {
    "TUNE_GLOBAL_CHECKPOINT_S": "1",  # what a kill may take back of the search's own books; trials keep theirs
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # the trials' own folders say all that Ray's CSV and JSON files would
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_TRAIN_ENABLE_STATE_TRACKING": "1",  # the dashboard's Train page
}
REDUCTION = 3
"""Of the trials that reach a rung of ASHA, one in so many goes on (Li et al. 2020, arXiv:1810.05934)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TuneOptions:
    """How a search looks and where its trials run."""

    trials: int = 16
    """Trials in all; of a grid as many as it has points, of pbt the population."""
    scheduler: Literal["asha", "pbt", "none"] = "asha"
    """asha stops what falls behind early, pbt lets the worst take over the best's weights with changed values, none trains all to the end."""
    search: Literal["optuna", "random", "grid"] = "optuna"
    """How values are chosen: by Optuna's TPE from what trials reached so far, at random, or all points of a grid."""
    grid_points: int = 3
    """Values that a grid tries of each range that is no choice."""
    space: tuple[str, ...] = ()
    """Ranges in place of the recipe's own: task.beta=0.5:8:log task.latent_dim=2:64 train.global_batch=64,128."""
    metric: str = ""
    """What trials are ranked by, a held-out score; by default the recipe's own objective."""
    mode: Literal["", "min", "max"] = ""
    """Whether less or more of the metric is better; known for the recipe's own."""
    evaluations: int = 9
    """Times that a whole trial scores the held-out samples; ASHA may stop it at the first and at every third power of it."""
    time_budget: str = ""
    """Time after which no trial goes on, like 90s, 30m or 2h; empty is none."""
    concurrent: int = 0
    """Trials at the same time; 0 is as many as the cluster holds."""
    workers: int = 1
    """Worker processes of a trial; more than one train through Ray Train."""
    cpus_per_worker: float = 1.0
    """CPUs a worker reserves; on a machine without GPUs also its threads."""
    gpus_per_worker: float | None = None
    """GPUs a worker reserves, such as 0.25; by default one where the cluster has any, else none."""
    retries: int = 2
    """Times a trial whose process was lost goes on from its newest checkpoint."""
    seed: int = 0
    """Of the search; trials train with train.seed."""
    stage: str = ""
    """Of a recipe with several stages the one to search, by default the last; those it needs are trained once, before."""
    run: str = ""
    """Name of the search: it lives in runs/NAME. Empty is tune-RECIPE."""
    run_dir: str = ""
    """Folder of the search, instead of runs/NAME; every worker must see it under this path."""
    smoke: bool = False
    """The recipe's smallest size, which trains in seconds."""

    def __post_init__(self) -> None:
        for name, least in (("trials", 1), ("evaluations", 1), ("grid_points", 1), ("concurrent", 0), ("workers", 1), ("retries", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least {least}")
        RunOptions(cpus_per_worker=self.cpus_per_worker, gpus_per_worker=self.gpus_per_worker)
        seconds(self.time_budget)
        if self.scheduler == "pbt" and self.search != "random":
            raise ValueError("scheduler pbt changes values by itself and starts at random ones; give --search random with it")
        if self.scheduler == "pbt" and self.workers > 1:
            raise ValueError("scheduler pbt runs trials of one worker; give --workers 1, or another scheduler")
        if self.metric and not self.mode:
            raise ValueError(f"metric is {self.metric}; say with --mode min or --mode max which way it gets better")


def seconds(text: str) -> float | None:
    """A time like 90s, 30m or 2h in seconds; None where it is empty."""
    if not text:
        return None
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", text)
    if found is None or not float(found[1]):
        raise ValueError(f"time_budget is {text!r}; write a time like 90s, 30m or 2h")
    return float(found[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[found[2]]


@dataclass(frozen=True, slots=True)
class Asked:
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
    command = parsed(arguments, TuneOptions(), "tune.py")
    run = run_folder.run_folder(command.options.run or f"tune-{command.recipe}", command.options.run_dir)
    with run_folder.only_one(run):
        return search(command, run)


def search(command: Command[TuneOptions], run: Path) -> int:
    """The whole search: what it needs, its trials, what came out."""
    from jobs.search_report import finish

    stage = searched(command)
    ranges = ranges_of(command, stage)
    refuse_contradictions(stage, ranges)
    begin(run, command, stage, ranges)
    os.environ.update({name: os.environ.get(name, value) for name, value in {**train.RAY_TRAIN_SETTINGS, **TUNE_SETTINGS}.items()})
    with connected():
        options = command.options
        each = train.worker_resources(RunOptions(cpus_per_worker=options.cpus_per_worker, gpus_per_worker=options.gpus_per_worker))
        refuse_impossible(options.workers, each)
        upstream = train_upstream(command, run, stage)
        look_at_data(stage, run / "data")
        asked = ask(command, stage, ranges, run, upstream)
        if not (run / "search_done").exists():
            trials = Trials(command.recipe, asked.stage, run, run / "data", upstream, asked.metric, options.workers, each, options.scheduler == "pbt")
            run_trials(asked, trials, together(options, each))
    print(finish(asked, run))
    return 0


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
    free = {"run", "run_dir", "retries", "space"}
    now = {
        "recipe": command.recipe, "stage": stage.name, "space": {name: described(one) for name, one in ranges.items()},
        "options": {name: value for name, value in options.items() if name not in free},
        "stages": {one.name: run_folder.described(stage if one.name == stage.name else one) for one in command.stages},
    }  # fmt: skip
    before = run_folder.read_json(run / "search.json")
    if before is None:
        return run_folder.write_json(run / "search.json", now)
    from genlib.engine.resume import differences

    for name, old, new in differences(before, now):
        raise ValueError(
            f"search {run.name} was started with {name} = {old!r}, now it is {new!r}; restore it, give --run another name, or delete {run}"
        )


def described(one: Search | Choice) -> Any:
    """A range as plain values."""
    return list(one.values) if isinstance(one, Choice) else {"low": one.low, "high": one.high, "log": one.log}


def look_at_data(stage: Stage, kept: Path) -> None:
    """Indexes what is not yet, once for all trials."""
    from cluster.parallel import parallel_map
    from genlib.data.sets import keep

    with suppress(ValueError, OSError):
        keep(stage.data, kept, partial(parallel_map, label="indexing", local_below=64))
    train.refuse_unfit(stage, kept)


def train_upstream(command: Command[TuneOptions], run: Path, stage: Stage) -> dict[str, Path]:
    """Final checkpoints of the stages that the searched one needs, by role; trained first, and once."""
    if not stage.needs:
        return {}
    from genlib import checkpoint
    from genlib.recipe import refuse_unstarted
    from jobs.log_file import followed, log_path
    from jobs.worker import Work

    needed = before(command.stages, stage)
    folder = run / "upstream"
    folder.mkdir(exist_ok=True)
    refuse_unstarted(needed)
    if not (folder / "metrics.json").exists():
        options = command.options
        each = train.worker_resources(RunOptions(cpus_per_worker=options.cpus_per_worker, gpus_per_worker=options.gpus_per_worker))
        with followed(log_path(folder)):
            work = Work(command.recipe, needed, folder, secrets.token_hex(8), scores=False)
            train.fit_on_ray(work, workers=(options.workers, options.workers), each=each, retries=options.retries)
    finals = {one.name: checkpoint.find(run_folder.stage_folder(folder, needed, one)) for one in needed}
    return {role: final for role, name in stage.needs.items() if (final := finals[name])}


def before(stages: Sequence[Stage], stage: Stage) -> tuple[Stage, ...]:
    """The stages that it needs, directly or not, in their order."""
    known, wanted = {one.name: one for one in stages}, set(stage.needs.values())
    while more := {name for one in wanted for name in known[one].needs.values()} - wanted:
        wanted |= more
    return tuple(one for one in stages if one.name in wanted)


def ask(command: Command[TuneOptions], stage: Stage, ranges: Space, run: Path, upstream: Mapping[str, Path]) -> Asked:
    """What trials are ranked by. ValueError where the recipe does not report it."""
    import torch

    from genlib import checkpoint
    from genlib.data.source import open_source
    from genlib.engine.encoding import encoded
    from genlib.task import freeze

    source = open_source(stage.data, run / "data")
    tasks = {role: checkpoint.load_task(path) for role, path in upstream.items()}
    freeze(tasks)
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
    return Asked(command, stage, only_mutable(ranges, stage, source.spec, tasks, command.options), f"val/{name}", mode or "min")


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
    """Trials at the same time: what the user says, but no more than the cluster can hold now, and at least one."""
    fit = max(1, fit_on(node_resources(), each) // options.workers)
    return min(options.concurrent or fit, fit)


def run_trials(asked: Asked, trials: Trials, concurrent: int) -> None:
    """Through Ray Tune to the end, from where an earlier start of the search was cut off."""
    from ray import tune

    from jobs.search_log import Follower

    options, storage = asked.options, trials.run / "tune"
    trainable = tune.with_resources(tune.with_parameters(run_trial, trials=trials), reserved(trials))
    if tune.Tuner.can_restore(str(storage)):
        tuner = tune.Tuner.restore(str(storage), trainable, resume_unfinished=True, restart_errored=False)
    else:
        tuner = tune.Tuner(
            trainable, param_space=sampled(asked),
            tune_config=tune.TuneConfig(
                metric=asked.metric, mode=asked.mode, num_samples=1 if options.search == "grid" else options.trials, search_alg=searcher(asked),
                scheduler=scheduler(asked), max_concurrent_trials=concurrent, time_budget_s=seconds(options.time_budget), reuse_actors=True,
            ),
            run_config=tune.RunConfig(
                name=storage.name, storage_path=str(trials.run), verbose=0, failure_config=tune.FailureConfig(max_failures=options.retries),
                stop=stop_hopeless, callbacks=[Follower(asked, trials, concurrent)],
            ),
        )  # fmt: skip
    tuner.fit()
    (trials.run / "search_done").touch()


def stop_hopeless(trial: str, result: Mapping[str, Any]) -> bool:
    """Ends a trial whose task says that it is no use to train on."""
    return bool(result.get("trouble"))


def reserved(trials: Trials) -> dict[str, float]:
    """What a trial's own process reserves: all it uses, or next to nothing where workers of its own do the work."""
    if trials.workers > 1:
        return {"cpu": 0.1}  # 0 would put all drivers on the head
    return {name.lower(): amount for name, amount in trials.each.items()}


def sampled(asked: Asked) -> dict[str, Any]:
    """The space in Ray Tune's words."""
    from ray import tune

    found: dict[str, Any] = {}
    for name, one in asked.space.items():
        integer = is_integer(asked.stage, name)
        if asked.options.search == "grid":
            found[name] = tune.grid_search(points(one, asked.options.grid_points, integer))
        elif isinstance(one, Choice):
            found[name] = tune.choice(list(one.values))
        elif integer:
            found[name] = (tune.lograndint if one.log else tune.randint)(round(one.low), round(one.high) + 1)
        else:
            found[name] = (tune.loguniform if one.log else tune.uniform)(one.low, one.high)
    return found


def searcher(asked: Asked) -> Any:
    """What chooses values; the recipe's own come first."""
    first = [found] if (found := defaults(asked.stage, asked.space)) else None
    options = asked.options
    if options.search == "optuna":
        import optuna
        from ray.tune.search.optuna import OptunaSearch

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        warnings.filterwarnings("ignore", message="Choices for a categorical distribution")  # its storage is this process's memory
        return OptunaSearch(points_to_evaluate=first, seed=options.seed, metric=asked.metric, mode=asked.mode)
    from ray.tune.search import BasicVariantGenerator

    return BasicVariantGenerator(points_to_evaluate=first if options.search == "random" else None, random_state=options.seed)


def scheduler(asked: Asked) -> Any:
    """What stops trials, or changes them."""
    from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, PopulationBasedTraining

    train, options = asked.stage.train, asked.options
    every = train.evaluate_every_steps
    if options.scheduler == "asha":
        return ASHAScheduler(time_attr="step", max_t=train.steps, grace_period=min(every, train.steps), reduction_factor=REDUCTION)
    if options.scheduler == "pbt":
        return PopulationBasedTraining(
            time_attr="step", perturbation_interval=every, hyperparam_mutations=sampled(asked),
            custom_explore_fn=partial(within, space=dict(asked.space)), quantile_fraction=0.25,
        )  # fmt: skip
    return FIFOScheduler()


def within(values: dict[str, Any], space: Space) -> dict[str, Any]:
    """Changed values, kept in their ranges."""
    return {name: clamped(space[name], value) if name in space else value for name, value in values.items()}


if __name__ == "__main__":
    sys.exit(exit_code(lambda: main(sys.argv[1:])))
