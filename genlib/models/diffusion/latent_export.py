"""Latent models as the pipeline folders of diffusers, out and in: safetensors and JSON only.

`StableDiffusionXLPipeline.from_pretrained(folder)`, `StableDiffusionPipeline` for a model on one text encoder, `StableDiffusion3Pipeline`
for one on three; the refiner's folder is for `StableDiffusionXLImg2ImgPipeline`. Images of one channel become three equal ones.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from genlib.json_text import json_text
from genlib.models.autoencoders.base.image import ImageAutoencoder
from genlib.models.autoencoders.base.image_files import latent_settings, rgb_model
from genlib.models.base.components import adopt_component, save_component
from genlib.models.diffusion.base.latent import LatentTask
from genlib.models.diffusion.base.process import DiscreteConfig, steps_with_a_time_too_many
from genlib.models.diffusion.ldm import LatentDiffusion
from genlib.models.diffusion.sd3 import SD3
from genlib.models.diffusion.sdxl import SDXLRefiner
from genlib.models.representation.text_encoder import FrozenTextTower
from genlib.nn.tokenizer import END, START
from genlib.sharing.formats import Format

_NONE = [None, None]
_TOKENIZER = ["transformers", "PreTrainedTokenizerFast"]


DRAWING = """
import torch
from diffusers import PIPELINE

pipeline = PIPELINE.from_pretrained(folder)
images = pipeline(CAPTION, generator=torch.Generator().manual_seed(0)OPTIONS).images
print(images[0].size)  # images[0].save("picture.png")
"""
REFINING = """
import torch
from diffusers import StableDiffusionXLImg2ImgPipeline
from PIL import Image

refiner = StableDiffusionXLImg2ImgPipeline.from_pretrained(folder)
picture = Image.open(f"{folder}/input.png").convert("RGB").resize((SIDE, SIDE))
images = refiner(CAPTION, image=picture, strength=0.3, generator=torch.Generator().manual_seed(0)).images
print(images[0].size)  # images[0].save("picture.png")
"""


def export_stable_diffusion(task: LatentDiffusion, folder: Path) -> list[Format]:
    """`diffusers/`, a StableDiffusionPipeline: text_encoder, tokenizer, unet, vae, scheduler."""
    folder = folder / "diffusers"
    parts = {"text_encoder": write_text_encoder(task.towers[0], folder, "", projected=False), **write_rest(task, folder, shifts=False)}
    parts |= {"safety_checker": _NONE, "feature_extractor": _NONE, "image_encoder": _NONE}
    return write_index(task, folder, "StableDiffusionPipeline", parts, {"requires_safety_checker": False})


def export_sdxl(task: LatentDiffusion, folder: Path) -> list[Format]:
    """`diffusers/`, a StableDiffusionXLPipeline: two text encoders and tokenizers, unet, vae, scheduler."""
    folder = folder / "diffusers"
    first, second = task.towers
    parts = {
        "text_encoder": write_text_encoder(first, folder, "", projected=False),
        "text_encoder_2": write_text_encoder(second, folder, "_2", projected=True), **write_rest(task, folder),
        "tokenizer_2": _TOKENIZER, "feature_extractor": _NONE, "image_encoder": _NONE,
    }  # fmt: skip
    return write_index(task, folder, "StableDiffusionXLPipeline", parts, {"force_zeros_for_empty_prompt": True, "add_watermarker": False})


def export_with_refiner(task: SDXLRefiner, folder: Path) -> list[Format]:
    """The base as `diffusers`, and beside it `diffusers-refiner`, a StableDiffusionXLImg2ImgPipeline with the second text encoder alone,
    which takes the base's latents."""
    base = export_sdxl(task.base, folder)
    folder = folder / "diffusers-refiner"
    parts = {
        "text_encoder_2": write_text_encoder(task.towers[0], folder, "_2", projected=True), **write_rest(task, folder),
        "text_encoder": _NONE, "tokenizer": _NONE, "tokenizer_2": _TOKENIZER, "feature_extractor": _NONE,
        "image_encoder": _NONE,
    }  # fmt: skip
    settings = {"force_zeros_for_empty_prompt": True, "requires_aesthetics_score": True, "add_watermarker": False}
    return [*base, *write_index(task, folder, "StableDiffusionXLImg2ImgPipeline", parts, settings)]


