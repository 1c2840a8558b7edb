"""What a search tries next, and what it stops. Both know earlier trials from their folders, by number: whatever was killed, they go on as if not."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import product
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, PopulationBasedTraining, TrialScheduler
from ray.tune.search import BasicVariantGenerator, Searcher

from jobs.trial import NUMBER
from jobs.tune_trials import TrialResult
from tune_spaces.base import Choice, Range, Space, clamped, defaults, drawn, is_integer, points

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

    from jobs.tune import SearchSpec

REDUCTION = 4
"""Of the trials that reach a rung of ASHA, one in so many goes on (Li et al. 2020, arXiv:1810.05934)."""


def grid(spec: SearchSpec) -> list[dict[str, Any]]:
    """All points of the grid."""
    axes = [points(one, spec.options.grid_points, is_integer(spec.stage, name)) for name, one in spec.space.items()]
    return [dict(zip(spec.space, values, strict=True)) for values in product(*axes)]


def total(spec: SearchSpec) -> int:
    """Trials in all."""
    return len(grid(spec)) if spec.options.search == "grid" else spec.options.trials


class TrialSearcher(Searcher):
    """Gives trials their values: one that was cut off its own, a new one those that the search chooses; the recipe's own come first."""

    def __init__(self, spec: SearchSpec, known: Sequence[TrialResult]) -> None:
        super().__init__()
        ended = {one.number for one in known if one.ended}
        self.given = {one.number: one.values for one in known}
        self.numbers = [number for number in range(total(spec)) if number not in ended]
        kind = {"grid": GridValues, "random": RandomValues, "optuna": TPEValues}[spec.options.search]
        self.values = kind(spec, [one for one in known if one.ended])

    def suggest(self, trial_id: str) -> Any:
        """A trial's number and values; see the base class."""
        if not self.numbers:
            return Searcher.FINISHED
        number = self.numbers.pop(0)
        return {**self.values.of(number, self.given.get(number), trial_id), NUMBER: number}

    def on_trial_complete(self, trial_id: str, result: Mapping[str, Any] | None = None, error: bool = False) -> None:
        """Passes on what a trial reached last."""
        self.values.tell(trial_id, None if error else result)

    def rest(self) -> list[dict[str, Any]]:
        """What `suggest` would give, at once."""
        return list(iter(lambda: self.suggest(""), Searcher.FINISHED))

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the trials' folders say it."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing."""


class GridValues:
    """Values of a trial, by its number."""

    def __init__(self, spec: SearchSpec, ended: Sequence[TrialResult]) -> None:
        self.spec, self.all = spec, grid(spec)

    def of(self, number: int, given: dict[str, Any] | None, trial: str) -> dict[str, Any]:
        """Those of trial `number`, which had `given` if it began before."""
        return given or self.all[number]

    def tell(self, trial: str, result: Mapping[str, Any] | None) -> None:
        """What it reached."""


class RandomValues(GridValues):
    """Values drawn by trial number, so that a resumed search tries what an uninterrupted one would have."""

    def __init__(self, spec: SearchSpec, ended: Sequence[TrialResult]) -> None:
        self.spec = spec

    def of(self, number: int, given: dict[str, Any] | None, trial: str) -> dict[str, Any]:
        """See `GridValues`."""
        if number == 0 and not given:
            given = defaults(self.spec.stage, self.spec.space)
        generator = np.random.default_rng([self.spec.options.seed, number])
        return given or {name: drawn(one, generator, is_integer(self.spec.stage, name)) for name, one in self.spec.space.items()}


