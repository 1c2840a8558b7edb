"""A score that says it is on another library's scale has that library's value.

torchmetrics 1.9: CLIP score of two pairs with cosines 0.4 and -0.2 is 10.0, as the mean is clamped and not each pair. FID, the inception score and
mutual information are compared with their libraries in tests/metrics.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genlib.metrics.clip_score import clip_score, shuffled_clip_score
from genlib.metrics.kid import kid


class Known(nn.Module):
    """A network for torchmetrics whose directions are those given: pictures and texts are numbers of rows."""

    config = SimpleNamespace()

    def __init__(self, image: Tensor, text: Tensor) -> None:
        super().__init__()
        self.image, self.text = image, text

    def get_image_features(self, pixels: Tensor) -> Tensor:
        return self.image[pixels]

    def get_text_features(self, numbers: Tensor, mask: Tensor) -> Tensor:
        return self.text[numbers]


def processed(text: list[str] | None = None, images: list[Tensor] | None = None, **options: Any) -> dict[str, Tensor]:
    if images is not None:
        return {"pixel_values": torch.tensor([int(image[0, 0, 0]) for image in images])}
    assert text is not None
    return {"input_ids": torch.tensor([int(one) for one in text]), "attention_mask": torch.ones(len(text), 1)}


def of_torchmetrics(image: Tensor, text: Tensor) -> float:
    """CLIPScore over two batches."""
    from torchmetrics.multimodal.clip_score import CLIPScore

    metric = CLIPScore(lambda: (Known(image, text), processed))  # type: ignore[arg-type]
    for rows in torch.arange(len(image)).chunk(2):
        metric.update([torch.full((3, 2, 2), int(row)) for row in rows], [str(int(row)) for row in rows])
    return metric.compute().item()


def directions(*cosines: float) -> tuple[Tensor, Tensor]:
    """Pairs of those cosines."""
    text = torch.tensor([[1.0, 0.0]]).repeat(len(cosines), 1)
    return torch.tensor([[cosine, (1 - cosine**2) ** 0.5] for cosine in cosines]), text


@pytest.mark.parametrize(("cosines", "expected"), [((0.4, -0.2), 10.0), ((-0.4, 0.2), 0.0), ((0.3, 0.5), 40.0)])
def test_the_mean_of_clip_scores_is_clamped_and_not_each(cosines: tuple[float, ...], expected: float) -> None:
    image, text = directions(*cosines)
    assert clip_score(image, text) == pytest.approx(expected, abs=1e-4)
    assert of_torchmetrics(image, text) == pytest.approx(expected, abs=1e-4)
    assert shuffled_clip_score(image, text[:1].repeat(2, 1), ["a", "b"]) == pytest.approx(expected, abs=1e-4)


def test_clip_scores_of_drawn_directions_are_torchmetrics() -> None:
    draw = torch.Generator().manual_seed(0)
    image, text = (F.normalize(torch.randn(40, 8, generator=draw) + 0.3, dim=1) for _ in range(2))
    assert clip_score(image, text) == pytest.approx(of_torchmetrics(image, text), rel=1e-5)
    shuffled = [of_torchmetrics(image, text.roll(turn, 0)) for turn in range(1, 40)]
    assert shuffled_clip_score(image, text, [str(number) for number in range(40)]) == pytest.approx(sum(shuffled) / 39, rel=1e-4)


def test_the_kernel_distance_is_torchmetrics() -> None:
    from torchmetrics.image.kid import KernelInceptionDistance

    draw = torch.Generator().manual_seed(0)
    real, fake = torch.randn(30, 16, generator=draw), torch.randn(30, 16, generator=draw) + 0.2
    theirs = KernelInceptionDistance(feature=nn.Identity(), subsets=1, subset_size=30)
    theirs.real_features, theirs.fake_features = [real], [fake]
    mean, spread = theirs.compute()
    assert kid(real, fake, subset_size=30)[0] == pytest.approx(mean.item(), rel=1e-4)
    assert spread.item() == kid(real, fake, subset_size=30)[1] == 0.0


def test_recall_is_open_clips() -> None:
    """Its train script's, whose names are ours."""
    from genlib.metrics.retrieval import recall

    draw = torch.Generator().manual_seed(0)
    text = F.normalize(torch.randn(200, 8, generator=draw), dim=1)
    image = F.normalize(text + 0.5 * torch.randn(200, 8, generator=draw), dim=1)
    found = recall(image, text)
    for name, logits in (("image_to_text", image @ text.T), ("text_to_image", text @ image.T)):
        place = (logits.argsort(descending=True) == torch.arange(200)[:, None]).nonzero()[:, 1]  # as in open_clip_train's get_clip_metrics
        assert {k: found[f"{name}_R@{k}"] for k in (1, 5, 10)} == pytest.approx({k: (place < k).double().mean().item() for k in (1, 5, 10)})
