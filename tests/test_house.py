"""The house keeps its own rules: one name for one thing, and what is named as text exists."""

from __future__ import annotations

import ast
import importlib
import re
from collections import defaultdict
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDERS = ("genlib", "jobs", "serve", "cluster", "tune_spaces")


@cache
def sources() -> dict[str, ast.Module]:
    """The product's files, parsed."""
    paths = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]
    return {path.relative_to(ROOT).as_posix(): ast.parse(path.read_text()) for path in paths}


def test_no_class_name_stands_for_two_things() -> None:
    places = defaultdict(list)
    for path, tree in sources().items():
        for node in tree.body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places[node.name].append(path)
    twice = {name: found for name, found in places.items() if len(found) > 1}
    assert twice == {}, "give one of them another name"


def test_functions_that_are_named_as_text_exist() -> None:
    names = set()
    for tree in sources().values():
        texts = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
        names |= {text for text in texts if re.fullmatch(r"(genlib|jobs|serve|cluster|tune_spaces)(\.\w+)+:\w+", text)}
    assert len(names) > 30, "the registry is among them"
    for name in sorted(names):
        module, _, attribute = name.partition(":")
        assert hasattr(importlib.import_module(module), attribute), name
