"""Spaces come from the fields themselves."""

import importlib
from pathlib import Path

import pytest

import tune_spaces
from genlib import registry
from genlib.config import OptimConfig, Search, TrainConfig
from genlib.models.adversarial.stylegan.settings import StyleGame
from tune_spaces.base import Choice, Range, check_space, clamped, defaults, points, space, space_of, value_of, with_values, written


def test_nested_fields_have_dotted_names() -> None:
    found = space(TrainConfig(players={"D": OptimConfig()}), "train.")
    assert set(found) == {"train.optim.learning_rate", "train.players.D.learning_rate"}
    assert (found["train.optim.learning_rate"].low, found["train.optim.learning_rate"].log) == (1e-6, True)


@pytest.mark.parametrize("recipe", list(registry.RECIPES))
def test_every_stage_has_a_space_with_its_own_values_that_it_takes(recipe: str) -> None:
    for stage in registry.load(recipe).stages:
        ranges = space_of(recipe, stage)
        assert set(defaults(stage, ranges)) == set(ranges)
        check_space(stage, ranges)


FILES = sorted(path.stem for path in Path(tune_spaces.__file__).parent.glob("*.py") if path.stem not in ("__init__", "base"))


@pytest.mark.parametrize("name", FILES)
def test_every_file_is_the_space_of_a_recipes_last_stage_and_gives_reasons(name: str) -> None:
    module = importlib.import_module(f"tune_spaces.{name}")
    assert space_of(name, registry.load(name).stages[-1]) == module.space()
    assert len(module.__doc__) > 60


def test_a_file_is_not_the_space_of_earlier_stages() -> None:
    first, *_, last = registry.load("dbn").stages
    assert "task.hidden" in space_of("dbn", first)
    assert "task.hidden" not in space_of("dbn", last)


def test_a_range_reaches_to_the_recipes_own_value() -> None:
    assert space(OptimConfig(learning_rate=0.2))["learning_rate"] == Search(1e-6, 0.2, True)
    assert space(OptimConfig(learning_rate=1e-7))["learning_rate"] == Search(1e-7, 1e-1, True)


def test_a_term_that_is_off_is_not_searched_by_its_logarithm() -> None:
    assert {"path_weight", "gamma"} <= space(StyleGame()).keys()
    assert space(StyleGame(path_weight=0.0)).keys() == space(StyleGame()).keys() - {"path_weight"}


STAGE = registry.load("ddpm").stages[0]


@pytest.mark.parametrize(
    ("text", "name", "range"),
    [
        ("task.beta=0.5:8:log", "task.beta", Search(0.5, 8.0, True)),
        ("task.latent_dim=2:64", "task.latent_dim", Search(2.0, 64.0)),
        ("train.global_batch=64,128", "train.global_batch", Choice((64, 128))),
        ("task.clip=true,false", "task.clip", Choice((True, False))),
        ("task.process.beta_schedule=linear,cosine", "task.process.beta_schedule", Choice(("linear", "cosine"))),
    ],
)
def test_ranges_as_users_write_them(text: str, name: str, range: Range) -> None:
    assert written(text) == (name, range)


@pytest.mark.parametrize("text", ["task.beta", "task.beta=", "=1:2", "a=2:1", "a=1:2:linear", "a=0:1:log", "a=1:2:log:3", "a=x:y"])
def test_what_is_no_range(text: str) -> None:
    with pytest.raises(ValueError, match=r"is no range; write NAME=LOW:HIGH"):
        written(text)


def test_values_go_where_their_names_say() -> None:
    stage = with_values(STAGE, {"train.optim.learning_rate": 3e-3, "train.global_batch": 64.4, "task.process.beta_schedule": "linear"})
    assert (stage.train.optim.learning_rate, stage.train.global_batch) == (3e-3, 64)
    assert value_of(stage, "task.process.beta_schedule") == "linear"
    with pytest.raises(ValueError, match=r"ClassDDPMConfig.label_dropout is 2\.0; it must be below 1"):
        with_values(STAGE, {"task.label_dropout": 2.0})
    with pytest.raises(ValueError, match=r"'model\.beta' is no field of a stage; names begin with task"):
        value_of(STAGE, "model.beta")


def test_a_grid_has_both_ends_and_whole_numbers_once() -> None:
    assert points(Search(1e-4, 1e-1, True), 4) == pytest.approx([1e-4, 1e-3, 1e-2, 1e-1])
    assert points(Search(1, 3), 9, integer=True) == [1, 2, 3]
    assert points(Choice(("a", "b")), 9) == ["a", "b"]


def test_the_recipes_own_values_are_tried_where_the_space_has_them() -> None:
    assert defaults(STAGE, {"train.optim.learning_rate": Search(1e-4, 1e-2, True)}) == {"train.optim.learning_rate": 2e-3}
    assert defaults(STAGE, {"train.optim.learning_rate": Search(1e-2, 1e-1, True)}) == {}
    assert clamped(Search(1e-2, 1e-1), 2e-3) == 1e-2


def test_a_space_that_the_recipe_refuses_is_refused_first() -> None:
    with pytest.raises(ValueError, match=r"the space has task\.label_dropout = 1\.5, which the recipe refuses"):
        check_space(STAGE, {"task.label_dropout": Search(0.0, 1.5)})
    with pytest.raises(ValueError, match=r"no field of the recipe is tunable"):
        check_space(STAGE, {})
