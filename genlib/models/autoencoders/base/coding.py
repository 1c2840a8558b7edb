"""What plain and variational autoencoders share: samples as vectors, a small encoder and decoder, and what one does with codes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from genlib.companions import Companions
from genlib.config import TaskConfig, limited, tunable
from genlib.data.transforms.vectors import VectorShape, VectorTransform
from genlib.metrics.neighbours import nearest
from genlib.nn.coders import CODERS, Coder
from genlib.plurals import counted
from genlib.ports import Code, Count, FrameCount, Ranking, Sample, SampleFrames, SampleGallery, Sizes
from genlib.task import Task, action
from genlib.types import Batch, DataSpec


@dataclass(frozen=True, kw_only=True, slots=True)
class CodingConfig(TaskConfig):
    """An encoder, the decoder that mirrors it, and the size of the code between them."""

    latent_dim: int = tunable(16, low=2, high=64, log=True, at_least=1)
    """Numbers of a code."""
    network: Literal["dense", "tied", "convolutional"] = "dense"
    """Kind of the layers; a tied decoder is the dense encoder's transpose, convolutional ones need images."""
    widths: tuple[int, ...] = (512, 256)
    """Features of each hidden layer, or channels of each convolution, which halves the image, from sample to code; none is one linear map."""
    code_batch: int = limited(1024, at_least=1)
    """Samples that are encoded at once outside of training."""

    fields: ClassVar[tuple[str, ...]] = ("image|array",)

    def validate(self) -> None:
        if any(width < 1 for width in self.widths):
            raise ValueError(f"task.widths {self.widths}: every layer needs at least one feature; give for example 512 256")
        if self.network == "convolutional" and not self.widths:
            raise ValueError("task.network convolutional has no task.widths, so no convolutions; give the channels of each, for example 32 64")

    @property
    def encoder_numbers(self) -> int:
        """Numbers that the encoder gives."""
        return self.latent_dim

    def check_data(self, data: DataSpec) -> None:
        with torch.device("meta"):  # all that the networks refuse, without their weights
            self.coder(VectorShape.of(data))

    def coder(self, shape: VectorShape) -> Coder:
        """The untrained networks. ValueError where they do not fit the samples."""
        if self.network == "convolutional" and not shape.is_image:
            raise ValueError("task.network convolutional needs images, but the samples are vectors; take dense, or a set such as shapes")
        return CODERS[self.network](shape.sides, self.widths, self.latent_dim, self.encoder_numbers)


class CodingTask(Task):
    """Base of the tasks; `net.encoder` and `net.decoder` are the networks. What a code and a reconstruction is, they say themselves.

    Samples are images (B, C, H, W) in [0, 1] or vectors (B, D).
    """

    companions = Companions(graphs="genlib.models.autoencoders.base.graphs:of_coding_task", example="genlib.models.autoencoders.base.coding:example")
    net: Any

    def __init__(self, config: CodingConfig, data: DataSpec) -> None:
        super().__init__()
        self.config, self.data, self.shape = config, data, VectorShape.of(data)

    def codes(self, x: Tensor) -> Tensor:
        """The code of each sample, (B, D) -> (B, latent_dim)."""
        raise NotImplementedError

    def samples(self, codes: Tensor) -> Tensor:
        """What the decoder makes of codes, (B, latent_dim) -> (B, D), images in [0, 1]."""
        raise NotImplementedError

    def transform(self, train: bool) -> VectorTransform:
        return VectorTransform(self.shape)

    def flat(self, samples: Tensor) -> Tensor:
        """Samples as vectors (B, D) on this device: see `VectorShape.flat`."""
        return self.shape.flat(samples, self.device)

    def shaped(self, x: Tensor) -> Tensor:
        """Vectors (B, D) as the samples they stand for, images (B, C, H, W) if they are that."""
        return self.shape.image(x) if self.shape.is_image else x

    def sizes(self, data: DataSpec) -> Sizes:
        return self.shape.port_sizes(data, code=self.config.latent_dim)

    @action
    @torch.no_grad()
    def embed(self, *, image: Sample) -> Code:
        """Codes (B, latent_dim) of images (B, C, H, W) in [0, 1], or of vectors (B, D)."""
        return torch.cat([self.codes(part) for part in self.flat(image).split(self.config.code_batch)])

    @action
    @torch.no_grad()
    def decode(self, *, code: Code) -> Sample:
        """Images (B, C, H, W) in [0, 1], or vectors (B, D), of codes (B, latent_dim)."""
        if code.dim() != 2 or code.shape[1] != self.config.latent_dim:
            raise ValueError(f"codes of shape {tuple(code.shape)} are not (B, {self.config.latent_dim}), the model's; give such ones")
        parts = code.to(self.device, torch.float32).split(self.config.code_batch)
        return self.shaped(torch.cat([self.samples(part) for part in parts]))

    @action
    def reconstruct(self, *, image: Sample) -> Sample:
        """Images (B, C, H, W) in [0, 1], or vectors (B, D), through their codes and back."""
        return self.decode(code=self.embed(image=image))

    @action
    def interpolate(self, *, first: Sample, second: Sample, steps: FrameCount = 7) -> SampleFrames:
        """Images (B, steps, C, H, W), or vectors, from each of the first to the second on a line between their codes, both ends decoded too."""
        if len(first) != len(second) or steps < 2:
            raise ValueError(
                f"first has {counted(len(first), 'sample')}, second {len(second):,}, and steps is {steps}: give as many of both, and 2 steps at least"
            )
        share = torch.linspace(0, 1, steps, device=self.device)[None, :, None]
        path = self.embed(image=first)[:, None].lerp(self.embed(image=second)[:, None], share)
        return self.decode(code=path.flatten(0, 1)).unflatten(0, (len(first), steps))

    @action
    def neighbours(self, *, image: Sample, gallery: SampleGallery, count: Count = 10) -> Ranking:
        """Rows (B, count) int64 of a gallery (M, C, H, W) whose codes are nearest to those of images (B, C, H, W), nearest first."""
        return nearest(self.embed(image=image), self.embed(image=gallery), count)


def example(task: CodingTask, size: int) -> Batch:
    """See `Companions.example`."""
    return {"x": torch.rand(size, task.shape.size)}
