"""All recipes by name: `"module:function"`, imported when asked for. Ours stand here; `genlib.trusted_packages` finds those of other packages."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable

from genlib import trusted_packages
from genlib.config import nearest
from genlib.recipe import Recipe

RECIPES: dict[str, str] = {
    "acgan": "genlib.models.adversarial.acgan:acgan",
    "autoencoder": "genlib.models.autoencoders.autoencoder:autoencoder",
    "autoencoder_denoising": "genlib.models.autoencoders.autoencoder:autoencoder_denoising",
    "autoencoder_kl": "genlib.models.autoencoders.kl:autoencoder_kl",
    "autoencoder_kl_sdxl": "genlib.models.autoencoders.kl:autoencoder_kl_sdxl",
    "autoencoder_vq": "genlib.models.autoencoders.vq:autoencoder_vq",
    "beta_vae": "genlib.models.variational.vae:beta_vae",
    "cgan": "genlib.models.adversarial.cgan:cgan",
    "classifier": "genlib.models.representation.classifier:classifier",
    "clip_tiny": "genlib.models.representation.clip:clip_tiny",
    "clip_vit_b32": "genlib.models.representation.clip:clip_vit_b32",
    "clip_vit_l14": "genlib.models.representation.clip:clip_vit_l14",
    "colourise": "genlib.models.translation.restoration:colourise",
    "cyclegan": "genlib.models.translation.cyclegan:cyclegan",
    "cyclegan_256": "genlib.models.translation.cyclegan:cyclegan_256",
    "dbn": "genlib.models.energy.dbn:dbn",
    "dcgan": "genlib.models.adversarial.dcgan:dcgan",
    "ddpm": "genlib.models.diffusion.ddpm:ddpm",
    "ddpm_cifar10": "genlib.models.diffusion.ddpm:ddpm_cifar10",
    "ddpm_unconditional": "genlib.models.diffusion.ddpm:ddpm_unconditional",
    "gan": "genlib.models.adversarial.gan:gan",
    "gan_minimax": "genlib.models.adversarial.gan:gan_minimax",
    "infogan": "genlib.models.adversarial.infogan:infogan",
    "infogan_digits": "genlib.models.adversarial.infogan:infogan_digits",
    "inpainting": "genlib.models.diffusion.inpainting:inpainting",
    "ldm_sd2": "genlib.models.diffusion.ldm:ldm_sd2",
    "ldm_tiny": "genlib.models.diffusion.ldm:ldm_tiny",
    "moco": "genlib.models.representation.moco:moco",
    "pca": "genlib.models.autoencoders.autoencoder:pca",
    "pix2pix": "genlib.models.translation.pix2pix:pix2pix",
    "pix2pix_256": "genlib.models.translation.pix2pix:pix2pix_256",
    "progan": "genlib.models.adversarial.progan:progan",
    "progan_1024": "genlib.models.adversarial.progan:progan_1024",
    "r3gan": "genlib.models.adversarial.stylegan.recipes:r3gan",
    "rbm": "genlib.models.energy.rbm:rbm",
    "rbm_gaussian": "genlib.models.energy.gaussian_rbm:rbm_gaussian",
    "rectified_flow": "genlib.models.diffusion.rectified_flow:rectified_flow",
    "resampling": "genlib.models.diffusion.inpainting:resampling",
    "sd3_medium": "genlib.models.diffusion.sd3:sd3_medium",
    "sd3_tiny": "genlib.models.diffusion.sd3:sd3_tiny",
    "sdxl": "genlib.models.diffusion.sdxl:sdxl",
    "sdxl_tiny": "genlib.models.diffusion.sdxl:sdxl_tiny",
    "simclr": "genlib.models.representation.simclr:simclr",
    "som": "genlib.models.maps.som:som",
    "som_tsp": "genlib.models.maps.som:som_tsp",
    "stylegan1": "genlib.models.adversarial.stylegan.recipes:stylegan1",
    "stylegan1_1024": "genlib.models.adversarial.stylegan.recipes:stylegan1_1024",
    "stylegan2": "genlib.models.adversarial.stylegan.recipes:stylegan2",
    "stylegan2_1024": "genlib.models.adversarial.stylegan.recipes:stylegan2_1024",
    "stylegan2_256": "genlib.models.adversarial.stylegan.recipes:stylegan2_256",
    "stylegan2_labelled": "genlib.models.adversarial.stylegan.recipes:stylegan2_labelled",
    "stylegan3_r": "genlib.models.adversarial.stylegan.recipes:stylegan3_r",
    "stylegan3_t": "genlib.models.adversarial.stylegan.recipes:stylegan3_t",
    "super_resolution": "genlib.models.translation.restoration:super_resolution",
    "text_gan": "genlib.models.adversarial.text_gan:text_gan",
    "unit": "genlib.models.translation.unit:unit",
    "vae": "genlib.models.variational.vae:vae",
    "wgan": "genlib.models.adversarial.wgan:wgan",
    "wgan_gp": "genlib.models.adversarial.wgan_gp:wgan_gp",
    "wgan_gp_points": "genlib.models.adversarial.wgan_gp:wgan_gp_points",
}


def recipes() -> dict[str, str]:
    """These and those of other packages. ValueError where one of them has a name of ours."""
    others = trusted_packages.recipes()
    if taken := sorted(others.keys() & RECIPES.keys()):
        raise ValueError(f"{others[taken[0]]} is a recipe named {taken[0]!r}, as one of genlib's is; give it another name")
    return {**RECIPES, **others}


def _function(name: str) -> Callable[[], Recipe]:
    known = recipes()
    if name not in known:
        raise ValueError(f"there is no recipe {name!r}.{nearest(name, list(known))} `python jobs/train.py --list` shows all")
    module, _, function = known[name].partition(":")
    if name in RECIPES:
        return getattr(importlib.import_module(module), function)
    what = f"recipe {name!r} is {known[name]}"
    found = getattr(trusted_packages.imported(module, what), function, None)
    if found is None:
        raise ValueError(f"{what}, but {module} has no {function}; repair that package")
    return found


def load(name: str) -> Recipe:
    """The recipe of that name. ValueError names the nearest one where there is none."""
    return _function(name)()


def describe(name: str) -> str:
    """The recipe's docstring: what it trains, its command, what it reached."""
    return inspect.getdoc(_function(name)) or ""
