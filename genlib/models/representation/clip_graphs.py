"""CLIP's two towers as ONNX graphs, under the names that transformers.js and Optimum give them."""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from genlib.models.representation.base.clip_towers import TextTower
from genlib.models.representation.clip import CLIP
from genlib.models.representation.clip_export import bounded_scale, preprocessor, write_tokenizer
from genlib.sharing.formats import Graph, Graphs

CODE = """
import json
import numpy as np
import onnxruntime
from PIL import Image
from tokenizers import Tokenizer

vision = onnxruntime.InferenceSession(f"{folder}/vision_model.onnx")
text = onnxruntime.InferenceSession(f"{folder}/text_model.onnx")
settings = json.load(open(f"{folder}/preprocessor_config.json"))
tokenizer = Tokenizer.from_file(f"{folder}/tokenizer.json")
tokenizer.enable_truncation(LENGTH)
tokenizer.enable_padding(length=LENGTH, pad_id=0)

side = settings["crop_size"]["height"]
picture = Image.open(f"{folder}/input.png").convert("RGB")
scale = side / min(picture.size)
picture = picture.resize([max(side, round(length * scale)) for length in picture.size], Image.Resampling.BICUBIC)
left, top = (picture.width - side) // 2, (picture.height - side) // 2
pixels = np.asarray(picture.crop((left, top, left + side, top + side)), np.float32) / 255
pixels = (pixels - np.float32(settings["image_mean"])) / np.float32(settings["image_std"])

texts = CAPTIONS
tokens = np.array([encoded.ids for encoded in tokenizer.encode_batch(texts)], np.int64)
(images,) = vision.run(None, {"pixel_values": pixels.transpose(2, 0, 1)[None]})
(words,) = text.run(None, {"input_ids": tokens})
logits = SCALE * images @ words.T
probabilities = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
for probability, text in sorted(zip(probabilities[0].tolist(), texts), reverse=True):
    print(f"{probability:6.1%}  {text}")
"""


def graphs(task: CLIP) -> Graphs:
    """See `Companions.graphs`. Images are RGB, as in the other formats."""
    side, text, channels = task.config.image.image_size, task.config.text, task.data.channels
    mean, std = (torch.tensor(values).expand(3)[:, None, None] for values in (task.config.mean, task.config.std))

    def vision(pixels: Tensor) -> Tensor:
        # a grey tower sees the mean of three channels, each normalised alike
        return task.net.embed_image(pixels if channels == 3 else pixels.mean(1, keepdim=True))

    def words(tokens: Tensor) -> Tensor:
        tower = task.net.text
        assert isinstance(tower, TextTower)
        return F.normalize(tower.model(tokens).text_embeds.float(), dim=-1)  # the tower itself cuts tokens by their values

    pixels = (torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(0)) - mean) / std
    tokens = task.tokenizer.encode(["a picture", "another one"])  # as long as the longest; what follows a text's end mark counts for nothing
    tokens = F.pad(tokens, (0, text.context_length - tokens.shape[1]))
    marks: dict[str, str] = {"LENGTH": str(text.context_length), "SCALE": f"{bounded_scale(task).exp().item():.6g}"}
    code = CODE
    for name, value in marks.items():
        code = code.replace(name, value)
    return Graphs(
        graphs=[
            Graph(
                name="vision_model", inputs={"pixel_values": pixels.to(task.device)}, output="image_embeds", compute=vision, owner=task.net,
                about="RGB images, prepared as `preprocessor_config.json` says, to directions of unit length",
            ),
            Graph(
                name="text_model", inputs={"input_ids": tokens.to(task.device)}, output="text_embeds", compute=words, owner=task.net,
                about=f"texts by `tokenizer.json`, filled up to {text.context_length} tokens with 0, to directions of unit length",
            ),
        ],
        title=f"CLIP of {side} pixels as ONNX", code=code, install="onnxruntime numpy pillow tokenizers", task="zero-shot-image-classification",
        tags=("clip",), preprocessing=preprocessor(task), write=partial(write_tokenizer, task),
        about="Both towers of a CLIP. The scale of logits is in the code; any number of images or texts may be given at once.",
    )  # fmt: skip
