"""What a search tries next, and what it stops. Both know earlier trials from their folders, by number: whatever was killed, they go on as if not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import product
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, PopulationBasedTraining, TrialScheduler
from ray.tune.search import BasicVariantGenerator, Searcher

from jobs.search_results import Result
from jobs.trial import NUMBER
from tune_spaces.base import Choice, Range, Space, clamped, defaults, drawn, is_integer, points

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

    from jobs.tune import Asked

REDUCTION = 4
"""Of the trials that reach a rung of ASHA, one in so many goes on (Li et al. 2020, arXiv:1810.05934)."""


def grid(asked: Asked) -> list[dict[str, Any]]:
    """All points of the grid."""
    axes = [points(one, asked.options.grid_points, is_integer(asked.stage, name)) for name, one in asked.space.items()]
    return [dict(zip(asked.space, values, strict=True)) for values in product(*axes)]


def total(asked: Asked) -> int:
    """Trials in all."""
    return len(grid(asked)) if asked.options.search == "grid" else asked.options.trials


class Plan(Searcher):
    """Gives trials their values: one that was cut off its own, a new one those that the search chooses; the recipe's own come first."""

    def __init__(self, asked: Asked, known: Sequence[Result]) -> None:
        super().__init__()
        ended = {one.number for one in known if one.ended}
        self.given = {one.number: one.values for one in known}
        self.numbers = [number for number in range(total(asked)) if number not in ended]
        self.values = {"grid": Grid, "random": Random, "optuna": Adaptive}[asked.options.search](asked, [one for one in known if one.ended])

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


class Grid:
    """Values of a trial, by its number."""

    def __init__(self, asked: Asked, ended: Sequence[Result]) -> None:
        self.asked, self.all = asked, grid(asked)

    def of(self, number: int, given: dict[str, Any] | None, trial: str) -> dict[str, Any]:
        """Those of trial `number`, which had `given` if it began before."""
        return given or self.all[number]

    def tell(self, trial: str, result: Mapping[str, Any] | None) -> None:
        """What it reached."""


class Random(Grid):
    """Values drawn by trial number, so that a resumed search tries what an uninterrupted one would have."""

    def __init__(self, asked: Asked, ended: Sequence[Result]) -> None:
        self.asked = asked

    def of(self, number: int, given: dict[str, Any] | None, trial: str) -> dict[str, Any]:
        """See `Grid`."""
        if number == 0 and not given:
            given = defaults(self.asked.stage, self.asked.space)
        generator = np.random.default_rng([self.asked.options.seed, number])
        return given or {name: drawn(one, generator, is_integer(self.asked.stage, name)) for name, one in self.asked.space.items()}


class Adaptive(Grid):
    """Values that Optuna's TPE takes from what trials reached so far; it knows which were stopped early, and which are running."""

    def __init__(self, asked: Asked, ended: Sequence[Result]) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.asked, self.distributions, self.running = asked, distributions(asked), {}
        sampler = optuna.samplers.TPESampler(seed=asked.options.seed + len(ended), constant_liar=True)
        self.study = optuna.create_study(direction="minimize" if asked.mode == "min" else "maximize", sampler=sampler)
        for one in ended:
            self.study.add_trial(self.as_told(one))

    def as_told(self, one: Result) -> Any:
        """A trial of before."""
        import optuna

        state = {"finished": optuna.trial.TrialState.COMPLETE, "stopped": optuna.trial.TrialState.PRUNED}.get(one.status)
        if state is None or one.value is None:
            return optuna.trial.create_trial(state=optuna.trial.TrialState.FAIL)
        return optuna.trial.create_trial(
            state=state, value=one.value, params=in_words(self.asked, one.values), distributions=self.distributions,
            intermediate_values=dict(one.curve),
        )  # fmt: skip

    def of(self, number: int, given: dict[str, Any] | None, trial: str) -> dict[str, Any]:
        """See `Grid`."""
        if given := given or (defaults(self.asked.stage, self.asked.space) if number == 0 else None):
            self.study.enqueue_trial(in_words(self.asked, given))
        self.running[trial] = found = self.study.ask(self.distributions)
        return given or {name: from_words(self.asked.space[name], value) for name, value in found.params.items()}

    def tell(self, trial: str, result: Mapping[str, Any] | None) -> None:
        """See `Grid`."""
        import optuna

        running = self.running.pop(trial)
        if result is None or self.asked.metric not in result:
            self.study.tell(running, state=optuna.trial.TrialState.FAIL)
            return
        value = result[self.asked.metric]
        if result["step"] >= self.asked.stage.train.steps:
            self.study.tell(running, value)
        else:
            running.report(value, result["step"])
            self.study.tell(running, state=optuna.trial.TrialState.PRUNED)


