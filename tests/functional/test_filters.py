"""Filters against SciPy's design and what a filter is for, resampling against SciPy's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import signal, special

from genlib.functional import filters

DESIGNS = [(12, 2.0, 6.0, 32), (12, 6.3, 2.1, 64), (24, 2.0, 6.0, 64), (24, 60.2, 40.0, 512)]


@pytest.mark.parametrize(("taps", "cutoff", "half_width", "rate"), DESIGNS)
def test_a_low_pass_filter_is_scipys(taps: int, cutoff: float, half_width: float, rate: float) -> None:
    expected = signal.firwin(taps, cutoff, width=2 * half_width, fs=rate)
    torch.testing.assert_close(filters.kaiser_low_pass(taps, cutoff, half_width, rate).double(), torch.from_numpy(expected), atol=1e-7, rtol=1e-5)


@pytest.mark.parametrize(("taps", "cutoff", "half_width", "rate"), DESIGNS)
def test_a_radial_filter_is_the_windowed_transform_of_a_disc(taps: int, cutoff: float, half_width: float, rate: float) -> None:
    x = (np.arange(taps) - (taps - 1) / 2) / rate
    radius = np.hypot(x[:, None], x)
    beta = signal.kaiser_beta(signal.kaiser_atten(taps, 2 * half_width / (rate / 2)))
    expected = special.j1(2 * np.pi * cutoff * radius) / radius * np.outer(np.kaiser(taps, beta), np.kaiser(taps, beta))
    found = filters.radial_low_pass(taps, cutoff, half_width, rate)
    torch.testing.assert_close(found.double(), torch.from_numpy(expected / expected.sum()), atol=1e-7, rtol=1e-5)


def test_a_radial_filter_of_an_odd_size_has_its_middle() -> None:
    taps = filters.radial_low_pass(11, 4.0, 4.0, 32)
    assert taps.isfinite().all()
    assert taps[5, 5] == taps.max()
    assert taps.sum().item() == pytest.approx(1, abs=1e-6)


def test_a_filter_passes_what_is_below_the_cutoff_and_stops_what_is_above_the_band() -> None:
    taps, rate, cutoff, half_width = 48, 64, 12.0, 6.0
    line = filters.kaiser_low_pass(taps, cutoff, half_width, rate).numpy()

    def response(frequency: float) -> float:
        return abs((line * np.exp(2j * np.pi * frequency / rate * np.arange(taps))).sum())

    assert all(response(f) == pytest.approx(1, abs=0.01) for f in np.linspace(0, cutoff - half_width, 9))
    assert response(cutoff) == pytest.approx(0.5, abs=0.02)
    assert all(response(f) < 0.01 for f in np.linspace(cutoff + half_width, rate / 2, 9))


def test_a_radial_filter_treats_directions_alike_and_a_separable_one_does_not() -> None:
    taps, rate, cutoff, half_width = 24, 64, 8.0, 6.0
    radial = filters.radial_low_pass(taps, cutoff, half_width, rate).numpy()
    line = filters.kaiser_low_pass(taps, cutoff, half_width, rate).numpy()
    spreads = []
    for filter_ in (radial, np.outer(line, line)):
        found = []
        for angle in np.linspace(0, np.pi / 2, 7):
            wave = np.exp(2j * np.pi * 10 / rate * (np.cos(angle) * np.arange(taps)[:, None] + np.sin(angle) * np.arange(taps)))
            found.append(abs((filter_ * wave).sum()))
        spreads.append(max(found) - min(found))
    assert spreads[0] < 0.02
    assert spreads[1] > 0.1


@pytest.mark.parametrize("name", ["DAUBECHIES_2", "SYMLET_6"])
def test_wavelets_are_orthonormal_with_their_vanishing_moments(name: str) -> None:
    taps = np.array(getattr(filters, name))
    assert taps.sum() == pytest.approx(2**0.5, abs=1e-12)
    for shift in range(len(taps) // 2):
        assert (taps[: len(taps) - 2 * shift] * taps[2 * shift :]).sum() == pytest.approx(float(shift == 0), abs=1e-10)
    n = np.arange(len(taps)) - len(taps) / 2
    for moment in range(len(taps) // 2):
        assert ((-1.0) ** np.arange(len(taps)) * n**moment * taps).sum() == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("factor", [2, 4])
@pytest.mark.parametrize(("before", "after"), [(9, 8), (-6, -9), (0, 0), (14, 13), (30, 1), (-7, 40)])
@pytest.mark.parametrize("taps", [12, 5])
def test_upsampling_is_scipys_with_ends_put_on_or_cut_off(factor: int, before: int, after: int, taps: int) -> None:
    torch.manual_seed(0)
    x, h = torch.randn(2, 3, 14, 17), torch.randn(taps)
    y = filters.interpolated(x, h, factor, before, after)

    def line(values: np.ndarray) -> np.ndarray:
        wide = np.zeros(len(values) * factor)
        wide[::factor] = values * factor
        wide = np.pad(wide, (max(before, 0), max(after, 0)))[max(-before, 0) : len(wide) + max(before, 0) + max(after, 0) - max(-after, 0)]
        return np.convolve(wide, h.numpy(), "valid")

    expected = np.apply_along_axis(line, 2, np.apply_along_axis(line, 3, x.numpy()))
    torch.testing.assert_close(y, torch.from_numpy(expected).float(), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("factor", [1, 2, 4])
def test_downsampling_is_scipys_along_axes_and_in_the_plane(factor: int) -> None:
    torch.manual_seed(0)
    x, h = torch.randn(2, 3, 19, 26), torch.randn(5)
    expected = np.stack([[signal.convolve2d(plane, np.outer(h, h), "valid")[::factor, ::factor] for plane in row] for row in x.numpy()])
    for taps in (h, h[:, None] * h):
        torch.testing.assert_close(filters.decimated(x, taps, factor), torch.from_numpy(expected).float(), atol=1e-4, rtol=1e-4)


def test_a_filter_that_is_not_symmetric_in_the_plane_is_convolved_not_correlated() -> None:
    x, taps = torch.randn(1, 1, 8, 8), torch.randn(3, 3)
    expected = signal.convolve2d(x[0, 0].numpy(), taps.numpy(), "valid")
    torch.testing.assert_close(filters.decimated(x, taps, 1)[0, 0], torch.from_numpy(expected), atol=1e-5, rtol=1e-5)


def test_resampling_can_be_differentiated_twice() -> None:
    h, x = torch.randn(4, dtype=torch.float64), torch.randn(1, 2, 5, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda x: filters.decimated(filters.interpolated(x, h, 2, 2, 2).sin(), h, 2), x)


def test_channels_last_stays() -> None:
    x = torch.randn(2, 8, 9, 9).to(memory_format=torch.channels_last)
    y = filters.decimated(filters.interpolated(x, torch.randn(12), 2, 9, 8), torch.randn(12), 2)
    assert y.is_contiguous(memory_format=torch.channels_last)


def test_positions_in_mirrors() -> None:
    assert filters.mirrored(torch.arange(-5, 9), 4).tolist() == [1, 2, 3, 2, 1, 0, 1, 2, 3, 2, 1, 0, 1, 2]
    assert filters.mirrored(torch.tensor([-0.25, 3.25]), 4).tolist() == [0.25, 2.75]
    assert filters.mirrored(torch.arange(-3, 4), 1).tolist() == [0] * 7
