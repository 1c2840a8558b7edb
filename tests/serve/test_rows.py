"""What serving relies on, asked of every family's actions: row i of what comes out is a function of row i of what goes in."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from genlib import registry
from genlib.task import Task, action
from serve import card, made_up
from serve.arguments import Arguments
from serve.backend import ModelCard
from tests.models.stages import built_untrained, source_of

ROWS = 3


def card_of(task: Task, spec: Any) -> ModelCard:
    return ModelCard(
        name="", recipe="", step=0, sha256="", actions={}, docs={}, image_size=card.image_size(task, spec), channels=spec.channels, multiple=0,
        classes=(), max_batch=1, max_steps=0, created=0,
    )  # fmt: skip


@pytest.mark.parametrize("recipe", registry.RECIPES)
def test_rows_are_their_own(recipe: str) -> None:
    task = list(built_untrained(recipe).values())[-1].eval()
    torch.manual_seed(0)
    with torch.no_grad():
        for weight in task.parameters():  # networks that start as zero say nothing
            weight.add_(torch.randn_like(weight), alpha=0.05)
    known = card_of(task, source_of(registry.load(recipe).smoke[-1]).spec)
    checked = [one.name for one in type(task).actions() if not one.joint and by_rows(task, Arguments(one), known)]
    assert checked or not [one for one in type(task).actions() if not one.joint]


@torch.no_grad()
def by_rows(task: Task, known: Arguments, about: ModelCard) -> bool:
    """Whether the action could be asked; if so, that it gives the same for rows together and one by one."""
    values = made_up.arguments(task, known, about, rows=ROWS)
    assert values is not None, f"serve/made_up.py does not know what {known.action.name} takes; name its arguments like others', or teach it"
    taken, act = known.taken(values), getattr(task, known.action.name)
    try:
        whole = act(**taken)
    except ValueError:  # not of this form of the task
        return False
    assert len(whole) == ROWS, f"{known.action.name} gives {len(whole)} rows for {ROWS}; mark it @action(joint=True), or its galleries shared"
    for row in range(ROWS):
        one = act(**{name: value[row : row + 1] if name in known.rows else value for name, value in taken.items()})
        torch.testing.assert_close(one[0], whole[row], atol=1e-3, rtol=1e-3, msg=lambda text: f"{known.action.name}, row {row}: {text}")  # noqa: B023
    return True


def test_the_mark_says_what_belongs_to_all_rows() -> None:
    class Odd(Task):
        @action(shared=("gallery",))
        def find(
            self, *, image: torch.Tensor, gallery: torch.Tensor, seed: list[int], name: tuple[str, ...] = (), scale: float = 1.0
        ) -> torch.Tensor:
            """Finds."""
            return image

        @action(joint=True)
        def add(self, *, image: torch.Tensor) -> torch.Tensor:
            """Adds."""
            return image.sum(0)

    find, add = sorted(Odd.actions(), key=lambda one: one.joint)
    assert (find.rows, find.joint, find.shared, find.doc) == (("image", "seed"), False, ("gallery",), "Finds.")
    assert add.joint
    assert Arguments(add).merged == ()
    with pytest.raises(TypeError, match="no arguments galery"):
        action(shared=("galery",))(Odd.find)
