"""A generator as a folder of its own: safetensors with the published names of weights, and a config.json with the published settings.

Training code that NVIDIA published keeps generators in pickles, which may run code when they are read; a state dict of one as safetensors is
taken here key by key.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from genlib.json_text import json_text
from genlib.models.adversarial.stylegan.task import StyleGAN
from genlib.models.base.components import read_weights

FOLDER, STEM = "generator", "model"
PREFIXES = ("G_ema.", "generator.", "g_ema.")
"""That stand before a generator's weights where a file holds other networks too."""
FIXED = (".resample_filter",)
"""Buffers that follow from the settings."""


def settings(task: StyleGAN) -> dict[str, Any]:
    """How the network is built, by the names of NVlabs' stylegan3 repository."""
    network, (channels, side, _) = task.networks, task.shape.sides
    return {
        "z_dim": network.latent_dim, "c_dim": task.condition_sizes[0], "w_dim": network.style_dim, "img_resolution": side, "img_channels": channels,
        "mapping_kwargs": {"num_layers": network.mapping_layers},
        "synthesis_kwargs": {"channel_base": network.channel_base, "channel_max": network.channel_max, "num_fp16_res": network.bf16_resolutions},
    }  # fmt: skip


def export(task: StyleGAN, folder: Path) -> None:
    """Writes the generator; see the module."""
    where = folder / FOLDER
    where.mkdir(parents=True, exist_ok=True)
    (where / "config.json").write_text(json_text(settings(task), indent=2) + "\n")
    state = {name: value.detach().cpu().contiguous() for name, value in task.generator.state_dict().items()}
    state = {name: value.view(()) if name.endswith(".noise_strength") else value for name, value in state.items()}
    path = where / f"{STEM}.safetensors"
    save_file(state, path, metadata={"format": "pt"})
    path.chmod(0o644)  # safetensors writes for the owner alone


def load_pretrained(task: StyleGAN, folder: Path) -> None:
    """Fills the generator from such a folder, or from one with a single safetensors file of a published generator's weights.

    ValueError in one sentence, with nothing changed, where a weight is missing, or of another shape, or where the file has one more.
    """
    where = folder / FOLDER if (folder / FOLDER).is_dir() else folder
    found = _generator_of(read_weights(where, _stem(where)))
    wanted = task.generator.state_dict()
    taken: dict[str, Tensor] = {}
    for name, value in wanted.items():
        if name not in found:
            if name.endswith(FIXED):
                continue
            raise ValueError(f"{where}: its weights lack {name}, which this generator has; {_advice(where, task)}")
        theirs = found.pop(name)
        taken[name] = theirs.view(value.shape) if theirs.numel() == value.numel() == 1 else theirs
        if taken[name].shape != value.shape:
            raise ValueError(f"{where}: {name} is {tuple(theirs.shape)} there and {tuple(value.shape)} here; {_advice(where, task)}")
    if more := sorted(name for name in found if not name.endswith(FIXED)):
        raise ValueError(f"{where}: its weights have {more[0]}, which this generator has not; {_advice(where, task)}")
    with torch.no_grad():
        for name, value in taken.items():
            wanted[name].copy_(value)


def _stem(folder: Path) -> str:
    """Name of the folder's one safetensors file without its ending; `model` where there are none or several."""
    files = sorted(folder.glob("*.safetensors"))
    return files[0].stem if len(files) == 1 else STEM


def _generator_of(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The generator's weights under their own names."""
    for prefix in PREFIXES:
        if any(name.startswith(prefix) for name in weights):
            return {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}
    return dict(weights)


def _advice(folder: Path, task: StyleGAN) -> str:
    """What to change, with the settings of the folder where it tells them."""
    path = folder / "config.json"
    try:
        theirs = json.loads(path.read_text()) if path.is_file() else {}
        apart = {name: value for name, value in theirs.items() if settings(task).get(name) != value}
    except (OSError, ValueError, AttributeError):
        apart = {}
    if apart:
        name, value = next(iter(apart.items()))
        return f"its {name} is {value} and {settings(task).get(name, 'unknown')} here: give the task its sizes"
    return "give the task its sizes: task.network.channel-base, channel-max, latent-dim, style-dim, mapping-layers, image-size"
