"""The support matrix in RESULTS.md is what refuses, of all families and strategies there are; `test_contract.py` trains what it says yes to."""

from __future__ import annotations

from typing import get_args, get_type_hints

from genlib import registry
from genlib.config import TrainConfig
from genlib.recipe import STRATEGIES, strategy_refusal
from tests.models.support import families, matrix, parts, trains


def test_the_table_is_that_of_today() -> None:
    _, table, after = parts()
    assert after, "the table has its marks"
    assert table == matrix(), "`python -m tests.models.support` writes it anew"


def test_it_has_every_strategy() -> None:
    assert get_args(get_type_hints(TrainConfig)["strategy"]) == ("auto", *STRATEGIES)


def test_what_trains_in_full_size_is_refused_as_its_smoke_form_is() -> None:
    known = {type(config): config for config in families()}
    for recipe in registry.RECIPES:
        for stage in registry.load(recipe).stages:
            if stage.train.steps and trains(type(stage.task)):
                small = known[type(stage.task)]
                refusals = [[strategy_refusal(config, strategy, 2) for strategy in STRATEGIES] for config in (stage.task, small)]
                assert refusals[0] == refusals[1], (recipe, stage.name)
