"""GANs beside each other: each learns Fashion-MNIST in 32 pixels for the same CPU seconds of one thread, from its recipe as it is.

    OMP_NUM_THREADS=1 python -m tests.benchmarks.gans                                    all of RECIPES; five minutes each, and the judge before
    OMP_NUM_THREADS=1 python -m tests.benchmarks.gans stylegan2 r3gan --seconds 600      these alone, longer
    ... --judge runs/fashion --samples sheets                                            a judge trained before; leaves sheets/RECIPE.png

Needs Debian's dataset-fashion-mnist. The judge is the recipe `classifier` on the same set: FID and recall compare 5,000 samples with the 10,000
held-out images in its features, coverage counts the classes that it finds in at least a hundredth of the samples. The learning rate is that of
the recipe throughout. Growing players grow by images seen, as their recipe says. One JSON line a recipe, its FID over StyleGAN2's, then the table
for RESULTS.md.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from genlib import checkpoint, registry
from genlib.data.source import open_source
from genlib.engine.fit import fit
from genlib.engine.listener import Listener
from genlib.engine.stop import Interrupted
from genlib.metrics import features
from genlib.metrics.conditions import conditions
from genlib.metrics.generative import Measurement, generated
from genlib.recipe import Stage
from genlib.types import DataSource
from jobs.picture_scores import score_pictures
from tests.benchmarks.measure import report

SET, SIDE, SECONDS, SAMPLES, REAL, LEAST_SHARE = "fashion_mnist", 32, 300.0, 5000, 10_000, 0.01
JUDGE_STEPS, FOREVER, BASE = 400, 10**6, "stylegan2"
RECIPES = (
    "gan", "gan_minimax", "wgan", "dcgan", "wgan_gp", "infogan_digits", "cgan", "acgan", "progan", "stylegan1", "stylegan2", "stylegan2_labelled",
    "stylegan3_t", "r3gan",
)  # fmt: skip


class Budget(Listener):
    """Ends a run when this process has worked for so many CPU seconds."""

    def __init__(self, seconds: float) -> None:
        self.began, self.seconds = time.process_time(), seconds

    def stop_asked(self) -> bool:
        return self.used >= self.seconds

    @property
    def used(self) -> float:
        """CPU seconds since the start."""
        return time.process_time() - self.began


def stage_of(recipe: str, steps: int) -> tuple[Stage, DataSource]:
    """The recipe's last stage on the set, and its samples."""
    stage = registry.load(recipe).stages[-1]
    data = replace(stage.data, train=SET, image_size=SIDE)
    train = replace(stage.train, steps=steps, evaluate_every_steps=0, pictures_every_steps=0, trackers=(), log_every_seconds=60.0)
    return replace(stage, data=data, train=train), open_source(data)


def judge(folder: Path) -> Path:
    """A run of the classifier."""
    stage, source = stage_of("classifier", JUDGE_STEPS)
    return fit(stage, recipe="classifier", source=source, folder=folder, device=torch.device("cpu")).parents[1]


def result(recipe: str, seconds: float, folder: Path, network: Path) -> dict[str, Any]:
    """What the recipe reached in so many CPU seconds."""
    stage, source = stage_of(recipe, FOREVER)
    budget = Budget(seconds)
    try:
        final = fit(stage, recipe=recipe, source=source, folder=folder, device=torch.device("cpu"), listener=budget)
    except Interrupted as stopped:
        if stopped.checkpoint is None:
            raise
        final = stopped.checkpoint
    used, images = budget.used, checkpoint.read_manifest(final).step * stage.train.global_batch
    options = argparse.Namespace(features=[network], clip=None, samples=SAMPLES, reference=REAL, split=None, batch=100, seed=0, sampler=[])
    found = score_pictures(final, source, folder / "scores", torch.device("cpu"), options)
    scores = {name.split("_")[0]: value for name, value in found.items()}
    return {
        "recipe": recipe, "fid": scores["fid"], "precision": scores["precision"], "recall": scores["recall"],
        "classes": classes_met(final, source, network), "seconds_per_1000_images": used / images * 1000, "images": images, "cpu_seconds": used,
    }  # fmt: skip


@torch.no_grad()
def classes_met(final: Path, source: DataSource, network: Path) -> int:
    """Of the set's classes, those that the judge finds in at least a hundredth of the samples."""
    task, look = checkpoint.load_task(final, ema=True), features.load(network)
    asked = Measurement(generator="", conditions=conditions(task, source, "validation", SAMPLES), batch=100)
    counts = torch.zeros(len(source.spec.class_names))
    for _, pixels in generated(task, asked):
        logits = look(pixels)[1]
        assert logits is not None, "the judge names classes"
        counts += torch.bincount(logits.argmax(1), minlength=len(counts))
    return int((counts >= LEAST_SHARE * counts.sum()).sum())


def table(results: list[Mapping[str, Any]]) -> str:
    """Markdown, the lowest FID first."""
    lines = ["| recipe | FID | precision | recall | classes of 10 | CPU s per 1,000 images | images |", "|---|---|---|---|---|---|---|"]
    for row in sorted(results, key=lambda row: row["fid"]):
        lines.append(
            f"| {row['recipe']} | {row['fid']:.3g} | {row['precision']:.2f} | {row['recall']:.2f} | {row['classes']} | "
            f"{row['seconds_per_1000_images']:.2f} | {row['images']:,} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipes", nargs="*", default=RECIPES)
    parser.add_argument("--seconds", type=float, default=SECONDS)
    parser.add_argument("--judge", type=Path)
    parser.add_argument("--samples", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    results: list[Mapping[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        network = options.judge or judge(Path(name) / "judge")
        for recipe in options.recipes:
            results.append(result(recipe, options.seconds, Path(name) / recipe, network))
            print(json.dumps(results[-1]), file=sys.stderr, flush=True)
            if options.samples:
                options.samples.mkdir(parents=True, exist_ok=True)
                shutil.copy(Path(name) / recipe / "scores" / "samples.png", options.samples / f"{recipe}.png")
    base = next((row for row in results if row["recipe"] == BASE), results[0])
    for row in results:
        report(f"FID of {row['recipe']} over {base['recipe']}'s", [row["fid"] / base["fid"]], must=None, **row)
    print(table(results))


if __name__ == "__main__":
    main()
