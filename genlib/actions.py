"""Actions: what a trained task can do, as its marked methods and their ports say."""

from __future__ import annotations

import functools
import inspect
import re
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any

from genlib.ports import Port, Sizes, resolved

_SIZE = r"[\w.]+(?:\(\w+\))?(?: (?:or|/|\*|\+) [\w.]+)*"
_SHAPE = re.compile(rf"(?:,? int64)?,? \((?:{_SIZE},\s?)+(?:{_SIZE})?\)(?: int64)?(?: in \[0, 1\])?|,?(?: both)? in \[0, 1\]")
"""Of tensors in docstrings, such as ` (B, C, H, W) in [0, 1]`."""


@dataclass(frozen=True, slots=True)
class Input:
    """One keyword argument of an action."""

    port: Port
    required: bool = True
    default: Any = None


@dataclass(frozen=True, kw_only=True)  # without slots: a server asks for its properties many times a request
class Action:
    """Something a task can do: plain values, so that it may stand on a card far from the task."""

    name: str
    doc: str
    """Its method's docstring."""
    inputs: Mapping[str, Input]
    result: Port
    joint: bool = False
    """Whether it looks at its rows together, so that calls are never merged."""

    @classmethod
    def of(cls, name: str, method: Callable[..., Any], *, joint: bool) -> Action:
        """What a method declares. TypeError names an argument or a result without a port."""
        hints = typing.get_type_hints(method, include_extras=True)
        inputs = {
            argument: Input(_port(hints.get(argument), f"argument {argument} of action {name}"), one.default is one.empty, _plain(one))
            for argument, one in inspect.signature(method).parameters.items()
            if argument != "self"
        }
        result = _port(hints.get("return"), f"the result of action {name}")
        return cls(name=name, doc=(inspect.getdoc(method) or "").strip(), inputs=inputs, result=result, joint=joint)

    def resolved(self, sizes: Sizes) -> Action:
        """The same for a task of such sizes: samples that come out are images or vectors."""
        return replace(self, result=resolved(self.result, sizes))

    @functools.cached_property
    def summary(self) -> str:
        """The docstring's first paragraph for people: in one line, without shapes and ranges."""
        return _SHAPE.sub("", " ".join(self.doc.split("\n\n")[0].split()))

    @functools.cached_property
    def rows(self) -> tuple[str, ...]:
        """Inputs that have an entry for each row."""
        return tuple(name for name, one in self.inputs.items() if one.port.rows)

    @functools.cached_property
    def required(self) -> tuple[str, ...]:
        """Inputs that must be given."""
        return tuple(name for name, one in self.inputs.items() if one.required)

    @functools.cached_property
    def _kinds(self) -> dict[str, str]:
        """The first input of each kind of port, in the order of the inputs."""
        return {one.port.kind: name for name, one in reversed([*self.inputs.items()])}

    def named(self, *kinds: str) -> str | None:
        """The first input of one of these kinds of ports; None where it has none."""
        if len(kinds) == 1:
            return self._kinds.get(kinds[0])
        return next((name for name, one in self.inputs.items() if one.port.kind in kinds), None)

    def taken(self, values: Mapping[str, Any], limits: Mapping[str, int] | None = None) -> dict[str, Any]:
        """Keyword arguments for the method, arrays as tensors on the CPU. ValueError in one sentence, without the value, where they do not fit."""
        if unknown := sorted(values.keys() - self.inputs.keys()):
            raise ValueError(f"{self.name} takes no argument {unknown[0][:40]!r}; it takes {', '.join(self.inputs)}")
        if missing := [name for name in self.required if name not in values]:
            raise ValueError(f"{self.name} needs {missing[0]}; give it")
        taken = {}
        for name, value in values.items():
            try:
                taken[name] = self.inputs[name].port.taken(value, limits)
            except ValueError as error:
                raise ValueError(f"{name} {error}") from None
        return taken

    def example(self, sizes: Sizes, rows: int) -> dict[str, Any]:
        """Values for all that is required, of so many rows, and for what would take long by default; arrays as numpy arrays.

        Several inputs of one kind, such as two images, differ.
        """
        made: dict[str, Any] = {}
        for number, (name, one) in enumerate(self.inputs.items()):
            if one.required or one.port.few is not None:
                made[name] = one.port.example(sizes, rows, seed=10 * number)
        return made


def _port(hint: Any, what: str) -> Port:
    """The port beside a type."""
    metadata = getattr(hint, "__metadata__", ()) if typing.get_origin(hint) is Annotated else ()
    found = next((one for one in metadata if isinstance(one, Port)), None)
    if found is None:
        raise TypeError(f"{what} has no port; annotate it with one of genlib.ports, such as Image")
    return found


def _plain(parameter: inspect.Parameter) -> Any:
    """A default as JSON has it; None where there is none."""
    if parameter.default is parameter.empty:
        return None
    return list(parameter.default) if isinstance(parameter.default, tuple) else parameter.default
