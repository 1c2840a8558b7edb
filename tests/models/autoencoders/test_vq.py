"""Codebooks: the nearest code, gradients straight through, how many are used, and diffusers' format."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
import torch

from genlib import companions
from genlib.models.autoencoders.vq import AutoencoderVQConfig, AutoencoderVQTask, evenness, perplexity
from genlib.types import DataSpec, Step
from tests.models.autoencoders.images import Pictures

SMALL = AutoencoderVQConfig(block_out_channels=(8, 16), layers_per_block=1, norm_groups=4, attention=False, codes=32)


def made(config: AutoencoderVQConfig = SMALL, source: Pictures | None = None, channels: int = 3) -> AutoencoderVQTask:
    torch.manual_seed(0)
    task = config.build(DataSpec(channels=channels, image_size=16), {})
    task.prepare(source or Pictures(channels))
    return task


def trained(task: AutoencoderVQTask, source: Pictures, steps: int) -> AutoencoderVQTask:
    batches = source.batches("train", 16, transform=task.transform(train=True))
    optimizer = torch.optim.AdamW(task.net.parameters(), 3e-3)
    for i, batch in enumerate(islice(batches, steps)):
        optimizer.zero_grad()
        task.loss("train", batch, Step(i, steps))[0].mean().backward()
        optimizer.step()
    return task.eval()


def test_a_cell_becomes_its_nearest_code() -> None:
    task, latent = made(), torch.randn(2, 4, 3, 5)
    code, numbers = task.quantised(latent)
    table = task.model.quantize.embedding.weight
    distance = (latent.movedim(1, -1)[..., None, :] - table).norm(dim=-1)
    assert torch.equal(numbers, distance.argmin(-1))
    assert torch.equal(code.movedim(1, -1), table[numbers])
    assert torch.equal(task.quantised(code)[1], numbers)


def test_gradients_pass_straight_through_and_codes_move_to_the_latents() -> None:
    task, image = made(replace(SMALL, commitment=0.0)), torch.rand(2, 3, 16, 16)
    made_image, price, _ = task.reconstruction(image, torch.arange(2), 0)
    encoder, table = task.model.encoder.conv_in.weight, task.model.quantize.embedding.weight
    by_encoder, by_table = torch.autograd.grad(made_image.sum(), [encoder, table], retain_graph=True, allow_unused=True)
    assert by_encoder.abs().sum() > 0
    assert by_table is None or not by_table.any()
    by_encoder, by_table = torch.autograd.grad(price.sum(), [encoder, table], allow_unused=True)
    assert by_encoder is None or not by_encoder.any()
    latent = task.encode_image(image)[0]
    code, numbers = task.quantised(latent)
    expected = torch.zeros_like(table).index_add_(0, numbers.flatten(), (2 * (code - latent) / latent[0].numel()).movedim(1, -1).flatten(0, -2))
    torch.testing.assert_close(by_table, expected.detach())


def test_perplexity_counts_codes_in_even_use() -> None:
    assert evenness(torch.ones(7)).item() == pytest.approx(7.0)
    assert evenness(torch.tensor([5.0, 0.0])).item() == pytest.approx(1.0)
    assert perplexity(torch.tensor([[0, 1], [2, 3]]), 64).item() == pytest.approx(4.0)


def test_codes_draw_the_picture_and_most_are_in_use(tmp_path: Path) -> None:
    source = Pictures()
    task = trained(made(), source, 120)
    image = torch.from_numpy(source.images[:8]).permute(0, 3, 1, 2) / 255
    codes = task.encode_codes(image=image)
    assert codes.shape == (8, 8, 8)
    torch.testing.assert_close(task.decode_codes(codes=codes), task.reconstruct(image=image))
    mean, std = task.encode_image(2 * image - 1)
    assert not std.any()
    assert mean.shape == (8, 4, 8, 8)
    scores = companions.assess(task, source, tmp_path)
    assert scores["validation/psnr_db"] > 14
    assert scores["validation/latent_std"] == pytest.approx(1.0, abs=0.02)
    assert scores["validation/codes_used"] > 0.2
    assert 3 < scores["validation/perplexity"] <= 32


@pytest.mark.parametrize("channels", [1, 3])
def test_diffusers_gives_the_same(channels: int, tmp_path: Path) -> None:
    from diffusers.models.autoencoders.vq_model import VQModel

    source = Pictures(channels)
    task = trained(made(source=source, channels=channels), source, 5)
    task.measure(source)
    companions.export(task, tmp_path)
    model = VQModel.from_pretrained(tmp_path / "diffusers").eval()
    image = 2 * torch.rand(3, channels, 16, 16) - 1
    with torch.no_grad():
        latent = model.encode(image.expand(-1, 3, -1, -1)).latents
        torch.testing.assert_close(latent, task.encode_image(image)[0], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(model.decode(latent).sample, task.decode_latent(latent).expand(-1, 3, -1, -1), atol=1e-5, rtol=1e-5)
    assert model.config.scaling_factor == pytest.approx(task.scale.item())
    other = made(channels=channels, config=replace(SMALL, image_size=8))
    companions.load_pretrained(other, tmp_path / "diffusers")
    for name, value in task.state_dict().items():
        torch.testing.assert_close(other.state_dict()[name], value)
    with pytest.raises(ValueError, match="num_vq_embeddings is 32 there and 64 here"):
        companions.load_pretrained(made(replace(SMALL, codes=64), channels=channels), tmp_path / "diffusers")
