"""Pictures that a checkpoint makes, measured against real ones and their captions: what `jobs/evaluate.py --features --clip` does."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import torch

from cluster.parallel import ProgressLine
from genlib import checkpoint, distributed
from genlib.plurals import counted
from genlib.types import Batch, DataSource


def score_pictures(
    final: Path, source: DataSource, folder: Path, device: torch.device, options: argparse.Namespace, *, sheet: bool = True
) -> dict[str, float]:  # fmt: skip
    """Makes pictures by the checkpoint's action `generate` and measures them, all ranks together; adds to scores.json, and leaves samples.png where
    a `sheet` is wanted.
    """
    from genlib.metrics import features, scorecard
    from genlib.metrics.conditions import conditions, sampler_options
    from genlib.metrics.generative import Measurement, measure
    from genlib.pictures import save_contact_sheet

    task, split = checkpoint.load_task(final, ema=True, device=device), options.split or fitting_split(source)
    asked = Measurement(
        generator=generator_name(final), conditions=conditions(task, source, split, options.samples), batch=options.batch, seed=options.seed,
        reference=split if split == "train" else source.spec.validation_name, sampler=sampler_options(task, options.sampler),
    )  # fmt: skip
    with ProgressLine("pictures", options.samples) as line:
        outcome = measure(
            task, asked, lambda side: real_pictures(source, split, side, options.reference, options.batch),
            networks=[features.load(where, device) for where in options.features],
            text_network=features.load_clip(options.clip, device) if options.clip else None,
            on_pictures=lambda done, total: line.advance(done - line.done),
        )  # fmt: skip
    if distributed.rank():
        return outcome.metrics()
    folder.mkdir(parents=True, exist_ok=True)
    if sheet:
        pictures = [picture.permute(1, 2, 0).numpy() for picture in outcome.pictures]
        title = f"{len(pictures)} of {counted(options.samples, 'picture')} by {asked.generator}"
        save_contact_sheet(folder / "samples.png", pictures, outcome.captions, title=title)
    scorecard.add(folder / "scores.json", outcome.cards)
    return outcome.metrics()


def fitting_split(source: DataSource) -> str:
    """The held-out samples, or where there are none those of the training."""
    first = next(iter(source.batches("validation", 1)), None)
    return "train" if first is None else "validation"


def generator_name(final: Path) -> str:
    """A checkpoint's name on scorecards: recipe, stage, step and the first digits of its weights' sha256."""
    manifest = checkpoint.read_manifest(final)
    digest = manifest.weights_digest
    return f"{manifest.recipe}/{manifest.stage}/{final.name}-{digest[:8]}"


def real_pictures(source: DataSource, split: str, side: int, limit: int, size: int) -> Iterator[Batch]:
    """At most `limit` real pictures, each once, in the order in which the split is read."""
    from genlib.data.transforms.plain import PlainTransform

    transform = PlainTransform(side)
    transform.fields = ("image",)  # labels and captions are not read
    limit = min(limit, source.spec.num_samples) if split == "train" else limit
    for batch in source.batches(split, size, transform=transform):
        if batch["position"].min() >= limit:
            return
        yield {**batch, "valid": batch["valid"] & (batch["position"] < limit)}
        if batch["position"].max() + 1 >= limit:
            return
