"""All recipes by name: `"module:function"`, imported when asked for, so that listing them costs nothing."""

from __future__ import annotations

import importlib
import inspect

from genlib.config import nearest
from genlib.recipe import Recipe

RECIPES: dict[str, str] = {
    "clip_tiny": "genlib.models.representation.clip:clip_tiny",
    "clip_vit_b32": "genlib.models.representation.clip:clip_vit_b32",
    "clip_vit_l14": "genlib.models.representation.clip:clip_vit_l14",
}


def _function(name: str):
    if name not in RECIPES:
        raise ValueError(f"there is no recipe {name!r}.{nearest(name, list(RECIPES))} `python jobs/train.py --list` shows all")
    module, function = RECIPES[name].split(":")
    return getattr(importlib.import_module(module), function)


def load(name: str) -> Recipe:
    """The recipe of that name. ValueError names the nearest one where there is none."""
    return _function(name)()


def describe(name: str) -> str:
    """The recipe's docstring: what it trains, its command, what it reached."""
    return inspect.getdoc(_function(name)) or ""
