"""Symmetric InfoNCE (van den Oord et al. 2018, arXiv:1807.03748; Radford et al. 2021, arXiv:2103.00020) over the negatives of all ranks.

Memory is linear in the global batch: logits exist one tile at a time, with an online softmax over tiles (Milakov & Gimelshein
2018, arXiv:1805.02867); the first `KEPT_BYTES` of them stay for the backward pass, which computes the others again. Every logit
is computed by one rank only: a rank owns the rows of its images against all texts; what it knows of a column travels as a
maximum and a sum.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from genlib.distributed import all_gather, rank, reduce_scatter_sum, world_size

KEPT_BYTES = 192 * 2**20
"""Logits that a forward pass keeps: all of 1,536 images against 32,768 texts."""


def contrastive_loss(image: Tensor, text: Tensor, logit_scale: Tensor, *, valid: Tensor | None = None, tile: int = 512) -> Tensor:
    """Loss of each pair: the mean of -log softmax of its logit among all texts and among all images.

    image, text (B, D) normalised, row i of one belonging to row i of the other; logit_scale (1,), already exponentiated; valid (B,)
    bool, False for rows that do not count, which are nobody's negatives and have loss 0. B is equal on all ranks. -> (B,) float32.
    The mean over ranks of the gradient of each rank's mean is the gradient of the mean over the global batch.
    """
    valid = torch.ones(len(image), dtype=torch.bool, device=image.device) if valid is None else valid
    # logits go up to 100, where numbers in bf16 are half a unit apart
    with torch.autocast(image.device.type, enabled=False):
        kind = torch.promote_types(image.dtype, torch.float32)
        return _contrastive(image.to(kind), text.to(kind), logit_scale.to(kind), valid, tile)


def uncompiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` as `torch.compiler.disable` makes it: what talks to ranks and chooses tiles by the data has nothing to fuse.

    That is called only where something is compiled, as it imports the compiler, which takes longer than torch itself.
    """

    def call(*arguments: Any) -> Any:
        return (torch.compiler.disable(function) if torch.compiler.is_compiling() else function)(*arguments)

    return call


class LogSumExp:
    """Online log-sum-exp of n numbers at once. Maximum and sum stay apart: together, a logit of 100 would round by 4e-6."""

    def __init__(self, like: Tensor, n: int) -> None:
        self.maximum = like.new_full((n,), lowest(like))
        self.total = like.new_zeros(n)

    def add(self, at: slice, logits: Tensor, spare: Tensor) -> None:
        """Takes in `logits` (n', m), m numbers for each of the entries `at`; writes over `spare` (n', m)."""
        maximum = torch.maximum(self.maximum[at], logits.amax(1))
        new = torch.sub(logits, maximum[:, None], out=spare).exp_().sum(1)
        self.total[at] = self.total[at] * torch.exp(self.maximum[at] - maximum) + new
        self.maximum[at] = maximum

    def over_ranks(self) -> None:
        """Takes in what the other ranks have."""
        if world_size() > 1:
            maxima, totals = all_gather(torch.stack([self.maximum, self.total])[None]).unbind(1)
            self.maximum = maxima.amax(0)
            self.total = (totals * torch.exp(maxima - self.maximum)).sum(0)


class _Contrastive(torch.autograd.Function):
    """Rows are this rank's images, columns all ranks' texts."""

    @staticmethod
    def forward(ctx, image: Tensor, text: Tensor, scale: Tensor, valid: Tensor, tile: int) -> Tensor:
        texts, columns, first = all_gather(text), all_gather(valid), rank() * len(text)
        scaled, own = image * scale, torch.empty_like(image[:, 0])
        row, column = LogSumExp(image, len(image)), LogSumExp(image, len(texts))
        kept, most = [], KEPT_BYTES // (tile**2 * image.element_size()) if any(ctx.needs_input_grad) else 0
        for rows, cols, logits, spare in _tiles(scaled, texts, valid, columns, tile):
            row.add(rows, logits, spare[0])
            column.add(cols, logits.T, spare[0].T)
            own[_own(rows, cols, first)] = logits.diagonal(rows.start + first - cols.start)
            if len(kept) < most:
                kept.append(logits)
        column.over_ranks()
        mine = slice(first, first + len(text))
        distance = (row.maximum - own + row.total.log() + column.maximum[mine] - own + column.total[mine].log()) / 2
        ctx.save_for_backward(image, text, texts, scale, valid, columns, row.maximum, row.total, column.maximum, column.total)
        ctx.tile, ctx.kept = tile, kept
        return torch.where(valid, distance, 0.0)

    @staticmethod
    def backward(ctx, *grads: Tensor):
        image, text, texts, scale, valid, columns, row_max, row_total, column_max, column_total = ctx.saved_tensors
        row_grad = torch.where(valid, grads[0], 0.0)
        first, scaled = rank() * len(text), image * scale
        row_pull, column_pull = row_grad / (2 * row_total), all_gather(row_grad) / (2 * column_total)
        image_grad, texts_grad = torch.zeros_like(image), torch.zeros_like(texts)
        for rows, cols, logits, spare in _tiles(scaled, texts, valid, columns, ctx.tile, ctx.kept):
            # the gradient of each logit: by half the softmax over its row and the one over its column, less 1 for a pair's own
            pull = torch.sub(logits, row_max[rows, None], out=spare[0]).exp_().mul_(row_pull[rows, None])
            pull.addcmul_(torch.sub(logits, column_max[cols], out=spare[1]).exp_(), column_pull[cols])
            pull.diagonal(rows.start + first - cols.start).sub_(row_grad[_own(rows, cols, first)])
            image_grad[rows].addmm_(pull, texts[cols])
            texts_grad[cols].addmm_(pull.T, image[rows])
        scale_grad = (image_grad * image).sum().reshape(scale.shape)
        return image_grad.mul_(scale), reduce_scatter_sum(texts_grad).mul_(scale), scale_grad, None, None


_contrastive: Any = uncompiled(_Contrastive.apply)


def lowest(like: Tensor) -> float:
    """A logit of pairs that do not count; not -inf, for exp(-inf - -inf) is nan."""
    return torch.finfo(like.dtype).min / 4


def _own(rows: slice, cols: slice, first: int) -> slice:
    """The rows whose own text is among the tile's columns; row i's is column first + i."""
    low, high = max(rows.start, cols.start - first), min(rows.stop, cols.stop - first)
    return slice(low, max(low, high))


def _tiles(
    scaled: Tensor, texts: Tensor, rows: Tensor, columns: Tensor, tile: int, kept: Sequence[Tensor] = ()
) -> Iterator[tuple[slice, slice, Tensor, Tensor]]:
    """Logits by tile of at most tile x tile, the first ones being `kept`; pairs in which one side does not count are very low.

    With each comes room to work in, (2, *tile's shape): fresh memory for every temporary is a tenth of the time on a CPU.
    """
    everything = type(rows) is not Tensor or (bool(rows.all()) and bool(columns.all()))  # a plan's tensors hold no values
    spare = scaled.new_empty(2, min(tile, len(scaled)), min(tile, len(texts)))
    corners = itertools.product(range(0, len(scaled), tile), range(0, len(texts), tile))
    for (r, c), known in itertools.zip_longest(corners, kept):
        at, to = slice(r, min(r + tile, len(scaled))), slice(c, min(c + tile, len(texts)))
        logits = scaled[at] @ texts[to].T if known is None else known
        if known is None and not everything:
            logits.masked_fill_(~(rows[at, None] & columns[to]), lowest(logits))
        yield at, to, logits, spare[:, : len(logits), : logits.shape[1]]
