"""Samples as plain vectors: images flattened, numbers of .npy members, and rings2d, the set of points."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch

from genlib.config import DataConfig
from genlib.data.builtin import cities, rings2d
from genlib.data.shards.writer import write_shards
from genlib.data.source import open_source
from genlib.data.transforms.vectors import VectorShape, VectorTransform
from genlib.types import DataSpec


def npy(values: object) -> bytes:
    file = io.BytesIO()
    np.save(file, np.asarray(values))
    return file.getvalue()


def first_batch(config: DataConfig, size: int) -> tuple[DataSpec, dict[str, torch.Tensor]]:
    source = open_source(config)
    transform = VectorTransform(VectorShape.of(source.spec))
    return source.spec, next(iter(source.batches("train", size, transform=transform)))


def test_rings2d_are_eight_equal_gaussians_on_a_circle() -> None:
    spec, batch = first_batch(DataConfig(train="rings2d"), 8192)
    assert (spec.vector_size, spec.image_size, len(spec.class_names)) == (2, 0, 8)
    x, label = batch["x"].double().numpy(), batch["label"].numpy()
    for mode, center in enumerate(rings2d.centers()):
        mine = x[label == mode]
        assert len(mine) == pytest.approx(1024, abs=120)  # four standard deviations of a binomial
        assert mine.mean(0) == pytest.approx(center, abs=0.015)
        assert mine.std(0) == pytest.approx(0.1, rel=0.1)


def test_images_flattened_come_back_as_they_were() -> None:
    _, batch = first_batch(DataConfig(train="digits"), 16)
    source = open_source(DataConfig(train="digits"))
    plain = next(iter(source.batches("train", 16)))
    assert batch["x"].shape == (16, 64)
    assert torch.equal(VectorShape.of(source.spec).image(batch["x"]), plain["image"])
    assert torch.equal(batch["label"], plain["label"])


def test_samples_that_a_user_gives_become_vectors() -> None:
    shape, images = VectorShape((3, 4, 4)), torch.rand(2, 3, 4, 4)
    assert torch.equal(shape.image(shape.flat(images)), images)
    assert torch.equal(shape.flat(images.double().flatten(1)), images.flatten(1))
    assert shape.flat(torch.full((2, 3, 9, 9), 0.25)).allclose(torch.full((2, 48), 0.25))
    checks = (torch.arange(8)[:, None] + torch.arange(8)) % 2
    assert shape.flat(checks.expand(1, 3, 8, 8)).allclose(torch.tensor(0.5), atol=0.1), "smaller images are smoothed first"
    numbers = VectorShape((5,))
    assert numbers.flat(torch.arange(10).view(2, 5)).tolist() == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]]
    for bad in (torch.rand(2, 1, 4, 4), torch.rand(3, 4, 4), torch.rand(2, 47)):
        with pytest.raises(ValueError, match=r"samples of shape .* what the model knows, images \(B, 3, 4, 4\) in \[0, 1\]; give such ones"):
            shape.flat(bad)
    with pytest.raises(ValueError, match=r"samples of shape \(2, 1, 1, 5\) .* vectors \(B, 5\)"):
        numbers.flat(torch.rand(2, 1, 1, 5))


def test_vectors_of_a_users_own_any_number_type(tmp_path: Path) -> None:
    rows = [np.arange(6, dtype=kind).reshape(2, 3) for kind in (np.float64, np.float16, np.int32, np.uint8)]
    write_shards(tmp_path, "train", [{"npy": npy(row)} for row in rows])
    spec, batch = first_batch(DataConfig(train=str(tmp_path)), 4)
    assert spec.vector_size == 6
    assert torch.equal(batch["x"], torch.arange(6.0).expand(4, 6))
    assert "label" not in batch


def test_vectors_of_two_sizes_are_named(tmp_path: Path) -> None:
    write_shards(tmp_path, "train", [{"npy": npy(np.zeros(count))} for count in (3, 3, 3, 4)])
    with pytest.raises(ValueError, match=r"train-00000:00000003 holds 4 numbers and the first sample 3"):
        first_batch(DataConfig(train=str(tmp_path)), 4)


def test_what_is_no_vector_is_told_which_sets_are(tmp_path: Path) -> None:
    write_shards(tmp_path, "train", [{"txt": b"a word"}])
    with pytest.raises(ValueError, match=r"neither images of one size nor vectors .* rings2d"):
        VectorShape.of(open_source(DataConfig(train=str(tmp_path), image_size=8)).spec)


def test_cities_are_the_worlds_time_zones() -> None:
    spec, batch = first_batch(DataConfig(train="cities"), 64)
    assert (spec.vector_size, spec.num_samples > 400, spec.class_names[0]) == (2, True, "Africa")
    longitude, latitude = batch["x"].T
    assert longitude.abs().max() <= 180
    assert latitude.abs().max() <= 90
    assert cities.degrees("+5130-00007") == pytest.approx((-7 / 60, 51.5))
    with pytest.raises(ValueError, match=r"has a place '5130' that is not written like \+4230\+00131"):
        cities.degrees("5130")
