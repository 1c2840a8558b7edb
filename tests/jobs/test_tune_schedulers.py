"""What a resumed search tries and stops: as one that was never cut off."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.tune.search import Searcher

from genlib import registry
from genlib.config import Search
from jobs.command_form import Command
from jobs.trial import NUMBER
from jobs.tune import SearchSpec
from jobs.tune_options import TuneOptions
from jobs.tune_schedulers import Asha, Population, TPEValues, TrialSearcher, distributions, from_words, grid, in_words, total
from jobs.tune_trials import TrialResult, short_names
from tune_spaces.base import Choice, drawn, holds, value_of

SPACE = {
    "task.latent_dim": Search(2, 64),
    "train.optim.learning_rate": Search(3e-4, 5e-3, log=True),
    "task.widths": Choice(((512, 256), (512,))),
}


def spec(**options: Any) -> SearchSpec:
    stage = registry.load("vae").stages[0]
    stage = replace(stage, train=replace(stage.train, steps=54, evaluate_every_steps=6))
    return SearchSpec(Command("vae", (stage,), TuneOptions(**options)), stage, SPACE, "val/loss", "min")


def result(number: int, values: dict[str, Any], curve: list[tuple[int, float]], status: str) -> TrialResult:
    return TrialResult(number, Path(), values, curve, status, "", 0.0)


def all_of(searcher: TrialSearcher) -> list[dict[str, Any]]:
    found = []
    while (values := searcher.suggest(f"id-{len(found)}-{id(searcher)}")) != Searcher.FINISHED:
        found.append(values)
    return found


def without_number(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name != NUMBER}


def test_random_values_are_the_same_however_often_the_search_was_cut_off() -> None:
    search = spec(search="random", trials=6)
    whole = all_of(TrialSearcher(search, []))
    assert [values[NUMBER] for values in whole] == list(range(6))
    known = [
        result(0, without_number(whole[0]), [(54, 1.0)], "finished"), result(2, without_number(whole[2]), [(6, 2.0)], "stopped"),
        result(3, without_number(whole[3]), [(6, 2.0)], "unfinished"),
    ]  # fmt: skip
    assert all_of(TrialSearcher(search, known)) == [whole[1], whole[3], whole[4], whole[5]]
    assert all_of(TrialSearcher(spec(search="random", trials=6, seed=1), []))[1:] != whole[1:]


@pytest.mark.parametrize("search", ["random", "optuna", "grid"])
def test_the_first_trial_has_the_recipes_own_values_and_all_are_in_their_ranges(search: str) -> None:
    plan = spec(search=search, trials=12, grid_points=3)
    found = all_of(TrialSearcher(plan, []))
    assert len(found) == total(plan) == (18 if search == "grid" else 12)
    assert all(holds(one, values[name]) for values in found for name, one in SPACE.items())
    assert all(isinstance(values["task.latent_dim"], int) for values in found)
    if search != "grid":
        assert without_number(found[0]) == {name: value_of(plan.stage, name) for name in SPACE}
    assert len({str(without_number(values)) for values in found}) == len(found)


@pytest.mark.parametrize("search", ["random", "optuna", "grid"])
def test_a_trial_that_was_cut_off_keeps_its_values(search: str) -> None:
    plan = spec(search=search, trials=4, grid_points=2)
    values = {"task.latent_dim": 5, "train.optim.learning_rate": 2e-3, "task.widths": (512,)}
    found = {one[NUMBER]: without_number(one) for one in all_of(TrialSearcher(plan, [result(3, values, [(6, 1.0)], "unfinished")]))}
    assert found[3] == values
    assert len(found) == total(plan)


def test_optuna_knows_what_earlier_trials_reached_and_which_were_stopped() -> None:
    search = spec(trials=8)
    values = grid(spec(grid_points=2))
    known = [
        result(0, values[0], [(6, 3.0), (54, 1.0)], "finished"), result(1, values[1], [(6, 4.0)], "stopped"),
        result(2, values[2], [], "failed"),
    ]  # fmt: skip
    study = TPEValues(search, known).study
    assert [trial.state.name for trial in study.trials] == ["COMPLETE", "PRUNED", "FAIL"]
    assert (study.best_value, study.best_params) == (1.0, in_words(search, values[0]))
    plan = TrialSearcher(search, known)
    first = plan.suggest("a")
    plan.on_trial_complete("a", {"val/loss": 0.5, "step": 54})
    plan.suggest("b")
    plan.on_trial_complete("b", {"val/loss": 5.0, "step": 6})
    plan.suggest("c")
    plan.on_trial_complete("c", error=True)
    assert isinstance(plan.values, TPEValues)
    assert [trial.state.name for trial in plan.values.study.trials[3:]] == ["COMPLETE", "PRUNED", "FAIL"]
    assert plan.values.study.best_params == in_words(search, first)


def test_values_in_optunas_words_come_back() -> None:
    search = spec()
    for values in grid(spec(grid_points=3)):
        words = in_words(search, values)
        assert {name: from_words(one, words[name]) for name, one in SPACE.items()} == values
    assert set(distributions(search)) == set(SPACE)


def test_asha_judges_by_trials_of_an_earlier_start() -> None:
    def decision(scheduler: Asha, number: int, step: int, value: float) -> str:
        trial = SimpleNamespace(config={NUMBER: number}, trial_id=f"another-{number}")
        scheduler.on_trial_add(None, trial)
        return scheduler.on_trial_result(None, trial, {"step": step, "val/loss": value})

    search = spec()
    known = [result(number, {}, [(6, value)], "stopped") for number, value in enumerate((1.0, 2.0, 3.0, 4.0))]
    assert decision(Asha(search, []), 9, 6, 3.5) == "CONTINUE", "the first to come has nothing to be behind"
    assert decision(Asha(search, known), 9, 6, 3.5) == "STOP"
    assert decision(Asha(search, known), 9, 6, 0.5) == "CONTINUE"
    again = Asha(search, [*known, result(9, {}, [(6, 3.5)], "unfinished")])
    assert decision(again, 9, 12, 3.5) == "CONTINUE", "what it was judged by before does not judge it again"
    assert decision(again, 9, 54, 3.5) == "CONTINUE", "it ends by itself"
    assert decision(again, 9, 24, 3.5) == "CONTINUE"


def test_random_draws_reach_both_ends_of_whole_numbers() -> None:
    import numpy as np

    generator = np.random.default_rng(0)
    found = [drawn(Search(1, 4), generator, integer=True) for _ in range(400)]
    assert set(found) == {1, 2, 3, 4}
    assert all(80 < found.count(value) < 120 for value in (1, 2, 3, 4))


def test_short_names_tell_hyperparameters_apart() -> None:
    names = ["train.optim.learning_rate", "train.players.discriminator.learning_rate", "task.width"]
    assert list(short_names(names).values()) == ["optim.learning_rate", "discriminator.learning_rate", "width"]


def test_a_trial_that_takes_over_anothers_values_stays_the_trial_it_is() -> None:
    scheduler = Population(spec(scheduler="pbt", search="random"))
    scheduler.on_trial_result(None, SimpleNamespace(config={NUMBER: 3}, trial_id="a"), {"step": 10**9, "val/loss": 1.0})
    given = {"task.latent_dim": 1000, "train.optim.learning_rate": 1e-3, "task.widths": (512,), NUMBER: 7}
    assert scheduler.explored(given) == {**given, "task.latent_dim": 64, NUMBER: 3}
