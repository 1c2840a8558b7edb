"""What is exported of a run: folders in the field's formats, ONNX files, and their cards.

card/       what cards show beside scores and pictures: captions, the licence, and what `jobs.held_out` keeps
export/     a folder for each format, each with README.md, sample.png and all that its code opens
"""

from __future__ import annotations

import dataclasses
import re
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genlib import checkpoint, companions
from genlib.checkpoint import Manifest
from genlib.sharing import onnx_files
from genlib.sharing.card import CARD_FOLDER, Facts, public_name, scores_of, telling_picture, write_card
from genlib.sharing.formats import INPUT, Format
from genlib.storage import share
from genlib.task import Task
from jobs.run_folder import read_json, write_json

EXPORT = "export"


@dataclass(frozen=True, kw_only=True, slots=True)
class Exported:
    """What was written."""

    folder: Path
    formats: Sequence[Format]
    facts: Facts


def write_export(
    task: Task, manifest: Manifest, results: Path, metrics: Mapping[str, Any], *, out: Path | None = None, onnx: bool = False
) -> Exported:
    """Writes all formats of a trained task with their cards into `export` of the folder that has the results, or into `out`.

    metrics: of the run, as in metrics.json. Raises ValueError where ONNX files are wanted of what has none.
    """
    folder = out or results / EXPORT
    graphs = companions.graphs(task) if onnx else None
    if (folder / onnx_files.FOLDER).is_dir():
        if not onnx:
            print(
                f"{folder / onnx_files.FOLDER} was of other weights and is gone; `python jobs/export.py RUN --onnx` writes it again", file=sys.stderr
            )
        shutil.rmtree(folder / onnx_files.FOLDER)
    formats = list(companions.export(task, folder))
    if graphs is not None:
        formats.append(onnx_files.write_onnx(graphs, folder))
    facts, image = facts_of(task, manifest, results, metrics), results / CARD_FOLDER / INPUT
    for form in formats:
        write_card(facts, form, folder, picture=telling_picture(results, folder.parent), image=image if image.exists() else None)
    if task.export_is_a_model:
        checkpoint.seal_export(folder, manifest)
    share(folder)
    return Exported(folder=folder, formats=formats, facts=facts)


def facts_of(task: Task, manifest: Manifest, results: Path, metrics: Mapping[str, Any]) -> Facts:
    """What cards say of the run."""
    settings, train = read_json(results / CARD_FOLDER / "settings.json") or {}, manifest.train
    speed = f"{metrics['seconds']:,.0f} s with {metrics['workers']} worker{'s' * (metrics['workers'] != 1)}, {metrics['strategy']}"
    training = {
        "steps": f"{manifest.step:,} of {train['global_batch']:,} samples", "samples seen": f"{manifest.samples_seen:,}",
        "optimizer": f"{train['optim']['name']}, learning rate {train['optim']['learning_rate']:g}", "precision": str(train["precision"]),
        "time": speed,
        "genlib commit": f"`{manifest.git_commit}`" if manifest.git_commit else "",
    }  # fmt: skip
    return Facts(
        recipe=manifest.recipe, stage=manifest.stage, parameters=sum(value.numel() for value in task.parameters()), data=manifest.blueprint.spec,
        data_name=public_name(str(manifest.data["train"])), training=training, versions=manifest.versions, license=settings.get("license", ""),
        captions=settings.get("captions", ()),
        scores=scores_of(metrics),
    )  # fmt: skip


def for_strangers(manifest: Manifest) -> Manifest:
    """The manifest without the paths of this machine."""
    data = {name: public_name(value) if name in ("train", "validation", "other") and value else value for name, value in manifest.data.items()}
    return dataclasses.replace(manifest, data=data)


def set_license(results: Path, license: str) -> None:
    """Keeps the licence for all cards of the run. ValueError where it is no identifier."""
    if not re.fullmatch(r"[a-z0-9][a-z0-9.+-]*", license):
        raise ValueError(f"--license {license!r} is no identifier of a licence; give one as the hub writes it, such as mit, apache-2.0 or cc-by-4.0")
    path = results / CARD_FOLDER / "settings.json"
    write_json(path, {**(read_json(path) or {}), "license": license})
