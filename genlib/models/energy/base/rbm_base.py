"""What RBMs share: their configuration, their tensors, and what they do once trained: code, draw, undo noise, tell what is strange."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from genlib.config import TaskConfig, limited, tunable
from genlib.data.transforms.vectors import VectorShape
from genlib.functional import gibbs
from genlib.functional.gibbs import Draw, RBMParams, Units
from genlib.plurals import counted
from genlib.ports import Code, NoiseLevel, Sample, Scores, Seeds, Sizes, Steps
from genlib.task import Task, action
from genlib.types import DataSpec


@dataclass(frozen=True, kw_only=True, slots=True)
class RBMBaseConfig(TaskConfig):
    """Hidden units, and how the rule comes by the model's side."""

    hidden: int = tunable(256, low=64, high=1024, log=True, at_least=1)
    """Hidden units."""
    gibbs_steps: int = tunable(1, low=1, high=10, log=True, at_least=1)
    """Gibbs steps between updates, from the data or of the persistent chains."""
    chains: int = limited(0, at_least=0)
    """Persistent chains (PCD); 0 starts chains at the data (CD)."""
    initial_weight: float = limited(0.01, above=0)
    """Standard deviation of the first weights."""
    image_size: int = limited(0, at_least=0)
    """Pixels a side; 0 is the data's own."""

    fields: ClassVar[tuple[str, ...]] = ("image|array",)

    def check_data(self, data: DataSpec) -> None:
        VectorShape.of(data, self.image_size)


class RBMWeights(nn.Module):
    """What is trained, the chains, and `base`, the visible biases of independent units that fit the data's means."""

    base: Tensor
    chain_visible: Tensor
    chain_hidden: Tensor

    def __init__(self, visible: int, config: RBMBaseConfig) -> None:
        super().__init__()
        self.weight = nn.Parameter(config.initial_weight * torch.randn(visible, config.hidden))
        self.visible, self.hidden = nn.Parameter(torch.zeros(visible)), nn.Parameter(torch.zeros(config.hidden))
        self.register_buffer("base", torch.zeros(visible))
        self.register_buffer("chain_visible", torch.zeros(config.chains, visible))
        self.register_buffer("chain_hidden", torch.zeros(config.chains, config.hidden))


