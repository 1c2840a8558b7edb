"""Spaces come from the fields themselves."""

from functools import reduce

import pytest

from genlib import registry
from genlib.config import OptimConfig, TrainConfig
from tune_spaces.base import space


def test_nested_fields_have_dotted_names() -> None:
    found = space(TrainConfig(players={"D": OptimConfig()}), "train.")
    assert set(found) == {"train.optim.learning_rate", "train.players.D.learning_rate"}
    assert (found["train.optim.learning_rate"].low, found["train.optim.learning_rate"].log) == (1e-5, True)


@pytest.mark.parametrize("recipe", list(registry.RECIPES))
def test_every_default_lies_in_its_range(recipe: str) -> None:
    for stage in registry.load(recipe).stages:
        ranges = {**space(stage.task), **space(stage.train)}
        assert ranges
        for part in (stage.task, stage.train):
            for name, search in space(part).items():
                assert search.low <= reduce(getattr, name.split("."), part) <= search.high, name
