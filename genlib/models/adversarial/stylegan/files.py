"""Both networks as folders of their own: safetensors with the published names of weights, and a config.json with the published settings.

StyleGAN 1 was published in TensorFlow alone; its weights have names like StyleGAN2's, and how far it has grown is among them.

Training code that NVIDIA published keeps generators in pickles, which may run code when they are read; a state dict of one as safetensors is
taken here key by key.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from genlib.json_text import json_text
from genlib.models.adversarial.stylegan.synthesis3 import OUTPUT_SCALE
from genlib.models.adversarial.stylegan.task import StyleGAN
from genlib.models.base.components import read_weights
from genlib.sharing.formats import Format

PLAYERS, STEM = ("generator", "discriminator"), "model"
"""Folders, by the names of the networks, and the weights' file in each."""
PREFIXES = ("G_ema.", "generator.", "g_ema.")
"""That stand before a generator's weights where a file holds other networks too."""
CLASSES = {
    "stylegan1": "training.networks_stylegan.G_style",
    "stylegan2": "training.networks_stylegan2.Generator",
    "stylegan3": "training.networks_stylegan3.Generator",
}
FIXED = (".resample_filter",)
"""Buffers that follow from the settings."""


def settings(task: StyleGAN, player: str = "generator") -> dict[str, Any]:
    """How a network is built, by the names of NVlabs' stylegan3 repository."""
    network, (channels, side, _) = task.networks, task.shape.sides
    sizes = {"channel_base": network.channel_base, "channel_max": network.channel_max, "num_fp16_res": network.bf16_resolutions}
    same = {"c_dim": task.condition_sizes[PLAYERS.index(player)], "img_resolution": side, "img_channels": channels}
    if player == "discriminator":
        return {**same, **sizes, "epilogue_kwargs": {"mbstd_group_size": network.stddev_group, "mbstd_num_channels": int(network.stddev_group > 1)}}
    return {
        **same, "class_name": CLASSES[network.synthesis], "z_dim": network.latent_dim, "w_dim": network.style_dim,
        "mapping_kwargs": {"num_layers": network.mapping_layers},
        "synthesis_kwargs": {**sizes, **synthesis_settings(task)},
    }  # fmt: skip


def synthesis_settings(task: StyleGAN) -> dict[str, Any]:
    """Those that the synthesis network of StyleGAN 1 and 2 has alone, or StyleGAN3's."""
    network, design = task.networks, task.networks.alias_free
    if network.synthesis != "stylegan3":
        return {"use_noise": network.layer_noise}
    return {
        "num_layers": design.num_layers, "num_critical": design.num_critical, "first_cutoff": design.first_cutoff,
        "first_stopband": design.first_stopband, "last_stopband_rel": design.last_stopband, "margin_size": design.margin,
        "filter_size": design.filter_size, "conv_kernel": 1 if design.radial else 3, "use_radial_filters": design.radial,
        "output_scale": OUTPUT_SCALE,
    }  # fmt: skip


CODE = """
import torch
from genlib import checkpoint
from pathlib import Path

task = checkpoint.load_task(Path(folder))
images = task.generate(seed=[0, 1, 2, 3]LABELS)  # (4, channels, side, side) in [0, 1]
print(images.shape, torch.isfinite(images).all().item())
"""


def export(task: StyleGAN, folder: Path) -> list[Format]:
    """Writes both networks; see the module."""
    for player in PLAYERS:
        where = folder / player
        where.mkdir(parents=True, exist_ok=True)
        (where / "config.json").write_text(json_text(settings(task, player), indent=2) + "\n")
        state = {name: value.detach().cpu().contiguous() for name, value in task.player(player).state_dict().items()}
        state = {name: value.view(()) if name.endswith(".noise_strength") and value.numel() == 1 else value for name, value in state.items()}
        path = where / f"{STEM}.safetensors"
        save_file(state, path, metadata={"format": "pt"})
        path.chmod(0o644)  # safetensors writes for the owner alone
    channels, side, _ = task.shape.sides
    labels = f", label=[{', '.join(str(number % task.condition_sizes[0]) for number in range(4))}]" if task.condition_sizes[0] else ""
    return [
        Format(
            folder="", library="genlib", install="genlib", code=CODE.replace("LABELS", labels), tags=("gan", "stylegan"),
            task="unconditional-image-generation",
            title=f"StyleGAN of {side} x {side} pixels",
            about=(
                f"Pictures of {side} pixels a side, {'grey' if channels == 1 else 'RGB'}, from noise. `generator/` and `discriminator/` hold weights"
                " under the names that NVlabs' stylegan3 repository gives them, and its settings."
            ),
        )
    ]  # fmt: skip


def load_pretrained(task: StyleGAN, folder: Path) -> None:
    """Fills both networks from such a folder, or the generator alone from one with a single safetensors file of a published one's weights.

    ValueError in one sentence, with nothing changed, where a weight is missing, or of another shape, or where a file has one more.
    """
    places = {player: folder / player for player in PLAYERS if (folder / player).is_dir()} or {"generator": folder}
    taken = [(task.player(player), matched(task, player, where)) for player, where in places.items()]
    with torch.no_grad():
        for network, weights in taken:
            fill(network, weights)


def fill(network: nn.Module, weights: dict[str, Tensor]) -> None:
    """Copies weights by their names."""
    wanted = network.state_dict()
    for name, value in weights.items():
        wanted[name].copy_(value)


def matched(task: StyleGAN, player: str, where: Path) -> dict[str, Tensor]:
    """The weights in a folder, in the shapes that a network wants. ValueError where they are another's."""
    found, taken = read_weights(where, _stem(where)), {}
    if player == "generator":
        found = _generator_of(found)
    for name, value in task.player(player).state_dict().items():
        if name not in found:
            if name.endswith(FIXED):
                continue
            raise ValueError(f"{where}: its weights lack {name}, which this {player} has; {_advice(where, task, player)}")
        theirs = found.pop(name)
        taken[name] = theirs.view(value.shape) if theirs.numel() == value.numel() == 1 else theirs
        if taken[name].shape != value.shape:
            raise ValueError(f"{where}: {name} is {tuple(theirs.shape)} there and {tuple(value.shape)} here; {_advice(where, task, player)}")
    if more := sorted(name for name in found if not name.endswith(FIXED)):
        raise ValueError(f"{where}: its weights have {more[0]}, which this {player} has not; {_advice(where, task, player)}")
    return taken


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


def _advice(folder: Path, task: StyleGAN, player: str) -> str:
    """What to change, with the settings of the folder where it tells them."""
    path, ours = folder / "config.json", settings(task, player)
    try:
        theirs = json.loads(path.read_text()) if path.is_file() else {}
        apart = {name: value for name, value in theirs.items() if ours.get(name) != value}
    except (OSError, ValueError, AttributeError):
        apart = {}
    if apart:
        name, value = next(iter(apart.items()))
        return f"its {name} is {value} and {ours.get(name, 'unknown')} here: give the task its sizes"
    return "give the task its sizes: task.network.channel-base, channel-max, latent-dim, style-dim, mapping-layers, image-size"
