"""From words on the command line to a recipe's stages: typed overrides, `--help` on every field, one sentence for what is wrong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from genlib import registry
from jobs.command_form import Command, Options, Typed, as_commanded, filled, form_of, one_place, read
from jobs.run_options import RunOptions
from jobs.saved_config import again, config_of, restored, saved

USAGE = """usage: {program} RECIPE [options] [--task.FIELD VALUE] [--train.FIELD VALUE] [--data.FIELD VALUE]

  {program} --list                 all recipes
  {program} RECIPE --help          every field of that recipe, its type and default
  {program} --config RUN/run.json  the recipe and all values of a run, under those that are given here"""


def parse(arguments: Sequence[str], typed: Typed | None = None) -> Command[RunOptions]:
    """Reads `RECIPE [options]` of train.py. ValueError says in one sentence what is wrong; SystemExit(0) after --help or --list."""
    return parsed(arguments, RunOptions(), typed or Typed("train", tuple(arguments)))


def parsed(arguments: Sequence[str], options: Options, typed: Typed) -> Command[Options]:
    """As `parse`, for a job with other options, of which these are the defaults; `typed` is what stands for the arguments."""
    if list(arguments) == ["--list"]:
        print(listing())
        raise SystemExit(0)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(USAGE.format(program=typed.program))
        raise SystemExit(0)
    name, rest = recipe_of(arguments, typed)
    recipe = registry.load(name)
    stages = as_commanded(recipe.smoke if "--smoke" in rest else recipe.stages)
    if file := config_of(rest):
        if "--smoke" in rest:
            raise ValueError(f"--config {file} says how large all is, so leave --smoke out")
        stages, options = restored(file, name, options)
    shown = f"{typed.program} {name}" if typed.words[:1] == (name,) else typed.program
    values = read(form_of(stages, options), rest, shown, registry.describe(name))
    command = Command(name, one_place(tuple(filled(stages, values))), values.options)
    return replace(command, again=again(command, typed) if file else typed.line)


def recipe_of(arguments: Sequence[str], typed: Typed) -> tuple[str, list[str]]:
    """The recipe, which is the first word or that of the run whose configuration is taken, and the other words."""
    name, *rest = arguments
    if not name.startswith("-"):
        return name, rest
    if file := config_of(arguments):
        return str(saved(file)["recipe"]), list(arguments)
    raise ValueError(f"the recipe comes first, before {name}: `{typed.program} RECIPE ...`; `--list` shows all")


def named_run(arguments: Sequence[str], name: str) -> list[str]:
    """The words that give a run its name, where the user gives it none."""
    given = {argument.partition("=")[0].replace("_", "-") for argument in arguments}
    return [] if given & {"--run", "--run-dir"} else ["--run", name]


def listing() -> str:
    """All recipes with the first line of what they say of themselves."""
    names = sorted(registry.recipes())
    width = max(map(len, names))
    return "\n".join(f"{name:<{width}}  {registry.describe(name).partition(chr(10))[0]}" for name in names)
