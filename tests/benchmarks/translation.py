"""What pairs are worth: pix2pix with them over CycleGAN without, on the same pictures, by their mean absolute error on held-out pairs.

Both learn outlines to shapes of 16 x 16 pixels, in so many steps of as many pictures; CycleGAN draws outline and shape apart, and only its scores
know which belong together.

    OMP_NUM_THREADS=1 python -m tests.benchmarks.translation
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch

from genlib import checkpoint, companions, registry
from genlib.data.source import open_source
from genlib.engine.fit import fit
from tests.benchmarks.measure import report

SET, SIDE, BATCH, STEPS = "shapes_edges", 16, 8, 300


def scores(recipe: str, folder: Path, steps: int = STEPS) -> dict[str, float]:
    """Of a recipe's task on the set, in 16 pixels."""
    stage = registry.load(recipe).stages[0]
    data = replace(stage.data, train=SET, other="" if recipe == "pix2pix" else SET, image_size=SIDE)
    train = replace(stage.train, steps=steps, global_batch=BATCH, evaluate_every_steps=0, pictures_every_steps=0, trackers=())
    source, begin = open_source(data), time.process_time()
    final = fit(replace(stage, data=data, train=train), recipe=recipe, source=source, folder=folder, device=torch.device("cpu"), upstream={})
    seconds = time.process_time() - begin
    found = companions.assess(checkpoint.load_task(final, ema=True), source, folder)
    return {name: found[f"validation/{name}"] for name in ("l1", "psnr_db")} | {"cpu_seconds": seconds}


def main() -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        paired, unpaired = (scores(recipe, Path(folder) / recipe) for recipe in ("pix2pix", "cyclegan"))
    rounded = {name: {key: round(value, 4) for key, value in found.items()} for name, found in (("paired", paired), ("unpaired", unpaired))}
    report("error of pix2pix with pairs over CycleGAN without", [paired["l1"] / unpaired["l1"]], must=1.0, **rounded)


if __name__ == "__main__":
    main()
