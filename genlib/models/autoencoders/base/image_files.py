"""Image autoencoders judged and written: scores with a sheet of reconstructions, and diffusers' format out and in."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from genlib.functional.perceptual import psnr_db
from genlib.metrics.held_out import held_out
from genlib.models.autoencoders.base.image import ImageAutoencoder
from genlib.models.base.components import adopt_component, read_config, save_component
from genlib.pictures import Line, save_contact_sheet
from genlib.sharing.formats import Format
from genlib.types import DataSource

MOST_SAMPLES = 2048
"""Held-out samples that are scored, from the first."""
_COLUMNS, _ROWS = 12, 2


def assess(task: ImageAutoencoder, source: DataSource, folder: Path) -> dict[str, float]:
    """PSNR (decibels, mean over images) and L1 of held-out reconstructions, and the spread of their scaled latents; `reconstructions.png`.

    Measures the scale of latents where it is not yet.
    """
    if not task.scale.item():
        task.measure(source)
    scores, latents, shown = [], [], Sheet()
    for batch in held_out(task, source, size=task.chunk_samples, most=MOST_SAMPLES):
        image = batch["image"]
        latent = task.sampled(2 * image - 1, batch["position"], 0)
        made = task.reconstruct(image=image)
        values = torch.stack([psnr_db(made, image), (made - image).abs().flatten(1).mean(1)], 1).cpu()
        scores.append(values)
        latents.append(((latent - task.shift) * task.scale).cpu())
        shown.add(image.cpu(), made.cpu(), values[:, 0])
    if not scores:
        return {}
    psnr, l1 = torch.cat(scores).double().mean(0).tolist()
    shown.save(folder / "reconstructions.png", list(source.captions("validation", MOST_SAMPLES)), f"{psnr:.1f} dB over all")
    name, spread = source.spec.validation_name, torch.cat(latents).double()
    return {
        f"{name}/psnr_db": psnr, f"{name}/l1": l1, f"{name}/latent_std": spread.std().item(), f"{name}/latent_mean": spread.mean().item(),
        "latent_scale": task.scale.item(), "latent_shift": task.shift.item(),
    }  # fmt: skip


def sheet(task: ImageAutoencoder, source: DataSource, path: Path) -> None:
    """The first held-out images above their reconstructions."""
    shown, count = Sheet(), _COLUMNS * _ROWS
    for batch in held_out(task, source, size=count, most=count):
        parts = batch["image"].split(task.chunk_samples)
        made = torch.cat([task.reconstruct(image=part) for part in parts])
        near = psnr_db(made, batch["image"])
        shown.add(batch["image"].cpu(), made.cpu(), near.cpu())
        shown.save(path, list(source.captions("validation", count)), f"{near.mean().item():.1f} dB over these")


class Sheet:
    """Some of the images that it is given, evenly from first to last, each above its reconstruction."""

    def __init__(self) -> None:
        self.rows: list[tuple[int, Tensor, Tensor, float]] = []
        self.seen, self.stride = 0, 1

    def add(self, image: Tensor, made: Tensor, decibels: Tensor) -> None:
        """The next images (B, C, H, W) in [0, 1], their reconstructions, and how near these are (B,)."""
        for one in zip(range(self.seen, self.seen + len(image)), image, made, decibels.tolist(), strict=True):
            if one[0] % self.stride == 0:
                self.rows.append(one)
            if len(self.rows) >= 2 * _COLUMNS * _ROWS:
                self.rows, self.stride = self.rows[::2], 2 * self.stride
        self.seen += len(image)

    def save(self, path: Path, names: Sequence[str], nearness: str) -> None:
        """Writes the sheet; `names` of all images, if there are any; `nearness` says how near all are."""
        count = min(len(self.rows), _COLUMNS * _ROWS)
        rows = [self.rows[i * len(self.rows) // count] for i in range(count)]
        images: list[np.ndarray] = []
        labels: list[Sequence[Line]] = []
        for low in range(0, count, _COLUMNS):
            part = rows[low : low + _COLUMNS]
            blank = [np.ones((1, 1))] * (_COLUMNS - len(part))  # keeps the rows below each other
            images += [*map(_pixels, (image for _, image, _, _ in part)), *blank, *map(_pixels, (made for _, _, made, _ in part)), *blank]
            labels += [[names[number] if number < len(names) else f"image {number}"] for number, _, _, _ in part] + [[""]] * len(blank)
            labels += [[f"{decibels:.1f} dB"] for _, _, _, decibels in part] + [[""]] * len(blank)
        title = f"Held-out images above their reconstructions; {nearness}"
        save_contact_sheet(path, images, labels, columns=_COLUMNS, side=96, title=title)


def _pixels(image: Tensor) -> np.ndarray:
    return image.permute(1, 2, 0).numpy()


CODE = """
import numpy as np
import torch
from diffusers import NETWORK
from PIL import Image

