"""NT-Xent, the loss of SimCLR (Chen et al. 2020, arXiv:2002.05709, equation 1), over the views of all ranks.

Each view must name the other view of its sample among all views but itself. The matrix of logits is symmetric, so only one half is
ever computed, shared out evenly between ranks; what a rank knows of a view travels as a maximum and a sum. As in
`genlib.functional.contrastive`, logits exist one tile at a time, the first `KEPT_BYTES` of them until the backward pass.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from genlib.distributed import all_gather, rank, reduce_scatter_sum, world_size
from genlib.functional.contrastive import KEPT_BYTES, LogSumExp, lowest, uncompiled

Span = tuple[int, int]
"""First view and the one after the last."""


def nt_xent(first: Tensor, second: Tensor, temperature: float, *, valid: Tensor | None = None, tile: int = 512) -> Tensor:
    """Loss of each sample: the mean over its two views of -log softmax of their own logit among all views but the one itself.

    first, second (B, D) normalised, row i of one and of the other being views of one sample; logits are cosines over `temperature`;
    valid (B,) bool, False for rows that do not count, which are nobody's negatives and have loss 0. B is equal on all ranks. -> (B,) float32.
    The mean over ranks of the gradient of each rank's mean is the gradient of the mean over the global batch.
    """
    valid = torch.ones(len(first), dtype=torch.bool, device=first.device) if valid is None else valid
    with torch.autocast(first.device.type, enabled=False):
        kind = torch.promote_types(first.dtype, torch.float32)
        return _nt_xent(torch.cat([first, second]).to(kind), valid, temperature, tile)


class _NTXent(torch.autograd.Function):
    """The loss on views (2B, D), of which row i belongs to row i + B."""

    @staticmethod
    def forward(ctx, views: Tensor, valid: Tensor, temperature: float, tile: int) -> Tensor:
        n, everyone, every_valid = len(views), all_gather(views), all_gather(valid.repeat(2))
        sums = LogSumExp(everyone, len(everyone))
        kept, most = [], KEPT_BYTES // (tile**2 * views.element_size()) if ctx.needs_input_grad[0] else 0
        for rows, columns, logits, spare in _tiles(everyone, every_valid, n, temperature, tile):
            sums.add(rows, logits, spare[0])
            if columns != rows:
                sums.add(columns, logits.T, spare[0].T)
            if len(kept) < most:
                kept.append(logits)
        sums.over_ranks()
        ctx.save_for_backward(everyone, every_valid, sums.maximum, sums.total)
        ctx.settings, ctx.kept = (n, temperature, tile), kept
        mine = slice(rank() * n, (rank() + 1) * n)
        first, second = views.chunk(2)
        distance = (sums.maximum[mine] + sums.total[mine].log()).view(2, -1).mean(0) - (first * second).sum(1) / temperature
        return torch.where(valid, distance, 0.0)

    @staticmethod
    def backward(ctx, *grads: Tensor):
        everyone, every_valid, maximum, total = ctx.saved_tensors
        n, temperature, tile = ctx.settings
        mine = slice(rank() * n, (rank() + 1) * n)
        share = torch.where(every_valid[mine], grads[0].repeat(2) / 2, 0.0)
        pull, grad = all_gather(share) / total, torch.zeros_like(everyone)
        for rows, columns, logits, spare in _tiles(everyone, every_valid, n, temperature, tile, ctx.kept):
            # the gradient of a logit: by the softmax of one view, and by that of the other where the tile is not its own mirror image
            to = torch.sub(logits, maximum[rows, None], out=spare[0]).exp_().mul_(pull[rows, None])
            if columns != rows:
                to.addcmul_(torch.sub(logits, maximum[columns], out=spare[1]).exp_(), pull[columns])
            grad[rows].addmm_(to, everyone[columns])
            grad[columns].addmm_(to.T, everyone[rows])
        own = everyone[mine].view(2, n // 2, -1).flip(0).flatten(0, 1) * (-2 * share[:, None])
        return (reduce_scatter_sum(grad) + own) / temperature, None, None, None


_nt_xent: Any = uncompiled(_NTXent.apply)


def _blocks(n: int) -> Iterator[tuple[Span, Span]]:
    """Rows and columns of the matrix that this rank computes, one view of `n` a rank; all ranks' together hold each pair of views once.

    Rank r takes its own views among themselves, and against those of the (world - 1) / 2 ranks after it; where the world is even,
    the two ranks that face each other take a half of their common block each.
    """
    me, world = rank(), world_size()
    yield _span(me, n), _span(me, n)
    for ahead in range(1, (world + 1) // 2):
        yield _span(me, n), _span((me + ahead) % world, n)
    if world % 2 == 0:
        (start, end), (low, high) = _span(me, n), _span((me + world // 2) % world, n)
        middle, other = (start + end) // 2, (low + high) // 2
        yield ((start, end), (low, other)) if start < low else ((middle, end), (low, high))


def _span(r: int, n: int) -> Span:
    return r * n, (r + 1) * n


def _corners(n: int, tile: int) -> Iterator[tuple[slice, slice]]:
    """The tiles of those blocks; of a block on the diagonal only those at and above it."""
    for rows, columns in _blocks(n):
        for r, c in itertools.product(range(*rows, tile), range(*columns, tile)):
            if rows != columns or r <= c:
                yield slice(r, min(r + tile, rows[1])), slice(c, min(c + tile, columns[1]))


def _tiles(
    everyone: Tensor, valid: Tensor, n: int, temperature: float, tile: int, kept: Sequence[Tensor] = ()
) -> Iterator[tuple[slice, slice, Tensor, Tensor]]:
    """Logits by tile, the first ones being `kept`; a view with itself, and pairs in which one side does not count, are very low.

    With each comes room to work in, (2, *tile's shape).
    """
    everything = type(valid) is not Tensor or bool(valid.all())  # a plan's tensors hold no values
    spare, scaled = everyone.new_empty(2, min(tile, n), min(tile, n)), everyone / temperature
    for (rows, columns), known in itertools.zip_longest(_corners(n, tile), kept):
        logits = scaled[rows] @ everyone[columns].T if known is None else known
        if known is None and not everything:
            logits.masked_fill_(~(valid[rows, None] & valid[columns]), lowest(logits))
        if known is None and rows == columns:
            logits.fill_diagonal_(lowest(logits))
        yield rows, columns, logits, spare[:, : logits.shape[0], : logits.shape[1]]
