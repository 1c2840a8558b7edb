"""Distances of images by features, and the signal-to-noise ratio."""

from __future__ import annotations

import pytest
import torch

from genlib.functional.perceptual import feature_distance, psnr_db, unit_channels


def test_distance_is_between_directions_of_features() -> None:
    """Orthogonal unit vectors are sqrt(2) apart, whatever their length; opposite ones 2."""
    x, y = torch.tensor([3.0, 0.0]).view(1, 2, 1, 1), torch.tensor([0.0, 0.1]).view(1, 2, 1, 1)
    assert feature_distance([x], [y]).item() == pytest.approx(2.0)
    assert feature_distance([x, x], [-x, 5 * x]).item() == pytest.approx(4.0)
    assert feature_distance([x], [y], [torch.tensor([1.0, 0.5])]).item() == pytest.approx(1.5)


def test_places_are_averaged_and_samples_stay_apart() -> None:
    a, b = torch.randn(4, 6, 5, 5), torch.randn(4, 6, 5, 5)
    torch.testing.assert_close(unit_channels(a).norm(dim=1), torch.ones(4, 5, 5))
    expected = 2 - 2 * torch.cosine_similarity(a, b).mean((1, 2))
    torch.testing.assert_close(feature_distance([a], [b]), expected)


def test_a_place_without_features_gives_no_infinite_gradient() -> None:
    a = torch.zeros(1, 3, 2, 2, requires_grad=True)
    feature_distance([a], [torch.ones(1, 3, 2, 2)]).sum().backward()
    assert a.grad is not None
    assert a.grad.isfinite().all()


def test_signal_to_noise_in_decibels() -> None:
    image = torch.rand(2, 1, 4, 4)
    assert psnr_db(image + 0.1, image).tolist() == pytest.approx([20.0, 20.0], abs=1e-3)
    assert psnr_db(image, image).tolist() == [100.0, 100.0]
