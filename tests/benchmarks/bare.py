"""The reference side of train_step.py: the plain loop that a tutorial of PyTorch or DeepSpeed shows, for torchrun.

`python -m tests.benchmarks.bare single|ddp|zero1|zero2|zero3`
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from itertools import islice

import torch
import torch.distributed as dist
from torch import Tensor, nn

from genlib.config import DataConfig
from genlib.data.source import open_source
from genlib.types import Batch
from tests.benchmarks.steps import BATCH, STEPS, Clock, network


def main(kind: str) -> None:
    """Trains the network on noise in one of the ways."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world > 1:
        dist.init_process_group("gloo")
    net, clock = network(), Clock()
    # the same images through the same reader, so that the rows compare training and not data
    source = open_source(DataConfig(train="digits"))
    batches = islice(source.batches("train", BATCH, rank=dist.get_rank() if world > 1 else 0, world=world), STEPS)
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3, fused=True)
    if kind.startswith("zero"):
        return with_deepspeed(int(kind[-1]), net, optimizer, batches, clock)
    model = nn.parallel.DistributedDataParallel(net) if kind == "ddp" else net
    for batch in batches:
        clock.mark()
        loss = error(model, batch["image"])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def with_deepspeed(stage: int, net: nn.Module, optimizer: torch.optim.Optimizer, batches: Iterable[Batch], clock: Clock) -> None:
    """The same under DeepSpeed with the settings our strategy gives it."""
    os.environ["DS_ACCELERATOR"] = "cpu"
    import deepspeed

    deepspeed.ops.__compatible_ops__ = {}  # as ours: no operator is compiled
    settings = {
        "train_micro_batch_size_per_gpu": BATCH // dist.get_world_size(), "gradient_clipping": 0.0, "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False, "steps_per_print": 2**62,
        "zero_optimization": {"stage": stage, "stage3_param_persistence_threshold": 0},
    }  # fmt: skip
    engine = deepspeed.initialize(model=net, optimizer=optimizer, config=settings, dist_init_required=False)[0]
    for batch in batches:
        clock.mark()
        engine.backward(error(engine, batch["image"]))
        engine.step()


def error(model: nn.Module, image: Tensor) -> Tensor:
    """Mean squared reconstruction error."""
    return (model(image) - image.flatten(1)).square().mean()


if __name__ == "__main__":
    main(sys.argv[1])