def export_sd3(task: SD3, folder: Path) -> list[Format]:
    """`diffusers/`, a StableDiffusion3Pipeline: three text encoders and tokenizers, transformer, vae, scheduler."""
    from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler

    folder = folder / "diffusers"
    parts = {f"tokenizer{suffix}": _TOKENIZER for suffix in ("", "_2", "_3")}
    for tower, suffix, projected in zip(task.towers, ("", "_2", "_3"), (True, True, False), strict=True):
        parts[f"text_encoder{suffix}"] = write_text_encoder(tower, folder, suffix, projected=projected)
    save_component(task.net.model, folder / "transformer")
    settings = {"shift_factor": task.autoencoder.shift.item()}  # this pipeline wants one even where it is 0
    save_component(rgb_model(task.autoencoder), folder / "vae", latent_settings(task.autoencoder) | settings)
    FlowMatchEulerDiscreteScheduler(shift=task.config.flow.shift).save_pretrained(folder / "scheduler")
    parts |= {
        "transformer": ["diffusers", "SD3Transformer2DModel"], "vae": ["diffusers", type(task.autoencoder.model).__name__],
        "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"], "feature_extractor": _NONE, "image_encoder": _NONE,
    }  # fmt: skip
    return write_index(task, folder, "StableDiffusion3Pipeline", parts, {})


def load_unet(task: LatentDiffusion, folder: Path) -> None:
    """The U-Net of a pipeline folder or of a component's own folder."""
    adopt_component(task.net.model, folder / "unet" if (folder / "unet").is_dir() else folder)
    task.text_scale.fill_(1.0)  # the folder's network reads hidden states as they are


def load_transformer(task: SD3, folder: Path) -> None:
    """The transformer of a pipeline folder or of a component's own folder."""
    adopt_component(task.net.model, folder / "transformer" if (folder / "transformer").is_dir() else folder)


def write_rest(task: LatentDiffusion, folder: Path, *, shifts: bool = True) -> dict[str, list]:
    """unet, vae and scheduler, and the line of the first tokenizer; what model_index.json says of them.

    `shifts`: whether the pipeline knows latents that are not centred; SDXL's does for four channels.
    """
    save_component(reading_unscaled(task), folder / "unet")
    write_vae(task.autoencoder, folder / "vae", shifts=shifts and task.autoencoder.latent_channels == 4)
    name = write_scheduler(task.config.process, folder / "scheduler")
    return {
        "unet": ["diffusers", "UNet2DConditionModel"], "vae": ["diffusers", type(task.autoencoder.model).__name__],
        "scheduler": ["diffusers", name], "tokenizer": _TOKENIZER,
    }  # fmt: skip


@torch.no_grad()
def reading_unscaled(task: LatentDiffusion) -> Any:
    """The U-Net that reads hidden states as the text encoders give them: its keys and values of texts take the scale."""
    model, scale = task.net.model, task.text_scale
    if torch.equal(scale, torch.ones_like(scale)):
        return model
    model = copy.deepcopy(model)
    for name, module in model.named_modules():
        if name.endswith(("attn2.to_k", "attn2.to_v")):
            module.weight *= scale.to(module.weight)
    return model


def write_vae(autoencoder: ImageAutoencoder, folder: Path, *, shifts: bool) -> None:
    """The autoencoder for RGB images, with the scale of its latents; where the pipeline knows no shift, its network does it."""
    model, settings = rgb_model(autoencoder), latent_settings(autoencoder)
    if autoencoder.shift.item() and not shifts:
        model = centred(model, autoencoder)
        settings = {name: value for name, value in settings.items() if name in ("sample_size", "scaling_factor")}
    save_component(model, folder, settings)


@torch.no_grad()
def centred(model: Any, autoencoder: ImageAutoencoder) -> Any:
    """The same network with latents of mean 0: the convolutions beside them take the shift. ValueError where there are none."""
    convolutions = [getattr(model, name, None) for name in ("quant_conv", "post_quant_conv")]
    if type(model).__name__ != "AutoencoderKL" or None in convolutions:
        raise ValueError(
            f"the pipeline knows no shift of latents, and {type(model).__name__} cannot take it; train the autoencoder with task.centred False"
        )
    moved, shift = copy.deepcopy(model), autoencoder.shift
    moved.quant_conv.bias[: autoencoder.latent_channels] -= shift
    moved.post_quant_conv.bias += moved.post_quant_conv.weight.sum((1, 2, 3)) * shift
    return moved


def write_scheduler(process: DiscreteConfig, folder: Path) -> str:
    """The deterministic sampler on the levels that training saw, from the last one on; its class's name.

    DPM-Solver of order 1 is DDIM, and diffusers' walks between the times at which it asks; its DDIM scheduler does so only where the number of
    steps divides that of the levels.
    """
    from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler

    DPMSolverMultistepScheduler(**process.scheduler_config(timestep_spacing="trailing", solver_order=1)).save_pretrained(folder)
    return "DPMSolverMultistepScheduler"


