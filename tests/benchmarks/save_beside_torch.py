"""One rank of the row "saving, over async_save": the same sharded state, saved in turns by `Saver` and by PyTorch.

python save_beside_torch.py RANK WORLD STORE OUT LAYERS WIDTH
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from dataclasses import replace
from pathlib import Path

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp

from genlib.checkpoint import Blueprint, DataState, History, Manifest
from genlib.config import OptimConfig, TrainConfig
from genlib.data.source import open_source
from genlib.engine.ema import Ema
from genlib.engine.listener import Listener
from genlib.engine.saver import Saver
from genlib.engine.timeline import Timeline
from genlib.engine.zero import Zero
from genlib.registry import load
from genlib.storage import Held
from tests.benchmarks.sharded_rank import Layers, step_seconds

TURNS = 4


def stands(saver: Saver, manifest: Manifest) -> float:
    """Seconds of the call, after which it is waited for."""
    dist.barrier()
    begin = time.perf_counter()
    saver.save(manifest, {"step": manifest.step}, None, "")
    spent = time.perf_counter() - begin
    saver.settle()
    return spent


def torch_stands(strategy: Zero, ema: Ema, folder: Path, group: dist.ProcessGroup) -> float:
    """The same of PyTorch, of this rank's pieces under names of their own."""
    dist.barrier()
    begin = time.perf_counter()
    weights = list(strategy.task_shards())
    parts = {"weights": weights, "ema": ema.task_shards(weights), "state": strategy.optimizer_shards()}
    state = {f"{part}/{dist.get_rank()}/{shard.name}": shard.tensor for part, shards in parts.items() for shard in shards}
    saved = dcp.async_save(state, checkpoint_id=folder, process_group=group)
    spent = time.perf_counter() - begin
    saved.result()
    return spent


def main(rank: int, world: int, store: str, out: str, layers: int, width: int) -> None:
    """Writes one JSON object."""
    torch.set_num_threads(1)
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(world), LOCAL_RANK=str(rank))
    dist.init_process_group("gloo", store=dist.FileStore(store, world), rank=rank, world_size=world)
    strategy = Zero(3, torch.device("cpu"))
    with strategy.sharded_init:
        task = Layers(layers, width)
    strategy.setup(task.train(), TrainConfig(strategy="zero3", optim=OptimConfig(name="adam", learning_rate=1e-4)))
    step_seconds(strategy, task, width, 0)
    ema, folder = Ema(strategy, 1_000, 0.0), Path(out, "ours")
    if not rank:
        folder.mkdir()
    dist.barrier()
    (stage,) = load("autoencoder").stages
    source, found = open_source(stage.data), {"ours": [], "torch": []}
    manifest = Manifest(
        recipe="x", stage="train", blueprint=Blueprint.of(stage.task, source.spec, {}), train={}, data={}, step=0, steps=TURNS, samples_seen=0,
        updates={}, data_state=DataState(digest="", order_version=1, seed=0, global_batch=1, micro_batch=1, position=0, epoch=0),
    )  # fmt: skip
    group = dist.new_group(backend="gloo")
    history = History(folder, lambda _: True)
    with Saver(folder, strategy, ema, history=history, keep=1, held=Held(folder), listener=Listener(), timeline=Timeline(folder)) as saver:
        for turn in range(1, TURNS + 1):
            found["ours"].append(stands(saver, replace(manifest, step=turn)))
            found["torch"].append(torch_stands(strategy, ema, Path(out, f"torch{turn}"), group))
            dist.barrier()
            if not rank:
                shutil.rmtree(Path(out, f"torch{turn}"))
    Path(out, f"{rank}.json").write_text(json.dumps({name: values[1:] for name, values in found.items()}))
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4], *map(int, sys.argv[5:7]))
