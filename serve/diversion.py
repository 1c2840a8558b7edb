"""Making a task's own calls go through a merger, whoever in it makes them, so that a new family's are merged unasked."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from functools import partial

from torch import Tensor, nn

from genlib.models.diffusion.latent import LatentTask
from genlib.task import Task
from genlib.types import Batch
from serve.merging import Merger


def divert(task: Task, merger: Merger) -> bool:
    """Merges the calls of all networks that samplers ask at each step, and of what latent models ask before and after; whether there are any."""
    networks = list(denoisers(task))
    for network in networks:
        network.forward = partial(merger.call, network.forward)
    for latent in latent_tasks(task):
        latent.encode_texts = _spread(latent, merger)  # type: ignore[method-assign]
        latent.pictures = partial(merger.call, latent.pictures)  # type: ignore[method-assign]
    return bool(networks)


def restore(module: nn.Module) -> None:
    """Undoes `divert`: what is diverted is part of a cycle, whose memory would go back only when Python looks for such."""
    for name in ("forward", "encode_texts", "pictures"):
        vars(module).pop(name, None)
    for child in inner(module):
        restore(child)


def denoisers(module: nn.Module) -> Iterator[nn.Module]:
    """The outermost networks in it that are told a time beside x: `forward` takes (x, time, ...), every tensor with a row for each sample."""
    names = list(inspect.signature(module.forward).parameters)
    if len(names) > 1 and names[1].startswith("time"):
        yield module
    else:
        for child in inner(module):
            yield from denoisers(child)


def latent_tasks(module: nn.Module) -> Iterator[LatentTask]:
    """It and those in it."""
    if isinstance(module, LatentTask):
        yield module
    for child in inner(module):
        yield from latent_tasks(child)


def inner(module: nn.Module) -> Iterator[nn.Module]:
    """Its children, and the upstream tasks of a task, which are none of them."""
    yield from module.children()
    if isinstance(module, Task):
        yield from module.upstream.values()


def _spread(task: LatentTask, merger: Merger) -> Callable[[Sequence[Tensor]], Batch]:
    """`encode_texts` with each text encoder's tokens as an argument of its own."""
    encode = task.encode_texts

    def encoded(*tokens: Tensor) -> Batch:
        return encode(tokens)

    def diverted(tokens: Sequence[Tensor]) -> Batch:
        return merger.call(encoded, *tokens)

    return diverted
