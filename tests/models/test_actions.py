"""What every family's actions promise by their ports: shape, range, and that row i of what comes out is a function of row i of what goes in."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from genlib import registry
from genlib.actions import Action
from genlib.ports import Sizes
from genlib.task import Task
from tests.models.stages import built_untrained, source_of

ROWS = 3


def broken(task: Task, action: Action, sizes: Sizes) -> str | None:
    """How the action breaks a promise of its ports; "" where it keeps all, None where this form of the task has no such action."""
    given = action.taken(action.example(sizes, ROWS))
    try:
        made = called(task, action, given)
    except ValueError:
        return None
    problem = action.resolved(sizes).result.problem(made, sizes, None if action.joint else ROWS)
    return problem or ("" if action.joint else mixed(task, action, given, made))


def called(task: Task, action: Action, given: Mapping[str, Any]) -> Tensor:
    with torch.no_grad():
        return getattr(task, action.name)(**given)


def mixed(task: Task, action: Action, given: Mapping[str, Any], made: Tensor) -> str:
    """How a row depends on the others."""
    for row in range(ROWS):
        alone = called(task, action, {name: value[row : row + 1] if name in action.rows else value for name, value in given.items()})
        if not torch.allclose(alone[0].double(), made[row].double(), atol=1e-3, rtol=1e-3):
            return f"row {row} differs by {(alone[0] - made[row]).abs().max().item():g} where it is asked alone"
    return ""


def tried(recipe: str) -> tuple[Task, Sizes]:
    """The last task of a recipe, with weights that say something, and its sizes."""
    task = list(built_untrained(recipe).values())[-1].eval()
    torch.manual_seed(0)
    with torch.no_grad():
        for weight in task.parameters():  # networks that start as zero say nothing
            weight.add_(torch.randn_like(weight), alpha=0.05)
    return task, task.sizes(source_of(registry.load(recipe).smoke[-1]).spec)


@pytest.mark.parametrize("recipe", registry.RECIPES)
def test_actions_keep_what_their_ports_promise(recipe: str) -> None:
    task, sizes = tried(recipe)
    found = {action.name: broken(task, action, sizes) for action in type(task).actions()}
    assert {name: problem for name, problem in found.items() if problem} == {}
    for action in type(task).actions():  # a summary is for people, and what was said of shapes leaves no gap in it
        assert not re.search(r"\([\w.]+, ?[\w.)]|\[0, 1\]|int64|:[.,]| ,|\bor[,.]", action.summary), action.summary
    assert not found or any(problem == "" for problem in found.values()), f"no action of {recipe} takes its own examples"


@pytest.mark.parametrize(
    ("recipe", "name", "breaks", "problem"),
    [
        ("vae", "reconstruct", lambda made: made * 3, "outside of image's"),
        ("vae", "embed", lambda made: made[:, :-1], "along code"),
        ("vae", "generate", lambda made: made.flatten(1), "not the axes"),
        ("vae", "neighbours", lambda made: made.float(), "as ranking"),
        ("vae", "embed", lambda made: made - made.mean(0), "asked alone"),
        ("classifier", "classify", lambda made: made[:2], "2 rows for 3"),
        ("rbm", "free_energy", lambda made: made / 0, "not finite"),
    ],
)
def test_a_family_that_breaks_a_promise_is_found(monkeypatch: pytest.MonkeyPatch, recipe: str, name: str, breaks: Any, problem: str) -> None:
    task, sizes = tried(recipe)
    (action,) = (one for one in type(task).actions() if one.name == name)
    kept = getattr(task, name)
    monkeypatch.setattr(task, name, lambda **given: breaks(kept(**given)), raising=False)
    assert problem in (broken(task, action, sizes) or "")
