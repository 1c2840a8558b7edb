"""What a training step really allocates: on the CPU every live byte of the C heap after each operation, on a GPU what its allocator counts."""

from __future__ import annotations

import ctypes
import gc
import os
from functools import cache
from pathlib import Path

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from genlib import companions, distributed
from genlib.companions import Companions
from genlib.config import OptimConfig, TrainConfig
from genlib.engine.ema import Ema
from genlib.engine.iterate_average import IterateAverage
from genlib.engine.memory_plan import Parallelism
from genlib.engine.saver import live_parts
from genlib.engine.strategies import strategy_of
from genlib.engine.strategy import Strategy
from genlib.task import Task
from genlib.types import Batch, Metrics, Step

WIDTH, SIDE, TOKENS, STEPS = 96, 16, 8, 3


def example(task: Task, size: int) -> Batch:
    return {"x": torch.randn(size, 4, SIDE, SIDE), "text": torch.randn(size, TOKENS, 64)}


class UNet(Task):
    """A small diffusers U-Net with attention that predicts noise."""

    companions = Companions(example="tests.peak:example")

    def __init__(self, width: int = WIDTH, checkpointing: bool = False) -> None:
        super().__init__()
        from diffusers import UNet2DConditionModel

        self.net = UNet2DConditionModel(
            sample_size=SIDE, block_out_channels=(width, 2 * width), layers_per_block=1, cross_attention_dim=64, norm_num_groups=16,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), attention_head_dim=32,
        )  # fmt: skip
        if checkpointing:
            self.net.enable_gradient_checkpointing()

    def loss(self, phase: str, batch: Batch, step: Step) -> tuple[Tensor, Metrics]:
        time = torch.zeros(len(batch["x"]), device=batch["x"].device)
        return (self.net(batch["x"], time, encoder_hidden_states=batch["text"]).sample - batch["x"]).square().mean((1, 2, 3)), {}


def config(parallelism: Parallelism, precision: str = "fp32", accumulation: int = 1, ema: bool = True, optim: str = "adamw") -> TrainConfig:
    """How the measured step trains."""
    return TrainConfig(
        strategy=parallelism.strategy, offload=parallelism.offload, precision=precision, accumulation=accumulation, global_batch=accumulation,
        ema_halflife_samples=100 * ema, optim=OptimConfig(name=optim, clip_norm=1.0),
    )  # fmt: skip


class _Info(ctypes.Structure):
    """glibc's `struct mallinfo2`."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")
    ]


@cache
def _library() -> ctypes.CDLL:
    library = ctypes.CDLL("libc.so.6")
    library.mallinfo2.restype = _Info
    return library


def heap_bytes() -> int:
    """Bytes that all threads of this process hold from malloc, by glibc's own books."""
    info = _library().mallinfo2()
    return info.uordblks + info.hblkhd


class HeapPeak(TorchDispatchMode):
    """The most that `heap_bytes` says after any operation inside."""

    peak = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        self.peak = max(self.peak, heap_bytes())
        return result


def peak_bytes(parallelism: Parallelism, train: TrainConfig, micro_batch: int, checkpointing: bool, device: torch.device) -> int:
    """The peak of a training step beyond what there was before the task, after the first steps have made the optimizer's state."""
    # Code and caches that are made once: on a CPU oneDNN keeps a program for each operation of each size, 18 MB of them for this network in bf16.
    rehearsed = [_prepared(UNet(WIDTH, checkpointing), parallelism, train, device)]
    for index in range(2):
        _step(*rehearsed[0], train, micro_batch, index)
    gc.collect()
    before = torch.cuda.memory_allocated(device) if device.type == "cuda" else heap_bytes()
    task, strategy, ema = _prepared(UNet(WIDTH, checkpointing), parallelism, train, device)
    peaks = [_peak_of(task, strategy, ema, train, micro_batch, index) for index in range(STEPS)]
    return max(peaks) - before


def _prepared(task: Task, parallelism: Parallelism, train: TrainConfig, device: torch.device) -> tuple[Task, Strategy, Ema | None]:
    strategy = strategy_of(parallelism.strategy, device)
    strategy.setup(task.train(), train)
    return task, strategy, Ema(strategy, 100, 0.05) if train.ema_halflife_samples else None


def _peak_of(task: Task, strategy: Strategy, ema: Ema | None, train: TrainConfig, micro_batch: int, index: int) -> int:
    if strategy.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(strategy.device)
        _step(task, strategy, ema, train, micro_batch, index)
        return torch.cuda.max_memory_allocated(strategy.device)
    with HeapPeak() as heap:
        _step(task, strategy, ema, train, micro_batch, index)
    return heap.peak


def _step(task: Task, strategy: Strategy, ema: Ema | None, train: TrainConfig, micro_batch: int, index: int) -> None:
    batches = [{name: value.to(strategy.device) for name, value in companions.example(task, micro_batch).items()} for _ in range(train.accumulation)]
    strategy.run_phase(task.phases[0], batches, Step(index, STEPS))
    if ema:
        ema.update((index + 1) * micro_batch, micro_batch)


def write_peak(out: Path, parallelism: Parallelism, train: TrainConfig, micro_batch: int, checkpointing: bool) -> None:
    """What one of several processes does: rank 0 notes its peak in the file."""
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if torch.cuda.is_available() else torch.device("cpu")
    peak = peak_bytes(parallelism, train, micro_batch, checkpointing, device)
    if os.environ.get("RANK", "0") == "0":
        out.write_text(str(peak))


def write_saved_bytes(out: Path, parallelism: Parallelism, train: TrainConfig, micro_batch: int) -> None:
    """What one of several processes does: rank 0 notes in the file what it copies for a save."""
    task, strategy, ema = _prepared(UNet(), parallelism, train, torch.device("cpu"))
    _step(task, strategy, ema, train, micro_batch, 0)
    average = ema or IterateAverage.of(strategy, task, train)
    copied = sum(shard.tensor.nbytes for part in live_parts(strategy, average) for shard in part)
    if distributed.rank() == 0:
        out.write_text(str(copied))
