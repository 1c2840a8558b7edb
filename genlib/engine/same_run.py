"""Whether a checkpoint is of the run that finds it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from genlib.checkpoint import Manifest
from genlib.config import Config, DataConfig, TrainConfig, from_json, to_json
from genlib.recipe import Stage
from genlib.types import DataSpec

CHANGEABLE = {
    f"{section}.{field.name}"
    for section, kind in (("train", TrainConfig), ("data", DataConfig))
    for field in dataclasses.fields(kind)
    if field.metadata.get("changeable")
}
"""Settings that a resumed run may change; where the data is may change, what it is may not (its digest tells)."""


def is_of_run(manifest: Manifest, recipe: str, stage: Stage, spec: DataSpec) -> bool:
    """Whether the run that is asked for could go on from the checkpoint."""
    try:
        check_same_run(manifest, recipe, stage, spec)
    except ValueError:
        return False
    return True


def from_weights(stage: str, folder: Path | None) -> str:
    """The way on with the weights of a stage's run in that folder, under other settings or on other data."""
    if folder is None:
        return "another run can start from its weights by train.start_from"
    flag = "--train.start_from" if stage == Stage.__dataclass_fields__["name"].default else f"--{stage}.train.start_from"
    return f"another run can start from its weights: {flag} {folder}"


def check_same_run(manifest: Manifest, recipe: str, stage: Stage, spec: DataSpec, folder: Path | None = None) -> None:
    """ValueError naming the first thing in which the checkpoint differs from what is asked for; `folder` is that of the stage's run."""
    check_same_settings(manifest, recipe, stage, folder)
    if manifest.data_state.digest != spec.digest:
        raise ValueError(
            "the training data changed since the checkpoint (another digest), so the run cannot go on; restore the data or use another run name; "
            + from_weights(stage.name, folder)
        )
    if manifest.data_state.order_version != spec.order_version:
        raise ValueError(
            f"the checkpoint's data order has version {manifest.data_state.order_version}, this genlib has {spec.order_version}; use that version"
        )


def check_same_settings(manifest: Manifest, recipe: str, stage: Stage, folder: Path | None = None) -> None:
    """The same of all but the data."""
    if (manifest.recipe, manifest.stage) != (recipe, stage.name):
        raise ValueError(f"the checkpoint is of recipe {manifest.recipe} ({manifest.stage}), not {recipe} ({stage.name}); use another run name")
    for section, new, old in (
        ("task", stage.task, manifest.blueprint.task),
        ("train", stage.train, manifest.train),
        ("data", stage.data, manifest.data),
    ):
        for name, before, now in differences(completed(new, old), to_json(new)):
            if f"{section}.{name}" not in CHANGEABLE:
                raise ValueError(
                    f"the run was started with {section}.{name} = {before!r}, now it is {now!r}; restore it or use another run name; "
                    + from_weights(stage.name, folder)
                )


def completed(config: Config, old: Mapping[str, Any]) -> Mapping[str, Any]:
    """A configuration of before as plain values, with the defaults of fields that are newer than it; as it is where it is of another kind.

    What may change may have had a value that is none today: there the default stands too.
    """
    if (found := _plain(type(config), old)) is not None:
        return found
    changeable = [field.name for field in dataclasses.fields(config) if field.metadata.get("changeable")]
    odd = [name for name in changeable if name in old and _plain(type(config), {name: old[name]}) is None]
    return _plain(type(config), {name: value for name, value in old.items() if name not in odd}) or old


def _plain(kind: type[Config], values: Mapping[str, Any]) -> dict[str, Any] | None:
    """All values of a configuration; None where these are of none."""
    try:
        return to_json(from_json(kind, dict(values)))
    except ValueError:
        return None


def differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any, Any]]:
    """(dotted name, old value, new value) of every field that differs."""
    found = []
    for name in sorted({*old, *new}):
        before, now = old.get(name), new.get(name)
        if isinstance(before, Mapping) and isinstance(now, Mapping):
            found += differences(before, now, f"{prefix}{name}.")
        elif before != now:
            found.append((prefix + name, before, now))
    return found
