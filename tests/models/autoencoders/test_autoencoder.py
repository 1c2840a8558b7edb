"""Autoencoders: what they learn, what keeps them from copying, and what their codes and errors are good for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from sklearn.decomposition import PCA
from torch import Tensor

from genlib import checkpoint, companions, registry
from genlib.config import DataConfig
from genlib.data.source import open_source
from genlib.engine.strategies import strategy_of
from genlib.functional.perceptual import psnr_db
from genlib.models.autoencoders.autoencoder import Autoencoder, AutoencoderConfig
from genlib.types import DataSpec, Step
from tests.models.coding import samples, trained, values
from tests.models.stages import train_stage

GREY = DataSpec(channels=1, image_size=8)
SMALL = AutoencoderConfig(latent_dim=4, widths=(32, 16))
CPU = torch.device("cpu")


def made(config: AutoencoderConfig = SMALL, spec: DataSpec = GREY) -> Autoencoder:
    torch.manual_seed(0)
    return config.build(spec, {}).eval()


def images(count: int, channels: int = 1, side: int = 8) -> Tensor:
    return torch.rand(count, channels, side, side, generator=torch.Generator().manual_seed(0))


def count(task: torch.nn.Module) -> int:
    return sum(p.numel() for p in task.parameters())


@pytest.mark.parametrize("network", ["dense", "tied", "convolutional"])
@pytest.mark.parametrize(("channels", "side"), [(1, 8), (3, 16), (1, 28), (3, 32)])
def test_encoder_and_decoder_work_apart_and_together(network: str, channels: int, side: int) -> None:
    task = made(AutoencoderConfig(latent_dim=4, network=network, widths=(8, 6)), DataSpec(channels=channels, image_size=side))
    image = images(5, channels, side)
    code = task.embed(image=image)
    assert code.shape == (5, 4)
    assert torch.equal(task.decode(code=code), task.reconstruct(image=image))
    assert torch.equal(task.net(image.flatten(1)), task.net.decoder(task.net.encoder(image.flatten(1))))
    assert task.reconstruct(image=image).shape == image.shape
    assert task.interpolate(first=image[:2], second=image[2:4], steps=3).shape == (2, 3, channels, side, side)
    assert task.anomaly(image=image).shape == (5,)
    assert task.embed(image=images(2, channels, side + 5)).shape == (2, 4), "images of another size are scaled"


def test_an_undercomplete_code_is_smaller_and_an_overcomplete_one_larger_than_a_sample() -> None:
    for latent_dim in (4, 200):
        task = made(replace(SMALL, latent_dim=latent_dim))
        assert task.net.encoder[-1].out_features == task.net.decoder[0].in_features == latent_dim
        assert task.decode(code=torch.zeros(1, latent_dim)).shape == (1, 1, 8, 8)


def test_what_the_encoder_sees_is_of_the_position_alone() -> None:
    task, x = made(replace(SMALL, noise=0.3, dropout=0.25)), torch.full((4000, 64), 0.5)
    seen = task.corrupted(x, torch.arange(4000), 1)
    hidden = seen == 0
    assert hidden.float().mean().item() == pytest.approx(0.25, abs=0.005)
    assert seen[~hidden].std().item() == pytest.approx(0.3, rel=0.01)
    assert seen[~hidden].mean().item() == pytest.approx(0.5, abs=0.005)
    assert torch.equal(task.corrupted(x[:3], torch.arange(7, 10), 1), seen[7:10])
    assert not torch.equal(task.corrupted(x, torch.arange(4000), 2), seen)


def test_the_loss_is_against_the_clean_sample() -> None:
    task = made(replace(SMALL, noise=0.3))
    batch = companions.example(task, 5)
    seen = task.corrupted(batch["x"], batch["position"], 3)
    expected = (task.net(seen) - batch["x"]).square().mean(1)
    torch.testing.assert_close(task.loss("train", batch, Step(0, 1, 3))[0], expected)
    assert not torch.allclose(expected, (task.net(batch["x"]) - batch["x"]).square().mean(1))


def test_gain_is_what_denoising_wins_over_the_noisy_image() -> None:
    task, x = made(replace(SMALL, noise=0.3)), images(6).flatten(1)
    seen = task.corrupted(x, torch.arange(6), 0)
    expected = psnr_db(task.samples(task.codes(seen)), x) - psnr_db(seen.clamp(0, 1), x)
    assert values(task, x)["gain_db"] == pytest.approx(expected.mean().item(), abs=1e-4)
    assert set(values(made(), x)) == {"loss", "psnr_db"}
    assert set(values(made(spec=DataSpec(vector_size=64)), x)) == {"loss"}


def principal_angle_degrees(a: Tensor, b: Tensor) -> float:
    """The largest between the spans of the columns of a and b."""
    cosines = torch.linalg.svdvals(torch.linalg.qr(a.double())[0].T @ torch.linalg.qr(b.double())[0])
    return torch.rad2deg(torch.arccos(cosines.min().clamp(max=1))).item()


def test_the_linear_autoencoder_finds_the_principal_components(tmp_path: Path) -> None:
    """Of the recipe itself, by its own optimizer."""
    (stage,) = registry.load("pca").stages
    final = train_stage("pca", stage, tmp_path, {})
    task, x = checkpoint.load_task(final), samples("digits").x
    exact = PCA(stage.task.latent_dim).fit(x.double().numpy())
    best = x - torch.from_numpy(exact.inverse_transform(exact.transform(x.double().numpy()))).float()
    assert principal_angle_degrees(task.net.decoder[0].weight.detach(), torch.from_numpy(exact.components_.T.copy())) < 1
    assert (task.net(x) - x).square().mean() < 1.01 * best.square().mean()


def test_tied_weights_stay_one_under_zero_and_after_a_checkpoint(tmp_path: Path) -> None:
    config = replace(SMALL, network="tied")
    assert count(made(config)) - (32 + 16 + 4) - (16 + 32 + 64) == (count(made()) - (32 + 16 + 4) - (16 + 32 + 64)) / 2
    (stage,) = registry.load("pca").smoke
    for name in ("zero1", "zero2"):
        task = stage.task.build(GREY, {})
        strategy_of(name, CPU).setup(task, stage.train)
        assert task.net.decoder[0].weight.data_ptr() == task.net.encoder[0].weight.data_ptr()
    loaded = checkpoint.load_task(train_stage("pca", stage, tmp_path, {}))
    assert loaded.net.decoder[0].weight.data_ptr() == loaded.net.encoder[0].weight.data_ptr()
    assert [name for name, _ in loaded.named_parameters()] == ["net.encoder.0.weight", "net.encoder.0.bias", "net.decoder.0.bias"]


def on_a_surface(count: int, noise: float) -> Tensor:
    """64 numbers each, smooth functions of two hidden ones, and noise."""
    generator = torch.Generator().manual_seed(0)
    hidden, slope, phase = (
        torch.rand(count, 2, generator=generator) * 2 - 1,
        torch.randn(2, 64, generator=generator),
        torch.rand(64, generator=generator),
    )
    return torch.sin(1.5 * hidden @ slope + 6 * phase) + noise * torch.randn(count, 64, generator=generator)


@pytest.mark.slow
def test_two_numbers_are_enough_for_a_curved_surface_but_two_principal_components_are_not() -> None:
    x, noise = on_a_surface(6000, 0.05), 0.05
    task = trained(AutoencoderConfig(latent_dim=2, widths=(128, 64)), x[:5000], DataSpec(vector_size=64), steps=4000, learning_rate=3e-3)
    exact = PCA(2).fit(x[:5000].numpy())
    linear = (exact.inverse_transform(exact.transform(x[5000:].numpy())) - x[5000:].numpy()) ** 2
    assert values(task, x[5000:])["loss"] < 2 * noise**2
    assert linear.mean() > 10 * noise**2


def test_assess_draws_and_scores(tmp_path: Path) -> None:
    source = open_source(DataConfig(train="digits"))
    for noise in (0.0, 0.3):
        scores = companions.assess(made(replace(SMALL, noise=noise), source.spec), source, tmp_path)
        assert {"validation/loss", "validation/psnr_db", "validation/trustworthiness", "validation/neighbour_precision"} <= set(scores)
        assert ("validation/gain_db" in scores) == bool(noise)
        for name in ("reconstructions", "neighbours", "codes"):
            with Image.open(tmp_path / f"{name}.png") as sheet:
                assert sheet.width > 400
    points = open_source(DataConfig(train="rings2d"))
    scores = companions.assess(made(AutoencoderConfig(latent_dim=2, widths=(16,)), points.spec), points, tmp_path / "points")
    assert "validation/psnr_db" not in scores
    assert [path.name for path in (tmp_path / "points").iterdir()] == ["codes.png"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"latent_dim": 0}, "AutoencoderConfig.latent_dim is 0; it must be at least 1"),
        ({"noise": -0.1}, "AutoencoderConfig.noise is -0.1; it must be at least 0"),
        ({"dropout": 1.0}, "AutoencoderConfig.dropout is 1.0; it must be below 1"),
        ({"widths": (0,)}, r"task.widths \(0,\): every layer needs at least one feature"),
    ],
)
def test_wrong_settings_are_refused(changes: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        replace(SMALL, **changes)