autoencoder = NETWORK.from_pretrained(folder).eval()
picture = Image.open(f"{folder}/input.png").convert("RGB").resize((SIDE, SIDE))
pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None] / 127.5 - 1
with torch.no_grad():
    latents = autoencoder.encode(pixels).LATENTS
    made = autoencoder.decode(latents).sample.clamp(-1, 1)
print(latents.shape, f"mean square error {(made - pixels).square().mean():.4f}")
"""


def export(task: ImageAutoencoder, folder: Path) -> list[Format]:
    """`diffusers/`: what the network's class loads with `from_pretrained`; see `rgb_model` and `latent_settings`."""
    model = rgb_model(task)
    save_component(model, folder / "diffusers", latent_settings(task))
    kind = type(model).__name__
    latents = "latent_dist.mean" if kind == "AutoencoderKL" else "latents"
    side = task.image_size // task.factor
    return [
        Format(
            folder="diffusers", library="diffusers", install="diffusers transformers torch pillow numpy",
            title=f"Image autoencoder of {task.image_size} pixels",
            code=CODE.replace("NETWORK", kind).replace("SIDE", str(task.image_size)).replace("LATENTS", latents), tags=("autoencoder",),
            about=(
                f"Images of {task.image_size} pixels a side become {task.latent_channels} x {side} x {side} latents, and back. Multiplied by the"
                f" `scaling_factor` of config.json the latents have unit standard deviation."
            ),
        )
    ]  # fmt: skip


@torch.no_grad()
def rgb_model(task: ImageAutoencoder) -> Any:
    """A copy of the network for RGB images. Of a grey one every channel gets a third of the first weights and all of the last ones,
    so that three equal channels give three equal ones, as the grey network gives."""
    if task.data.channels == 3:
        return task.model
    model = resized(task, 3)
    state = dict(task.model.state_dict())
    state["encoder.conv_in.weight"] = state["encoder.conv_in.weight"].repeat(1, 3, 1, 1) / 3
    for name in ("decoder.conv_out.weight", "decoder.conv_out.bias"):
        state[name] = state[name].repeat(3, *[1] * (state[name].dim() - 1))
    model.load_state_dict(state)
    return model


def resized(task: ImageAutoencoder, channels: int) -> Any:
    """A fresh network of the task's architecture for so many channels; the global generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        return task.config.network(channels).to(task.device).eval()


def latent_settings(task: ImageAutoencoder) -> dict[str, Any]:
    """What diffusers' config.json says of size and scale of the latents; without a scale yet, the scale is 1."""
    scale, shift = task.scale.item() or 1.0, task.shift.item()
    settings: dict[str, Any] = {"sample_size": task.image_size, "scaling_factor": scale}
    if shift:
        settings["shift_factor"] = shift
        # some of diffusers' pipelines read the shift here, none in both places; SDXL's takes four channels alone
        if task.latent_channels == 4:
            settings |= {"latents_mean": [shift] * 4, "latents_std": [1.0] * 4}
    return settings


@torch.no_grad()
def load_pretrained(task: ImageAutoencoder, folder: Path) -> None:
    """The inverse of `export`, for any folder of such a network; a grey task takes the sum of the first weights' channels and the mean
    of the last ones'. ValueError in one sentence, with nothing changed, where the folder does not fit."""
    model = task.model if task.data.channels == 3 else resized(task, 3)
    scale, shift = scale_and_shift(read_config(folder), folder)
    adopt_component(model, folder)
    if model is not task.model:
        state = dict(model.state_dict())
        state["encoder.conv_in.weight"] = state["encoder.conv_in.weight"].sum(1, keepdim=True)
        for name in ("decoder.conv_out.weight", "decoder.conv_out.bias"):
            state[name] = state[name].mean(0, keepdim=True)
        task.model.load_state_dict(state)
    task.scale.fill_(scale)
    task.shift.fill_(shift)


def scale_and_shift(settings: dict[str, Any], folder: Path) -> tuple[float, float]:
    """The latents' scale and shift of a config.json, 0 where it says nothing. ValueError where they are not one number each."""
    scale, shift = settings.get("scaling_factor") or 0.0, settings.get("shift_factor") or 0.0
    means, stds = settings.get("latents_mean") or [shift], settings.get("latents_std") or [1.0]
    if not all(isinstance(value, int | float) for value in (scale, shift)):
        raise ValueError(f"{folder / 'config.json'}: scaling_factor {scale!r} or shift_factor {shift!r} is no number; get the folder again")
    if not isinstance(means, list) or set(means) != {means[0]} or set(stds) != {1.0}:
        raise ValueError(f"{folder / 'config.json'}: latents_mean and latents_std differ by channel, which this task has no place for; name another")
    return float(scale), float(means[0])
