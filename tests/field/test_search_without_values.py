"""A trial whose metric is NaN or infinite has failed, and the search goes on; what is written is JSON.

Found by running optuna 5.0, where a trial of before may not have NaN, and ray 2.60, which compares NaN with nothing.
"""

from __future__ import annotations

import csv
import json
import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
import pytest
from ray.tune.experiment import Trial

from genlib import registry
from genlib.config import OptimConfig
from genlib.json_text import json_text
from jobs.command_form import Command
from jobs.evaluations import Evaluations, evaluations
from jobs.exit_codes import RunStopped
from jobs.run_folder import read_json, write_json
from jobs.trial import NUMBER
from jobs.tune import SearchSpec
from jobs.tune_options import TuneOptions
from jobs.tune_progress import Follower
from jobs.tune_report import finish
from jobs.tune_schedulers import Asha, Population, TPEValues, TrialSearcher
from jobs.tune_trials import TrialResult, ranked, results
from tests.jobs.runs import launch
from tests.metrics.test_scorecard import CARD
from tune_spaces.base import Choice

NAN, INF = math.nan, math.inf
SPACE = {"train.optim.learning_rate": Choice((1e-3, 1e-2, 1e-1))}


def spec(mode: str = "min", **options: Any) -> SearchSpec:
    stage = registry.load("vae").stages[0]
    stage = replace(stage, train=replace(stage.train, steps=54, evaluate_every_steps=6))
    return SearchSpec(Command("vae", (stage,), TuneOptions(**options)), stage, SPACE, "val/loss", mode)  # type: ignore[arg-type]


def result(number: int, *curve: tuple[int, float], status: str = "failed") -> TrialResult:
    return TrialResult(number, Path(f"T{number}"), {"train.optim.learning_rate": 1e-2}, list(curve), status, "", 0.0)


def strict(text: str) -> Any:
    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is no JSON")

    return json.loads(text, parse_constant=refuse)


@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_a_number_that_json_cannot_say_is_null(value: float) -> None:
    assert strict(json_text({"a": [value, (1.5, value)], "b": {"c": value}, "d": 2})) == {"a": [None, [1.5, None]], "b": {"c": None}, "d": 2}


@pytest.mark.parametrize("value", [NAN, INF])
def test_a_configuration_has_finite_numbers(value: float) -> None:
    with pytest.raises(ValueError, match=r"OptimConfig.learning_rate is \w+; it must be a finite number"):
        OptimConfig(learning_rate=value)
    with pytest.raises(ValueError, match="finite"):
        replace(CARD, value=value)


def test_what_a_trial_reached_is_json_and_comes_back(tmp_path: Path) -> None:
    reached = Evaluations(tmp_path)
    reached.add({"step": 6, "val/loss": 1.5, "trouble": ""})
    reached.add({"step": 12, "val/loss": NAN, "trouble": ""})
    assert [strict(line)["val/loss"] for line in (tmp_path / "evaluations.jsonl").read_text().splitlines()] == [1.5, None]
    assert math.isnan(evaluations(tmp_path)[1]["val/loss"])
    write_json(tmp_path / "metrics.json", {"fid": NAN, "psnr": INF, "steps": 3})
    assert strict((tmp_path / "metrics.json").read_text()) == {"fid": None, "psnr": None, "steps": 3}


def test_a_trial_without_a_value_has_none(tmp_path: Path) -> None:
    search = spec()
    found = [result(0, (6, 2.0), (54, NAN)), result(1, (54, 3.0), status="finished"), result(2, (54, INF))]
    assert [one.value for one in found] == [None, 3.0, None]
    assert [one.number for one in ranked(search, found)] == [1]


@pytest.mark.parametrize("mode", ["min", "max"])
def test_optuna_takes_it_for_the_worst_of_all_whenever_it_was(mode: str) -> None:
    search = spec(mode, trials=8)
    study = TPEValues(search, [result(0, (54, NAN)), result(1, (6, 2.0), (12, -INF)), result(2, (6, NAN), (54, 1.0), status="finished")]).study
    assert [trial.state.name for trial in study.trials] == ["PRUNED", "PRUNED", "COMPLETE"]
    assert study.trials[2].intermediate_values == {54: 1.0}
    searcher = TrialSearcher(search, [result(0, (54, NAN))])
    for name, value in (("a", NAN), ("b", INF), ("c", 1.0), ("d", NAN)):
        searcher.suggest(name)
        searcher.on_trial_complete(name, {"val/loss": value, "step": 54})
    assert isinstance(searcher.values, TPEValues)
    states = [trial.state for trial in searcher.values.study.trials]
    assert states.count(optuna.trial.TrialState.PRUNED) == 4
    assert all(trial.params for trial in searcher.values.study.trials), "TPE learns where no value is"


