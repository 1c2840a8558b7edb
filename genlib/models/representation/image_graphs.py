"""Networks that say something of an image as ONNX graphs: classifiers and encoders."""

from __future__ import annotations

import torch

from genlib.models.representation.classifier import Classifier
from genlib.models.representation.simclr import SimCLR
from genlib.sharing.formats import Graph, Graphs

OPENED = """
import numpy as np
import onnxruntime
from PIL import Image

picture = Image.open(f"{folder}/input.png").convert("MODE").resize((SIDE, SIDE), Image.Resampling.BICUBIC)
pixels = np.asarray(picture, np.float32).reshape(SIDE, SIDE, -1).transpose(2, 0, 1)[None] / 255
"""
CLASSIFY = """
names = NAMES
session = onnxruntime.InferenceSession(f"{folder}/model.onnx")
(probabilities,) = session.run(None, {"image": pixels})
for number in probabilities[0].argsort()[::-1][:5]:
    print(f"{probabilities[0, number]:6.1%}  {names[number]}")
"""
EMBED = """
session = onnxruntime.InferenceSession(f"{folder}/features.onnx")
(features,) = session.run(None, {"image": pixels})
print(features.shape, np.linalg.norm(features))
"""


def opened(channels: int, side: int) -> str:
    """Code that makes `pixels` (1, channels, side, side) in [0, 1] of the image beside the card."""
    return OPENED.replace("MODE", "L" if channels == 1 else "RGB").replace("SIDE", str(side))


def preprocessing(channels: int, side: int) -> dict[str, object]:
    """What must be done to an image before: all else is in the graph."""
    return {
        "do_resize": True, "size": {"height": side, "width": side}, "resample": 3, "do_rescale": True, "rescale_factor": 1 / 255,
        "do_normalize": False, "channels": channels,
    }  # fmt: skip


def images(channels: int, side: int) -> torch.Tensor:
    """Two images in [0, 1]."""
    return torch.rand(2, channels, side, side, generator=torch.Generator().manual_seed(0))


def of_classifier(task: Classifier) -> Graphs:
    """See `Companions.graphs`."""
    channels, side, names = task.data.channels, task.image_size, list(task.data.class_names)
    image = {"image": images(channels, side).to(task.device)}
    seen = f"{'grey' if channels == 1 else 'RGB'} images in [0, 1]"
    return Graphs(
        graphs=[
            Graph(
                name="model", inputs=image, output="probabilities", compute=lambda image: task.net(image).softmax(1), owner=task,
                about=f"{seen} to probabilities of {len(names)} classes",
            ),
            Graph(name="features", inputs=image, output="features", compute=task.features, owner=task, about=f"{seen} to what the last layer sees"),
        ],
        title=f"Classifier of {len(names)} classes, {side} x {side} pixels", about="A residual classifier, and the features that it decides by.",
        code=opened(channels, side) + CLASSIFY.replace("NAMES", repr(names)), install="onnxruntime numpy pillow", task="image-classification",
        tags=("image-classification",), preprocessing={**preprocessing(channels, side), "id2label": dict(enumerate(names))},
    )  # fmt: skip


def of_encoder(task: SimCLR) -> Graphs:
    """See `Companions.graphs`."""
    channels, side = task.data.channels, task.image_size
    return Graphs(
        graphs=[
            Graph(
                name="features", inputs={"image": images(channels, side).to(task.device)}, output="features", compute=task.net.features,
                owner=task.net,
                about=f"{'grey' if channels == 1 else 'RGB'} images in [0, 1] to features; compare them by cosine",
            )
        ],
        title=f"Image encoder of {side} x {side} pixels", about="Features of images, learnt without labels.", code=opened(channels, side) + EMBED,
        install="onnxruntime numpy pillow", task="image-feature-extraction", tags=("feature-extraction",),
        preprocessing=preprocessing(channels, side),
    )  # fmt: skip
