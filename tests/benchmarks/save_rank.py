"""One rank of the row "saving", by whichever genlib is on the path: it trains a wide autoencoder under ZeRO-3 that is saved every few steps.

python save_rank.py RANK WORLD STORE FOLDER LAYERS WIDTH SAVES EVERY
"""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from genlib import registry
from genlib.data.source import open_source
from genlib.engine import fit as engine


def main(rank: int, world: int, store: str, folder: str, layers: int, width: int, saves: int, every: int) -> None:
    """Leaves a run in FOLDER, and in FOLDER/RANK.json how long each of its saves kept the steps waiting."""
    torch.set_num_threads(1)
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(world), LOCAL_RANK=str(rank))
    dist.init_process_group("gloo", store=dist.FileStore(store, world), rank=rank, world_size=world)
    (stage,) = registry.load("autoencoder").stages
    train = replace(
        stage.train, strategy="zero3", steps=saves * every, global_batch=32, checkpoint_every_steps=every, keep_checkpoints=1,
        evaluate_every_steps=0, ema_halflife_samples=1_000, trackers=(),
    )  # fmt: skip
    data = replace(stage.data, train="digits", image_size=8)
    stage = replace(stage, task=replace(stage.task, network="dense", widths=(width,) * (layers // 2)), data=data, train=train)
    save, seconds = engine.Training.save, []

    def timed(*arguments: Any) -> Any:
        begin = time.perf_counter()
        result = save(*arguments)
        seconds.append(time.perf_counter() - begin)
        return result

    engine.Training.save = timed
    engine.fit(stage, recipe="autoencoder", source=open_source(stage.data), folder=Path(folder), device=torch.device("cpu"))
    Path(folder, f"{rank}.json").write_text(json.dumps(seconds))
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4], *map(int, sys.argv[5:9]))
