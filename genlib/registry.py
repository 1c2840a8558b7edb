"""All recipes by name: `"module:function"`, imported when asked for, so that listing them costs nothing."""

from __future__ import annotations

import importlib
import inspect

from genlib.config import nearest
from genlib.recipe import Recipe

RECIPES: dict[str, str] = {
    "autoencoder_kl": "genlib.models.autoencoders.kl:autoencoder_kl",
    "autoencoder_kl_sdxl": "genlib.models.autoencoders.kl:autoencoder_kl_sdxl",
    "autoencoder_vq": "genlib.models.autoencoders.vq:autoencoder_vq",
    "classifier": "genlib.models.representation.classifier:classifier",
    "clip_tiny": "genlib.models.representation.clip:clip_tiny",
    "clip_vit_b32": "genlib.models.representation.clip:clip_vit_b32",
    "clip_vit_l14": "genlib.models.representation.clip:clip_vit_l14",
    "ddpm": "genlib.models.diffusion.ddpm:ddpm",
    "ddpm_cifar10": "genlib.models.diffusion.ddpm:ddpm_cifar10",
    "ddpm_unconditional": "genlib.models.diffusion.ddpm:ddpm_unconditional",
    "inpainting": "genlib.models.diffusion.inpainting:inpainting",
    "ldm_sd2": "genlib.models.diffusion.ldm:ldm_sd2",
    "ldm_tiny": "genlib.models.diffusion.ldm:ldm_tiny",
    "rectified_flow": "genlib.models.diffusion.rectified_flow:rectified_flow",
    "resampling": "genlib.models.diffusion.inpainting:resampling",
    "sd3_medium": "genlib.models.diffusion.sd3:sd3_medium",
    "sd3_tiny": "genlib.models.diffusion.sd3:sd3_tiny",
    "sdxl": "genlib.models.diffusion.sdxl:sdxl",
    "sdxl_tiny": "genlib.models.diffusion.sdxl:sdxl_tiny",
}


def _function(name: str):
    if name not in RECIPES:
        raise ValueError(f"there is no recipe {name!r}.{nearest(name, list(RECIPES))} `python jobs/train.py --list` shows all")
    module, function = RECIPES[name].split(":")
    return getattr(importlib.import_module(module), function)


def load(name: str) -> Recipe:
    """The recipe of that name. ValueError names the nearest one where there is none."""
    return _function(name)()


def describe(name: str) -> str:
    """The recipe's docstring: what it trains, its command, what it reached."""
    return inspect.getdoc(_function(name)) or ""
