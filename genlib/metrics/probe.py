"""How good codes are that were learnt without labels: a linear classifier on them (linear probe), and a vote of nearest neighbours."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from genlib.metrics.neighbours import nearest


def linear_probe(codes: Tensor, labels: Tensor, held_out: Tensor, *, strength: float = 1.0, most_iterations: int = 200) -> Tensor:
    """The class that multinomial logistic regression, learnt from codes (N, D) and labels (N,), gives held-out codes (M, D). -> (M,) int64.

    Codes are scaled to zero mean and unit variance; `strength` is the inverse of the L2 penalty (scikit-learn's C).
    """
    from sklearn.linear_model import LogisticRegression

    if len(labels.unique()) < 2:
        return labels[:1].expand(len(held_out)).clone()
    deviation, mean = torch.std_mean(codes.double().cpu(), 0, correction=0)
    known, asked = (((x.double().cpu() - mean) / deviation.clamp(min=1e-6)).float() for x in (codes, held_out))
    model = LogisticRegression(C=strength, max_iter=most_iterations, tol=1e-3).fit(known.numpy(), labels.cpu().numpy())
    return torch.from_numpy(model.predict(asked.numpy())).to(labels.device)


def neighbour_vote(codes: Tensor, labels: Tensor, held_out: Tensor, *, k: int = 20) -> Tensor:
    """The commonest class among the k nearest codes by cosine. codes (N, D), labels (N,), held_out (M, D) -> (M,) int64.

    Of classes that are equally common the one with the nearer first member wins. With fewer than k codes all of them vote.
    """
    return _vote(labels[nearest(F.normalize(held_out, dim=1), F.normalize(codes, dim=1), min(k, len(codes)))])


def vote_of_others(codes: Tensor, labels: Tensor, *, k: int = 20) -> Tensor:
    """As `neighbour_vote` for each of the codes (N, D), N at least 2, with all others as the ones that vote. -> (N,) int64."""
    codes, k = F.normalize(codes, dim=1), min(k, len(codes) - 1)
    found = nearest(codes, codes, k + 1)
    itself = found == torch.arange(len(codes), device=codes.device)[:, None]
    itself[:, -1] |= ~itself.any(1)  # among many equal codes it may not be listed itself
    return _vote(labels[found[~itself].view(-1, k)])


def _vote(labels: Tensor) -> Tensor:
    """The commonest label of each row (N, k), nearest first. -> (N,)."""
    count = (labels[:, :, None] == labels[:, None, :]).sum(2)
    return labels.gather(1, count.argmax(1, keepdim=True))[:, 0]  # the first of equal counts
