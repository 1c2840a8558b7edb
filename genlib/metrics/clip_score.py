"""CLIP score (Hessel et al. 2021, arXiv:2104.08718): how well pictures fit their captions, and how well those of others."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def clip_score(image: Tensor, text: Tensor) -> float:
    """100 times the mean cosine of pairs, 0 where that is negative, as torchmetrics' CLIPScore has it. image, text (N, D) of length 1.

    The paper clamps each pair instead, and its scale is 2.5 where this one is 100.
    """
    return max(0.0, 100 * (image.double() * text.double()).sum(1).mean().item())


def shuffled_clip_score(image: Tensor, text: Tensor, captions: Sequence[str], *, chunk: int = 1024) -> float:
    """The same with every picture paired with all captions that are not its own: what a shuffle of the captions gives in the mean.

    ValueError where all captions are the same.
    """
    numbers = {caption: number for number, caption in enumerate(dict.fromkeys(captions))}
    if len(numbers) < 2:
        raise ValueError("a shuffle needs at least two different captions; give more prompts")
    own = torch.tensor([numbers[caption] for caption in captions], device=text.device)
    count = own.bincount().double()
    distinct = text.new_zeros(len(numbers), text.shape[1], dtype=torch.float64).index_copy_(0, own, text.double())
    total = torch.zeros((), dtype=torch.float64, device=text.device)
    for rows, mine in zip(image.double().split(chunk), own.split(chunk), strict=True):
        cosine = rows @ distinct.T
        others = cosine @ count - cosine.gather(1, mine[:, None])[:, 0] * count[mine]
        total += (others / (len(captions) - count[mine])).sum()
    return max(0.0, 100 * total.item() / len(captions))
