"""The Inception v3 that published FID, KID and Inception scores are measured with (Szegedy et al. 2016, arXiv:1512.00567).

It is the TensorFlow graph of 2015-12-05: 1,008 classes, averages that leave the padding out, a maximum pool in the last block, and
TensorFlow 1's bilinear resize. Weights go by the names of the published PyTorch conversion of that graph.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SIDE, FEATURES, CLASSES = 299, 2048, 1008

Layer = tuple[str, int, int | tuple[int, int], int]
"""Name, channels out, kernel, stride. Stride 1 keeps the size, stride 2 has no padding."""
Branch = tuple[Layer | list[Layer], ...]
"""Layers in a row; those of a list stand side by side."""
Pool = Callable[[Tensor], Tensor]

_average: Pool = partial(F.avg_pool2d, kernel_size=3, stride=1, padding=1, count_include_pad=False)
_maximum: Pool = partial(F.max_pool2d, kernel_size=3, stride=1, padding=1)
_halve: Pool = partial(F.max_pool2d, kernel_size=3, stride=2)


class Convolution(nn.Module):
    """Convolution without bias, batch normalisation, ReLU."""

    def __init__(self, channels: int, out: int, kernel: int | tuple[int, int], stride: int = 1, padding: int | tuple[int, int] = 0) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, out, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(out, eps=0.001)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)))


class Mixed(nn.Module):
    """Branches side by side, and the pooled input, through `branch_pool` where that has a width. (B, C, H, W) -> (B, D, H', W')."""

    def __init__(self, channels: int, branches: tuple[Branch, ...], pool: Pool, pooled: int = 0) -> None:
        super().__init__()
        self.pool, self.paths = pool, []
        for branch in branches:
            width, path = channels, []
            for step in branch:
                layers = step if isinstance(step, list) else [step]
                for name, out, kernel, stride in layers:
                    self.add_module(name, Convolution(width, out, kernel, stride, _padding(kernel) if stride == 1 else 0))
                path.append([name for name, *_ in layers])
                width = sum(out for _, out, *_ in layers)
            self.paths.append(path)
        self.branch_pool = Convolution(channels, pooled, 1) if pooled else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([*(self._follow(path, x) for path in self.paths), self.branch_pool(self.pool(x))], 1)

    def _follow(self, path: list[list[str]], x: Tensor) -> Tensor:
        for names in path:
            x = torch.cat([self.get_submodule(name)(x) for name in names], 1)
        return x


def _padding(kernel: int | tuple[int, int]) -> tuple[int, int]:
    height, width = (kernel, kernel) if isinstance(kernel, int) else kernel
    return height // 2, width // 2


def _at_35_pixels(channels: int, pooled: int) -> Mixed:
    five: Branch = (("branch5x5_1", 48, 1, 1), ("branch5x5_2", 64, 5, 1))
    three: Branch = (("branch3x3dbl_1", 64, 1, 1), ("branch3x3dbl_2", 96, 3, 1), ("branch3x3dbl_3", 96, 3, 1))
    return Mixed(channels, ((("branch1x1", 64, 1, 1),), five, three), _average, pooled)


def _to_17_pixels(channels: int) -> Mixed:
    three: Branch = (("branch3x3dbl_1", 64, 1, 1), ("branch3x3dbl_2", 96, 3, 1), ("branch3x3dbl_3", 96, 3, 2))
    return Mixed(channels, ((("branch3x3", 384, 3, 2),), three), _halve)


def _at_17_pixels(channels: int, width: int) -> Mixed:
    wide, high = (1, 7), (7, 1)
    once: Branch = (("branch7x7_1", width, 1, 1), ("branch7x7_2", width, wide, 1), ("branch7x7_3", 192, high, 1))
    twice: Branch = (
        ("branch7x7dbl_1", width, 1, 1), ("branch7x7dbl_2", width, high, 1), ("branch7x7dbl_3", width, wide, 1),
        ("branch7x7dbl_4", width, high, 1), ("branch7x7dbl_5", 192, wide, 1),
    )  # fmt: skip
    return Mixed(channels, ((("branch1x1", 192, 1, 1),), once, twice), _average, 192)


def _to_8_pixels(channels: int) -> Mixed:
    three: Branch = (("branch3x3_1", 192, 1, 1), ("branch3x3_2", 320, 3, 2))
    seven: Branch = (
        ("branch7x7x3_1", 192, 1, 1), ("branch7x7x3_2", 192, (1, 7), 1), ("branch7x7x3_3", 192, (7, 1), 1), ("branch7x7x3_4", 192, 3, 2),
    )  # fmt: skip
    return Mixed(channels, (three, seven), _halve)


def _at_8_pixels(channels: int, pool: Pool) -> Mixed:
    wide, high = (1, 3), (3, 1)
    three: Branch = (("branch3x3_1", 384, 1, 1), [("branch3x3_2a", 384, wide, 1), ("branch3x3_2b", 384, high, 1)])
    twice: Branch = (
        ("branch3x3dbl_1", 448, 1, 1), ("branch3x3dbl_2", 384, 3, 1), [("branch3x3dbl_3a", 384, wide, 1), ("branch3x3dbl_3b", 384, high, 1)],
    )  # fmt: skip
    return Mixed(channels, ((("branch1x1", 320, 1, 1),), three, twice), pool, 192)


class InceptionV3(nn.Module):
    """Pictures to features and logits; 23,850,960 weights."""

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = Convolution(3, 32, 3, 2)
        self.Conv2d_2a_3x3 = Convolution(32, 32, 3)
        self.Conv2d_2b_3x3 = Convolution(32, 64, 3, 1, 1)
        self.Conv2d_3b_1x1 = Convolution(64, 80, 1)
        self.Conv2d_4a_3x3 = Convolution(80, 192, 3)
        self.Mixed_5b, self.Mixed_5c, self.Mixed_5d = _at_35_pixels(192, 32), _at_35_pixels(256, 64), _at_35_pixels(288, 64)
        self.Mixed_6a = _to_17_pixels(288)
        self.Mixed_6b, self.Mixed_6c = _at_17_pixels(768, 128), _at_17_pixels(768, 160)
        self.Mixed_6d, self.Mixed_6e = _at_17_pixels(768, 160), _at_17_pixels(768, 192)
        self.Mixed_7a = _to_8_pixels(768)
        self.Mixed_7b, self.Mixed_7c = _at_8_pixels(1280, _average), _at_8_pixels(2048, _maximum)
        self.fc = nn.Linear(FEATURES, CLASSES)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """image (B, 3, H, W) with pixel values 0 to 255 -> features (B, 2048) and logits (B, 1008) without their bias, as the score is defined."""
        x = (tensorflow_bilinear(image, SIDE) - 128) / 128
        x = _halve(self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x))))
        x = _halve(self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(x)))
        for name in ("5b", "5c", "5d", "6a", "6b", "6c", "6d", "6e", "7a", "7b", "7c"):
            x = self.get_submodule(f"Mixed_{name}")(x)
        features = x.mean((2, 3))
        return features, features @ self.fc.weight.T

    def use(self, state: Mapping[str, Tensor]) -> None:
        """Takes the published weights. ValueError names the first that is missing, unknown or of another shape."""
        needed = {name: value.shape for name, value in self.state_dict().items() if not name.endswith("num_batches_tracked")}
        given = {name: value.shape for name, value in state.items() if not name.endswith("num_batches_tracked")}
        for name in sorted(needed.keys() | given.keys()):
            if needed.get(name) != given.get(name):
                shapes = [tuple(shapes[name]) if name in shapes else "not there" for shapes in (given, needed)]
                raise ValueError(f"weight {name} is {shapes[0]} in the file and {shapes[1]} in FID's Inception v3")
        self.load_state_dict({name: state[name] for name in given}, strict=False)


def tensorflow_bilinear(image: Tensor, side: int) -> Tensor:
    """TensorFlow 1's resize, in which output pixel i lies at i * in / out of the input. (B, C, H, W) -> (B, C, side, side)."""
    rows, columns = (_taps(length, side, image) for length in image.shape[-2:])
    return rows @ image @ columns.T


def _taps(length: int, side: int, like: Tensor) -> Tensor:
    """(side, length): the weight of each input pixel in each output pixel."""
    at = torch.arange(side, device=like.device, dtype=like.dtype) * (length / side)
    low = at.long()
    part = (at - low)[:, None]
    one_hot = partial(F.one_hot, num_classes=length)
    return one_hot(low) * (1 - part) + one_hot((low + 1).clamp(max=length - 1)) * part
