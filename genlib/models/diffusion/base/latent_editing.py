"""What a text-conditional model of latents does with a given picture: change it by words, fill its holes, continue it.

SDEdit (Meng et al. 2022, arXiv:2108.01073) adds noise and denoises. Editing by inversion (Hertz et al. 2022, arXiv:2208.01626; Mokady et
al. 2023, arXiv:2211.09794) instead finds the noise of which the model would draw this picture under the words that describe it, and
draws that again under others, so that more of it stays. Filling is masked resampling (Lugmayr et al. 2022, arXiv:2201.09865) in latents.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from genlib.functional import inpainting, step_callbacks
from genlib.functional.samplers import ddim, invert
from genlib.models.diffusion.base.latent import LatentTask
from genlib.models.diffusion.base.sampling import Sampler, run_sampler
from genlib.plurals import counted
from genlib.ports import (
    Guidance,
    GuidanceRescale,
    Height,
    Image,
    Jump,
    Left,
    Mask,
    NegativeText,
    Passes,
    Seeds,
    SourceTexts,
    Steps,
    Strength,
    Texts,
    Top,
    Width,
)
from genlib.task import action


class LatentEditor(LatentTask):
    """Adds the actions on pictures. All are functions of each row alone: its picture, its words, its seed."""

    @action
    @torch.no_grad()
    def image_to_image(
        self, *, image: Image, prompt: Texts, seed: Seeds, strength: Strength = 0.6, negative_prompt: NegativeText = "", steps: Steps = 25,
        guidance_scale: Guidance = -1.0, guidance_rescale: GuidanceRescale = 0.0, sampler: Sampler = "ddim",
    ) -> Image:  # fmt: skip
        """Pictures (B, C, H, W) in [0, 1] changed towards prompts: noised to a share `strength` of the steps and denoised (SDEdit).

        strength 0 gives the autoencoder's reconstruction, 1 keeps nothing of the picture.
        """
        check_counts(image, prompts=prompt, seeds=seed)
        spec = self.generation_spec(prompt, negative_prompt, guidance_scale, guidance_rescale, image.shape[-1], image.shape[-2])
        noise, latents, grid = self.noise(spec, seed), self.encode_latents(image), self.grid(steps).strength(strength)
        if not len(grid):
            return self.decode_latents(latents)
        return self.decode_latents(run_sampler(sampler, self.guided(spec), grid.noised(latents, noise()), grid, noise))

    @action
    @torch.no_grad()
    def edit(
        self, *, image: Image, source_prompt: SourceTexts, prompt: Texts, strength: Strength = 0.8, negative_prompt: NegativeText = "",
        steps: Steps = 25, guidance_scale: Guidance = -1.0, guidance_rescale: GuidanceRescale = 0.0,
    ) -> Image:  # fmt: skip
        """Pictures (B, C, H, W) in [0, 1] of which `source_prompt` is true, made into what `prompt` says: inverted, then drawn again.

        strength is the share of the steps that is walked back and forth: less keeps more. With equal prompts and guidance_scale 1 it
        gives the autoencoder's reconstruction; no noise is drawn.
        """
        check_counts(image, source_prompts=source_prompt, prompts=prompt)
        sides = image.shape[-1], image.shape[-2]
        spec = self.generation_spec(prompt, negative_prompt, guidance_scale, guidance_rescale, *sides)
        latents, grid = self.encode_latents(image), self.grid(steps, clean=False).strength(strength)
        if not len(grid):
            return self.decode_latents(latents)
        with step_callbacks.part(0, 2 * len(grid)):
            start = invert(self.guided(self.generation_spec(source_prompt, "", 1.0, 0.0, *sides)), latents, grid)
        with step_callbacks.part(len(grid), 2 * len(grid)):
            return self.decode_latents(ddim(self.guided(spec), start, grid))

    @action
    @torch.no_grad()
    def inpaint(
        self, *, image: Image, mask: Mask, prompt: Texts, seed: Seeds, negative_prompt: NegativeText = "", steps: Steps = 25,
        guidance_scale: Guidance = -1.0, guidance_rescale: GuidanceRescale = 0.0, jump: Jump = 5, passes: Passes = 3,
    ) -> Image:  # fmt: skip
        """Pictures (B, C, H, W) in [0, 1] filled where the mask (B or 1, 1, H, W) is 1; the other pixels come back as they are.

        Every `jump` steps are walked `passes` times: more agree better with what is known, and take so much longer.
        """
        check_counts(image, prompts=prompt, seeds=seed)
        if mask.dim() != 4 or mask.shape[1] != 1 or mask.shape[2:] != image.shape[2:] or len(mask) not in (1, len(image)):
            raise ValueError(f"the mask is {tuple(mask.shape)}; for these images it must be ({len(image)}, 1, {image.shape[2]}, {image.shape[3]})")
        spec = self.generation_spec(prompt, negative_prompt, guidance_scale, guidance_rescale, image.shape[-1], image.shape[-2])
        image, hole, noise = image.to(self.device), (mask >= 0.5).to(self.device), self.noise(spec, seed)
        known = self.encode_latents(without(image, hole))
        keep = F.max_pool2d(hole.float(), self.autoencoder.factor) == 0
        filled = inpainting.inpaint(self.guided(spec), noise(), self.grid(steps), image=known, keep=keep, noise=noise, jump=jump, passes=passes)
        return torch.where(hole, self.decode_latents(filled), image)

    @action
    def outpaint(
        self, *, image: Image, prompt: Texts, seed: Seeds, width: Width = 0, height: Height = 0, left: Left = 0.5, top: Top = 0.5,
        negative_prompt: NegativeText = "", steps: Steps = 25, guidance_scale: Guidance = -1.0, guidance_rescale: GuidanceRescale = 0.0,
        jump: Jump = 5, passes: Passes = 3,
    ) -> Image:  # fmt: skip
        """Pictures (B, C, height, width) in [0, 1] that continue images (B, C, h, w), whose pixels come back as they are.

        `left` and `top` are shares of the new room before and above the image; sizes are in pixels, 0 the size of training.
        """
        check_counts(image, prompts=prompt, seeds=seed)
        width, height = width or self.size, height or self.size
        room = width - image.shape[-1], height - image.shape[-2]
        if min(room) < 0:
            raise ValueError(f"images of {image.shape[-1]} x {image.shape[-2]} pixels do not fit into {width} x {height}; give a larger size")
        if not (0 <= left <= 1 and 0 <= top <= 1):
            raise ValueError(f"left {left:g} and top {top:g} must be between 0 and 1, the shares of the new room before the image")
        before, above = round(room[0] * left), round(room[1] * top)
        canvas, keep = inpainting.extend(image, before, above, room[0] - before, room[1] - above)
        return self.inpaint(
            image=canvas, mask=(~keep).float(), prompt=prompt, seed=seed, negative_prompt=negative_prompt, steps=steps,
            guidance_scale=guidance_scale, guidance_rescale=guidance_rescale, jump=jump, passes=passes,
        )  # fmt: skip

    def encode_latents(self, image: Tensor) -> Tensor:
        """Pictures (B, C, H, W) in [0, 1] -> mean latents (B, c, h, w) of unit standard deviation."""
        return (self.autoencoder.encode_image(2 * image.to(self.device) - 1)[0] - self.autoencoder.shift) * self.autoencoder.scale


def check_counts(image: Tensor, **others: Sequence) -> None:
    """ValueError where there are not as many of something as images (B, C, H, W)."""
    if image.dim() != 4:
        raise ValueError(f"the images have the shape {tuple(image.shape)}; give (B, C, H, W)")
    for name, values in others.items():
        if len(values) != len(image):
            raise ValueError(f"{name.replace('_', ' ')}: {len(values)} for {counted(len(image), 'image')}; give one an image")


def without(image: Tensor, hole: Tensor) -> Tensor:
    """Images (B, C, H, W) with the mean of their other pixels in the hole (B or 1, 1, H, W) bool: latents beside it must not know what was there."""
    known = (~hole).expand_as(image)
    mean = (image * known).sum((2, 3), keepdim=True) / known.sum((2, 3), keepdim=True).clamp(min=1)
    return torch.where(hole, mean, image)
