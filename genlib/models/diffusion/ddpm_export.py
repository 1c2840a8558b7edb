"""A pixel diffusion as a diffusers pipeline folder: model_index.json, unet and scheduler, safetensors and JSON only."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from genlib.json_text import json_text
from genlib.models.base.components import save_component
from genlib.models.diffusion.base.process import steps_with_a_time_too_many
from genlib.models.diffusion.ddpm import PixelDiffusion


def export(task: PixelDiffusion, folder: Path) -> None:
    """`DDIMPipeline.from_pretrained(folder / "diffusers")` or DDPMPipeline. A U-Net of classes wants `class_labels`, which those
    pipelines do not give: its folder is no pipeline, and a second one, `diffusers_no_class`, holds the network of no class, which they call."""
    write_pipeline(task, task.net, folder / "diffusers")
    if task.num_classes:
        write_pipeline(task, fixed_to_label(task.net, task.num_classes - 1), folder / "diffusers_no_class")


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
    told_more = net.config.in_channels > net.config.out_channels or getattr(net, "class_embedding", None) is not None  # type: ignore[union-attr]
    if not told_more:  # no pipeline calls one that wants more than the noisy image
        (folder / "model_index.json").write_text(json_text(index, indent=2) + "\n")
    (folder / "README.md").write_text(model_card(task, net))


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


def model_card(task: PixelDiffusion, net: nn.Module) -> str:
    """What the folder holds and how it is used."""
    channels, side, _ = task.shape
    classes = task.data.class_names if getattr(net, "class_embedding", None) is not None else ()
    numbered = ", ".join(f"{number} {name}" for number, name in enumerate(classes))
    if classes:
        use = (
            "from diffusers import UNet2DModel\n"
            'unet = UNet2DModel.from_pretrained(".", subfolder="unet")\n'
            "prediction = unet(noisy, time, class_labels=labels).sample"
        )
    else:
        clipped = ", use_clipped_model_output=True" if task.config.clip else ""
        use = f'from diffusers import DDIMPipeline\nimages = DDIMPipeline.from_pretrained(".")(batch_size=16, num_inference_steps=50{clipped}).images'
    return "\n".join([
        "---", "library_name: diffusers", "pipeline_tag: unconditional-image-generation", "---", "",
        f"# Pixel diffusion, {side} x {side} pixels, {channels} channel{'s' if channels > 1 else ''}", "",
        f"{sum(p.numel() for p in net.parameters()):,} parameters; the network predicts {task.config.process.prediction}"
        f" under the {task.config.process.beta_schedule} schedule of {task.config.process.timesteps} steps.", "",
        *([] if classes else [right_steps(task.config.process.timesteps), ""]),
        *([f"Labels: {numbered}; {len(classes)} is none of them.", ""] if classes else []),
        "```python", use, "```", "",
    ])  # fmt: skip
