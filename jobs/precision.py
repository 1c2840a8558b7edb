"""What the jobs that train on processors compute in: bf16 where the processor has instructions for it, else fp32."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from genlib.recipe import Stage

WITHOUT_BF16 = ("DEFAULT", "NO AVX", "AVX2")
"""Capabilities of processors on which PyTorch 2.13 has to imitate bf16: a step of clip_tiny took 7 times as long there as in fp32."""


def fitting_precision(recipe: str, stages: Sequence[Stage]) -> list[str]:
    """Words for the command line that ask a tiny recipe for fp32 in place of bf16 where that is slow; [] on other machines and of other recipes."""
    if not recipe.endswith("_tiny") or torch.cuda.is_available() or torch.backends.cpu.get_cpu_capability() not in WITHOUT_BF16:
        return []
    names = [stage.name for stage in stages if stage.train.precision == "bf16"]
    if names:
        print(
            "this processor has no bf16 instructions, so training is in fp32; --train.precision bf16 is the other way, many times slower", flush=True
        )
    several = len(stages) > 1
    return [word for name in names for word in (f"--{name}.train.precision" if several else "--train.precision", "fp32")]
