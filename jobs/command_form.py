"""What a user asked for: a recipe's stages and the options of a job, as a form that the command line fills in."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Annotated, Any, Generic, TypeVar

from genlib import program
from genlib.recipe import Stage
from jobs.option_errors import one_sentence
from jobs.options import UNPREFIXED, flags, with_options
from jobs.precision import fitting_precision

HELD_OUT_SHARE = 0.1
"""Of data without held-out samples, unless the user says another one."""
Options = TypeVar("Options")


@dataclass(frozen=True, slots=True)
class Typed:
    """What the user typed: a verb and the words behind it."""

    verb: str
    words: tuple[str, ...]

    @property
    def program(self) -> str:
        """What stands in front of the words."""
        return program.command(self.verb)

    @property
    def line(self) -> str:
        """All of it, for a shell."""
        return f"{self.program} {shlex.join(self.words)}".strip()


@dataclass(frozen=True, slots=True)
class Command(Generic[Options]):
    """What the user asked for."""

    recipe: str
    stages: tuple[Stage, ...]
    options: Options
    again: str = ""
    """The line for a shell that asks for the same."""

    @contextmanager
    def naming_options(self, stage: Stage | None = None) -> Iterator[None]:
        """Inside, a ValueError on fields, of that stage where it is known, becomes one on options."""
        known = flags(form_of(self.stages, self.options)())
        try:
            yield
        except ValueError as error:
            raise ValueError(with_options(str(error), known, stage.name if stage and len(self.stages) > 1 else "")) from error


def as_commanded(stages: Sequence[Stage]) -> tuple[Stage, ...]:
    """A recipe's stages as commands have them: a set without held-out samples gives some, and the precision fits this machine."""
    return tuple(replace(stage, data=replace(stage.data, hold_out=HELD_OUT_SHARE)) for stage in fitting_precision(stages))


def form_of(stages: Sequence[Stage], options: Any) -> type:
    """A dataclass with the script's options and every stage's fields: `task`, `train`, `data`, under the stage's name where there are several."""
    import tyro

    own = (UNPREFIXED, Annotated[type(options), tyro.conf.arg(name="")], dataclasses.field(default=options))
    if len(stages) == 1:
        return dataclasses.make_dataclass("Run", [own, *parts_of(stages[0])], frozen=True, kw_only=True)
    parts = []
    for stage in stages:
        form = dataclasses.make_dataclass(stage.name, parts_of(stage), frozen=True, kw_only=True)
        parts.append((stage.name, form, dataclasses.field(default=form())))
    return dataclasses.make_dataclass("Run", [own, *parts], frozen=True, kw_only=True)


def parts_of(stage: Stage) -> list[tuple[str, type, Any]]:
    """Name, type and default of the configurations a user may change."""
    return [(name, type(value), dataclasses.field(default=value)) for name in ("task", "train", "data") for value in [getattr(stage, name)]]


def filled(stages: Sequence[Stage], values: Any) -> Iterator[Stage]:
    """The stages with the values of the form."""
    for stage in stages:
        given = values if len(stages) == 1 else getattr(values, stage.name)
        yield replace(stage, task=given.task, train=given.train, data=given.data)


def one_place(stages: tuple[Stage, ...]) -> tuple[Stage, ...]:
    """The stages, of which those that name no data read what the last one reads that does: naming it once is enough."""
    named = next((stage.data for stage in reversed(stages) if stage.data.train), None)
    if named is None:
        return stages
    place = {"train": named.train, "validation": named.validation}
    return tuple(stage if stage.data.train else replace(stage, data=replace(stage.data, **place)) for stage in stages)


def read(form: type, arguments: Sequence[str], shown: str, description: str) -> Any:
    """The form filled in from the arguments, by tyro; ValueError with our sentence in place of tyro's box. `shown`: the program, in its help."""
    import tyro

    with one_sentence(flags(form()), arguments):
        return tyro.cli(form, args=list(arguments), prog=shown, description=program.as_called(description), config=(tyro.conf.CascadeSubcommandArgs,))