class TPEValues(GridValues):
    """Values that Optuna's TPE takes from what trials reached so far; it knows which were stopped early, and which are running."""

    def __init__(self, spec: SearchSpec, ended: Sequence[TrialResult]) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.spec, self.distributions, self.running = spec, distributions(spec), {}
        sampler = optuna.samplers.TPESampler(seed=spec.options.seed + len(ended), constant_liar=True)
        self.study = optuna.create_study(direction="minimize" if spec.mode == "min" else "maximize", sampler=sampler)
        for one in ended:
            self.study.add_trial(self.as_told(one))

    def as_told(self, one: TrialResult) -> Any:
        """A trial of before."""
        import optuna

        states = {"finished": optuna.trial.TrialState.COMPLETE, "stopped": optuna.trial.TrialState.PRUNED}
        if one.curve and one.value is None:
            known = {"state": optuna.trial.TrialState.PRUNED}  # see `tell`
        elif one.curve and one.status in states:
            known = {"state": states[one.status], "value": one.value, "intermediate_values": finite(one.curve)}
        else:
            return optuna.trial.create_trial(state=optuna.trial.TrialState.FAIL)
        return optuna.trial.create_trial(params=in_words(self.spec, one.values), distributions=self.distributions, **known)

    def of(self, number: int, given: dict[str, Any] | None, trial: str) -> dict[str, Any]:
        """See `GridValues`."""
        if given := given or (defaults(self.spec.stage, self.spec.space) if number == 0 else None):
            self.study.enqueue_trial(in_words(self.spec, given))
        self.running[trial] = found = self.study.ask(self.distributions)
        return given or {name: from_words(self.spec.space[name], value) for name, value in found.params.items()}

    def tell(self, trial: str, result: Mapping[str, Any] | None) -> None:
        """See `GridValues`."""
        import optuna

        running = self.running.pop(trial)
        if result is None or self.spec.metric not in result:
            self.study.tell(running, state=optuna.trial.TrialState.FAIL)
            return
        value = result[self.spec.metric]
        if not math.isfinite(value):  # TPE passes over a trial that failed, and takes one pruned without any value for the worst of all
            self.study.tell(running, state=optuna.trial.TrialState.PRUNED)
        elif result["step"] >= self.spec.stage.train.steps:
            self.study.tell(running, value)
        else:
            running.report(value, result["step"])
            self.study.tell(running, state=optuna.trial.TrialState.PRUNED)


def finite(curve: Sequence[tuple[int, float]]) -> dict[int, float]:
    """The evaluations that gave a value, by step."""
    return {step: value for step, value in curve if math.isfinite(value)}


