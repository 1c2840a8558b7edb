"""What recipes for processors compute in: bf16 where the processor has instructions for it, else fp32."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from cluster.connect import is_this_machine
from genlib.recipe import Stage

WITHOUT_BF16 = ("DEFAULT", "NO AVX", "AVX2")
"""Capabilities of processors on which PyTorch 2.13 has to imitate bf16: a step of clip_tiny took 7 times as long there as in fp32."""


def imitates_bf16() -> bool:
    """Whether training would be here, on a processor that has no bf16 instructions."""
    return is_this_machine() and not torch.cuda.is_available() and torch.backends.cpu.get_cpu_capability() in WITHOUT_BF16


def fitting_precision(stages: Sequence[Stage]) -> tuple[Stage, ...]:
    """The stages of a recipe, with fp32 in place of bf16 where that is slow. A recipe without data of its own is for GPUs, and stays as it is."""
    if not any(stage.data.train for stage in stages) or not imitates_bf16():
        return tuple(stages)
    return tuple(replace(stage, train=replace(stage.train, precision="fp32")) if stage.train.precision == "bf16" else stage for stage in stages)


def words_on_precision(stages: Sequence[Stage], own: Sequence[Stage]) -> str:
    """A line on stages that compute in fp32 where the recipe, whose own stages are `own`, says bf16; empty where there are none."""
    changed = any(now.train.precision == "fp32" and before.train.precision == "bf16" for now, before in zip(stages, own, strict=True))
    if not changed or not imitates_bf16():
        return ""
    return "this processor has no bf16 instructions, so training is in fp32; --train.precision bf16 is the other way, many times slower"
