"""A pixel diffusion as a diffusers pipeline folder: model_index.json, unet and scheduler, safetensors and JSON only."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from genlib.json_text import json_text
from genlib.models.base.components import save_component
from genlib.models.diffusion.base.process import steps_with_a_time_too_many
from genlib.models.diffusion.ddpm import PixelDiffusion
from genlib.sharing.formats import Format

PIPELINE = """
import torch
from diffusers import DDIMPipeline

pipeline = DDIMPipeline.from_pretrained(folder)
images = pipeline(batch_size=4, num_inference_steps=50, generator=torch.Generator().manual_seed(0)OPTIONS).images
print(images[0].size)  # images[0].save("picture.png")
"""
LOOP = """
import torch
from diffusers import DDIMScheduler, UNet2DModel

unet = UNet2DModel.from_pretrained(folder, subfolder="unet").eval()
scheduler = DDIMScheduler.from_pretrained(folder, subfolder="scheduler")
scheduler.set_timesteps(50)
image = torch.randn(4, SHAPE, generator=torch.Generator().manual_seed(0))
GIVEN
with torch.no_grad():
    for time in scheduler.timesteps:
        prediction = unet(SEEN).sample
        image = scheduler.step(prediction, time, image).prev_sample
pixels = (image / 2 + 0.5).clamp(0, 1)
print(pixels.shape)
"""


def export(task: PixelDiffusion, folder: Path) -> list[Format]:
    """`DDIMPipeline.from_pretrained(folder / "diffusers")` or DDPMPipeline. A U-Net of classes wants `class_labels`, which those
    pipelines do not give: its folder is no pipeline, and a second one, `diffusers_no_class`, holds the network of no class, which they call."""
    write_pipeline(task, task.net, folder / "diffusers")
    found = [described(task, task.net, "diffusers", "")]
    if task.num_classes:
        fixed = fixed_to_label(task.net, task.num_classes - 1)
        write_pipeline(task, fixed, folder / "diffusers_no_class")
        found.append(described(task, fixed, "diffusers_no_class", "no_class"))
    return found


def described(task: PixelDiffusion, net: nn.Module, folder: str, hub_folder: str) -> Format:
    """One folder for its card."""
    _, side, _ = task.shape
    process, classes = task.config.process, of_classes(net)
    about = f"The network predicts {process.prediction} under the {process.beta_schedule} schedule of {process.timesteps} steps."
    if classes:
        about += f"\n\nPictures of a class: the label {len(task.data.class_names)} is none of them."
    if told_more(net):
        about += "\n\nIt fills holes: beside the noisy picture it sees the mask, 1 where the hole is, and the picture with 0 there."
    if not classes and not told_more(net):
        about += "\n\n" + right_steps(process.timesteps)
    return Format(
        folder=folder, hub_folder=hub_folder, library="diffusers", install="diffusers transformers torch", code=code(task, net), about=about,
        title=f"Pixel diffusion of {side} x {side} pixels", task="unconditional-image-generation", tags=("diffusion",),
    )  # fmt: skip


def of_classes(net: nn.Module) -> bool:
    """Whether it wants labels."""
    return getattr(net, "class_embedding", None) is not None


def told_more(net: nn.Module) -> bool:
    """Whether it wants more than the noisy picture."""
    return net.config.in_channels > net.config.out_channels  # type: ignore[union-attr]


def code(task: PixelDiffusion, net: nn.Module) -> str:
    """What draws with the folder: a pipeline, or of a network that wants more than those give, the loop itself."""
    if not of_classes(net) and not told_more(net):
        return PIPELINE.replace("OPTIONS", ", use_clipped_model_output=True" if task.config.clip else "")
    given, seen = [], "image, time"
    if of_classes(net):
        given.append(f"labels = torch.arange(4) % {len(task.data.class_names)}")
        seen += ", class_labels=labels"
    if told_more(net):
        given.append("mask = torch.ones_like(image[:, :1])  # all is to be filled\nknown = torch.zeros_like(image)")
        seen = seen.replace("image", "torch.cat([image, mask, known], 1)", 1)
    shape = ", ".join(map(str, task.shape))
    return LOOP.replace("SHAPE", shape).replace("GIVEN", "\n".join(given)).replace("SEEN", seen)


@torch.no_grad()
def fixed_to_label(net: nn.Module, label: int) -> nn.Module:
    """A U-Net without classes that computes what this one does for the label: its embedding is a bias of the time's."""
    state = {name: value.clone() for name, value in net.state_dict().items()}
    embedding = state.pop("class_embedding.weight")[label]
    state["time_embedding.linear_2.bias"] += embedding
    fixed = type(net).from_config({**dict(net.config), "num_class_embeds": None})  # type: ignore[attr-defined]
    fixed.load_state_dict(state)
    return fixed


def write_pipeline(task: PixelDiffusion, net: nn.Module, folder: Path) -> None:
    """The folder of one network."""
    import diffusers
    from diffusers.schedulers.scheduling_ddpm import DDPMScheduler

    save_component(net, folder / "unet", {"sample_size": task.data.image_size})
    process = task.config.process
    options = {"clip_sample": task.config.clip, "timestep_spacing": "trailing"}
    DDPMScheduler(**process.scheduler_config(**options)).save_pretrained(folder / "scheduler")
    index = {
        "_class_name": "DDPMPipeline",
        "_diffusers_version": diffusers.__version__,
        "scheduler": ["diffusers", "DDPMScheduler"],
        "unet": ["diffusers", "UNet2DModel"],
    }
    if not told_more(net) and not of_classes(net):  # no pipeline calls one that wants more than the noisy image
        (folder / "model_index.json").write_text(json_text(index, indent=2) + "\n")


def right_steps(levels: int) -> str:
    """What the card says of the numbers of steps: those two pipelines' own schedulers are right for some alone."""
    some = steps_with_a_time_too_many(levels)
    spoilt = (
        f", and with {len(some)} of them ({', '.join(map(str, some[:3]))} ...) both pipelines ask at a time -1, which spoils the picture"
        if some
        else ""
    )
    return (
        f"Give a number of steps that divides {levels}: with others DDIMPipeline walks from points that are not quite those at which it asks{spoilt}."
    )
