"""What image autoencoders for latent diffusion share: the losses on reconstructions, the scale of latents, scores, and the field's format.

Rombach et al. 2022 (arXiv:2112.10752, appendix G) and Esser et al. 2021 (arXiv:2012.09841): a pixel distance, if wanted a distance
in the features of a network, and from some step on a patch discriminator, beside what keeps the latents in shape.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from genlib import random
from genlib.companions import Companions
from genlib.data.transforms.plain import PlainTransform
from genlib.functional.adversarial import adaptive_weight, hinge_discriminator, hinge_generator, last_layer_gradient, with_custom_gradient
from genlib.functional.perceptual import feature_distance, psnr_db
from genlib.models.autoencoders.base.image_config import ImageAutoencoderConfig
from genlib.nn.patch_discriminator import PatchDiscriminator
from genlib.nn.vgg import VGG16
from genlib.ports import Image, Sizes
from genlib.task import Phase, Task, action, weighted
from genlib.types import Batch, DataSource, DataSpec, Metrics, Step

MEASURED_PIXELS, MEASURED_SAMPLES, CHUNK_PIXELS = 2**26, 512, 2**20
"""The scale of latents is measured on so many pixels of training images, but on no more than so many samples, some pixels at a time."""


class ImageTransform(PlainTransform):
    """`image` (B, C, size, size) in [0, 1] alone."""

    fields = ("image",)


class ImageAutoencoder(Task):
    """Base of the tasks; they say how an image becomes latents and what keeps these in shape. Images are in [-1, 1] but in batches and actions."""

    objective = ("psnr_db", "max")
    # Rounded, it would blur every latent that is learnt, and SDXL's published one overflows in fp16; it is the smallest of them, and stays whole.
    frozen_precision = "fp32"
    companions = Companions(
        assess="genlib.models.autoencoders.base.image_files:assess",
        sheet="genlib.models.autoencoders.base.image_files:sheet",
        export="genlib.models.autoencoders.base.image_files:export",
        graphs="genlib.models.autoencoders.base.graphs:of_image_autoencoder",
        load_pretrained="genlib.models.autoencoders.base.image_files:load_pretrained",
        example="genlib.models.autoencoders.base.image:example",
    )
    scale: Tensor
    """(1,): (latent - shift) * scale has unit standard deviation; 0 is not yet measured."""
    shift: Tensor
    """(1,): the latents' mean, 0 where the config says not to centre."""

    def __init__(self, config: ImageAutoencoderConfig, data: DataSpec, upstream: Mapping[str, Task]) -> None:
        super().__init__({role: task for role, task in upstream.items() if role == "perceptual"})
        self.config, self.data, self.image_size = config, data, config.side(data)
        self.factor, self.latent_channels = config.factor, config.latent_channels
        self.net = config.network(data.channels)
        self.register_buffer("scale", torch.zeros(1))
        self.register_buffer("shift", torch.zeros(1))
        self.perceptual = VGG16() if config.perceptual_file and not self.upstream else None
        if config.discriminator.weight:
            self.discriminator = PatchDiscriminator(data.channels, config.discriminator.width, config.discriminator.layers)
            start = config.discriminator.start_steps
            self.phases = (Phase(name="net", player="net"), Phase(name="discriminator", player="discriminator", start=start))
        if config.discriminator.weight and config.discriminator.adaptive:
            self.accumulation_effect = "the weight of the adversarial loss is found for each micro-batch alone"

    @property
    def model(self) -> Any:
        """The diffusers network."""
        return self.net

    def encode_image(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Image (B, C, H, W) in [-1, 1] -> mean and standard deviation (B, c, H / factor, W / factor), not yet scaled."""
        raise NotImplementedError

    def decode_latent(self, latent: Tensor) -> Tensor:
        """Unscaled latents (B, c, h, w) -> image (B, C, h * factor, w * factor) in [-1, 1], not clamped."""
        raise NotImplementedError

    def reconstruction(self, image: Tensor, position: Tensor, seed: int) -> tuple[Tensor, Tensor, Metrics]:
        """Image (B, C, H, W) in [-1, 1] -> what training makes of it, the price of its latents (B,), and values to log."""
        raise NotImplementedError

    def transform(self, train: bool) -> ImageTransform:
        return ImageTransform(self.image_size)

    def prepare(self, source: DataSource) -> None:
        if self.perceptual is not None:
            self.perceptual.load(Path(self.config.perceptual_file))

    def loss(self, phase: str, batch: Batch, step: Step) -> tuple[Tensor, Metrics]:
        image, started = 2 * batch["image"] - 1, step.index >= self.config.discriminator.start_steps
        if phase == "discriminator":
            return self.discriminator_loss(image, batch["position"], step.seed)
        with self.last_features() as features:
            made, price, metrics = self.reconstruction(image, batch["position"], step.seed)
        if not (self.config.discriminator.weight and started):
            distance = self.distance(made.float(), image)
            return distance + price, {"distance": distance, **metrics}
        distance, adversarial = self.adversarial_terms(made, image, features[0], batch)
        return distance + adversarial + price, {"distance": distance, "adversarial": adversarial, **metrics}

    def distance(self, made: Tensor, image: Tensor) -> Tensor:
        """Pixel distance, mean over pixels and channels, and the distance in features. (B, C, H, W) twice -> (B,)."""
        difference = made - image
        pixels = (difference.abs() if self.config.distance == "l1" else difference.square()).flatten(1).mean(1)
        network: Any = self.upstream.get("perceptual", self.perceptual)
        if network is None or not self.config.perceptual_weight:
            return pixels
        with torch.no_grad():
            real = network.feature_maps(image / 2 + 0.5)
        weights = network.channel_weights if isinstance(network, VGG16) else ()
        features = feature_distance([m.float() for m in network.feature_maps(made / 2 + 0.5)], [m.float() for m in real], weights)
        return pixels + self.config.perceptual_weight * features

    def adversarial_terms(self, made: Tensor, image: Tensor, features: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Distance and weighted adversarial loss of reconstructions `made`, (B,) each.

        Both are differentiated here with respect to the reconstruction alone and go on with these gradients, so that the backward pass
        goes through every weight once, as ZeRO-3 demands, and the ratio of gradients at the last layer costs no pass of its own.
        `features`: what the last layer was given. The ratio is of the gradients of the global micro-batch.
        """
        with torch.enable_grad():
            leaf = made.detach().float().requires_grad_()
            distance, adversarial = self.distance(leaf, image), hinge_generator(self.discriminator(leaf))
            (pull,) = torch.autograd.grad(distance.sum(), leaf)
            (push,) = torch.autograd.grad(adversarial.sum(), leaf)
        factor = torch.as_tensor(self.config.discriminator.weight, device=leaf.device)
        if self.config.discriminator.adaptive:
            factor = factor * adaptive_weight(*(last_layer_gradient(features, weighted(g, batch)) for g in (pull, push)))
        return with_custom_gradient(distance, pull, made), with_custom_gradient(factor * adversarial, factor * push, made)

    def discriminator_loss(self, image: Tensor, position: Tensor, seed: int) -> tuple[Tensor, Metrics]:
        """The discriminator's own loss (B,)."""
        with torch.no_grad():
            made = self.reconstruction(image, position, seed)[0].float()
        real, fake = self.discriminator(image), self.discriminator(made)
        return hinge_discriminator(real, fake), {"real": real.flatten(1).mean(1), "fake": fake.flatten(1).mean(1)}

    @contextmanager
    def last_features(self) -> Iterator[list[Tensor]]:
        """Inside, what the decoder's last convolution is given is noted, detached."""
        noted: list[Tensor] = []
        handle = self.model.decoder.conv_out.register_forward_pre_hook(lambda _, inputs: noted.append(inputs[0].detach()))
        try:
            yield noted
        finally:
            handle.remove()

    def evaluate(self, batch: Batch) -> Metrics:
        made = self.reconstruct(image=batch["image"])
        difference = made - batch["image"]
        return {"psnr_db": psnr_db(made, batch["image"]), "l1": difference.abs().flatten(1).mean(1)}

    def sizes(self, data: DataSpec) -> Sizes:
        return replace(super().sizes(data), side=self.image_size, multiple=self.factor)

    @action
    @torch.no_grad()
    def reconstruct(self, *, image: Image) -> Image:
        """Images (B, C, H, W) in [0, 1] through the latents and back, (B, C, H, W) in [0, 1]; both sides must divide by `factor`."""
        if image.shape[-1] % self.factor or image.shape[-2] % self.factor:
            raise ValueError(f"image of {image.shape[-1]} x {image.shape[-2]} pixels: both must divide by {self.factor}; cut or scale it")
        return (self.decode_latent(self.encode_image(2 * image.to(self.device) - 1)[0]).float() / 2 + 0.5).clamp(0, 1)

    @torch.no_grad()
    def measure(self, source: DataSource, seed: int = 0) -> None:
        """Sets `scale` and `shift` from sampled latents of the first training samples of a run with that seed; every rank finds the same."""
        size = self.chunk_samples
        samples = min(MEASURED_SAMPLES, max(size, MEASURED_PIXELS // self.image_size**2))
        batches = source.batches("train", size, seed=seed, transform=self.transform(train=False))
        count, total, squares, training = 0, 0.0, 0.0, self.training
        self.eval()
        for _, batch in zip(range(-(-samples // size)), batches, strict=False):
            latent = self.sampled(2 * batch["image"].to(self.device) - 1, batch["position"].to(self.device), seed)
            latent = latent[batch["valid"].to(self.device)].double()
            count, total, squares = count + latent.numel(), total + latent.sum().item(), squares + latent.square().sum().item()
        self.train(training)
        mean = total / max(1, count)
        spread = max(squares / max(1, count) - mean**2, 0.0) ** 0.5
        if not spread > 0:
            raise ValueError("the latents of all samples are one and the same, so they have no scale; train the autoencoder longer")
        self.scale.fill_(1 / spread)
        self.shift.fill_(mean if self.config.centred else 0.0)

    @property
    def chunk_samples(self) -> int:
        """Images that are encoded at once outside of training."""
        return max(1, min(64, CHUNK_PIXELS // self.image_size**2))

    def sampled(self, image: Tensor, position: Tensor, seed: int) -> Tensor:
        """Image (B, C, H, W) in [-1, 1] -> latents (B, c, h, w), not scaled, with noise keyed by position."""
        mean, std = self.encode_image(image)
        return mean + std * random.normal(position, tuple(mean.shape[1:]), seed=seed, stream="posterior")


def example(task: ImageAutoencoder, size: int) -> Batch:
    """See `Companions.example`."""
    return {"image": torch.rand(size, task.data.channels, task.image_size, task.image_size)}
