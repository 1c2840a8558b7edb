"""Translators of pictures as ONNX graphs."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from genlib.models.translation.base.translator import shown
from genlib.models.translation.base.two_domains import TwoDomains
from genlib.sharing.formats import Graph, Graphs

CODE = """
import numpy as np
import onnxruntime
from PIL import Image

translator = onnxruntime.InferenceSession(f"{folder}/FILE.onnx")
picture = Image.open(f"{folder}/input.png").convert("MODE").resize((SIDE, SIDE), Image.Resampling.BICUBIC)
pixels = np.asarray(picture, np.float32).reshape(SIDE, SIDE, -1).transpose(2, 0, 1)[None] / 255
(made,) = translator.run(None, {"image": pixels})
print(made.shape, made.min(), made.max())
"""


def of_two_domains(task: TwoDomains) -> Graphs:
    """See `Companions.graphs`: a graph for each way."""
    image = {"image": torch.rand(2, task.channels, task.side, task.side, generator=torch.Generator().manual_seed(0)).to(task.device)}

    def to(domain: str) -> Callable[[Tensor], Tensor]:
        return lambda image: shown(task.translated(image * 2 - 1, domain))

    ways = {"a_to_b": ("A", "B"), "b_to_a": ("B", "A")}
    found = [
        Graph(name=name, inputs=image, output="translated", compute=to(end), owner=task, about=f"pictures of {start} in [0, 1] as ones of {end}")
        for name, (start, end) in ways.items()
    ]
    code = CODE.replace("FILE", "a_to_b").replace("MODE", "L" if task.channels == 1 else "RGB").replace("SIDE", str(task.side))
    return Graphs(
        graphs=found, title=f"Translation between two sets of pictures, {task.side} x {task.side} pixels", code=code, task="image-to-image",
        about="A is the set named by `data.train`, B the one by `data.other`.", install="onnxruntime numpy pillow",
        preprocessing={"rescale_factor": 1 / 255, "size": {"height": task.side, "width": task.side}},
    )  # fmt: skip
