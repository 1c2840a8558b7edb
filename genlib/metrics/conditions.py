"""What a generator is asked for when it is measured: captions or labels of the data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

from genlib.actions import Action
from genlib.config import nearest
from genlib.task import Task
from genlib.types import Batch, DataSource, Samples

T = TypeVar("T")
MOST = 50_000
"""Samples whose captions or labels are looked at, from the first."""


@dataclass(frozen=True, slots=True)
class Conditions:
    """One entry a picture."""

    arguments: dict[str, list[Any]]
    """What `generate` gets beside seeds: texts or labels by their argument's name, or nothing."""
    captions: list[str]
    """The same in words; empty texts where pictures are made unconditionally."""

    def rows(self, numbers: Sequence[int]) -> dict[str, list[Any]]:
        """The arguments of some pictures."""
        return {name: [values[number] for number in numbers] for name, values in self.arguments.items()}


class LabelsAlone:
    """A transform to labels, without the images."""

    image_size, fields = 0, ("label", "json")

    def __call__(self, samples: Samples) -> Batch:
        facts = [json.get("label", 0) for json in samples.fields.get("json", [{}] * len(samples.keys))]
        return {"label": torch.tensor(samples.fields.get("label", facts), dtype=torch.int64)}


def drawing(task: Task) -> Action:
    """The task's action `generate`. ValueError where it has none."""
    found = next((action for action in type(task).actions() if action.name == "generate"), None)
    if found is None:
        raise ValueError(f"{type(task).__name__} makes no pictures, so there is nothing to measure; name a run of a generative recipe")
    return found


def conditions(task: Task, source: DataSource, split: str, count: int) -> Conditions:
    """Captions or labels of the split for `count` pictures, spread evenly over it, again from the first where they are too few.

    ValueError where the task needs what the split does not have.
    """
    draw = drawing(task)
    text, label = draw.named("texts"), draw.named("label")
    if text and (captions := spread(list(source.captions(split, MOST)), count)):
        return Conditions({text: captions}, captions)
    if label and (names := source.spec.class_names):
        labels = spread(_labels(source, split), count)
        return Conditions({label: labels}, [names[label] for label in labels])
    for name, what in ((text, "captions (.txt members)"), (label, "labels (.cls members)")):
        if name and draw.inputs[name].required:
            raise ValueError(f"{type(task).__name__} makes pictures by {name}, but the {split} samples have no {what}; name others")
    return Conditions({}, [""] * count)


def _labels(source: DataSource, split: str) -> list[int]:
    found: list[int] = []
    for batch in source.batches(split, 1024, transform=LabelsAlone()):
        found += batch["label"][batch["valid"]].tolist()
        if len(found) >= MOST or (split == "train" and len(found) >= source.spec.num_samples):
            break
    return found[:MOST]


def spread(values: Sequence[T], count: int) -> list[T]:
    """`count` of the values, evenly spaced; all of them in turn where `count` is more. Empty for none."""
    if not values:
        return []
    return [values[number * len(values) // count if count <= len(values) else number % len(values)] for number in range(count)]


def sampler_options(task: Task, words: Sequence[str]) -> dict[str, Any]:
    """`NAME=VALUE` words as arguments of `generate`. ValueError names the first that it does not have, or a value of another type."""
    inputs = drawing(task).inputs
    free = [name for name, one in inputs.items() if not one.port.axes]
    options: dict[str, Any] = {}
    for word in words:
        name, sign, value = word.partition("=")
        if not sign or name not in free:
            raise ValueError(
                f"{word!r} sets nothing of {type(task).__name__}.generate; it has {', '.join(free) or 'no options'}.{nearest(name, free)}"
            )
        try:
            options[name] = inputs[name].port.read(value)
        except ValueError as error:
            raise ValueError(f"{name}={value[:40]} is refused: it {error}") from None
    return options
