"""One training step of a tiny SDXL-shaped U-Net against the step of diffusers' SDXL training script; one thread.

Ours is the engine's step on encoded samples: caption dropout, sampled latents, noise by position, the loss, backward, gradient norm,
fused AdamW. Theirs is the same network under Accelerate with DDPMScheduler.add_noise, the squared error, clipping and AdamW.

    OMP_NUM_THREADS=1 python -m tests.benchmarks.unet_step
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from genlib import companions
from genlib.config import OptimConfig, TrainConfig
from genlib.engine.single import SingleDevice
from genlib.models.autoencoders.kl import AutoencoderKLConfig
from genlib.models.diffusion.base.latent_unet import LatentUNetConfig
from genlib.models.diffusion.sdxl import SDXL, SDXLConfig
from genlib.models.representation.base.clip_towers import TextTransformer
from genlib.models.representation.text_encoder import TextEncoderConfig
from genlib.nn.tokenizer import train_bpe
from genlib.types import Batch, DataSpec, Step
from tests.benchmarks.measure import ratios, report

BATCH, SIDE = 64, 32


def made() -> SDXL:
    torch.manual_seed(0)
    data = DataSpec(channels=3, image_size=SIDE, has_captions=True)
    text = TextTransformer(context_length=16, vocab_size=2000, width=128, layers=2, heads=4)
    upstream = {
        "autoencoder": AutoencoderKLConfig(block_out_channels=(16, 32, 64), layers_per_block=1, norm_groups=8).build(data, {}),
        "text": TextEncoderConfig(text=text).build(data, {}),
        "text_2": TextEncoderConfig(text=text, embed_dim=256).build(data, {}),
    }
    for role in ("text", "text_2"):
        upstream[role].tokenizer.use(train_bpe(["heart"], 600))  # type: ignore[union-attr]
    upstream["autoencoder"].scale.fill_(1.0)  # type: ignore[operator]
    unet = LatentUNetConfig(block_out_channels=(64, 128), transformer_layers=(0, 2), layers_per_block=2, head_dim=32, size_dim=32)
    return SDXLConfig(unet=unet).build(data, upstream)


def batch_of(task: SDXL) -> Batch:
    example = companions.example(task, BATCH)
    return {name: torch.randn_like(value) if name in ("text", "pooled", "latent_mean") else value for name, value in example.items()}


def our_step(precision: str) -> Callable[[], object]:
    task, strategy = made().train(), SingleDevice(torch.device("cpu"))
    strategy.setup(task, TrainConfig(precision=precision, optim=OptimConfig(learning_rate=1e-4, weight_decay=1e-2, clip_norm=1.0)))  # type: ignore[arg-type]
    batch = batch_of(task)
    return lambda: strategy.run_phase(task.phases[0], [batch], Step(0, 10))


def their_step(precision: str) -> Callable[[], object]:
    from accelerate import Accelerator
    from diffusers.models.attention_processor import AttnProcessor2_0
    from diffusers.schedulers.scheduling_ddpm import DDPMScheduler

    task = made().train()
    unet: nn.Module = task.net.model
    unet.set_attn_processor(AttnProcessor2_0())  # type: ignore[operator]  # what diffusers chooses by itself
    accelerator = Accelerator(cpu=True, mixed_precision="bf16" if precision == "bf16" else "no")
    scheduler = DDPMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, num_train_timesteps=1000)
    parameters = list(unet.parameters())
    model, optimizer = accelerator.prepare(unet, torch.optim.AdamW(parameters, lr=1e-4, weight_decay=1e-2))
    batch = batch_of(task)

    def step() -> None:
        latents = sampled(batch)
        noise = torch.randn_like(latents)
        time = torch.randint(0, 1000, (len(latents),))
        noisy: Any = scheduler.add_noise(latents, noise, time)  # type: ignore[arg-type]
        added = {"text_embeds": batch["pooled"], "time_ids": batch["sizes"]}
        prediction = model(noisy, time, batch["text"], added_cond_kwargs=added, return_dict=False)[0]
        loss = nn.functional.mse_loss(prediction.float(), noise)
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        accelerator.gather(loss.repeat(BATCH)).mean().item()

    return step


def sampled(batch: Batch) -> Tensor:
    """Latents drawn from the posterior, as the script does."""
    return batch["latent_mean"] + batch["latent_std"] * torch.randn_like(batch["latent_mean"])


def main() -> None:
    torch.set_num_threads(1)
    parameters = sum(p.numel() for p in made().net.parameters())
    ours = {precision: our_step(precision) for precision in ("fp32", "bf16")}
    theirs = their_step("fp32")  # Accelerate keeps one precision a process
    for mine, must in (("fp32", 1.03), ("bf16", 0.87)):
        report(f"SDXL-shaped U-Net step, {mine} over diffusers' script in fp32", ratios(ours[mine], theirs, 9), must=must, parameters=parameters)


if __name__ == "__main__":
    main()