@pytest.mark.parametrize("mode", ["min", "max"])
@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_asha_stops_it_at_once_and_the_others_as_if_it_were_the_worst(mode: str, value: float) -> None:
    def decision(number: int, step: int, value: float) -> str:
        trial = SimpleNamespace(config={NUMBER: number}, trial_id=str(number))
        scheduler.on_trial_add(None, trial)
        return scheduler.on_trial_result(None, trial, {"step": step, "val/loss": value})

    scheduler = Asha(spec(mode), [result(90, (6, value))])
    assert decision(0, 6, value) == "STOP"
    assert decision(1, 6, 1.0) == "CONTINUE"
    assert [decision(number, 6, value) for number in (2, 3, 4)] == ["STOP"] * 3
    assert decision(5, 6, 2.0) == "CONTINUE", "five of six did worse"
    assert decision(6, 12, value) == "STOP"
    assert decision(7, 54, value) == "CONTINUE", "it ends by itself"


@pytest.mark.parametrize("mode", ["min", "max"])
def test_under_pbt_it_is_in_the_lower_quantile(mode: str) -> None:
    population = Population(spec(mode, scheduler="pbt", search="random"))
    trials = [Trial("x", config={NUMBER: number, **result(number).values}, stub=True) for number in range(4)]
    controller = SimpleNamespace(search_alg=None, get_trials=lambda: trials)
    taken: list[tuple[int, int]] = []
    population._checkpoint_or_exploit = lambda trial, _, upper, lower: taken.extend(  # type: ignore[method-assign]
        (trial.config[NUMBER], upper[0].config[NUMBER]) for _ in [0] if trial in lower
    )
    for trial in trials:
        population.on_trial_add(controller, trial)
    for trial, value in zip(trials, (2.0, 1.0, 3.0, NAN), strict=True):
        trial.set_status(Trial.RUNNING)
        population.on_trial_result(controller, trial, {"step": 6, "val/loss": value})
    assert taken[-1] == (3, 1 if mode == "min" else 2)


@pytest.mark.parametrize(("step", "trouble"), [(6, ""), (54, ""), (6, "the centres have run away")])
def test_it_has_failed_and_says_why(step: int, trouble: str) -> None:
    follower = SimpleNamespace(spec=spec(), over=lambda: False)
    trial = SimpleNamespace(last_result={"step": step, "val/loss": NAN, "trouble": trouble})
    status, reason = Follower.outcome(follower, trial)  # type: ignore[arg-type]
    assert (status, reason) == ("failed", f"at step {step}: loss is nan" + (f": {trouble}" if trouble else ""))


def test_where_no_trial_gave_a_value_the_search_has_failed(tmp_path: Path) -> None:
    for number in range(2):
        folder = tmp_path / "trials" / f"T{number}"
        write_json(folder / "trial.json", {"started": 0.0, "values": {"train.optim.learning_rate": 1e-2}})
        Evaluations(folder).add({"step": 54, "val/loss": NAN})
        write_json(folder / "outcome.json", {"status": "failed", "reason": "at step 54: loss is nan"})
    with pytest.raises(RunStopped, match=r"none of 2 trials gave a value of loss \(T0: at step 54: loss is nan; T1: .*--space"):
        finish(spec(), tmp_path)
    with (tmp_path / "trials.csv").open() as file:
        assert [(row["status"], row["val/loss"]) for row in csv.DictReader(file)] == [("failed", "")] * 2
    assert [one.status for one in results(spec(), tmp_path)] == ["failed"] * 2


@pytest.mark.ray
@pytest.mark.slow
def test_a_search_with_such_trials(tmp_path: Path) -> None:
    words = ("tune", "toy", "--train.steps", "18", "--concurrent", "2", "--evaluations", "3")
    all_of_them = ("--space", "task.fault=scoreless", "--scheduler", "none", "--trials")
    for count in ("2", "3"):  # the second goes on from the first
        code, out, err = launch(*words, *all_of_them, count, runs=tmp_path)
        assert (code, err.count("\n")) == (1, 1), out
        assert f"none of {count} trials gave a value of loss (T0: at step 18: loss is nan; T1: " in err
    code, out, err = launch(*words, "--run", "some", "--space", "task.fault=,scoreless", "--search", "grid", runs=tmp_path)
    assert (code, err) == (0, ""), out
    assert "T1 failed: at step 6: loss is nan" in out
    files = [path for path in tmp_path.rglob("*.json*") if "tune" not in path.relative_to(tmp_path).parts]  # Ray Tune's own books
    assert len(files) > 20
    for path in files:
        for line in [path.read_text()] if path.suffix == ".json" else path.read_text().splitlines():
            strict(line)
    assert (read_json(tmp_path / "some" / "trials" / "T1" / "outcome.json") or {})["status"] == "failed"
