"""Variational autoencoders: the bound where it is known, what beta trades, and what codes are good for."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.distributions import Bernoulli as TorchBernoulli
from torch.distributions import MultivariateNormal, Normal

from genlib import companions, registry
from genlib.models.variational.base.likelihood import Bernoulli, Gaussian
from genlib.models.variational.vae import VAE, VAEConfig
from genlib.types import DataSpec, Step
from tests.models.coding import samples, trained, values

GREY = DataSpec(channels=1, image_size=8, class_names=("zero", "one"))
SMALL = VAEConfig(latent_dim=4, widths=(32, 16))


def made(config: VAEConfig = SMALL, spec: DataSpec = GREY) -> VAE:
    torch.manual_seed(0)
    return config.build(spec, {}).eval()


def images(count: int, channels: int = 1, side: int = 8) -> Tensor:
    return torch.rand(count, channels, side, side, generator=torch.Generator().manual_seed(0))


def test_likelihoods_are_torchs() -> None:
    numbers, x = torch.randn(5, 12), torch.rand(5, 12)
    binary, gaussian = (x > 0.5).float(), Gaussian(0.3)
    torch.testing.assert_close(Bernoulli().log_prob(numbers, binary), TorchBernoulli(logits=numbers).log_prob(binary).sum(1))
    torch.testing.assert_close(Bernoulli().mean(numbers), TorchBernoulli(logits=numbers).mean)
    torch.testing.assert_close(gaussian.log_prob(numbers, x), Normal(numbers, 0.3).log_prob(x).sum(1))
    assert not list(gaussian.parameters())


def test_a_learnt_deviation_goes_to_that_of_the_errors() -> None:
    torch.manual_seed(0)
    gaussian, numbers = Gaussian(), torch.zeros(500, 10)
    x = 0.2 * torch.randn(500, 10)
    optimizer = torch.optim.Adam(gaussian.parameters(), 0.05)
    for _ in range(200):
        optimizer.zero_grad()
        (-gaussian.log_prob(numbers, x).mean()).backward()
        optimizer.step()
    assert gaussian.log_std.exp().item() == pytest.approx(0.2, rel=0.03)


def linear_gaussian() -> tuple[VAE, Tensor, Tensor]:
    """A VAE of linear maps with its exact posterior as encoder; samples (4000, 6) of it, and their exact log-likelihoods."""
    task = made(VAEConfig(latent_dim=2, widths=(), likelihood="gaussian", std=0.5), DataSpec(vector_size=6))
    weight = torch.linalg.qr(torch.randn(6, 2))[0] * torch.tensor([1.5, 0.8])
    precision = 1 + weight.square().sum(0) / 0.25
    encoder, decoder = task.net.encoder[0], task.net.decoder[0]
    with torch.no_grad():
        decoder.weight.copy_(weight)
        decoder.bias.zero_()
        encoder.weight.copy_(torch.cat([weight.T / 0.25 / precision[:, None], torch.zeros(2, 6)]))
        encoder.bias.copy_(torch.cat([torch.zeros(2), -precision.log()]))
    x = torch.randn(4000, 2) @ weight.T + 0.5 * torch.randn(4000, 6)
    return task, x, MultivariateNormal(torch.zeros(6), weight @ weight.T + 0.25 * torch.eye(6)).log_prob(x)


@torch.no_grad()
def test_the_bound_is_the_likelihood_of_a_linear_gaussian_model_and_falls_below_as_the_encoder_errs() -> None:
    task, x, exact = linear_gaussian()
    position = torch.arange(len(x))
    torch.testing.assert_close(task.log_likelihood_bound(x, position, 0, 3), exact, atol=1e-3, rtol=1e-4)
    assert values(task, x)["negative_elbo_nats"] == pytest.approx(-exact.mean().item(), abs=0.05)
    gaps = []
    for shift in (0.1, 0.3, 1.0):
        task.net.encoder[0].bias[:2] = shift
        elbo, tighter = (-values(task, x)["negative_elbo_nats"], task.log_likelihood_bound(x, position, 0, 50).mean().item())
        assert elbo < tighter < exact.mean().item() + 0.01
        gaps.append(exact.mean().item() - elbo)
    assert gaps == sorted(gaps)
    assert gaps[0] > 0


def test_the_loss_is_distortion_and_priced_rate() -> None:
    task, batch = made(), companions.example(made(), 6)
    distortion, rate = task.distortion_and_rate(batch["x"], batch["position"], 3)
    for beta in (0.0, 1.0, 4.0):
        task.config = replace(SMALL, beta=beta)
        torch.testing.assert_close(task.loss("train", batch, Step(0, 10, 3))[0], distortion + beta * rate)
    task.config = replace(SMALL, beta=4.0, rate_warmup=0.5)
    for index, share in ((0, 0.0), (2, 0.4), (5, 1.0), (9, 1.0)):
        torch.testing.assert_close(task.loss("train", batch, Step(index, 10, 3))[0], distortion + 4 * share * rate)
    assert values(task, batch["x"])["negative_elbo_nats"] == pytest.approx(sum(values(task, batch["x"])[f"{k}_nats"] for k in ("distortion", "rate")))


def test_training_by_the_importance_weighted_bound() -> None:
    digits, held = samples("digits"), samples("digits", "validation")
    config = replace(SMALL, importance_samples=8)
    task = trained(config, digits.x, digits.spec, steps=150)
    before = trained(config, digits.x, digits.spec, steps=1)
    position = torch.arange(len(held.x))
    with torch.no_grad():
        bounds = [
            one.log_likelihood_bound(held.x, position, 0, count).mean().item() for one, count in ((before, 8), (task, 1), (task, 8), (task, 64))
        ]
    assert bounds[0] + 5 < bounds[1] < bounds[2] < bounds[3]


@pytest.mark.parametrize("network", ["dense", "convolutional"])
@pytest.mark.parametrize(("channels", "side"), [(1, 8), (3, 16), (1, 28), (3, 32)])
def test_actions_keep_shape_and_range(network: str, channels: int, side: int) -> None:
    task = made(VAEConfig(latent_dim=4, network=network, widths=(8, 6)), DataSpec(channels=channels, image_size=side))
    image, shape = images(5, channels, side), (channels, side, side)
    code = task.embed(image=image)
    assert code.shape == (5, 4)
    assert torch.equal(task.reconstruct(image=image), task.decode(code=code))
    made_of = [
        task.decode(code=code), task.generate(seed=[3, 1]), task.interpolate(first=image[:2], second=image[2:4], steps=3).flatten(0, 1),
        task.move(image=image, direction=code[0], amount=[-1.0, 0.0]).flatten(0, 1), task.combine(image=image[:3], weight=[1.0, -1.0, 1.0]),
    ]  # fmt: skip
    assert [tuple(out.shape) for out in made_of] == [(count, *shape) for count in (5, 2, 6, 10, 1)]
    assert all(out.min() >= 0 and out.max() <= 1 for out in made_of)


def test_a_generated_picture_is_of_its_seed_alone() -> None:
    task = made()
    torch.testing.assert_close(task.generate(seed=[5, 9])[1], task.generate(seed=[9])[0])
    assert not torch.allclose(task.generate(seed=[5])[0], task.generate(seed=[9])[0])
    with pytest.raises(ValueError, match="there is no seed"):
        task.generate(seed=[])


def test_moves_sums_and_lines_of_codes() -> None:
    task, image = made(), images(6)
    code, direction = task.embed(image=image), torch.tensor([0.5, -1.0, 0.0, 2.0])
    torch.testing.assert_close(
        task.move(image=image[:1], direction=direction, amount=[0.0, 1.5])[0], task.decode(code=code[0] + direction * torch.tensor([[0.0], [1.5]]))
    )
    torch.testing.assert_close(task.combine(image=image[:3], weight=[1.0, -1.0, 1.0]), task.decode(code=(code[0] - code[1] + code[2])[None]))
    path = task.interpolate(first=image[:1], second=image[1:2], steps=5)[0]
    torch.testing.assert_close(path[[0, 4]], task.reconstruct(image=image[:2]))
    torch.testing.assert_close(path[2], task.decode(code=(code[:2].mean(0))[None])[0])


def test_whole_numbers_do_as_well() -> None:
    task, image = made(), images(3)
    assert torch.equal(task.attribute_direction(image=image, value=[0, 1, 3]), task.attribute_direction(image=image, value=[0.0, 1.0, 3.0]))
    assert torch.equal(task.combine(image=image, weight=[1, -1, 1]), task.combine(image=image, weight=[1.0, -1.0, 1.0]))
    assert torch.equal(task.move(image=image, direction=torch.ones(4), amount=[2]), task.move(image=image, direction=torch.ones(4), amount=[2.0]))


def test_the_direction_of_a_yes_or_no_attribute_is_the_difference_of_means() -> None:
    task, image = made(), images(6)
    code = task.embed(image=image)
    has = [1.0, 0.0, 1.0, 0.0, 0.0, 1.0]
    expected = code[[0, 2, 5]].mean(0) - code[[1, 3, 4]].mean(0)
    torch.testing.assert_close(task.attribute_direction(image=image, value=has), expected)
    torch.testing.assert_close(task.attribute_direction(image=image, value=[10 * v - 3 for v in has]), expected / 10)


def test_assess_of_images_and_of_vectors(tmp_path: Path) -> None:
    from genlib.config import DataConfig
    from genlib.data.source import open_source

    source = open_source(DataConfig(train="digits"))
    scores = companions.assess(made(spec=source.spec), source, tmp_path)
    names = (
        "negative_elbo_nats",
        "distortion_nats",
        "rate_nats",
        "negative_bound_64_nats",
        "numbers_in_use",
        "trustworthiness",
        "neighbour_precision",
    )
    assert set(scores) == {f"validation/{name}" for name in names}
    assert scores["validation/negative_bound_64_nats"] < scores["validation/negative_elbo_nats"]
    for name in ("samples", "reconstructions", "interpolations", "traversal", "neighbours", "codes"):
        with Image.open(tmp_path / f"{name}.png") as sheet:
            assert sheet.width > 400
    points = open_source(DataConfig(train="rings2d"))
    task = made(VAEConfig(latent_dim=2, widths=(16,), likelihood="gaussian"), points.spec)
    assert math.isfinite(companions.assess(task, points, tmp_path / "points")["validation/negative_elbo_nats"])
    assert [path.name for path in (tmp_path / "points").iterdir()] == ["codes.png"]


@pytest.mark.parametrize(
    ("config", "spec", "words"),
    [
        (
            SMALL,
            DataSpec(vector_size=2),
            "task.likelihood bernoulli is of values in .0, 1., but the samples are vectors of any numbers; give gaussian",
        ),
        (replace(SMALL, network="convolutional"), DataSpec(vector_size=2), "task.network convolutional needs images, but the samples are vectors"),
        (SMALL, DataSpec(), "the samples are neither images of one size nor vectors"),
        (replace(SMALL, network="convolutional", widths=(4, 4, 4, 4)), GREY, "images of 8 px cannot be halved 4 times"),
    ],
)
def test_unfit_data_is_refused(config: VAEConfig, spec: DataSpec, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        config.build(spec, {})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"importance_samples": 5, "beta": 2.0}, "task.importance_samples 5 trains a bound in which the rate has no price"),
        ({"std": 0.5}, "task.std 0.5 is of the gaussian likelihood, but task.likelihood is bernoulli; change one of them"),
        ({"widths": (8, 0)}, r"task.widths \(8, 0\): every layer needs at least one feature"),
        ({"network": "convolutional", "widths": ()}, "task.network convolutional has no task.widths"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(changes: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        replace(SMALL, **changes)


def test_unfit_arguments_are_refused() -> None:
    task, image = made(), images(3)
    with pytest.raises(ValueError, match=r"samples of shape \(3, 3, 8, 8\) are not what the model knows, images \(B, 1, 8, 8\) in \[0, 1\]"):
        task.embed(image=image.expand(-1, 3, -1, -1))
    with pytest.raises(ValueError, match=r"codes of shape \(3, 5\) are not \(B, 4\), the model's"):
        task.decode(code=torch.zeros(3, 5))
    with pytest.raises(ValueError, match="2 values for 3 samples, 2 of them different: give one each"):
        task.attribute_direction(image=image, value=[0.0, 1.0])
    with pytest.raises(ValueError, match="3 values for 3 samples, 1 of them different"):
        task.attribute_direction(image=image, value=[1.0, 1.0, 1.0])
    with pytest.raises(ValueError, match="weight has 1 number for 3 samples; give one each"):
        task.combine(image=image, weight=[1.0])
    with pytest.raises(ValueError, match=r"a direction of shape \(1,\) is not \(4,\), the model's; give such a one"):
        task.move(image=image, direction=torch.ones(1), amount=[1.0])
    with pytest.raises(ValueError, match="first has 3 samples, second 2, and steps is 7: give as many of both"):
        task.interpolate(first=image, second=image[:2])


def test_the_recipe_of_shapes_names_their_factors() -> None:
    source = samples("shapes", "validation", 16)
    (stage,) = registry.load("beta_vae").stages
    assert isinstance(stage.task, VAEConfig)
    assert source.factors.shape == (len(source.x), len(stage.task.factors))
