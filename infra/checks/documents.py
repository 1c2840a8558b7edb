"""A file as it is written: its YAML documents, and where in them something is wrong."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from genlib.config import nearest

At = tuple[str | int, ...]
"""Keys and positions that lead to a value."""
_LISTED = 12
"""Names in a sentence, at most."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong: a sentence that begins with its place."""

    at: At
    says: str

    def __str__(self) -> str:
        return f"{written(self.at)} {self.says}".strip()


class Unreadable(ValueError):
    """The file is no YAML; the message begins with the line."""


def written(at: Sequence[str | int]) -> str:
    """`spec.workerGroupSpecs[0].template`; a key with a dot or a slash in quotes."""
    text = ""
    for part in at:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            name = part if part.replace("_", "").replace("-", "").isalnum() else repr(part)
            text += f".{name}" if text else name
    return text


def documents(path: Path) -> list[Any]:
    """What a YAML file holds, one entry a document, empty ones left out. Unreadable where it is none, or a key stands twice."""
    try:
        return parsed(path.read_text())
    except UnicodeDecodeError as error:
        raise Unreadable(f"it is no text: {error}") from None


def parsed(text: str) -> list[Any]:
    """The documents of a text; see `documents`."""
    try:
        return [one for one in yaml.load_all(text, _Strict) if one is not None]  # a SafeLoader
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise Unreadable(f"line {mark.line + 1 if mark else 1}: {error.problem or error}; it is no valid YAML") from None
    except yaml.YAMLError as error:
        raise Unreadable(f"it is no valid YAML: {str(error).splitlines()[0]}") from None


class _Strict(yaml.SafeLoader):
    """Refuses a key that stands twice, of which YAML's own loader takes the last, and one that is no text."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """See yaml."""
        names = set()
        for key in [key for key, _ in node.value if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge"]:
            if key.value in names:
                raise yaml.MarkedYAMLError(problem=f"the key {key.value!r} stands twice", problem_mark=key.start_mark)
            names.add(key.value)
        made = super().construct_mapping(node, deep)
        if other := next((key for key in made if not isinstance(key, str)), None):
            raise yaml.MarkedYAMLError(problem=f"the key {other} is no text, so write it in quotes", problem_mark=node.start_mark)
        return made


def inside(value: Any, *at: str | int) -> Any:
    """The value at that place; None where there is none."""
    for part in at:
        if isinstance(value, dict):
            value = value.get(part)
        elif isinstance(value, list) and isinstance(part, int) and part < len(value):
            value = value[part]
        else:
            return None
    return value


def mappings(value: Any) -> list[tuple[int, dict[str, Any]]]:
    """Position and value of each mapping in a list; none where it is no list, which its schema says."""
    return [(number, one) for number, one in enumerate(value) if isinstance(one, dict)] if isinstance(value, list) else []


def entries(value: Any) -> Iterator[tuple[str, Any]]:
    """The items of a mapping; none where it is no mapping, which its schema says."""
    yield from value.items() if isinstance(value, dict) else ()


def instead(word: str, known: Iterable[str]) -> str:
    """What to say after a word that is wrong: the nearest that is known, or what there is, cut where that is much."""
    names = list(known)
    more = " and more" if len(names) > _LISTED else ""
    return nearest(word, names) or f" There are {', '.join(sorted(names)[:_LISTED])}{more}"
