"""Generators that draw at once as ONNX graphs: noise, and what they are told, to samples."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

from genlib.models.adversarial.base.growing import Growth
from genlib.models.adversarial.base.players import TwoPlayers
from genlib.sharing.formats import Graph, Graphs

CODE = """
import numpy as np
import onnxruntime

generator = onnxruntime.InferenceSession(f"{folder}/generator.onnx")
noise = np.random.default_rng(0).standard_normal((4, SIZE), dtype=np.float32)
(samples,) = generator.run(None, {"noise": noiseMORE})
print(samples.shape, samples.min(), samples.max())
"""


def graphs(task: TwoPlayers) -> Graphs:
    """See `Companions.graphs`."""
    fixed, told = as_grown(task), task.condition_sizes[0]
    inputs = {"noise": torch.randn(2, task.noise_size, generator=torch.Generator().manual_seed(0)).to(task.device)}
    if told:
        inputs["label"] = torch.eye(told)[[0, told - 1]].to(task.device)
    label = f', "label": np.eye({told}, dtype=np.float32)[np.arange(4) % {told}]' if told else ""
    kind = "images in [0, 1]" if task.shape.is_image else "vectors in the units of the data"
    return Graphs(
        graphs=[
            Graph(
                name="generator", inputs=inputs, output="sample", compute=lambda *values: fixed.generated(*values), owner=fixed,
                about=f"standard normal noise{', and a one-hot label,' if told else ''} to {kind}",
            )
        ],
        title=f"Generator ({type(task).__name__})", about=f"From noise to {kind} in one pass.", tags=("gan",),
        code=CODE.replace("SIZE", str(task.noise_size)).replace("MORE", label),
        task="unconditional-image-generation" if task.shape.is_image else "",
    )  # fmt: skip


def as_grown(task: Any) -> Any:
    """The task, or where its networks grow a copy that stays as far as it is: how far is then a number, and no tensor of the graph."""
    if not any(isinstance(module, Growth) for module in task.generator.modules()):
        return task
    task = copy.deepcopy(task)
    for module in task.generator.modules():
        if isinstance(module, Growth):
            samples: Tensor = module.samples
            del module.samples
            module.samples = int(samples)  # type: ignore[assignment]
    return task
