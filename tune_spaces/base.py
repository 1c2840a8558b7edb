"""The search space that any configuration has: its `tunable` fields, by dotted name."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from genlib.config import Config, Search


@dataclass(frozen=True, slots=True)
class Choice:
    """One of a few values, of which none is more than another."""

    values: tuple[Any, ...]


def space(config: Config, prefix: str = "") -> dict[str, Search]:
    """Search ranges of a configuration and of those inside it, named as on the command line; `space(stage.task, "task.")`."""
    found: dict[str, Search] = {}
    for field in dataclasses.fields(config):
        value, name = getattr(config, field.name), f"{prefix}{field.name}"
        if search := field.metadata.get("search"):
            found[name] = search
        elif isinstance(value, Config):
            found |= space(value, f"{name}.")
        elif isinstance(value, dict):
            found |= {key: one for part, inner in value.items() if isinstance(inner, Config) for key, one in space(inner, f"{name}.{part}.").items()}
    return found
