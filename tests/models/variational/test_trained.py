"""What trained variational autoencoders do: trade sharpness for rate, take factors apart, move along attributes, draw from the prior."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from statistics import mean

import pytest
import torch
from sklearn.linear_model import Ridge
from torch import Tensor

from genlib.metrics.disentanglement import mutual_information_gap
from genlib.metrics.fid import Moments, frechet_distance
from genlib.models.autoencoders.autoencoder import AutoencoderConfig
from genlib.models.representation.classifier import ClassifierConfig
from genlib.models.variational.vae import VAE, VAEConfig
from genlib.types import Step
from tests.models.coding import samples, trained, values

pytestmark = pytest.mark.slow
SHAPES = VAEConfig(latent_dim=10, network="convolutional", widths=(16, 32))
SIZE = 4  # column of the factors


@cache
def of_shapes(beta: float, seed: int = 0, steps: int = 400) -> VAE:
    shapes = samples("shapes", size=16)
    return trained(replace(SHAPES, beta=beta), shapes.x, shapes.spec, steps=steps, seed=seed)


def test_a_dearer_rate_is_lower_and_costs_distortion() -> None:
    held = samples("shapes", "validation", 16).x
    found = [values(of_shapes(beta), held) for beta in (0.0, 1.0, 4.0)]
    rates, distortions = ([one[name] for one in found] for name in ("rate_nats", "distortion_nats"))
    assert rates == sorted(rates, reverse=True)
    assert distortions == sorted(distortions)
    assert rates[0] > 10 * rates[1], "without a price the rate runs away"


def test_beta_takes_the_factors_of_shapes_apart() -> None:
    held = samples("shapes", "validation", 16)
    gaps = {}
    for beta in (1.0, 4.0):
        tasks = [of_shapes(beta, seed, 1500) for seed in range(3)]
        gaps[beta] = mean(mutual_information_gap(task.embed(image=held.x).numpy(), held.factors.numpy()) for task in tasks)
    assert gaps[4.0] > gaps[1.0]


def test_convolutions_beat_dense_layers_of_as_many_weights() -> None:
    shapes, held = samples("shapes", size=16), samples("shapes", "validation", 16)
    dense = trained(replace(SHAPES, network="dense", widths=(21,)), shapes.x, shapes.spec, steps=400)
    counts = [sum(p.numel() for p in task.parameters()) for task in (of_shapes(1.0), dense)]
    assert counts[0] == pytest.approx(counts[1], rel=0.1)
    assert values(of_shapes(1.0), held.x)["negative_elbo_nats"] < values(dense, held.x)["negative_elbo_nats"]


def test_moving_along_an_attribute_changes_it_step_by_step() -> None:
    """Size, told by a linear probe on the codes of what comes out, and by how much of the picture is lit."""
    shapes, held, task = samples("shapes", size=16), samples("shapes", "validation", 16), of_shapes(1.0)
    size = shapes.factors[:, SIZE]
    direction = task.attribute_direction(image=shapes.x, value=size.tolist())
    probe = Ridge().fit(task.embed(image=shapes.x).numpy(), size.numpy())
    moved = task.move(image=held.x[:200], direction=direction, amount=torch.linspace(-0.2, 0.2, 7).tolist())
    told = [probe.predict(task.embed(image=images).numpy()).mean() for images in moved.unbind(1)]
    lit = [(images.amax(1) > 0.3).double().mean().item() for images in moved.unbind(1)]
    assert told == sorted(told)
    assert lit == sorted(lit)
    assert told[-1] > told[0] + 0.1


def test_an_image_less_one_attribute_plus_another() -> None:
    """A large shape less a small one of its kind and colour plus another small one is a larger one of the other's colour."""
    held, task = samples("shapes", "validation", 16), of_shapes(1.0)
    _, color, size = (held.factors[:, column] for column in (0, 1, SIZE))
    grown = 0
    tried = 0
    for small in ((size < 0.28) & (color != color[0])).nonzero()[:60, 0].tolist():
        large, plain = ((color != color[small]) & (size > 0.5)).nonzero()[:1, 0], ((color != color[small]) & (size < 0.28)).nonzero()[:1, 0]
        made = task.combine(image=held.x[torch.cat([large, plain, torch.tensor([small])])], weight=[1.0, -1.0, 1.0])
        before = task.reconstruct(image=held.x[[small]])
        tried += 1
        grown += (made.amax(1) > 0.3).sum() > (before.amax(1) > 0.3).sum()
    assert grown > 0.8 * tried


def features(images: Tensor) -> Moments:
    """Moments of what a classifier of digits sees in images (N, 64)."""
    network, moments = classifier(), Moments(64)
    with torch.no_grad():
        moments.add(network.features(images.view(-1, 1, 8, 8)))
    return moments


@cache
def classifier():
    digits = samples("digits")
    torch.manual_seed(0)
    task = ClassifierConfig(width=32, layers=(1, 1)).build(digits.spec, {})
    optimizer = torch.optim.AdamW(task.parameters(), 5e-3)
    for step in range(120):
        rows = torch.arange(step * 64, (step + 1) * 64) % len(digits.x)
        optimizer.zero_grad()
        batch = {"image": digits.x[rows].view(-1, 1, 8, 8), "label": digits.labels[rows]}
        task.loss("train", batch, Step(step, 120))[0].mean().backward()
        optimizer.step()
    return task.eval()


def test_draws_from_the_prior_are_nearer_to_data_than_those_of_a_plain_autoencoder() -> None:
    digits, widths = samples("digits"), (256, 128)
    vae = trained(VAEConfig(latent_dim=16, widths=widths), digits.x, digits.spec, steps=1000)
    plain = trained(AutoencoderConfig(latent_dim=16, widths=widths), digits.x, digits.spec, steps=1000)
    real, codes = features(digits.x), torch.randn(1000, 16, generator=torch.Generator().manual_seed(0))
    distances = [frechet_distance(real, features(task.decode(code=codes).flatten(1))) for task in (vae, plain)]
    assert distances[0] < distances[1]
