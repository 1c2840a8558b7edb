"""What every family's actions promise by their ports: shape, range, and that row i of what comes out is a function of row i of what goes in."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from genlib import registry
from genlib.actions import Action
from genlib.inference import Inference, in_fp32, modules
from genlib.ports import Sizes
from genlib.task import Task
from tests.models.stages import built_untrained, source_of

ROWS = 3
LOW = ("clip_tiny", "ldm_tiny", "stylegan3_t", "vae", "classifier")
"""Recipes that the fast tests try in low precision."""
COINS: tuple[str, ...] = ()
"""Recipes whose pictures hang on coins, which rounding turns."""


def broken(task: Task, action: Action, sizes: Sizes) -> str | None:
    """How the action breaks a promise of its ports; "" where it keeps all, None where this form of the task has no such action."""
    given = action.taken(action.example(sizes, ROWS))
    try:
        made = called(task, action, given)
    except ValueError:
        return None
    problem = action.resolved(sizes).result.problem(made, sizes, None if action.joint else ROWS)
    return problem or ("" if action.joint else mixed(task, action, given, made))


def distance(one: Tensor, other: Tensor) -> float:
    """Mean difference of values, in 255 levels of the largest."""
    return float((one - other).abs().double().mean() / one.abs().max() * 255)


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


@pytest.mark.parametrize("recipe", [one if one in LOW else pytest.param(one, marks=pytest.mark.slow) for one in registry.RECIPES])
def test_actions_in_low_precision_keep_their_promises_and_are_near_to_those_of_fp32(recipe: str) -> None:
    task, sizes = tried(recipe)
    inference = Inference("bf16")
    usual: list[tuple[Action, dict[str, Any], Tensor]] = []
    for action in type(task).actions():
        given = action.taken(action.example(sizes, ROWS))
        with suppress(ValueError):  # this form of the task has no such action
            usual.append((action, given, called(task, action, given)))
    inference.prepare(task, task.device)
    for action, given, expected in usual:
        with torch.no_grad():
            made = inference.apply(task.device, getattr(task, action.name), **given)
        assert action.resolved(sizes).result.problem(made, sizes, None if action.joint else ROWS) == "", action.name
        assert made.dtype == expected.dtype
        if action.resolved(sizes).result.picture and recipe not in COINS:
            assert distance(expected, made) < 4, action.name


def test_what_cannot_be_computed_in_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="precision is 'fp8'; take one of fp32, bf16, fp16"):
        Inference("fp8")  # type: ignore[arg-type]
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(ValueError, match=r"needs a C\+\+ compiler, and there is none; install g\+\+, or leave compile out"):
        Inference(compile=True).prepare(tried("vae")[0], "cpu")


def test_low_precision_is_of_networks_alone() -> None:
    """Layers hold and compute in it, and those of upstream tasks too; normalisation and answers are fp32."""
    task, _ = tried("ldm_tiny")
    before = sum(value.numel() * value.element_size() for value in task.state_dict().values())
    Inference("bf16").prepare(task, task.device)
    for module in modules(task):
        if type(module) in (nn.Linear, nn.Conv2d):
            assert module.weight.dtype == torch.bfloat16  # type: ignore[union-attr]
        if isinstance(module, nn.GroupNorm | nn.LayerNorm):
            assert module.weight.dtype == torch.float32
    assert sum(value.numel() * value.element_size() for value in task.state_dict().values()) < 0.6 * before
    seen = []
    task.net.register_forward_hook(lambda *call: seen.append(call[-1].dtype), prepend=True)  # type: ignore[union-attr, operator]
    assert Inference("bf16").apply(task.device, task.generate, seed=[0], prompt=["a"], steps=2).dtype == torch.float32  # type: ignore[arg-type]
    assert set(seen) == {torch.bfloat16}
    assert in_fp32((torch.ones(1, dtype=torch.float16), [{"a": torch.ones(1).bfloat16()}], 3))[1][0]["a"].dtype == torch.float32


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
