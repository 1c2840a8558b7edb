"""What trained autoencoders are good for: undoing noise, telling what is odd, finding what is alike, and few labels."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest
import torch
import torch.nn.functional as F
from sklearn.manifold import trustworthiness
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from torch import Tensor, nn

from genlib.metrics.neighbours import nearest
from genlib.models.autoencoders.autoencoder import Autoencoder, AutoencoderConfig
from genlib.models.autoencoders.base.coding_pictures import in_plane
from genlib.types import DataSpec
from tests.models.coding import samples, trained, values

pytestmark = pytest.mark.slow
RING = 5


def parameters(task: nn.Module) -> int:
    return sum(p.numel() for p in task.parameters())


def gain_db(task: Autoencoder, x: Tensor, **corruption: float) -> float:
    """By how much it undoes a corruption that may not be the one it was trained with."""
    kept, task.config = task.config, replace(task.config, **{"noise": 0.0, "dropout": 0.0, **corruption})
    gain = values(task, x)["gain_db"]
    task.config = kept
    return gain


def in_pairs(count: int) -> Tensor:
    """16 numbers each: 8 at random, and 8 that are the first ones turned, with noise; so every direction varies and each half tells of the other."""
    generator = torch.Generator().manual_seed(0)
    first, turn = torch.randn(count, 8, generator=generator), torch.linalg.qr(torch.randn(8, 8, generator=generator))[0]
    return torch.cat([first, first @ turn + 0.5 * torch.randn(count, 8, generator=generator)], 1)


def test_an_overcomplete_autoencoder_copies_unless_it_has_to_undo_noise() -> None:
    x, held = in_pairs(3000).split((2000, 1000))
    config, spec = AutoencoderConfig(latent_dim=64, widths=(256,)), DataSpec(vector_size=16)
    plain = trained(config, x, spec, steps=1500)
    assert values(plain, x)["loss"] < 2e-3
    for corruption in ({"noise": 0.2}, {"dropout": 0.3}):
        assert gain_db(plain, held, **corruption) < 0
        assert gain_db(trained(replace(config, **corruption), x, spec, steps=2000), held, **corruption) > 0.1


def test_denoising_gains_decibels_and_less_on_a_class_never_seen() -> None:
    digits, held, left_out = samples("digits"), samples("digits", "validation"), 8
    for corruption in ({"noise": 0.3}, {"dropout": 0.3}):
        config = AutoencoderConfig(latent_dim=128, widths=(256,), **corruption)
        all_seen, not_all = (trained(config, one.x, digits.spec, steps=1000) for one in (digits, digits.only(digits.labels != left_out)))
        assert values(all_seen, held.x)["gain_db"] > 3
        alien = held.x[held.labels == left_out]
        assert values(not_all, alien)["gain_db"] < values(all_seen, alien)["gain_db"] - 0.3


def test_convolutions_beat_dense_layers_of_as_many_weights() -> None:
    shapes, held = samples("shapes", size=16), samples("shapes", "validation", 16)
    convolutional = trained(AutoencoderConfig(latent_dim=16, network="convolutional", widths=(32, 64)), shapes.x, shapes.spec, steps=600)
    dense = trained(AutoencoderConfig(latent_dim=16, widths=(66,)), shapes.x, shapes.spec, steps=600)
    assert parameters(convolutional) == pytest.approx(parameters(dense), rel=0.03)
    assert values(convolutional, held.x)["loss"] < 0.9 * values(dense, held.x)["loss"]


def test_a_kind_never_seen_is_reconstructed_badly() -> None:
    shapes, held = samples("shapes", size=16), samples("shapes", "validation", 16)
    config = AutoencoderConfig(latent_dim=8, network="convolutional", widths=(32, 64))
    task = trained(config, shapes.only(shapes.labels != RING).x, shapes.spec, steps=700)
    assert roc_auc_score(held.labels == RING, task.anomaly(image=held.x)) > 0.9


def moved(x: Tensor, shape: tuple[int, int, int], seed: int, most: int = 2) -> Tensor:
    """Images (N, D) of a shape (C, H, W), each moved by up to `most` pixels either way."""
    generator, padded = torch.Generator().manual_seed(seed), F.pad(x.view(-1, *shape), (most,) * 4)
    places = torch.randint(0, 2 * most + 1, (len(x), 2), generator=generator).tolist()
    rows = [image[:, down : down + shape[1], right : right + shape[2]] for image, (down, right) in zip(padded, places, strict=True)]
    return torch.stack(rows).flatten(1)


def test_codes_find_a_picture_that_moved_better_than_pixels_do() -> None:
    """100 pictures, ten views of each moved by up to 2 px: the views of a picture among the ten nearest to one more view of it."""
    shapes, held, shape = samples("shapes", size=16), samples("shapes", "validation", 16).x[:100], (3, 16, 16)
    task = trained(AutoencoderConfig(latent_dim=16, network="convolutional", widths=(16, 32)), shapes.x, shapes.spec, steps=600)
    gallery, queries = torch.cat([moved(held, shape, seed) for seed in range(10)]), moved(held, shape, 10)
    by_code, by_pixel = task.neighbours(image=queries, gallery=gallery, count=10), nearest(queries, gallery, 10)
    right = [(found % 100 == torch.arange(100)[:, None]).double().mean().item() for found in (by_code, by_pixel)]
    assert right[0] > right[1]


def test_a_few_labels_go_further_on_codes() -> None:
    """20 labels a class of digits that lie anywhere: a support vector machine on codes, against the encoder trained on the labels alone."""
    digits, held, shape = samples("digits"), samples("digits", "validation"), (1, 10, 10)
    spec = replace(digits.spec, image_size=10)
    x, asked = (moved(F.pad(one.x.view(-1, 8, 8), (1,) * 4), shape, 100, most=1) for one in (digits, held))
    unlabelled = torch.cat([moved(F.pad(digits.x.view(-1, 8, 8), (1,) * 4), shape, seed, most=1) for seed in range(8)])
    task = trained(AutoencoderConfig(latent_dim=32, widths=(256, 128), noise=0.3), unlabelled, spec, steps=1500)
    wins = []
    for seed in range(3):
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
        few = torch.cat([order[digits.labels[order] == label][:20] for label in range(10)])
        probe = make_pipeline(StandardScaler(), SVC(C=10)).fit(task.embed(image=x[few]).numpy(), digits.labels[few])
        scratch = from_scratch(task, spec, x[few], digits.labels[few], seed)
        right = (scratch(asked).argmax(1) == held.labels).double().mean().item()
        wins.append(probe.score(task.embed(image=asked).numpy(), held.labels) - right)
    assert sum(wins) / 3 >= 0.05


def from_scratch(task: Autoencoder, spec: DataSpec, x: Tensor, labels: Tensor, seed: int) -> nn.Module:
    """A classifier of the task's encoder, untrained, and a linear layer, after 300 steps on all of the few samples."""
    torch.manual_seed(seed)
    net = nn.Sequential(task.config.build(spec, {}).net.encoder, nn.Linear(task.config.latent_dim, 10))
    optimizer = torch.optim.Adam(net.parameters(), 2e-3, fused=True)
    for _ in range(300):
        optimizer.zero_grad()
        F.cross_entropy(net(x), labels).backward()
        optimizer.step()
    return net.eval()


@cache
def of_digits() -> Autoencoder:
    digits = samples("digits")
    return trained(AutoencoderConfig(latent_dim=16, widths=(256, 128)), digits.x, digits.spec, steps=1500)


def test_half_way_between_two_codes_lies_nearer_to_data_than_half_way_between_pixels() -> None:
    digits, held = samples("digits"), samples("digits", "validation")
    first, second = held.x[:170], held.x[170:340]
    apart = held.labels[:170] != held.labels[170:340]
    first, second = first[apart], second[apart]
    by_code = of_digits().interpolate(first=first, second=second, steps=3)[:, 1].flatten(1)
    by_pixel = (first + second) / 2
    distances = [torch.cdist(middle, digits.x).min(1).values.mean().item() for middle in (by_code, by_pixel)]
    assert distances[0] < distances[1]


def test_the_map_of_codes_keeps_neighbours() -> None:
    codes = of_digits().embed(image=samples("digits", "validation").x).double().numpy()
    assert trustworthiness(codes, in_plane(codes), n_neighbors=10) > 0.9
