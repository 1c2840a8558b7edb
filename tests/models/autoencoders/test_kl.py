"""Gaussian autoencoders: the published size, unit latents, the players' losses, and diffusers' format out and in."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from genlib import checkpoint, companions
from genlib.config import OptimConfig, TrainConfig
from genlib.engine.fit import fit
from genlib.engine.trace import FakeTask, flops_per_sample
from genlib.models.autoencoders.base.image_config import Discriminator
from genlib.models.autoencoders.kl import AutoencoderKLConfig, AutoencoderKLTask, autoencoder_kl_sdxl
from genlib.models.representation.classifier import ClassifierConfig
from genlib.nn.vgg import VGG16
from genlib.recipe import Stage
from genlib.types import DataSpec, Step
from tests.models.autoencoders.images import Pictures
from tests.processes import run_ranks

SMALL = AutoencoderKLConfig(block_out_channels=(8, 16), layers_per_block=1, norm_groups=4, attention=False)
GAN = replace(SMALL, discriminator=Discriminator(weight=0.5, start_steps=3, width=8, layers=1))
CPU = torch.device("cpu")


def made(config: AutoencoderKLConfig = SMALL, channels: int = 3, **upstream: object) -> AutoencoderKLTask:
    torch.manual_seed(0)
    return config.build(DataSpec(channels=channels, image_size=16), upstream)  # type: ignore[arg-type]


def trained(task: AutoencoderKLTask, source: Pictures, steps: int = 60) -> AutoencoderKLTask:
    batches = source.batches("train", 16, transform=task.transform(train=True))
    optimizer = torch.optim.AdamW(task.net.parameters(), 3e-3)
    for i, batch in enumerate(islice(batches, steps)):
        optimizer.zero_grad()
        task.loss("train", batch, Step(i, steps))[0].mean().backward()
        optimizer.step()
    return task.eval()


def test_sdxl_has_the_published_number_of_parameters() -> None:
    (stage,) = autoencoder_kl_sdxl().stages
    assert isinstance(stage.task, AutoencoderKLConfig)
    with torch.device("meta"):
        task = stage.task.build(DataSpec(image_size=1024), {})
    assert sum(p.numel() for p in task.model.parameters()) == 83_653_863
    assert (task.factor, task.latent_channels) == (8, 4)


def test_operations_of_a_training_step() -> None:
    """Forward and twice as much backward; at 256 pixels a side the encoder has 272.7 G operations and the decoder 622.2 G.

    The discriminator's phase goes forward once more; the rest, 1% of all, is its own network.
    """
    (stage,) = autoencoder_kl_sdxl().stages
    flops = flops_per_sample(FakeTask(lambda: stage.task.build(DataSpec(image_size=256), {})), 2, "fp32")
    assert flops == pytest.approx(4 * (272.7e9 + 622.2e9), rel=0.02)


def test_latents_have_unit_spread_after_their_scale(tmp_path: Path) -> None:
    source = Pictures()
    task = trained(made(), source)
    assert task.scale.item() == 0.0
    for centred in (True, False):
        task.config = replace(SMALL, centred=centred)
        task.measure(source, seed=3)
        image = torch.from_numpy(source.images).permute(0, 3, 1, 2) / 255
        latent = (task.sampled(2 * image - 1, torch.arange(len(image)), 9) - task.shift) * task.scale
        assert latent.std().item() == pytest.approx(1.0, abs=0.02)
        assert (abs(latent.mean().item()) < 0.02) == centred
    scores = companions.assess(task, source, tmp_path)
    assert scores["validation/latent_std"] == pytest.approx(1.0, abs=0.02)
    assert scores["validation/psnr_db"] > 15
    assert scores["validation/l1"] < 0.1
    with Image.open(tmp_path / "reconstructions.png") as sheet:
        assert sheet.width > 12 * 96


def test_noise_is_keyed_by_position() -> None:
    task, image = made().eval(), torch.rand(1, 3, 16, 16).expand(3, -1, -1, -1)
    one = task.sampled(image, torch.tensor([5, 6, 7]), 0)
    torch.testing.assert_close(task.sampled(image[:1], torch.tensor([6]), 0)[0], one[1])
    assert (one[0] - one[1]).abs().max() > 0.1
    assert not torch.equal(task.sampled(image, torch.tensor([5, 6, 7]), 1), one)


def test_price_of_latents_is_the_divergence_from_the_standard_normal() -> None:
    task, image = made(replace(SMALL, kl_weight=2.0)), torch.rand(3, 3, 16, 16)
    mean, std = task.encode_image(image)
    normal = torch.distributions.Normal
    expected = torch.distributions.kl_divergence(normal(mean, std), normal(0.0, 1.0)).sum((1, 2, 3))
    _, price, metrics = task.reconstruction(image, torch.arange(3), 0)
    torch.testing.assert_close(metrics["nats"], expected)
    torch.testing.assert_close(price, 2 * expected / image[0].numel())


def test_discriminator_counts_for_nothing_before_its_start() -> None:
    task = made(GAN)
    batch, plain = companions.example(task, 4), made(SMALL)
    assert [(phase.name, phase.player) for phase in task.phases] == [("net", "net"), ("discriminator", "discriminator")]
    assert plain.players() == ("net",)
    for index, starts in ((0, False), (2, False), (3, True)):
        task.zero_grad(set_to_none=True)
        loss, metrics = task.loss("net", batch, Step(index, 10))
        assert torch.equal(loss, plain.loss("train", batch, Step(index, 10))[0]) == (not starts)
        assert ("adversarial" in metrics) == starts
        assert [phase.name for phase in task.phases if phase.due(index)] == ["net", *(["discriminator"] if starts else [])]


def gradients(task: AutoencoderKLTask, loss: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(loss, list(task.net.parameters()), retain_graph=True))


@pytest.mark.parametrize("adaptive", [True, False])
def test_the_adversarial_loss_weighs_as_much_as_the_distance_at_the_last_layer(adaptive: bool) -> None:
    """The custom gradient is that of distance + weight * ratio * adversarial + price, by plain differentiation."""
    task = made(replace(GAN, discriminator=replace(GAN.discriminator, adaptive=adaptive), kl_weight=0.1))
    batch = {**companions.example(task, 4), "weight": torch.tensor([1.0, 1.0, 1.0, 0.0])}
    image, counts = 2 * batch["image"] - 1, batch["weight"]
    loss, metrics = task.loss("net", batch, Step(3, 10, seed=4))
    image_made, price, _ = task.reconstruction(image, batch["position"], 4)
    distance, adversarial = task.distance(image_made, image), -task.discriminator(image_made).flatten(1).mean(1)
    last = task.model.decoder.conv_out.weight
    pull, push = (torch.autograd.grad((part * counts).sum(), last, retain_graph=True)[0].norm() for part in (distance, adversarial))
    ratio = 0.5 * (pull / (push + 1e-4) if adaptive else 1.0)
    torch.testing.assert_close(loss, distance + ratio * adversarial + price)
    torch.testing.assert_close(metrics["adversarial"], ratio * adversarial)
    found = gradients(task, (loss * counts).mean())
    expected = gradients(
        task, ((distance + ratio.detach() * adversarial + price if adaptive else distance + ratio * adversarial + price) * counts).mean()
    )
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-4)


STAGE = Stage(
    task=GAN, train=TrainConfig(steps=6, global_batch=8, checkpoint_every_steps=0, trackers=(), optim=OptimConfig(name="sgd", learning_rate=0.05))
)


def run(folder: Path, strategy: str) -> Path:
    stage = replace(STAGE, train=replace(STAGE.train, strategy=strategy))
    return fit(stage, recipe="kl", source=Pictures(), folder=folder, device=CPU)


def run_two(root: Path) -> None:
    for strategy in ("ddp", "zero3"):
        run(root / strategy, strategy)


@pytest.mark.slow
def test_adversarial_training_is_the_same_under_every_strategy(tmp_path: Path) -> None:
    one, root = checkpoint.load_weights(run(tmp_path / "one", "single")), tmp_path
    run_ranks(2, run_two, root)
    start = made(GAN).state_dict()
    assert any(not torch.allclose(one[name], value, atol=1e-3) for name, value in start.items() if name.startswith("discriminator"))
    for strategy in ("ddp", "zero3"):
        two = checkpoint.load_weights(checkpoint.newest(root / strategy / "checkpoints")[0])  # type: ignore[index]
        for name, value in one.items():
            torch.testing.assert_close(two[name], value, atol=1e-5, rtol=1e-5)


def test_distance_in_the_features_of_a_trained_network() -> None:
    torch.manual_seed(1)
    classifier = ClassifierConfig(width=8, layers=(1, 1)).build(DataSpec(channels=1, image_size=16, class_names=("a", "b")), {})
    task, plain = made(replace(SMALL, perceptual_weight=2.0), perceptual=classifier), made()
    image = 2 * torch.rand(4, 3, 16, 16) - 1
    near = (image + 0.1 * torch.randn_like(image)).requires_grad_()
    assert torch.equal(task.distance(image, image), torch.zeros(4))
    extra = task.distance(near, image) - plain.distance(near, image)
    assert (extra > 0).all()
    extra.sum().backward()
    assert near.grad is not None
    assert near.grad.abs().sum() > 0
    assert not any(name.startswith("perceptual") for name, _ in task.named_parameters())
    assert any(name.startswith("perceptual") for name in task.state_dict())


def test_distance_in_the_features_of_a_file(tmp_path: Path) -> None:
    torch.manual_seed(1)
    network, path = VGG16(), tmp_path / "vgg.safetensors"
    weights = {name: value for name, value in network.state_dict().items() if name.startswith("features")}
    save_file(weights | {f"lin{i}.model.1.weight": torch.rand(1, c, 1, 1) for i, c in enumerate((64, 128, 256, 512, 512))}, path)
    task = made(replace(SMALL, perceptual_file=str(path)))
    task.prepare(Pictures())
    assert isinstance(task.perceptual, VGG16)
    assert torch.equal(task.perceptual.features[0].weight, network.features[0].weight)
    image = torch.rand(2, 3, 16, 16)
    assert (task.distance(image.flip(3), image) > made().distance(image.flip(3), image)).all()
    del weights["features.28.weight"]
    save_file(weights, path)
    with pytest.raises(ValueError, match=r"task.perceptual_file .*vgg.safetensors has no features.28.weight"):
        task.prepare(Pictures())
    path.write_bytes(b"no")
    with pytest.raises(ValueError, match="is no whole safetensors file"):
        task.prepare(Pictures())


@pytest.mark.parametrize("channels", [1, 3])
def test_diffusers_gives_the_same(channels: int, tmp_path: Path) -> None:
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    source = Pictures(channels)
    task = trained(made(channels=channels), source, steps=5)
    task.measure(source)
    companions.export(task, tmp_path)
    model = AutoencoderKL.from_pretrained(tmp_path / "diffusers").eval()
    image = 2 * torch.rand(3, channels, 16, 16) - 1
    with torch.no_grad():
        posterior = model.encode(image.expand(-1, 3, -1, -1)).latent_dist
        mean, std = task.encode_image(image)
        torch.testing.assert_close(posterior.mean, mean, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(posterior.std, std, atol=1e-5, rtol=1e-5)
        picture = model.decode(mean).sample
        torch.testing.assert_close(picture, task.decode_latent(mean).expand(-1, 3, -1, -1), atol=1e-5, rtol=1e-5)
    assert model.config.scaling_factor == pytest.approx(task.scale.item())
    assert model.config.shift_factor == pytest.approx(task.shift.item())
    assert model.config.latents_mean == pytest.approx([task.shift.item()] * 4)
    assert {path.suffix for path in tmp_path.rglob("*") if path.is_file()} == {".json", ".safetensors"}
    other = made(channels=channels)
    other.net.load_state_dict({name: torch.zeros_like(value) for name, value in other.net.state_dict().items()})
    companions.load_pretrained(other, tmp_path / "diffusers")
    for name, value in task.state_dict().items():
        torch.testing.assert_close(other.state_dict()[name], value)


def test_adopting_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    task = made()
    companions.export(task, tmp_path)
    folder, config = tmp_path / "diffusers", tmp_path / "diffusers" / "config.json"
    with pytest.raises(ValueError, match=r"block_out_channels is \[8, 16\] there and \[8, 24\] here"):
        companions.load_pretrained(made(replace(SMALL, block_out_channels=(8, 24))), folder)
    with pytest.raises(ValueError, match=r"has no config.json; .* such as .*diffusers"):
        companions.load_pretrained(task, tmp_path)
    settings = json.loads(config.read_text())
    for wrong, words in (({"scaling_factor": "much"}, "is no number"), ({"latents_mean": [0.1, 0.2, 0.3, 0.4]}, "differ by channel")):
        config.write_text(json.dumps({**settings, **wrong}))
        with pytest.raises(ValueError, match=words):
            companions.load_pretrained(task, folder)
    assert task.scale.item() == 0.0


@pytest.mark.parametrize(
    ("config", "size", "words"),
    [
        (SMALL, 15, "image size 15 does not fit an autoencoder that halves it 1 time; use 14"),
        (SMALL, 0, "the images have many sizes; give one with --data.image-size"),
        (replace(SMALL, image_size=5), 16, "image size 5 does not fit"),
        (GAN, 4, "use 6, or another number"),
    ],
)
def test_sizes_that_do_not_divide_are_refused(config: AutoencoderKLConfig, size: int, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        config.build(DataSpec(image_size=size), {})


def test_channels_that_do_not_divide_are_refused() -> None:
    with pytest.raises(ValueError, match=r"12 is no multiple of task.norm_groups 8"):
        AutoencoderKLConfig(block_out_channels=(8, 12), norm_groups=8)
    with pytest.raises(ValueError, match=r"task.discriminator.width 12 is not a multiple of 8; use 8"):
        Discriminator(width=12)


def test_reconstruct_keeps_shape_and_range_and_refuses_other_sizes() -> None:
    task = made().eval()
    out = task.reconstruct(image=torch.rand(2, 3, 8, 24))
    assert out.shape == (2, 3, 8, 24)
    assert 0 <= out.min() <= out.max() <= 1
    with pytest.raises(ValueError, match="image of 9 x 8 pixels: both must divide by 2"):
        task.reconstruct(image=torch.rand(2, 3, 8, 9))
