"""VGG-16's convolutions (Simonyan & Zisserman 2015, arXiv:1409.1556) as a feature network for distances of images.

Weights come from a safetensors file under torchvision's names (`features.0.weight`), if it likes with the channel weights that
Zhang et al. 2018 (arXiv:1801.03924) learnt from people's judgement, under their names (`lin0.model.1.weight`).
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class VGG16(nn.Module):
    """Images (B, 1 or 3, H, W) in [0, 1] -> the last map of each stage, (B, C, H / 2**stage, W / 2**stage). 16 pixels a side at least."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for stage, widths in enumerate(STAGES):
            layers += [nn.MaxPool2d(2)] if stage else []
            for width in widths:
                layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
                channels = width
        self.features = nn.Sequential(*layers)
        self.requires_grad_(False)
        for stage, widths in enumerate(STAGES):
            self.register_buffer(f"channel_weights_{stage}", torch.ones(widths[-1]))

    @property
    def channel_weights(self) -> list[Tensor]:
        """For each stage (C,): how much a difference in a channel counts."""
        return [self.get_buffer(f"channel_weights_{stage}") for stage in range(len(STAGES))]

    def feature_maps(self, image: Tensor) -> list[Tensor]:
        """What each stage makes of images, as the class says."""
        mean, std = (image.new_tensor(values)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD))
        x = (image.expand(-1, 3, -1, -1) - mean) / std
        maps: list[Tensor] = []
        for layer in self.features:
            if isinstance(layer, nn.MaxPool2d):
                maps.append(x)
            x = layer(x)
        return [*maps, x]

    @torch.no_grad()
    def load(self, path: Path) -> None:
        """Takes the weights of a file. ValueError where it is no safetensors file or a weight is missing or of another shape."""
        try:
            found = load_file(path)
        except (SafetensorError, OSError) as error:
            raise ValueError(f"task.perceptual_file {path} is no whole safetensors file ({error}); name one with VGG-16's weights") from None
        for name, parameter in self.features.named_parameters(prefix="features"):
            _take(parameter, found, name, path)
        if "lin0.model.1.weight" in found:
            for stage, weights in enumerate(self.channel_weights):
                _take(weights, found, f"lin{stage}.model.1.weight", path)


def _take(tensor: Tensor, found: dict[str, Tensor], name: str, path: Path) -> None:
    value = found.get(name)
    if value is None or value.numel() != tensor.numel():
        has = "has no" if value is None else f"has another shape, {tuple(value.shape)}, for"
        raise ValueError(f"task.perceptual_file {path} {has} {name}; give VGG-16's weights under torchvision's names")
    tensor.copy_(value.view(tensor.shape))
