"""Configurations that runs wrote, taken back by `--config`, and the line that asks for the same again."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from genlib import registry
from genlib.config import from_json
from genlib.recipe import Stage
from jobs.command_form import Command, Options, Typed, as_commanded, form_of
from jobs.options import words_between
from jobs.run_options import RunOptions

HEADLINES = ("clip", "sdxl", "stylegan")
"""Verbs that are `train` with a recipe and defaults of their own."""


def config_of(arguments: Sequence[str]) -> Path | None:
    """The file that --config names."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--config", type=Path)
    try:
        return parser.parse_known_args(list(arguments))[0].config
    except argparse.ArgumentError:
        raise ValueError("--config needs a value: the run.json of a run") from None


def saved(file: Path) -> dict[str, Any]:
    """What a run, a search or `--dry-run` wrote of its configuration. ValueError where it is no such file."""
    try:
        found = json.loads(file.read_text())
        if isinstance(found["recipe"], str) and all({"task", "train", "data"} <= parts.keys() for parts in found["stages"].values()):
            return found
    except OSError as error:
        raise ValueError(f"--config {file} cannot be read: {error.strerror}; name the run.json of a run") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        pass
    raise ValueError(f"--config {file} holds no configuration; name the run.json of a run, or what --dry-run printed")


def restored(file: Path, recipe: str, options: Options) -> tuple[tuple[Stage, ...], Options]:
    """The recipe's stages with the file's values, and the options with the file's. ValueError where it does not fit the recipe."""
    found = saved(file)
    if found["recipe"] != recipe:
        raise ValueError(f"--config {file} is of recipe {found['recipe']}, not {recipe}; leave the recipe out, or the file")
    given = found.get("options", {})
    known = registry.load(recipe)
    base = known.smoke if given.get("smoke") else known.stages
    if [stage.name for stage in base] != list(found["stages"]):
        raise ValueError(f"--config {file} has the stages {', '.join(found['stages'])}, and the recipe {', '.join(stage.name for stage in base)}")
    try:
        stages = tuple(
            replace(stage, **{part: from_json(type(getattr(stage, part)), values) for part, values in found["stages"][stage.name].items()})
            for stage in base
        )
        of_run = isinstance(options, RunOptions) and "space" not in found
        return stages, from_json(type(options), given if of_run else {"smoke": given.get("smoke", False)})
    except ValueError as error:
        raise ValueError(f"--config {file}: {error}; it was written by another version of genlib, or changed: correct it there") from None


def again(command: Command, typed: Typed) -> str:
    """The line that asks for what a command with --config does, though the file may go: the recipe and what differs from it."""
    verb = "train" if typed.verb in HEADLINES else typed.verb
    try:
        return line_of(verb, command.recipe, command.stages, replace(command.options, config=""))
    except ValueError:
        return typed.line


def line_of(verb: str, recipe: str, stages: Sequence[Stage], options: Any) -> str:
    """The line that asks for these stages and options. ValueError where none does, as of an optimizer that the recipe does not have."""
    known = registry.load(recipe)
    base = form_of(as_commanded(known.smoke if options.smoke else known.stages), type(options)())
    return Typed(verb, (recipe, *words_between(base(), form_of(stages, options)()))).line
