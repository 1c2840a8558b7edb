"""Options as a user types them: their names in sentences, the nearest to one that is wrong, the words that give a configuration again."""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from genlib.config import nearest

UNPREFIXED = "options"
"""Field of a form whose own fields have no name in front."""
_QUOTED = r"(?<!\w)'[^']*'|\"[^\"]*\"|`[^`]*`"
_NAME = r"(?<![\w./\\-])(?:--[a-zA-Z][\w-]*(?:\.[\w-]+)*|[a-zA-Z]\w*(?:\.\w+)*)(?![\w/\\])"
_VALUE = r"""=|\s+(?:is\b|[-+]?\d|['"(\[{]|True\b|False\b|None\b)"""
_ADVICE = r"\b(?:set|raise|lower|change|leave)\s+$"


def option(path: str) -> str:
    """`--train.global-batch` for the field `train.global_batch`."""
    return f"--{path.replace('_', '-')}"


def leaves(form: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Path and value of each field of a form, and of those inside it, for which there is an option."""
    for field in dataclasses.fields(form):
        value, path = getattr(form, field.name), f"{prefix}{field.name}"
        if isinstance(value, Mapping):
            for name, inner in value.items():
                yield from leaves(inner, f"{path}.{name}.")
        elif dataclasses.is_dataclass(value):
            yield from leaves(value, prefix if field.name == UNPREFIXED else f"{path}.")
        else:
            yield path, value


def flags(form: Any) -> list[str]:
    """Every `--a.b` that a form takes."""
    return [option(path) for path, _ in leaves(form)]


def nearest_option(word: str, known: Sequence[str]) -> str:
    """` Did you mean '--train.steps'?`: of the same group first, then of the groups around it, then the same name elsewhere, then any."""
    flag = word.partition("=")[0].replace("_", "-")
    group, name = flag.rpartition(".")[0], flag.rpartition(".")[2].removeprefix("--")
    while group:
        own = {one.removeprefix(f"{group}."): one for one in known if one.startswith(f"{group}.")}
        same = [one for one in own if one.rpartition(".")[2] == name]
        if near := same or difflib.get_close_matches(flag.removeprefix(f"{group}."), own, n=1):
            return f" Did you mean {own[near[0]]!r}?"
        group = group.rpartition(".")[0]
    elsewhere = next((one for one in known if one.endswith(f".{name}")), "")
    return f" Did you mean {elsewhere!r}?" if elsewhere else nearest(flag, known)


def with_options(sentence: str, known: Sequence[str], group: str = "", kind: type | None = None) -> str:
    """A sentence on fields as one on options: `data.image_size` becomes `--data.image-size`, in a stage `--denoiser.data.image-size`.

    group: the path of the configuration that the sentence is of, and `kind` its class, where that is known: then names without dots are its
    fields, at the start, before a value or after advice such as "raise"; and what is not its own is of the groups around it.
    """
    paths = {one[2:].replace("-", "_"): one for one in known}
    own = {field.name for field in dataclasses.fields(kind)} if kind else set()

    def shown(found: re.Match) -> str:
        word = found[0]
        if word[0] in "'\"`":
            return word
        name = word.removeprefix("--").replace("-", "_")
        if kind and name.startswith(f"{kind.__name__}."):
            name = name.removeprefix(f"{kind.__name__}.")
        elif word.isidentifier() and not ("_" in word or (word in own and _is_field(sentence, found))):
            return word
        return paths.get(_path_of(name, group, paths), word)

    return re.sub(f"{_QUOTED}|{_NAME}", shown, sentence)


def _is_field(sentence: str, found: re.Match) -> bool:
    """Whether a word that is also a field's name stands for it."""
    before, after = sentence[: found.start()], sentence[found.end() :]
    return not before or bool(re.match(_VALUE, after) or re.search(_ADVICE, before))


def _path_of(name: str, group: str, paths: Collection[str]) -> str:
    """The one path that a name means; empty where it means none or several."""
    first, _, rest = name.partition(".")
    name = rest if first.endswith("Config") else name
    while group:
        if f"{group}.{name}" in paths:
            return f"{group}.{name}"
        group = group.rpartition(".")[0]
    if name in paths:
        return name
    ending = [path for path in paths if path.endswith(f".{name}")]
    if not ending and name.rpartition(".")[2] in paths and not any("." in path for path in paths):  # of a job whose options have no groups
        return name.rpartition(".")[2]
    return ending[0] if len(ending) == 1 else ""


def words_between(before: Any, now: Any) -> list[str]:
    """The options that make one form of the other. ValueError where no options do."""
    old, new = dict(leaves(before)), dict(leaves(now))
    if other := sorted(old.keys() ^ new.keys()):
        raise ValueError(f"no option gives or takes {other[0]}")
    return [word for path, value in new.items() if value != old[path] for word in _words(path, value)]


def _words(path: str, value: Any) -> list[str]:
    if isinstance(value, bool):
        group, dot, name = path.rpartition(".")
        return [option(path if value else f"{group}{dot}no_{name}")]
    if isinstance(value, tuple | list):
        return [option(path), *map(str, value)]
    return [f"{option(path)}={value}"] if str(value).startswith("-") else [option(path), str(value)]
