"""Search spaces: where a search looks for the hyperparameters of a stage, named as on the command line.

Any stage has one, read from the `tunable` fields of its configurations; `tune_spaces/RECIPE.py` holds a better one where a family has
one, as a function `space() -> dict[str, Range]`; that of another package's family is in `PACKAGE/tune_spaces/RECIPE.py`.
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce
from importlib.util import find_spec
from typing import Any

import numpy as np

from genlib import registry
from genlib.config import Config, Search, replaced
from genlib.recipe import Stage


@dataclass(frozen=True, slots=True)
class Choice:
    """One of a few values, of which none is more than another."""

    values: tuple[Any, ...]


Range = Search | Choice
Space = Mapping[str, Range]
PARTS = ("task", "train", "data")


def space(config: Config, prefix: str = "") -> dict[str, Search]:
    """Search ranges of a configuration and of those inside it, named as on the command line; `space(stage.task, "task.")`.

    Each reaches at least to the value that the configuration has; a term that it switches off by a 0 outside a logarithmic range is not searched.
    """
    found: dict[str, Search] = {}
    for field in dataclasses.fields(config):
        value, name = getattr(config, field.name), f"{prefix}{field.name}"
        if search := field.metadata.get("search"):
            if search.log and value <= 0:
                continue
            found[name] = Search(min(search.low, value), max(search.high, value), search.log)
        elif isinstance(value, Config):
            found |= space(value, f"{name}.")
        elif isinstance(value, dict):
            found |= {key: one for part, inner in value.items() if isinstance(inner, Config) for key, one in space(inner, f"{name}.{part}.").items()}
    return found


def space_of(recipe: str, stage: Stage) -> dict[str, Range]:
    """The family's own space, which is of its last stage, else what the stage's fields say."""
    own = own_space(recipe)
    if own and stage.name == registry.load(recipe).stages[-1].name:
        return dict(importlib.import_module(own).space())
    return {**space(stage.task, "task."), **space(stage.train, "train.")}


def own_space(recipe: str) -> str:
    """The module of the family's own space, `tune_spaces.RECIPE`, of another package `PACKAGE.tune_spaces.RECIPE`; empty where there is none."""
    package = registry.recipes().get(recipe, "").partition(".")[0]
    module = f"tune_spaces.{recipe}" if recipe in registry.RECIPES else f"{package}.tune_spaces.{recipe}"
    try:
        return module if find_spec(module) else ""
    except ModuleNotFoundError:  # the package has no spaces
        return ""


def written(text: str) -> tuple[str, Range]:
    """A range as a user writes it: `task.beta=0.5:8:log`, `task.latent_dim=2:64` or `train.global_batch=64,128`."""
    name, equals, values = text.partition("=")
    parts = values.split(":")
    try:
        if not (name and equals and values):
            raise ValueError
        if len(parts) == 1:
            return name, Choice(tuple(_plain(value) for value in values.split(",")))
        low, high = float(parts[0]), float(parts[1])
        if len(parts) > 3 or parts[2:] not in ([], ["log"]) or not low < high or (parts[2:] and low <= 0):
            raise ValueError
    except ValueError:
        raise ValueError(
            f"--space {text!r} is no range; write NAME=LOW:HIGH, NAME=LOW:HIGH:log (above 0) or NAME=A,B,C, such as task.beta=0.5:8:log"
        ) from None
    return name, Search(low, high, bool(parts[2:]))


def _plain(text: str) -> Any:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return {"true": True, "false": False}.get(text.lower(), text)


def value_of(stage: Stage, name: str) -> Any:
    """What the stage has in the field of that name. ValueError where it has no such field."""
    part, _, rest = name.partition(".")
    if part not in PARTS or not rest:
        raise ValueError(f"{name!r} is no field of a stage; names begin with task., train. or data.")
    try:
        return reduce(lambda value, key: value[key] if isinstance(value, Mapping) else getattr(value, key), rest.split("."), getattr(stage, part))
    except (AttributeError, KeyError):
        raise ValueError(f"{name!r} is no field of this recipe; `--help` shows all") from None


def with_values(stage: Stage, values: Mapping[str, Any]) -> Stage:
    """The stage with other values in the fields of those names. ValueError where one is no field, or the configuration refuses it."""
    for name, value in values.items():
        part, _, rest = name.partition(".")
        if isinstance(value_of(stage, name), int) and not isinstance(value, bool) and isinstance(value, float):
            value = round(value)
        stage = dataclasses.replace(stage, **{part: replaced(getattr(stage, part), rest, value)})
    return stage


def is_integer(stage: Stage, name: str) -> bool:
    """Whether the field of that name holds whole numbers."""
    value = value_of(stage, name)
    return isinstance(value, int) and not isinstance(value, bool)


def defaults(stage: Stage, ranges: Space) -> dict[str, Any]:
    """The stage's own values of what is searched; nothing where one of them lies outside its range."""
    values = {name: value_of(stage, name) for name in ranges}
    return values if all(holds(one, values[name]) for name, one in ranges.items()) else {}


def holds(one: Range, value: Any) -> bool:
    """Whether the range has the value."""
    return value in one.values if isinstance(one, Choice) else isinstance(value, int | float) and one.low <= value <= one.high


def clamped(one: Range, value: Any) -> Any:
    """The value, or the nearest that the range has; of choices as it is."""
    return value if isinstance(one, Choice) else type(value)(min(max(value, one.low), one.high))


def points(one: Range, count: int, integer: bool = False) -> list[Any]:
    """The values that a grid tries: all choices, or so many spread evenly over the range, its ends among them."""
    if isinstance(one, Choice):
        return list(one.values)
    spread = np.geomspace if one.log else np.linspace
    found = spread(one.low, one.high, count).tolist() if count > 1 else [one.low]
    return sorted({round(value) for value in found}) if integer else found


def drawn(one: Range, generator: np.random.Generator, integer: bool = False) -> Any:
    """A value at random: any choice alike, else even over the range, or over its logarithm."""
    if isinstance(one, Choice):
        return one.values[generator.integers(len(one.values))]
    low, high = (one.low - 0.5, one.high + 0.5) if integer and not one.log else (one.low, one.high)
    value = float(np.exp(generator.uniform(np.log(low), np.log(high)))) if one.log else float(generator.uniform(low, high))
    return min(max(round(value), round(one.low)), round(one.high)) if integer else value


def check_space(stage: Stage, ranges: Space) -> None:
    """ValueError where a range has a value that the recipe's configuration refuses, or there is nothing to search."""
    if not ranges:
        raise ValueError("no field of the recipe is tunable; name what to search with --space, such as train.optim.learning_rate=1e-4:1e-2:log")
    for name, one in ranges.items():
        for value in one.values if isinstance(one, Choice) else (one.low, one.high):
            try:
                with_values(stage, {name: value})
            except ValueError as error:
                raise ValueError(f"the space has {name} = {value!r}, which the recipe refuses: {error}") from None
