"""Which family trains under which strategy: `python -m tests.models.support` writes the table in RESULTS.md anew.

A family is a kind of task configuration, and a yes is what `test_contract.py` holds two ranks to: the weights of one process.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import get_type_hints

from genlib import registry
from genlib.config import TaskConfig
from genlib.recipe import STRATEGIES, strategy_refusal
from genlib.task import Task

RESULTS = Path(__file__).parents[1] / "benchmarks" / "RESULTS.md"
BEGIN, END = "<!-- support matrix: python -m tests.models.support -->\n", "<!-- end of the support matrix -->\n"


def families() -> dict[TaskConfig, list[str]]:
    """A configuration of each kind whose task trains, and the recipes that have one in their smoke form, which the contract tests train."""
    found: dict[type[TaskConfig], TaskConfig] = {}
    recipes: dict[type[TaskConfig], list[str]] = defaultdict(list)
    for recipe in registry.RECIPES:
        for config in (stage.task for stage in registry.load(recipe).smoke):
            if trains(type(config)):
                found.setdefault(type(config), config)
                recipes[type(config)] += [] if recipe in recipes[type(config)] else [recipe]
    return {config: recipes[kind] for kind, config in sorted(found.items(), key=lambda one: one[0].__module__ + one[0].__qualname__)}


def trains(kind: type[TaskConfig]) -> bool:
    """Whether its task has something to train; some only chain what earlier stages have."""
    task: type[Task] = get_type_hints(kind.build)["return"]
    return task.phases != ()


def matrix() -> str:
    """The table, and below it each refusal once, in the words that a user gets."""
    notes: list[str] = []
    lines = ["| family | recipes | " + " | ".join(STRATEGIES) + " |", "|---" * (2 + len(STRATEGIES)) + "|"]
    for config, recipes in families().items():
        cells = []
        for strategy in STRATEGIES:
            reason = strategy_refusal(config, strategy, 1 if strategy == "single" else 2)
            notes += [reason] if reason and reason not in notes else []
            cells.append(f"no ({notes.index(reason) + 1})" if reason else "yes")
        group = type(config).__module__.removeprefix("genlib.models.").partition(".")[0]
        name = f"{group}: {type(config).__name__.removesuffix('Config')}"
        lines.append(f"| {name} | {', '.join(f'`{recipe}`' for recipe in recipes)} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", *(f"{number}. {note}" for number, note in enumerate(notes, 1)), ""])


def parts() -> tuple[str, str, str]:
    """RESULTS.md before the table, the table, and what comes after."""
    before, _, rest = RESULTS.read_text().partition(BEGIN)
    table, _, after = rest.partition(END)
    return before, table, after


def written(before: str, after: str) -> str:
    return f"{before}{BEGIN}{matrix()}{END}{after}"


if __name__ == "__main__":
    before, _, after = parts()
    RESULTS.write_text(written(before, after))