class RBMBase(Task):
    """Base of the tasks: what does not depend on how they learn.

    `x` are samples as vectors (B, D) as the data gives them, `v` what the visible units hold of them (B, V). Actions take images
    (B, C, H, W) in [0, 1], or vectors (B, D), and give such ones.
    """

    units: Units = gibbs.BernoulliUnits()
    net: RBMWeights

    def __init__(self, config: RBMBaseConfig, shape: VectorShape, visible: int, upstream: Mapping[str, Task] | None = None) -> None:
        super().__init__(upstream)
        self.config, self.shape = config, shape
        self.net = RBMWeights(visible, config)

    def params(self, dtype: torch.dtype = torch.float32) -> RBMParams:
        """The weights as they are."""
        net = self.net
        return RBMParams(self.units, net.weight.to(dtype), net.visible.to(dtype), net.hidden.to(dtype))

    def to_visible(self, x: Tensor) -> Tensor:
        """x (B, D) -> means of the visible units (B, V)."""
        return x

    def from_visible(self, v: Tensor, draw: Draw | None = None) -> Tensor:
        """The reverse; with `draw` the layers between are drawn, else taken at their mean."""
        return v

    def shown(self, mean: Tensor, draw: Draw) -> Tensor:
        """What `generate` gives for a mean of the visible units (B, V): that itself, or a state drawn from it."""
        return mean

    @property
    def log_density(self) -> float:
        """log of how much denser v lies than x."""
        return 0.0

    def noise_of(self, noise: float) -> float | Tensor:
        """Noise of a sample's numbers as that of the visible units: see `gibbs.posterior`."""
        return noise

    def sizes(self, data: DataSpec) -> Sizes:
        return self.shape.port_sizes(data, code=self.config.hidden)

    def flat(self, samples: Tensor) -> Tensor:
        """Samples as vectors (B, D) on this device: see `VectorShape.flat`."""
        return self.shape.flat(samples, self.device)

    def shaped(self, x: Tensor) -> Tensor:
        """Vectors (B, D) as the samples they stand for; grey values in [0, 1]."""
        return self.shape.image(x.float().clamp(0, 1)) if self.shape.is_image else x.float()

    def codes(self, x: Tensor) -> Tensor:
        """Chances of the hidden units (B, H) given x (B, D)."""
        return self.params(x.dtype).hidden_chance(self.to_visible(x))

    def decoded(self, codes: Tensor, draw: Draw | None = None) -> Tensor:
        """The mean x (B, D) given hidden units (B, H)."""
        return self.from_visible(self.params(codes.dtype).visible_mean(codes), draw)

    @action
    @torch.no_grad()
    def embed(self, *, image: Sample) -> Code:
        """Codes (B, H): the chance of each hidden unit, given images (B, C, H, W) in [0, 1] or vectors (B, D)."""
        return self.codes(self.flat(image))

    @action
    @torch.no_grad()
    def decode(self, *, code: Code) -> Sample:
        """The mean image (B, C, H, W) in [0, 1], or vector (B, D), given hidden units (B, H)."""
        hidden = self.config.hidden
        if code.dim() != 2 or code.shape[1] != hidden:
            raise ValueError(f"codes of shape {tuple(code.shape)} are not (B, {hidden}), the model's; give such ones")
        return self.shaped(self.decoded(code.to(self.device, torch.float32)))

    @action
    def reconstruct(self, *, image: Sample) -> Sample:
        """Images (B, C, H, W) in [0, 1], or vectors (B, D), up to the hidden units and back down."""
        return self.decode(code=self.embed(image=image))

    @action
    @torch.no_grad()
    def denoise(self, *, image: Sample, noise: NoiseLevel = 0.1, steps: Steps = 20) -> Sample:
        """What the model believes was there before noise, by mean field: images (B, C, H, W) in [0, 1], or vectors (B, D).

        noise: of binary data the share of numbers that was flipped, of other data the standard deviation of what was added.
        """
        limit = 0.5 if isinstance(self.units, gibbs.BernoulliUnits) else float("inf")
        if not 0 < noise < limit or steps < 1:
            raise ValueError(f"noise is {noise:g} and steps {steps}; noise must lie between 0 and {limit:g}, and steps be 1 or more")
        v = self.to_visible(self.flat(image))
        rbm, scale = gibbs.posterior(self.params(), v, self.noise_of(noise))
        mean = v * scale
        for _ in range(steps):
            mean = rbm.visible_mean(rbm.hidden_chance(mean))
        return self.shaped(self.from_visible(mean / scale))

    @action
    @torch.no_grad()
    def generate(self, *, seed: Seeds, steps: Steps = 1000) -> Sample:
        """Images (len(seed), C, H, W) in [0, 1], or vectors, each at the end of a Gibbs chain of its own seed."""
        wrong = next((one for one in seed if not 0 <= one < 2**63), None)
        if wrong is not None:
            raise ValueError(f"seed {wrong} is not between 0 and 2**63 - 1")
        if not seed or steps < 1:
            raise ValueError(f"seed has {counted(len(seed), 'entry', 'entries')} and steps is {steps}; give one seed a sample, and 1 step or more")
        return self.shaped(self.dreamt(Draw(torch.tensor(seed, device=self.device), stream="generate "), steps))

    def dreamt(self, draw: Draw, steps: int) -> Tensor:
        """x (B, D), float64, after so many Gibbs steps from units at the data's means."""
        # In single precision a sum's rounding, which depends on what else is in the batch, would now and then turn a coin over, and with it
        # the chain from there on.
        rbm = self.params(torch.float64)
        v = self.units.sample(self.net.base.double().expand(len(draw.position), -1), draw, "start")
        v, chance = gibbs.gibbs(rbm, rbm.hidden_chance(v), steps, draw)
        return self.from_visible(self.shown(rbm.visible_mean(draw.coins(chance, "end")), draw), draw)

    @action
    @torch.no_grad()
    def free_energy(self, *, image: Sample) -> Scores:
        """Free energies (B,), nats, of images (B, C, H, W) in [0, 1] or vectors (B, D): -log p but for a constant, the more the stranger."""
        return self.params().free_energy(self.to_visible(self.flat(image)))
