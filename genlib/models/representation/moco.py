"""MoCo: an image's two views agree, against a queue of views of earlier images (He et al. 2020, arXiv:1911.05722).

One view goes through the encoder that learns, the other through its moving average, the momentum encoder, and must be told from the
keys that this one made of the batches before. So there are as many other images as the queue is long, whatever the batch. Network, views and
uses are those of `genlib.models.representation.simclr`.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genlib.config import DataConfig, OptimConfig, TrainConfig, limited, tunable
from genlib.data.transforms.augment import ImageAugmentation
from genlib.distributed import all_gather
from genlib.models.representation.simclr import SimCLR, SimCLRConfig
from genlib.recipe import Recipe, Stage
from genlib.task import Phase, Task
from genlib.types import Batch, DataSpec, Metrics, Step


@dataclass(frozen=True, kw_only=True, slots=True)
class MoCoConfig(SimCLRConfig):
    """As SimCLR's, with a queue in place of a large batch."""

    queue: int = limited(1024, at_least=1)
    """Keys that a view must tell its partner from."""
    momentum: float = tunable(0.97, low=0.95, high=0.999, at_least=0, below=1)
    """Share that the momentum encoder keeps of itself at each step: the paper's 0.999 is for runs of a million steps."""

    def build(self, data: DataSpec, upstream: Mapping[str, Task]) -> MoCo:
        self.check_data(data)
        return MoCo(self, data)


class MoCo(SimCLR):
    """The task: images in, an encoder out."""

    phases = (Phase(),)  # each sample's loss is its own, against a queue that stands still during a step
    config: MoCoConfig
    queue: Tensor
    oldest: Tensor

    def __init__(self, config: MoCoConfig, data: DataSpec) -> None:
        super().__init__(config, data)
        self.momentum_net = frozen_copy(self.net)
        self.register_buffer("queue", F.normalize(torch.randn(config.queue, config.embed_dim), dim=1))
        self.register_buffer("oldest", torch.zeros((), dtype=torch.int64))
        self.arrived: list[tuple[Tensor, Tensor, Tensor]] = []
        """Keys of this step on this rank, with the positions of their samples and whether they count."""

    def keys(self, image: Tensor) -> Tensor:
        """What the momentum encoder makes of images (B, C, H, W): (B, embed_dim) of unit length, float32."""
        with torch.no_grad():
            return self.momentum_net(image)

    def distances(self, image: Tensor, keys: Tensor) -> tuple[Tensor, Tensor]:
        """Equation 1 for first views (B, C, H, W) and the keys (B, embed_dim) of second ones: loss and cosine with the own key, (B,)."""
        queries = self.net(image)
        own = (queries * keys).sum(1)
        logits = torch.cat([own[:, None], queries @ self.queue.T], 1) / self.config.temperature
        return logits.logsumexp(1) - logits[:, 0], own.detach()

    def loss(self, phase: str, batch: Batch, step: Step) -> tuple[Tensor, Metrics]:
        first, second = batch["image"].unbind(1)
        keys = self.keys(second)
        self.arrived.append((keys, batch["position"], batch["valid"]))
        loss, alignment = self.distances(first, keys)
        return loss, {"alignment": alignment}

    def after_step(self, step: Step) -> None:
        """The momentum encoder follows, equation 2; the keys of all ranks take the places of the oldest, in the order of their samples."""
        for follower, weight in zip(self.momentum_net.buffers(), self.net.parameters(), strict=True):
            follower.lerp_(weight, 1 - self.config.momentum)
        keys, position, valid = (all_gather(torch.cat(parts)) for parts in zip(*self.arrived, strict=True))
        self.arrived.clear()
        keys = keys[valid][position[valid].argsort(stable=True)][-self.config.queue :]
        places = (self.oldest + torch.arange(len(keys), device=keys.device)) % self.config.queue
        self.queue[places] = keys
        self.oldest.add_(len(keys)).remainder_(self.config.queue)

    def evaluation_features(self, batch: Batch) -> Batch:
        first, second = batch["image"].unbind(1)
        return {**super().evaluation_features(batch), "loss": self.distances(first, self.keys(second))[0]}

    def joint_evaluation(self, batch: Batch) -> Metrics:
        """As SimCLR's, with this loss."""
        return {**super().joint_evaluation(batch), "loss": batch["loss"]}


def frozen_copy(net: nn.Module) -> nn.Module:
    """A copy whose weights are buffers, in the order of the parameters: part of a checkpoint, of no optimizer, and whole on every rank."""
    frozen = copy.deepcopy(net)
    for module in frozen.modules():
        for name, weight in list(module.named_parameters(recurse=False)):
            delattr(module, name)
            module.register_buffer(name, weight.detach())
    return frozen


def moco() -> Recipe:
    """Features of coloured shapes, 32 x 32 pixels, by a queue of keys: batches of 128 where `simclr` takes 256.

    `python jobs/train.py moco`. On held-out shapes a linear probe is right for 98.8%, on an untrained encoder for 55.7%; a vote of 20 neighbours
    for 98.0%, untrained 71.4% (one worker, 62 s beside other work).
    """
    augmentation = ImageAugmentation(min_scale=0.8, max_scale=1.6, stretch=0.1, degrees=20, shift=0.2, flip=0.5, color=0.8, grey=0.3)
    optim = OptimConfig(learning_rate=6e-3, weight_decay=0.01, schedule="cosine", warmup_steps=20, clip_norm=1.0)
    train = TrainConfig(steps=1500, global_batch=128, optim=optim, checkpoint_every_steps=200)
    small = TrainConfig(steps=8, global_batch=16, checkpoint_every_steps=4, optim=OptimConfig(learning_rate=2e-3))
    tiny = MoCoConfig(width=8, layers=(1, 1), hidden=16, embed_dim=8, queue=40)
    return Recipe(
        stages=(Stage(task=MoCoConfig(width=16, augmentation=augmentation), data=DataConfig(train="shapes"), train=train),),
        smoke=(Stage(task=tiny, data=DataConfig(train="digits"), train=small),),
    )