def write_text_encoder(tower: FrozenTextTower, folder: Path, suffix: str, *, projected: bool) -> list[str]:
    """text_encoder and tokenizer with that suffix; without the projection where the pipeline wants none."""
    model = tower.model if projected == bool(tower.pooled_width) else without_projection(tower.model)
    save_component(model, folder / f"text_encoder{suffix}")
    write_tokenizer(tower, folder / f"tokenizer{suffix}")
    return ["transformers", type(model).__name__]


@torch.no_grad()
def without_projection(model: Any) -> Any:
    """The same tower as transformers' CLIPTextModel."""
    from transformers import CLIPTextModel

    with torch.random.fork_rng(devices=[]):
        bare = CLIPTextModel(model.config).eval()
    state = {name.removeprefix("text_model."): value for name, value in model.state_dict().items() if not name.startswith("text_projection")}
    wanted = {name.removeprefix("text_model."): name for name in bare.state_dict()}
    bare.load_state_dict({wanted[name]: value for name, value in state.items() if name in wanted})
    return bare


def write_tokenizer(tower: FrozenTextTower, folder: Path) -> None:
    """tokenizer.json, and what transformers needs beside it to fill texts up as training did."""
    folder.mkdir(parents=True, exist_ok=True)
    inner = tower.tokenizer.tokenizer
    assert inner is not None
    (folder / "tokenizer.json").write_text(tower.tokenizer.to_json())
    marks: dict[str, Any] = {"pad_token": inner.id_to_token(tower.pad_token)}
    if inner.token_to_id(END) is not None:
        marks |= {"bos_token": START, "eos_token": END, "unk_token": END}
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": tower.length, **marks}
    (folder / "tokenizer_config.json").write_text(json_text(settings, indent=2) + "\n")
    (folder / "special_tokens_map.json").write_text(json_text(marks, indent=2) + "\n")


def write_index(task: LatentTask, folder: Path, pipeline: str, parts: Mapping[str, list], settings: Mapping[str, Any]) -> list[Format]:
    """model_index.json; what the card of the folder needs to know."""
    import diffusers

    index = {"_class_name": pipeline, "_diffusers_version": diffusers.__version__, **dict(sorted(parts.items())), **settings}
    (folder / "model_index.json").write_text(json_text(index, indent=2) + "\n")
    refines = pipeline == "StableDiffusionXLImg2ImgPipeline"
    options = f", max_sequence_length={task.towers[2].length}" if isinstance(task, SD3) else ""
    code = REFINING.replace("SIDE", str(task.size)) if refines else DRAWING.replace("PIPELINE", pipeline).replace("OPTIONS", options)
    about = f"Pictures of {task.size} pixels a side; {described(task)}."
    if refines:
        about = f"It takes over the base's latents for the last part of the way, or goes over finished pictures.\n\n{about}"
    return [
        Format(
            folder=folder.name, hub_folder="refiner" if refines else "", library="diffusers", install="diffusers transformers torch",
            code=code, about=about,
            title=f"Latent diffusion on text, {task.size} pixels", task="image-to-image" if refines else "text-to-image",
            tags=("text-to-image", "diffusion"),
        )
    ]  # fmt: skip


def described(task: LatentTask) -> str:
    """What the network says, and of which noise."""
    if isinstance(task, SD3):
        length = task.towers[2].length
        return (
            f"the network says the velocity of a rectified flow with time shift {task.config.flow.shift:g}. It was trained with\n"
            f"{length} tokens of the third text encoder: call the pipeline with `max_sequence_length={length}`"
        )
    assert isinstance(task, LatentDiffusion)
    process = task.config.process
    ending = " with zero terminal signal" if process.zero_terminal_snr else ""
    levels = process.timesteps
    return (
        f"the network predicts {process.prediction} under the {process.beta_schedule} schedule of\n{levels} steps{ending}. The sampler is DPM-Solver "
        f"of order 1, which is DDIM, with any number of steps{asked_once_more(levels)}"
    )


def asked_once_more(levels: int) -> str:
    """What the card says of the numbers of steps at which diffusers has a time too many."""
    some = steps_with_a_time_too_many(levels)
    return (
        f";\nwith {len(some)} of these ({', '.join(map(str, some[:3]))} ...) diffusers asks once more at the end, which hardly shows" if some else ""
    )
