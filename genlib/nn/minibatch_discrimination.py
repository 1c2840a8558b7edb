"""Minibatch discrimination (Salimans et al. 2016, arXiv:1606.03498, section 3.2): a discriminator sees how alike the samples of a batch are."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from genlib.distributed import all_gather, gather_with_grad, rank


class MinibatchDiscrimination(nn.Module):
    """Features (B, C, ...) of `inputs` numbers a sample -> (B, C + kernels, ...): beside them, at every place the same, closeness to the others.

    Each kernel maps a sample's features to a vector of `dims` numbers. Its closeness is the sum of exp(-L1 distance) over the vectors of all other
    samples of all ranks, 0 where none is near and one less than the batch where all are equal.
    """

    def __init__(self, inputs: int, kernels: int, dims: int = 8) -> None:
        super().__init__()
        self.kernels, self.vectors = kernels, nn.Linear(inputs, kernels * dims, bias=False)

    def forward(self, x: Tensor, valid: Tensor | None = None) -> Tensor:
        """See the class. Rows that are not `valid` (B,) are near to none; all ranks call it together."""
        closeness = self.closeness(x, valid).to(x.dtype)
        return torch.cat([x, closeness.view(*closeness.shape, *[1] * (x.dim() - 2)).expand(-1, -1, *x.shape[2:])], 1)

    def closeness(self, x: Tensor, valid: Tensor | None = None) -> Tensor:
        """(B, kernels) float32."""
        vectors = self.vectors(x.flatten(1)).float().unflatten(1, (self.kernels, -1))
        every, counts = gather_with_grad(vectors), torch.ones(len(x), device=x.device) if valid is None else valid.float()
        near = torch.exp(-(vectors[:, None] - every).abs().sum(3)) * all_gather(counts)[:, None]
        itself = torch.zeros(len(x), len(every), device=x.device)
        itself.diagonal(rank() * len(x)).fill_(1)
        return (near * (1 - itself)[:, :, None]).sum(1)
