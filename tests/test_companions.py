"""What tasks name beside themselves is there, and no family imports it."""

from __future__ import annotations

import dataclasses
import inspect
import sys

import grimp
import pytest

from genlib import companions, registry
from genlib.companions import Companions
from genlib.task import Task


def families() -> set[type[Task]]:
    """All tasks of this library that recipes bring along; not what a test has put among its modules for a while, as CONTRIBUTING.md's family."""
    for recipe in registry.RECIPES:
        registry.load(recipe)
    return {kind for kind in subclasses(Task) if kind.__module__.startswith("genlib.") and kind.__module__ in sys.modules}


def subclasses(kind: type) -> set[type]:
    """A class and all below it."""
    return {kind}.union(*map(subclasses, kind.__subclasses__()))


def names() -> dict[str, str]:
    """Every function that a task names, and what it is named as."""
    found: dict[str, str] = {}
    for family in families():
        found |= {getattr(family.companions, field.name): field.name for field in dataclasses.fields(Companions) if field.name in ARGUMENTS}
    return {name: kind for name, kind in found.items() if name}


ARGUMENTS = {
    "assess": ["task", "source", "folder"],
    "sheet": ["task", "source", "path"],
    "export": ["task", "folder"],
    "graphs": ["task"],
    "load_pretrained": ["task", "folder"],
    "example": ["task", "size"],
}


@pytest.mark.parametrize(("name", "kind"), sorted(names().items()))
def test_every_name_is_that_of_such_a_function(name: str, kind: str) -> None:
    assert list(inspect.signature(companions.resolve(name)).parameters) == ARGUMENTS[kind]


def test_no_family_imports_what_it_names() -> None:
    """Directly or by way of others, but where the function stands in the family's own file."""
    graph = grimp.build_graph("genlib", exclude_type_checking_imports=True)
    own = {family.__module__ for family in families()}
    beside = {name.partition(":")[0] for name in names()} - own
    assert len(beside) > 10
    assert [(family, name) for family in own for name in beside & graph.find_upstream_modules(family)] == []


def test_a_task_that_names_nothing_has_the_defaults(tmp_path) -> None:
    task = Task()
    assert companions.assess(task, None, tmp_path) == {}  # type: ignore[arg-type]
    companions.sheet(task, None, tmp_path / "sheet.png")  # type: ignore[arg-type]
    companions.export(task, tmp_path / "export")
    assert not (tmp_path / "export").exists()
    with pytest.raises(ValueError, match="is no run or checkpoint of ours, and Task reads no other format"):
        companions.load_pretrained(task, tmp_path)
    with pytest.raises(NotImplementedError, match="Task gives no example batch"):
        companions.example(task, 2)
