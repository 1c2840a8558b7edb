"""The set cities: places, regions and names as the time zone database has them."""

from __future__ import annotations

import io

import numpy as np
import pytest

from genlib.data.builtin.catalog import cities


def test_places_regions_and_names() -> None:
    found = {sample["txt"].decode(): (np.load(io.BytesIO(sample["npy"])), int(sample["cls"])) for sample in cities.samples()}
    assert len(found) > 400
    known = (("Paris", 2.33, 48.87, "Europe"), ("Tokyo", 139.74, 35.65, "Asia"), ("Montevideo", -56.21, -34.9, "America"))
    for name, longitude, latitude, region in known:
        place, label = found[name]
        np.testing.assert_allclose(place, (longitude, latitude), atol=0.1)
        assert cities.CLASS_NAMES[label] == region
    places = np.stack([place for place, _ in found.values()])
    assert np.abs(places).max(0)[0] <= 180
    assert np.abs(places).max(0)[1] <= 90
    assert {label for _, label in found.values()} == set(range(len(cities.CLASS_NAMES)))


def test_degrees_with_and_without_seconds() -> None:
    assert cities.degrees("+4230+00131") == pytest.approx((1 + 31 / 60, 42.5))
    assert cities.degrees("-335230+0182600") == pytest.approx((18 + 26 / 60, -33.875))
    with pytest.raises(ValueError, match="is not written like"):
        cities.degrees("+42+1")
