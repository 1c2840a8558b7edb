"""Encoders and decoders as ONNX graphs."""

from __future__ import annotations

import torch
from torch import Tensor

from genlib.models.autoencoders.base.coding import CodingTask
from genlib.models.autoencoders.base.image import ImageAutoencoder
from genlib.sharing.formats import Graph, Graphs

DECODE = """
import numpy as np
import onnxruntime

decoder = onnxruntime.InferenceSession(f"{folder}/decoder.onnx")
codes = np.random.default_rng(0).standard_normal((4, SHAPE), dtype=np.float32)
(made,) = decoder.run(None, {"CODE": codes})
encoder = onnxruntime.InferenceSession(f"{folder}/encoder.onnx")
(back,) = encoder.run(None, {"SAMPLE": made})
print(made.shape, back.shape)
"""


def of_coding_task(task: CodingTask) -> Graphs:
    """See `Companions.graphs`; samples are images in [0, 1], or vectors."""
    size, sides = task.config.latent_dim, task.shape.sides if task.shape.is_image else (task.shape.size,)
    draws = torch.Generator().manual_seed(0)
    kind = "images in [0, 1]" if task.shape.is_image else "vectors"
    return Graphs(
        graphs=[
            Graph(
                name="decoder", inputs={"code": torch.randn(2, size, generator=draws).to(task.device)}, output="sample",
                compute=lambda code: task.shaped(task.samples(code)), owner=task, about=f"codes of {size} numbers to {kind}",
            ),
            Graph(
                name="encoder", inputs={"sample": torch.rand(2, *sides, generator=draws).to(task.device)}, output="code",
                compute=lambda sample: task.codes(sample.flatten(1)), owner=task, about=f"{kind} to their codes",
            ),
        ],
        title=f"{type(task).__name__} with codes of {size} numbers", about="An encoder and its decoder.", tags=("autoencoder",),
        code=DECODE.replace("SHAPE", str(size)).replace("CODE", "code").replace("SAMPLE", "sample"), preprocessing={"rescale_factor": 1 / 255},
    )  # fmt: skip


def of_image_autoencoder(task: ImageAutoencoder) -> Graphs:
    """See `Companions.graphs`; latents are those of unit standard deviation that diffusion sees."""
    side, channels, scale = task.image_size // task.factor, task.data.channels, task.scale.item() or 1.0
    shift, draws = task.shift.item(), torch.Generator().manual_seed(0)

    def decode(latent: Tensor) -> Tensor:
        return (task.decode_latent(latent / scale + shift).float() / 2 + 0.5).clamp(0, 1)

    def encode(image: Tensor) -> Tensor:
        return (task.encode_image(2 * image - 1)[0] - shift) * scale

    latent = torch.randn(2, task.latent_channels, side, side, generator=draws)
    image = torch.rand(2, channels, task.image_size, task.image_size, generator=draws)
    return Graphs(
        graphs=[
            Graph(
                name="decoder", inputs={"latent": latent.to(task.device)}, output="image", compute=decode, owner=task,
                about="latents of unit standard deviation to images in [0, 1]",
            ),
            Graph(
                name="encoder", inputs={"image": image.to(task.device)}, output="latent", compute=encode, owner=task,
                about=f"{'grey' if channels == 1 else 'RGB'} images in [0, 1] to the latents that are likeliest",
            ),
        ],
        title=f"Image autoencoder of {task.image_size} pixels as ONNX", about="Latents are scaled as diffusion models of this autoencoder see them.",
        code=DECODE.replace("SHAPE", f"{task.latent_channels}, {side}, {side}").replace("CODE", "latent").replace("SAMPLE", "image"),
        tags=("autoencoder",), preprocessing={"rescale_factor": 1 / 255, "size": {"height": task.image_size, "width": task.image_size}},
    )  # fmt: skip
