"""What trained autoencoders are good for: undoing noise, telling what is odd, finding what is alike, and few labels."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression
from sklearn.manifold import trustworthiness
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

from genlib.metrics.neighbours import nearest
from genlib.models.autoencoders.autoencoder import Autoencoder, AutoencoderConfig
from genlib.models.autoencoders.coding_pictures import in_plane
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
    return torch.cat([first, first @ turn + 0.7 * torch.randn(count, 8, generator=generator)], 1)


def test_an_overcomplete_autoencoder_copies_unless_it_has_to_undo_noise() -> None:
    x, held = in_pairs(6000).split(5000)
    config, spec = AutoencoderConfig(latent_dim=64, widths=(256,)), DataSpec(vector_size=16)
    plain = trained(config, x, spec, steps=2000)
    assert values(plain, x)["loss"] < 2e-3 * x.var().item()
    for corruption in ({"noise": 0.5}, {"dropout": 0.3}):
        assert gain_db(plain, held, **corruption) < 0
        assert gain_db(trained(replace(config, **corruption), x, spec, steps=1000), held, **corruption) > 0.5


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


def shifted(x: Tensor, seed: int, side: int = 16, most: int = 2) -> Tensor:
    """Grey images (N, side * side), each moved by up to `most` pixels either way."""
    generator, padded = torch.Generator().manual_seed(seed), F.pad(x.view(-1, side, side), (most,) * 4)
    moves = torch.randint(0, 2 * most + 1, (len(x), 2), generator=generator).tolist()
    return torch.stack([image[down : down + side, right : right + side] for image, (down, right) in zip(padded, moves, strict=True)]).flatten(1)


@cache
def of_moved_digits() -> tuple[Autoencoder, DataSpec, Tensor, Tensor, Tensor, Tensor]:
    """An autoencoder of digits of 16 px that lie anywhere; then its training and held-out digits and their labels."""
    digits, held = samples("digits", size=16), samples("digits", "validation", 16)
    config = AutoencoderConfig(latent_dim=16, network="convolutional", widths=(16, 32))
    task = trained(config, torch.cat([shifted(digits.x, seed) for seed in range(8)]), digits.spec, steps=1500)
    return task, digits.spec, shifted(digits.x, 100), digits.labels, shifted(held.x, 101), held.labels


def test_codes_find_the_same_digit_where_pixels_do_not() -> None:
    task, _, gallery, labels, queries, wanted = of_moved_digits()
    by_code = task.neighbours(image=queries, gallery=gallery, count=10)
    by_pixel = nearest(queries, gallery, 10)
    right = [(labels[found] == wanted[:, None]).double().mean().item() for found in (by_code, by_pixel)]
    assert right[0] > right[1]


def test_a_few_labels_go_further_on_codes() -> None:
    """20 labels a class: a linear probe on codes, against the encoder and a linear layer trained on the labels alone."""
    task, spec, x, labels, held, wanted = of_moved_digits()
    wins = []
    for seed in range(3):
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
        few = torch.cat([order[labels[order] == label][:20] for label in range(10)])
        probe = LogisticRegression(max_iter=2000).fit(task.embed(image=x[few]).numpy(), labels[few])
        torch.manual_seed(seed)
        scratch = nn.Sequential(task.config.build(spec, {}).net.encoder, nn.Linear(task.config.latent_dim, 10))
        optimizer = torch.optim.Adam(scratch.parameters(), 2e-3, fused=True)
        for _ in range(300):
            optimizer.zero_grad()
            F.cross_entropy(scratch(x[few]), labels[few]).backward()
            optimizer.step()
        ours, theirs = probe.score(task.embed(image=held).numpy(), wanted), (scratch(held).argmax(1) == wanted).double().mean().item()
        wins.append(ours - theirs)
    assert sum(wins) / 3 >= 0.05


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