def distributions(asked: Asked) -> dict[str, BaseDistribution]:
    """The space in Optuna's words; a choice is the number of its place."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    def distribution(one: Range, integer: bool) -> BaseDistribution:
        if isinstance(one, Choice):
            return CategoricalDistribution(range(len(one.values)))
        return IntDistribution(round(one.low), round(one.high), log=one.log) if integer else FloatDistribution(one.low, one.high, log=one.log)

    return {name: distribution(one, is_integer(asked.stage, name)) for name, one in asked.space.items()}


def in_words(asked: Asked, values: Mapping[str, Any]) -> dict[str, Any]:
    """Values of a trial as `distributions` have them, none outside its range."""
    return {
        name: one.values.index(values[name]) if isinstance(one, Choice) else clamped(one, values[name])
        for name, one in asked.space.items()
    }  # fmt: skip


def from_words(one: Range, value: Any) -> Any:
    """A value as a trial has it."""
    return one.values[value] if isinstance(one, Choice) else value


def search_algorithm(asked: Asked, known: Sequence[Result]) -> Searcher | BasicVariantGenerator:
    """What gives trials their values; under pbt a plain list, as Ray Tune takes nothing else there."""
    plan = Plan(asked, known)
    return BasicVariantGenerator(points_to_evaluate=plan.rest()) if asked.options.scheduler == "pbt" else plan


class Asha(ASHAScheduler):
    """Ray Tune's, which knows trials by their numbers and so knows those of an earlier start."""

    def __init__(self, asked: Asked, known: Sequence[Result]) -> None:
        train = asked.stage.train
        self.steps = train.steps
        super().__init__(
            time_attr="step", max_t=train.steps, grace_period=min(train.evaluate_every_steps, train.steps), reduction_factor=REDUCTION,
            metric=asked.metric, mode=asked.mode,
        )  # fmt: skip
        for one in known:
            trial = SimpleNamespace(config={NUMBER: one.number})
            self.on_trial_add(None, trial)
            for step, value in one.curve:
                self.on_trial_result(None, trial, {"step": step, asked.metric: value})

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """As the base class does, by number."""
        super().on_trial_add(tune_controller, _by_number(trial))

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict) -> str:
        """As the base class does, by number; but a trial that is through ends by itself, with all it has to write."""
        decision = super().on_trial_result(tune_controller, _by_number(trial), result)
        return TrialScheduler.CONTINUE if result["step"] >= self.steps else decision

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict) -> None:
        """As the base class does, by number."""
        super().on_trial_complete(tune_controller, _by_number(trial), result)

    def on_trial_remove(self, tune_controller: Any, trial: Any) -> None:
        """As the base class does, by number."""
        super().on_trial_remove(tune_controller, _by_number(trial))


def _by_number(trial: Any) -> Any:
    return SimpleNamespace(trial_id=trial.config[NUMBER])


class Population(PopulationBasedTraining):
    """Ray Tune's; a trial that takes over another's values stays the trial it is, and one that is through ends with its own."""

    def __init__(self, asked: Asked) -> None:
        self.steps, generator = asked.stage.train.steps, np.random.default_rng(asked.options.seed)
        super().__init__(
            time_attr="step", metric=asked.metric, mode=asked.mode, perturbation_interval=asked.stage.train.evaluate_every_steps,
            quantile_fraction=0.25, custom_explore_fn=partial(within, space=dict(asked.space)),
            hyperparam_mutations={name: mutation(one, generator, is_integer(asked.stage, name)) for name, one in asked.space.items()},
        )  # fmt: skip

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict) -> str:
        """As the base class does, but at the end."""
        return TrialScheduler.CONTINUE if result["step"] >= self.steps else super().on_trial_result(tune_controller, trial, result)

    def _get_new_config(self, trial: Any, trial_to_clone: Any) -> tuple[dict, dict]:
        values, operations = super()._get_new_config(trial, trial_to_clone)
        return {**values, NUMBER: trial.config[NUMBER]}, operations


def scheduler(asked: Asked, known: Sequence[Result]) -> TrialScheduler:
    """What stops trials, or changes them."""
    if asked.options.scheduler == "asha":
        return Asha(asked, known)
    if asked.options.scheduler == "none":
        return FIFOScheduler()
    return Population(asked)


def mutation(one: Range, generator: np.random.Generator, integer: bool) -> Any:
    """How a value changes: to its neighbour among choices, else by a factor, and now and then to any in its range."""
    return list(one.values) if isinstance(one, Choice) else partial(drawn, one, generator, integer)


def within(values: dict[str, Any], space: Space) -> dict[str, Any]:
    """Changed values, kept in their ranges."""
    return {name: clamped(space[name], value) if name in space else value for name, value in values.items()}