def distributions(spec: SearchSpec) -> dict[str, BaseDistribution]:
    """The space in Optuna's words; a choice is the number of its place."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    def distribution(one: Range, integer: bool) -> BaseDistribution:
        if isinstance(one, Choice):
            return CategoricalDistribution(range(len(one.values)))
        return IntDistribution(round(one.low), round(one.high), log=one.log) if integer else FloatDistribution(one.low, one.high, log=one.log)

    return {name: distribution(one, is_integer(spec.stage, name)) for name, one in spec.space.items()}


def in_words(spec: SearchSpec, values: Mapping[str, Any]) -> dict[str, Any]:
    """Values of a trial as `distributions` have them, none outside its range."""
    return {
        name: one.values.index(values[name]) if isinstance(one, Choice) else clamped(one, values[name])
        for name, one in spec.space.items()
    }  # fmt: skip


def from_words(one: Range, value: Any) -> Any:
    """A value as a trial has it."""
    return one.values[value] if isinstance(one, Choice) else value


def search_algorithm(spec: SearchSpec, known: Sequence[TrialResult]) -> Searcher | BasicVariantGenerator:
    """What gives trials their values; under pbt a plain list, as Ray Tune takes nothing else there."""
    searcher = TrialSearcher(spec, known)
    return BasicVariantGenerator(points_to_evaluate=searcher.rest()) if spec.options.scheduler == "pbt" else searcher


def comparable(spec: SearchSpec, result: Mapping[str, Any]) -> dict[str, Any]:
    """The result, with a metric that is not finite as the worst of all: Ray Tune compares NaN with nothing."""
    worst = sys.float_info.max if spec.mode == "min" else -sys.float_info.max
    return {**result, spec.metric: value if math.isfinite(value := result[spec.metric]) else worst}


class Asha(ASHAScheduler):
    """Ray Tune's, which knows trials by their numbers and so knows those of an earlier start, and stops one whose metric is not finite."""

    def __init__(self, spec: SearchSpec, known: Sequence[TrialResult]) -> None:
        train = spec.stage.train
        self.spec, self.steps = spec, train.steps
        super().__init__(
            time_attr="step", max_t=train.steps, grace_period=min(train.evaluate_every_steps, train.steps), reduction_factor=REDUCTION,
            metric=spec.metric, mode=spec.mode,
        )  # fmt: skip
        for one in known:
            trial = SimpleNamespace(config={NUMBER: one.number})
            self.on_trial_add(None, trial)
            for step, value in one.curve:
                self.on_trial_result(None, trial, {"step": step, spec.metric: value})

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """As the base class does, by number."""
        super().on_trial_add(tune_controller, _by_number(trial))

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict) -> str:
        """As the base class does, by number; but a trial that is through ends by itself, with all it has to write."""
        decision = super().on_trial_result(tune_controller, _by_number(trial), comparable(self.spec, result))
        if not math.isfinite(result[self.spec.metric]):
            decision = TrialScheduler.STOP
        return TrialScheduler.CONTINUE if result["step"] >= self.steps else decision

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict) -> None:
        """As the base class does, by number."""
        super().on_trial_complete(tune_controller, _by_number(trial), comparable(self.spec, result) if self.spec.metric in result else result)

    def on_trial_remove(self, tune_controller: Any, trial: Any) -> None:
        """As the base class does, by number."""
        super().on_trial_remove(tune_controller, _by_number(trial))


def _by_number(trial: Any) -> Any:
    return SimpleNamespace(trial_id=trial.config[NUMBER])


class Population(PopulationBasedTraining):
    """Ray Tune's; a trial that takes over another's values stays the trial it is, and one that is through ends with its own.

    One whose metric is not finite is the worst of all.
    """

    def __init__(self, spec: SearchSpec) -> None:
        self.spec, self.steps, generator = spec, spec.stage.train.steps, np.random.default_rng(spec.options.seed)
        self.space, self.judged = dict(spec.space), -1
        super().__init__(
            time_attr="step", metric=spec.metric, mode=spec.mode, perturbation_interval=spec.stage.train.evaluate_every_steps,
            quantile_fraction=0.25, custom_explore_fn=self.explored,
            hyperparam_mutations={name: mutation(one, generator, is_integer(spec.stage, name)) for name, one in spec.space.items()},
        )  # fmt: skip

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict) -> str:
        """As the base class does, but at the end."""
        self.judged = trial.config[NUMBER]  # the one that may take over another's values before this call returns
        if result["step"] >= self.steps:
            return TrialScheduler.CONTINUE
        return super().on_trial_result(tune_controller, trial, comparable(self.spec, result))

    def explored(self, values: dict[str, Any]) -> dict[str, Any]:
        """Changed values of another trial, kept in their ranges, for the trial that is judged now."""
        return {**within(values, self.space), NUMBER: self.judged}


def scheduler(spec: SearchSpec, known: Sequence[TrialResult]) -> TrialScheduler:
    """What stops trials, or changes them."""
    if spec.options.scheduler == "asha":
        return Asha(spec, known)
    if spec.options.scheduler == "none":
        return FIFOScheduler()
    return Population(spec)


def mutation(one: Range, generator: np.random.Generator, integer: bool) -> Any:
    """How a value changes: to its neighbour among choices, else by a factor, and now and then to any in its range."""
    return list(one.values) if isinstance(one, Choice) else partial(drawn, one, generator, integer)


def within(values: dict[str, Any], space: Space) -> dict[str, Any]:
    """Changed values, kept in their ranges."""
    return {name: clamped(space[name], value) if name in space else value for name, value in values.items()}
