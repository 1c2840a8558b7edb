"""Networks that tell what a picture shows: published Inception weights, or a classifier or CLIP trained here. A score carries their name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from genlib import checkpoint
from genlib.checkpoint import Manifest
from genlib.metrics.inception import InceptionV3
from genlib.plurals import counted
from genlib.task import Task

_CODE = (".pt", ".pth", ".bin", ".ckpt", ".pkl", ".pickle", ".ts", ".onnx")


@dataclass(frozen=True, slots=True)
class FeatureNetwork:
    """A frozen network and its identity."""

    name: str
    """Name in the names of scores: what it is and the first digits of `sha256`."""
    sha256: str
    """sha256 of the file with its weights."""
    resize: str
    """How pictures reach its size."""
    channels: int
    """Channels of its pictures; gray ones are repeated where it wants more."""
    device: torch.device
    embed: Callable[[Tensor], tuple[Tensor, Tensor | None]]
    """Pictures uint8 (B, channels, H, W) on `device` -> features (B, D), and logits (B, K) where it names classes."""
    task: Task | None = None
    """The trained task that it is, for what else that can do."""

    @torch.no_grad()
    def __call__(self, pixels: Tensor) -> tuple[Tensor, Tensor | None]:
        """Pictures uint8 (B, C, H, W) -> float32 features (B, D), and logits (B, K) or None. ValueError where the channels do not fit."""
        if pixels.shape[1] not in (1, self.channels):
            raise ValueError(
                f"{self.name} sees pictures of {counted(self.channels, 'channel')}, these have {pixels.shape[1]}; take another feature network"
            )
        with torch.backends.cudnn.flags(enabled=torch.backends.cudnn.enabled, allow_tf32=False):  # the same scores on every device
            features, logits = self.embed(pixels.to(self.device).expand(-1, self.channels, -1, -1))
        return features.float(), None if logits is None else logits.float()


def load(where: Path, device: torch.device | str = "cpu") -> FeatureNetwork:
    """The network in a safetensors file of FID's Inception weights, or in a run or checkpoint of ours. ValueError says what else it is."""
    device = torch.device(device)
    if where.is_file():
        return _inception(where, device)
    found = checkpoint.find(where)
    if found is None:
        raise ValueError(f"{where} is no feature network: no file, run or checkpoint; train a classifier or a CLIP, or name Inception's weights")
    task, manifest = checkpoint.load_task(found, device=device).requires_grad_(False), checkpoint.read_manifest(found)
    looks = made_of(task, "image", "features")
    if looks is None:
        raise ValueError(f"{where} is a {type(task).__name__}, which names no features of pictures; name a classifier or a CLIP")
    sizes, classes = task.sizes(manifest.blueprint.spec), made_of(task, "image", "probabilities")

    def embed(pixels: Tensor) -> tuple[Tensor, Tensor | None]:
        image = _scaled(pixels, sizes.side)
        return looks(image), None if classes is None else classes(image).log()

    name, digest = _name(manifest)
    return FeatureNetwork(name, digest, f"bicubic, antialiased, to {sizes.side} pixels", sizes.channels, device, embed, task)


def made_of(task: Task, kind: str, gives: str) -> Callable[[Any], Tensor] | None:
    """The task's action that makes such a result of one such input alone, as a function of that; None where it has none."""
    for action in type(task).actions():
        if action.result.kind == gives and len(action.required) == 1 and action.named(kind) == action.required[0]:
            method, name = getattr(task, action.name), action.required[0]
            return lambda value: method(**{name: value})
    return None


def load_clip(where: Path, device: torch.device | str = "cpu") -> FeatureNetwork:
    """As `load`, of a run that also embeds texts."""
    network = load(where, device) if where.is_dir() else None
    if network is None or network.task is None or made_of(network.task, "texts", "features") is None:
        raise ValueError(f"{where} is no CLIP of ours, which a CLIP score needs; name a run of one, such as runs/clip")
    return network


def _name(manifest: Manifest) -> tuple[str, str]:
    """A network's name and the sha256 of its weights."""
    digest = manifest.weights_digest
    recipe = manifest.recipe if manifest.stage in ("train", manifest.recipe) else f"{manifest.recipe}-{manifest.stage}"
    return f"{recipe}-{digest[:8]}", digest


def _scaled(pixels: Tensor, side: int) -> Tensor:
    """uint8 -> [0, 1] at `side` pixels."""
    image = pixels.float() / 255
    if image.shape[-2:] == (side, side):
        return image
    return F.interpolate(image, (side, side), mode="bicubic", antialias=True, align_corners=False).clamp(0, 1)


def _inception(path: Path, device: torch.device) -> FeatureNetwork:
    if path.suffix in _CODE:
        raise ValueError(
            f"{path} may hold code that runs when it is read, so it is not; convert it where you trust it: "
            f"safetensors.torch.save_file(torch.load({path.name!r}, weights_only=True), 'inception.safetensors')"
        )
    network = InceptionV3()
    try:
        network.use(load_file(path))
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is no safetensors file ({error}); name one with FID's Inception weights, or a run") from None
    except ValueError as error:
        raise ValueError(f"{path} does not hold FID's Inception weights: {error}") from None
    digest, network = checkpoint.sha256(path), network.to(device).eval().requires_grad_(False)
    return FeatureNetwork(
        f"inception-{digest[:8]}", digest, "TensorFlow 1's bilinear, to 299 pixels", 3, device, lambda pixels: network(pixels.float())
    )
