"""A worker that had too little memory: what says so, and what to change, in a sentence."""

from __future__ import annotations

import socket
from collections.abc import Collection, Mapping

import torch

from genlib import distributed
from genlib.config import TrainConfig
from genlib.plurals import counted
from jobs.pulse import Pulse
from jobs.watchdog import names

LITTLE = 0.05
"""Share of a machine's memory below which a worker that is lost was killed for want of it, as far as one can tell."""
LESS = (
    "take smaller micro-batches (--train.accumulation), --train.strategy zero2 or zero3, --train.offload, or gradient checkpointing where the task "
    "has it; `genlib plan` says what a run needs"
)
_OF_THE_HOST = ("not enough memory", "can't allocate memory", "Cannot allocate memory")
"""In what torch 2.13 says, by a RuntimeError, where the C library gives it none."""


class OutOfMemory(Exception):
    """No retry would cure it; the message is a sentence for the user."""


def out_of_memory(error: BaseException, train: TrainConfig) -> OutOfMemory | None:
    """What a worker raises in place of an error that says there was no memory; None for another."""
    if isinstance(error, torch.OutOfMemoryError):
        where = f"the memory of its GPU, which has {torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory / 1e9:.0f} GB"
    elif isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and any(words in str(error) for words in _OF_THE_HOST)):
        where = "memory"
    else:
        return None
    samples = train.global_batch // train.accumulation // distributed.world_size()
    return OutOfMemory(f"worker {distributed.rank()} on {socket.gethostname()} ran out of {where}, with {counted(samples, 'sample')} at once; {LESS}")


def short_of_memory(found: Mapping[int, Pulse], lost: Collection[int]) -> str:
    """A sentence where the machine of a lost worker had next to no memory left when it was last heard of; else empty."""
    few = [found[rank] for rank in sorted(lost) if rank in found and found[rank].memory_left < LITTLE]
    if not few:
        return ""
    return f"the machine of {names(few)} had {few[0].memory_left:.1%} of its memory left when it was last heard of, and may have killed it; {LESS}"
