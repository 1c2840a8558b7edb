"""StyleGAN's two halves as ONNX graphs: noise to a style, a style to an image."""

from __future__ import annotations

import torch
from torch import Tensor

from genlib.models.adversarial.base.graphs import as_grown
from genlib.models.adversarial.stylegan.task import StyleGAN
from genlib.sharing.formats import Graph, Graphs

CODE = """
import json
import numpy as np
import onnxruntime

mapping = onnxruntime.InferenceSession(f"{folder}/mapping.onnx")
synthesis = onnxruntime.InferenceSession(f"{folder}/synthesis.onnx")
mean = np.float32(json.load(open(f"{folder}/preprocessor_config.json"))["w_avg"])

noise = np.random.default_rng(0).standard_normal((4, SIZE), dtype=np.float32)
(styles,) = mapping.run(None, {"noise": noiseMORE})
styles = mean + np.float32(0.7) * (styles - mean)  # truncation
(images,) = synthesis.run(None, {"style": styles})
print(images.shape, images.min(), images.max())
"""


def graphs(task: StyleGAN) -> Graphs:
    """See `Companions.graphs`. Layers add the noise that they keep (`const`)."""
    fixed: StyleGAN = as_grown(task)
    told, draws = task.condition_sizes[0], torch.Generator().manual_seed(0)
    inputs = {"noise": torch.randn(2, task.noise_size, generator=draws).to(task.device)}
    if told:
        inputs["label"] = torch.eye(told)[[0, told - 1]].to(task.device)

    def drawn(style: Tensor) -> Tensor:
        return fixed.shown(fixed.generator.same_style(style), "const")

    channels, side, _ = task.shape.sides
    style = torch.randn(2, task.networks.style_dim, generator=draws).to(task.device)
    label = f', "label": np.eye({told}, dtype=np.float32)[np.arange(4) % {told}]' if told else ""
    return Graphs(
        graphs=[
            Graph(
                name="mapping", inputs=inputs, output="style", compute=lambda *values: fixed.generator.mapping(*values), owner=fixed.generator,
                about=f"standard normal noise{', and a one-hot label,' if told else ''} to a style",
            ),
            Graph(
                name="synthesis", inputs={"style": style}, output="image", compute=drawn, owner=fixed.generator,
                about=f"a style to {'a grey image' if channels == 1 else 'an RGB image'} in [0, 1]",
            ),
        ],
        title=f"StyleGAN of {side} x {side} pixels as ONNX", tags=("gan", "stylegan"), task="unconditional-image-generation",
        about="Between the two, styles may be drawn to their mean, `w_avg` in `preprocessor_config.json`: less variety for likelier pictures.",
        code=CODE.replace("SIZE", str(task.noise_size)).replace("MORE", label), preprocessing={"w_avg": task.generator.mapping.w_avg.tolist()},
    )  # fmt: skip
