"""Configurations refuse what cannot be, in a sentence, and travel through JSON unchanged."""

from dataclasses import dataclass

import pytest

from genlib import registry
from genlib.config import Config, OptimConfig, TrainConfig, from_json, nearest, to_json, tunable
from genlib.recipe import Recipe, Stage
from tests.tiny import TinyConfig


def test_json_round_trip() -> None:
    config = TrainConfig(steps=7, players={"D": OptimConfig(name="sgd")}, trackers=("wandb", "mlflow"))
    assert from_json(TrainConfig, to_json(config)) == config


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"steps": -1}, "TrainConfig.steps is -1; it must be at least 0"),
        ({"optim": {"beta1": 1.0}}, "OptimConfig.beta1 is 1.0; it must be below 1"),
        ({"stepz": 1}, "TrainConfig.stepz: Unexpected keyword argument"),
        ({"steps": "many"}, "TrainConfig.steps: Input should be a valid integer"),
        ({"strategy": "zero9"}, "TrainConfig.strategy: Input should be 'auto', 'single', 'ddp', 'zero1', 'zero2' or 'zero3'"),
        ({"global_batch": 10, "accumulation": 4}, "global_batch 10 is not divisible by accumulation 4; use 8"),
    ],
)
def test_bad_values_get_one_sentence(values: dict, sentence: str) -> None:
    with pytest.raises(ValueError, match="^" + sentence.replace(".", r"\.")):
        from_json(TrainConfig, values)


def test_search_range_stands_beside_the_default() -> None:
    @dataclass(frozen=True, kw_only=True, slots=True)
    class Beta(Config):
        beta: float = tunable(1.0, low=0.1, high=20.0, log=True, at_least=0)

    search = Beta.__dataclass_fields__["beta"].metadata["search"]
    assert (search.low, search.high, search.log) == (0.1, 20.0, True)
    with pytest.raises(ValueError, match=r"Beta\.beta is -1\.0; it must be at least 0"):
        Beta(beta=-1.0)


def test_unknown_recipe_names_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"there is no recipe 'clip_tny'\. Did you mean 'clip_tiny'"):
        registry.load("clip_tny")
    assert nearest("zzzzzz", ["clip_tiny"]) == ""


def test_stages_are_in_order() -> None:
    first, second = Stage(name="first", task=TinyConfig()), Stage(name="second", task=TinyConfig(), needs={"tokenizer": "first"})
    Recipe(stages=(first, second), smoke=(first, second))
    with pytest.raises(ValueError, match="stage 'second' needs 'first', which is no earlier stage"):
        Recipe(stages=(second, first), smoke=())
    with pytest.raises(ValueError, match="two stages are named 'first'"):
        Recipe(stages=(first, first), smoke=())
