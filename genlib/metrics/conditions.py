"""What a generator is asked for when it is measured: captions or labels of the data."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, get_type_hints

import torch
from pydantic import TypeAdapter, ValidationError

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
    """What `generate` gets beside seeds: `prompt` or `label`, or nothing."""
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


def parameters(task: Task) -> dict[str, inspect.Parameter]:
    """The arguments of the task's action `generate`. ValueError where it has none."""
    if "generate" not in {action.name for action in type(task).actions()}:
        raise ValueError(f"{type(task).__name__} makes no pictures, so there is nothing to measure; name a run of a generative recipe")
    return dict(inspect.signature(task.generate).parameters)  # type: ignore[arg-type]


def conditions(task: Task, source: DataSource, split: str, count: int) -> Conditions:
    """Captions or labels of the split for `count` pictures, spread evenly over it, again from the first where they are too few.

    ValueError where the task needs what the split does not have.
    """
    takes = parameters(task)
    if "prompt" in takes and (captions := spread(list(source.captions(split, MOST)), count)):
        return Conditions({"prompt": captions}, captions)
    if "label" in takes and (names := source.spec.class_names):
        labels = spread(_labels(source, split), count)
        return Conditions({"label": labels}, [names[label] for label in labels])
    for name, kind in (("prompt", "captions (.txt members)"), ("label", "labels (.cls members)")):
        if name in takes and takes[name].default is inspect.Parameter.empty:
            raise ValueError(f"{type(task).__name__} makes pictures by {name}, but the {split} samples have no {kind}; name others")
    return Conditions({}, [""] * count)


def _labels(source: DataSource, split: str) -> list[int]:
    found: list[int] = []
    for batch in source.batches(split, 1024, transform=LabelsAlone()):
        found += batch["label"][batch["weight"] > 0].tolist()
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
    takes, hints = parameters(task), get_type_hints(type(task).generate)  # type: ignore[attr-defined]
    free = [name for name in takes if name not in ("seed", "prompt", "label")]
    options: dict[str, Any] = {}
    for word in words:
        name, sign, value = word.partition("=")
        if not sign or name not in free:
            raise ValueError(
                f"{word!r} sets nothing of {type(task).__name__}.generate; it has {', '.join(free) or 'no options'}.{nearest(name, free)}"
            )
        try:
            options[name] = TypeAdapter(hints[name]).validate_strings(value)
        except ValidationError as error:
            raise ValueError(f"{name} is {value!r}: {error.errors()[0]['msg']}") from None
    return options
