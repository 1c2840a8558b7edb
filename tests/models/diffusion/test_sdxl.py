"""SDXL: what the U-Net is conditioned on beside the text, the refiner's hand-over, the exported pipelines."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from genlib import checkpoint, companions, registry
from genlib.models.diffusion.base.process import DiscreteConfig
from genlib.models.diffusion.base.sampling import run_sampler
from genlib.models.diffusion.sdxl import SDXL, SDXLConfig, SDXLRefiner, SDXLRefinerConfig
from genlib.random import SeededNoise
from genlib.types import DataSpec, Samples
from tests.models.diffusion.pipelines import drawn, request
from tests.models.stages import built_untrained, source_of, train_stage, train_stages

PROMPTS = ["a red circle", "two blue squares"]
STAGES = {stage.name: stage for stage in registry.load("sdxl_tiny").smoke}


@pytest.fixture(scope="module")
def final(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return train_stages("sdxl_tiny", tmp_path_factory.mktemp("sdxl"))


@pytest.fixture(scope="module")
def base(final: dict[str, Path]) -> SDXL:
    task = checkpoint.load_task(final["denoiser"])
    assert isinstance(task, SDXL)
    return task


@pytest.fixture(scope="module")
def refiner(final: dict[str, Path]) -> SDXLRefiner:
    task = checkpoint.load_task(final["refiner"])
    assert isinstance(task, SDXLRefiner)
    return task


def test_the_refiner_holds_the_base_as_it_was_trained(final: dict[str, Path]) -> None:
    weights = checkpoint.load_weights(final["refiner"])
    for name, value in checkpoint.load_weights(final["denoiser"], ema=True).items():
        assert torch.equal(weights[f"frozen_tasks.base.{name}"], value), name
    trained = checkpoint.load_weights(final["denoiser"])
    for role in ("autoencoder", "text", "text_2"):
        for name, value in checkpoint.load_weights(final[role], ema=True).items():
            if name not in ("scale", "shift"):
                assert torch.equal(trained[f"frozen_tasks.{role}.{name}"], value), (role, name)


def fourier(numbers: Tensor, channels: int) -> Tensor:
    """Cosines and sines (B, S * channels) of numbers (B, S) at frequencies from 1 to 1 / 10,000."""
    half = channels // 2
    angle = numbers[..., None] * torch.exp(-math.log(10_000) * torch.arange(half) / half)
    return torch.cat([angle.cos(), angle.sin()], -1).flatten(1)


def test_the_network_is_told_six_numbers_and_the_summary_of_the_text(base: SDXL) -> None:
    seen: list[Tensor] = []
    handle = base.net.model.add_embedding.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    text, pooled, _ = base.prompt_condition(PROMPTS, 32, 32)
    sizes = torch.tensor([[500.0, 300.0, 7.0, 0.0, 32.0, 48.0], [64.0, 64.0, 0.0, 3.0, 32.0, 32.0]])
    with torch.no_grad():
        base.net(torch.zeros(2, 4, 16, 16), torch.tensor([10, 10]), text, pooled, sizes)
    handle.remove()
    torch.testing.assert_close(seen[0], torch.cat([pooled, fourier(sizes, base.config.unet.size_dim)], 1), atol=1e-5, rtol=0)


def test_text_is_both_encoders_side_by_side_before_their_last_blocks(base: SDXL) -> None:
    tokens = [tokenizer(PROMPTS) for tokenizer in base.tokenizers()]
    with torch.no_grad():
        first, second = (tower.model(t, output_hidden_states=True) for tower, t in zip(base.towers, tokens, strict=True))
    text, pooled, _ = base.prompt_condition(PROMPTS, 32, 32)
    assert [tower.width for tower in base.towers] == [16, 24]
    torch.testing.assert_close(text / base.text_scale, torch.cat([first.hidden_states[-2], second.hidden_states[-2]], -1))
    torch.testing.assert_close(pooled, second.text_embeds)


def prediction(base: SDXL, sizes: list[float]) -> Tensor:
    text, pooled, _ = base.prompt_condition(PROMPTS[:1], 32, 32)
    x = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return base.net(x, torch.tensor([500]), text, pooled, torch.tensor([sizes]))


def test_texts_are_scaled_to_unit_spread_each_encoder_by_itself(base: SDXL, refiner: SDXLRefiner) -> None:
    captions = list(source_of(STAGES["denoiser"]).captions("train", 4096))
    for task in (base, refiner):
        read = task.encode_prompts(captions)
        (text, *_) = task.condition({**read, "sizes": torch.zeros(len(captions), 6)})
        for part in text.split([tower.width for tower in task.towers], -1):
            assert part.std().item() == pytest.approx(1, abs=1e-3)
        assert (task.text_scale[-24:] > 2).all()  # the second encoder has one block, and word embeddings before it


@pytest.mark.slow
def test_latents_encoded_in_every_step_or_ahead_give_the_same_weights_to_the_bit(final: dict[str, Path], tmp_path: Path) -> None:
    fly, ahead = (
        train_stage("sdxl_tiny", STAGES["denoiser"], tmp_path / way, final, encode=way, encoded_dir=str(tmp_path / "encoded"))
        for way in ("fly", "ahead")
    )
    expected = checkpoint.load_weights(fly)
    assert all(torch.equal(value, expected[name]) for name, value in checkpoint.load_weights(ahead).items())


def test_each_size_changes_the_prediction(base: SDXL) -> None:
    usual = [32.0, 32.0, 0.0, 0.0, 32.0, 32.0]
    for place in range(6):
        other = [*usual]
        other[place] += 20
        assert not torch.equal(prediction(base, other), prediction(base, usual)), place


def test_sizes_of_a_sample_are_its_own(base: SDXL) -> None:
    """Original height and width, top and left of the cut, height and width of the result."""
    wide = {"image": [np.zeros((20, 60, 3), np.uint8)], "text": ["x"]}
    samples = Samples(position=np.zeros(1, np.int64), keys=["a"], fields=wide, failed=np.zeros(1, bool), original_sizes=np.array([[600, 200]]))
    batch = base.transform(train=True)(samples)
    assert batch["image"].shape == (1, 3, 32, 32)
    assert batch["sizes"].tolist() == [[200, 600, 0, 32, 32, 32]], "scaled to 96 x 32, of which the middle third is cut"


@pytest.mark.parametrize("sampler", ["ddim", "ancestral"])
def test_a_walk_in_two_parts_is_one(base: SDXL, sampler: str) -> None:
    spec = base.generation_spec(PROMPTS, "", 3.0, 0.0, 32, 32)
    ask, grid = base.guided(spec), base.grid(10)
    with torch.no_grad():
        noise = SeededNoise([1, 2], (4, 16, 16))
        whole = run_sampler(sampler, ask, noise(), grid, noise)  # type: ignore[arg-type]
        noise = SeededNoise([1, 2], (4, 16, 16))
        half = run_sampler(sampler, ask, noise(), grid.part(0, 7), noise)  # type: ignore[arg-type]
        assert torch.equal(run_sampler(sampler, ask, half, grid.part(7), noise), whole)  # type: ignore[arg-type]


def test_the_refiner_takes_over_where_it_learnt_to(base: SDXL, refiner: SDXLRefiner) -> None:
    """By hand: the base over the first part of the grid, the refiner's network over the rest. Its own pictures are not the base's."""
    options = {"prompt": PROMPTS, "seed": [1, 2], "steps": 10}
    spec, grid = refiner.generation_spec(PROMPTS, "", refiner.config.guidance_scale, 0.0, 32, 32), refiner.grid(10)
    over = int((grid.time >= 200).sum())
    assert over == 8
    with torch.no_grad():
        x = run_sampler("ddim", base.guided(spec), SeededNoise([1, 2], (4, 16, 16))(), grid.part(0, over), SeededNoise([0], (1,)))
        x = run_sampler("ddim", refiner.guided(spec), x, grid.part(over), SeededNoise([0], (1,)))
    made = refiner.generate(**options)  # type: ignore[arg-type]
    torch.testing.assert_close(made, refiner.decode_latents(x), atol=1e-5, rtol=0)
    assert not torch.allclose(made, base.generate(**options), atol=1e-4)  # type: ignore[arg-type]


def test_the_refiner_learns_the_last_part_of_the_way(refiner: SDXLRefiner) -> None:
    asked: list[Tensor] = []
    handle = refiner.net.register_forward_pre_hook(lambda _, inputs: asked.append(inputs[1]))
    batch = next(iter(source_of(STAGES["refiner"]).batches("train", 64, transform=refiner.transform(True))))
    with torch.no_grad():
        refiner.evaluate({**batch, **refiner.encode(batch)})
    handle.remove()
    assert asked[0].max() < 200
    assert asked[0].max() > 150


def test_editing_goes_through_both_networks(refiner: SDXLRefiner) -> None:
    image = refiner.generate(prompt=PROMPTS, seed=[1, 2], steps=4)
    base = refiner.autoencoder.reconstruct(image=image)
    same = refiner.edit(image=image, source_prompt=PROMPTS, prompt=PROMPTS, guidance_scale=1.0, strength=1.0, steps=10)
    assert (same - base).abs().max() < 0.02
    torch.testing.assert_close(refiner.image_to_image(image=image, prompt=PROMPTS, seed=[1, 2], strength=0.0), base, atol=1e-5, rtol=0)


def test_the_exported_pipelines_draw_the_same_pictures(refiner: SDXLRefiner, tmp_path: Path) -> None:
    companions.export(refiner, tmp_path)
    base, folder, second = refiner.base, tmp_path / "diffusers", tmp_path / "diffusers-refiner"
    ways: list[dict] = [
        {"guidance_scale": 5.0},
        {"guidance_scale": 1.0},
        {"guidance_scale": 4.0, "guidance_rescale": 0.7},
        {"guidance_scale": 3.0, "negative_prompt": "x"},
        {"guidance_scale": 5.0, "width": 48, "height": 32},
    ]
    requests = [request("StableDiffusionXLPipeline", folder, PROMPTS, [3, 4], num_inference_steps=10, **way) for way in ways]
    usual = {"num_inference_steps": 10, "guidance_scale": 5.0}
    requests += [
        request("StableDiffusionXLPipeline", folder, PROMPTS, [3, 4], denoising_end=0.8, output_type="latent", **usual),
        {**request("StableDiffusionXLImg2ImgPipeline", second, PROMPTS, [3, 4], denoising_start=0.8, **usual), "after": len(ways)},
    ]
    theirs = drawn(requests, tmp_path)
    for picture, way in zip(theirs[: len(ways)], ways, strict=True):
        torch.testing.assert_close(picture, base.generate(prompt=PROMPTS, seed=[3, 4], steps=10, **way), atol=1e-3, rtol=0)
    ours = refiner.generate(prompt=PROMPTS, seed=[3, 4], steps=10, guidance_scale=5.0)
    torch.testing.assert_close(theirs[-1], ours, atol=1e-3, rtol=0)
    assert not torch.allclose(theirs[0], ours, atol=2e-3), "the refiner changes the picture"


def test_an_exported_folder_is_adopted(final: dict[str, Path], base: SDXL, tmp_path: Path) -> None:
    companions.export(base, tmp_path)
    folder = tmp_path / "diffusers"
    taken = {**final, "autoencoder": train_stage("sdxl_tiny", STAGES["autoencoder"], tmp_path / "a", {}, steps=0, start_from=str(folder / "vae"))}
    taken["denoiser"] = train_stage("sdxl_tiny", STAGES["denoiser"], tmp_path / "d", taken, steps=0, start_from=str(folder))
    second = checkpoint.load_task(taken["denoiser"])
    assert isinstance(second, SDXL)
    options = {"prompt": PROMPTS, "seed": [0, 1], "steps": 4}
    torch.testing.assert_close(second.generate(**options), base.generate(**options), atol=1e-3, rtol=0)  # type: ignore[arg-type]
    other = replace(STAGES["denoiser"], task=replace(STAGES["denoiser"].task, unet=replace(base.config.unet, size_dim=16)))
    with pytest.raises(ValueError, match="another architecture"):
        train_stage("sdxl_tiny", other, tmp_path / "o", taken, steps=0, start_from=str(folder))


def test_published_text_encoders_are_adopted_as_pipelines_keep_them(base: SDXL, tmp_path: Path) -> None:
    """The second, with its projection, by the stage that the published preset has for it."""
    from genlib.models.representation.base.clip_towers import TextTransformer
    from genlib.models.representation.text_encoder import TextEncoderConfig, text_tower

    companions.export(base, tmp_path)
    text = TextTransformer(context_length=8, vocab_size=600, width=24, layers=1, heads=2)
    task = TextEncoderConfig(text=text, embed_dim=16).build(DataSpec(has_captions=True), {})
    companions.load_pretrained(task, tmp_path / "diffusers" / "text_encoder_2")
    ours, theirs = text_tower(task.eval()), base.towers[1]
    tokens = ours.tokenizer.fixed_length(ours.pad_token)(PROMPTS)
    assert torch.equal(tokens, theirs.tokenizer.fixed_length(theirs.pad_token)(PROMPTS))
    with torch.no_grad():
        for a, b in zip(ours.states(tokens), theirs.states(tokens), strict=True):
            torch.testing.assert_close(a, b, atol=1e-5, rtol=0)


def test_what_cannot_be_trained_is_refused_in_a_sentence() -> None:
    tasks = built_untrained("sdxl_tiny")
    spec = DataSpec(channels=3, image_size=32, has_captions=True)
    first, second = STAGES["denoiser"].task, STAGES["refiner"].task
    assert isinstance(first, SDXLConfig)
    assert isinstance(second, SDXLRefinerConfig)
    with pytest.raises(ValueError, match="needs one under the role 'base'"):
        second.build(spec, {"base": tasks["text"]})
    with pytest.raises(ValueError, match="noise levels are not those of its base"):
        replace(second, process=DiscreteConfig(beta_schedule="cosine")).build(spec, {"base": tasks["denoiser"]})
    with pytest.raises(ValueError, match="learns from captions"):
        first.build(replace(spec, has_captions=False), {role: tasks[role] for role in first.roles})
    with pytest.raises(ValueError, match="role 'text_2'"):
        first.build(spec, {role: tasks[role] for role in ("autoencoder", "text")})
