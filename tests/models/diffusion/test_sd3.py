"""SD3: rectified flow at logit-normal times, a transformer that reads three text encoders, the exported pipeline."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from scipy import stats
from torch import Tensor

from genlib import checkpoint, companions, registry
from genlib.functional.grids import flow_grid
from genlib.functional.samplers import flow_euler
from genlib.models.diffusion.sd3 import SD3, FlowConfig, MMDiTConfig, SD3Config
from genlib.types import DataSpec, Step
from tests.models.diffusion.pipelines import drawn, request
from tests.models.stages import built_untrained, train_stage, train_stages

PROMPTS = ["a red circle", "two blue squares"]
STAGES = {stage.name: stage for stage in registry.load("sd3_tiny").smoke}


@pytest.fixture(scope="module")
def final(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return train_stages("sd3_tiny", tmp_path_factory.mktemp("sd3"))


@pytest.fixture(scope="module")
def task(final: dict[str, Path]) -> SD3:
    found = checkpoint.load_task(final["denoiser"])
    assert isinstance(found, SD3)
    return found


@pytest.mark.parametrize(("mean", "std", "shift"), [(0.0, 1.0, 1.0), (0.0, 1.0, 3.0), (-0.5, 0.7, 1.0)])
def test_times_are_logit_normal(mean: float, std: float, shift: float) -> None:
    """A shift moves the logit by its logarithm and leaves the shape."""
    times = FlowConfig(mean=mean, std=std, shift=shift).times(torch.arange(5000), seed=1).double()
    logits = (times / (1 - times)).log().numpy()
    assert stats.kstest(logits, "norm", args=(mean + math.log(shift), std)).pvalue > 0.01
    assert stats.kstest(logits, "norm", args=(mean + math.log(shift) + 0.1, std)).pvalue < 0.01


def test_the_network_learns_noise_minus_data(task: SD3) -> None:
    """Seen at the border of the loss: what goes in is on the line between both, and the error is that against their difference."""
    asked: list[tuple[Tensor, Tensor]] = []
    answers: list[Tensor] = []
    handle = task.net.register_forward_hook(lambda _, inputs, out: answers.append(out) or asked.append(inputs[:2]))
    batch = {**companions.example(task, 6), "latent_mean": torch.randn(6, 4, 16, 16, generator=torch.Generator().manual_seed(0))}
    with torch.no_grad():
        loss, _ = task.denoising_loss(batch, task.condition(batch), Step(0, 1))
    handle.remove()
    (x, time), x0 = asked[0], task.latents(batch, 0)
    t = (time / 1000)[:, None, None, None]
    noise = (x - (1 - t) * x0) / t
    assert abs(noise.std().item() - 1) < 0.05
    torch.testing.assert_close(loss, (answers[0] - (noise - x0)).square().flatten(1).mean(1), atol=1e-3, rtol=1e-3)


def test_16_euler_steps_reach_every_mode() -> None:
    """The exact velocity of eight narrow Gaussians on a ring: all are found, and nothing lies between them."""
    angle = torch.arange(8) * math.pi / 4
    modes, width = 2 * torch.stack([angle.cos(), angle.sin()], 1), 0.1

    def denoiser(x: Tensor, time: Tensor) -> Tensor:
        t = (time / 1000).double()
        variance = t**2 + ((1 - t) * width) ** 2
        x = x.double()
        share = (-(x[:, None] - (1 - t) * modes).square().sum(2) / (2 * variance)).softmax(1)
        pull = (1 - t) * width**2 / variance
        return (share[..., None] * (modes + pull * (x[:, None] - (1 - t) * modes))).sum(1).float()

    x = flow_euler(denoiser, torch.randn(800, 2, generator=torch.Generator().manual_seed(0)), flow_grid(16))
    distance, nearest = torch.cdist(x, modes).min(1)
    assert nearest.bincount(minlength=8).min() > 50
    assert (distance < 5 * width).float().mean() > 0.95


def test_context_is_both_clips_padded_beside_t5(task: SD3) -> None:
    text, pooled = task.prompt_condition(PROMPTS, 32, 32)
    tokens = [tokenizer(PROMPTS) for tokenizer in task.tokenizers()]
    with torch.no_grad():
        one, two, three = (tower.model(t, output_hidden_states=True) for tower, t in zip(task.towers, tokens, strict=True))
    assert text.shape == (2, 8 + 12, 48)
    torch.testing.assert_close(text[:, :8, :40], torch.cat([one.hidden_states[-2], two.hidden_states[-2]], -1))
    assert (text[:, :8, 40:] == 0).all()
    torch.testing.assert_close(text[:, 8:], three.last_hidden_state)
    torch.testing.assert_close(pooled, torch.cat([one.text_embeds, two.text_embeds], -1))


def prediction(task: SD3, text: Tensor, pooled: Tensor) -> Tensor:
    x = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return task.net(x, torch.tensor([500.0]), text, pooled)


def test_the_picture_changes_with_the_words_of_every_encoder(task: SD3) -> None:
    text, pooled = task.prompt_condition(PROMPTS[:1], 32, 32)
    other, other_pooled = task.prompt_condition(PROMPTS[1:], 32, 32)
    usual = prediction(task, text, pooled)
    assert not torch.equal(prediction(task, torch.cat([other[:, :8], text[:, 8:]], 1), pooled), usual)
    assert not torch.equal(prediction(task, torch.cat([text[:, :8], other[:, 8:]], 1), pooled), usual)
    assert not torch.equal(prediction(task, text, other_pooled), usual)


def test_each_encoder_is_left_out_on_its_own(task: SD3) -> None:
    count = 2000
    batch = companions.example(task, count)
    batch |= {name: torch.full_like(batch[name], 7.0) for name in ("text", "text_2", "text_3", "pooled", "pooled_2")}
    text, pooled = task.train_condition(batch, Step(0, 1))
    kept = [(part == 7).flatten(1).all(1) for part in (text[:, :8, :16], text[:, :8, 16:40], text[:, 8:])]
    assert torch.equal(kept[0], (pooled[:, :16] == 7).all(1))
    assert torch.equal(kept[1], (pooled[:, 16:] == 7).all(1))
    shares = [1 - one.float().mean().item() for one in kept]
    assert all(abs(share - 0.464) < 0.04 for share in shares), shares
    nothing = ~(kept[0] | kept[1] | kept[2])
    assert abs(nothing.float().mean() - 0.1) < 0.03
    empty_text, empty_pooled = task.unconditional((text[:1], pooled[:1]))
    torch.testing.assert_close(text[nothing], empty_text.expand_as(text[nothing]))
    torch.testing.assert_close(pooled[nothing], empty_pooled.expand_as(pooled[nothing]))


@pytest.mark.parametrize("sampler", ["ddim", "ancestral", "heun", "dpm_solver_pp_2m"])
def test_every_sampler_draws_of_each_seed_alone(task: SD3, sampler: str) -> None:
    options: dict = {"steps": 4, "sampler": sampler, "guidance_scale": 3.0, "width": 48, "height": 32}
    both = task.generate(prompt=PROMPTS, seed=[3, 4], **options)
    alone = task.generate(prompt=PROMPTS[1:], seed=[4], **options)
    assert both.shape == (2, 3, 32, 48)
    torch.testing.assert_close(alone[0], both[1], atol=1e-5, rtol=0)


def test_pictures_are_edited_and_filled(task: SD3) -> None:
    image = task.generate(prompt=PROMPTS, seed=[1, 2], steps=3)
    base = task.autoencoder.reconstruct(image=image)
    options: dict = {"image": image, "prompt": PROMPTS, "seed": [1, 2]}
    torch.testing.assert_close(task.image_to_image(strength=0.0, **options), base, atol=1e-5, rtol=0)
    same = task.edit(image=image, source_prompt=PROMPTS, prompt=PROMPTS, guidance_scale=1.0, strength=1.0, steps=10)
    assert (same - base).abs().max() < 0.02
    mask = torch.zeros(1, 1, 32, 32)
    mask[..., 10:20, 10:20] = 1
    filled = task.inpaint(mask=mask, steps=4, **options)
    hole = mask.expand_as(image) > 0
    assert torch.equal(filled[~hole], image[~hole])
    assert not torch.equal(filled[hole], image[hole])


def test_the_exported_pipelines_draw_the_same_pictures(final: dict[str, Path], tmp_path: Path) -> None:
    """Of latents with and without a shift; one process of diffusers draws for both."""
    task = checkpoint.load_task(final["denoiser"])
    assert isinstance(task, SD3)
    other = {"guidance_scale": 3.0, "negative_prompt": "green", "width": 48, "height": 32}
    ways: list[dict] = [{"guidance_scale": 5.0}, {"guidance_scale": 1.0}, other]
    usual = {"num_inference_steps": 8, "max_sequence_length": 12}
    requests, ours = [], []
    for shift in (0.0, 0.4):
        task.autoencoder.shift.fill_(shift)
        companions.export(task, tmp_path / str(shift))
        folder = tmp_path / str(shift) / "diffusers"
        requests += [request("StableDiffusion3Pipeline", folder, PROMPTS, [3, 4], **usual, **way) for way in ways]
        ours += [task.generate(prompt=PROMPTS, seed=[3, 4], steps=8, **way) for way in ways]
    for theirs, mine in zip(drawn(requests, tmp_path), ours, strict=True):
        torch.testing.assert_close(theirs, mine, atol=1e-3, rtol=0)


def test_an_exported_folder_is_adopted(final: dict[str, Path], task: SD3, tmp_path: Path) -> None:
    """The transformer and T5 from the folder's own parts, the autoencoder with its shift."""
    companions.export(task, tmp_path)
    taken = dict(final)
    for name, part in (("autoencoder", "vae"), ("text_3", "text_encoder_3"), ("denoiser", "")):
        taken[name] = train_stage("sd3_tiny", STAGES[name], tmp_path / name, taken, steps=0, start_from=str(tmp_path / "diffusers" / part))
    second = checkpoint.load_task(taken["denoiser"])
    assert isinstance(second, SD3)
    options: dict = {"prompt": PROMPTS, "seed": [0, 1], "steps": 4}
    torch.testing.assert_close(second.generate(**options), task.generate(**options), atol=1e-3, rtol=0)


def test_what_cannot_be_trained_is_refused_in_a_sentence() -> None:
    tasks = built_untrained("sd3_tiny")
    spec = DataSpec(channels=3, image_size=32, has_captions=True)
    config = STAGES["denoiser"].task
    assert isinstance(config, SD3Config)
    upstream = {role: tasks[role] for role in config.roles}
    with pytest.raises(ValueError, match="learns from captions"):
        config.build(replace(spec, has_captions=False), upstream)
    with pytest.raises(ValueError, match="image size 30 is not divisible by 4"):
        config.build(replace(spec, image_size=30), upstream)
    with pytest.raises(ValueError, match="must have a projection"):
        config.build(spec, {**upstream, "text_2": tasks["text_3"]})
    with pytest.raises(ValueError, match="third text encoder has width 24; it needs that of both others, 32"):
        config.build(spec, {**upstream, "text_2": tasks["text"], "text_3": tasks["text_2"]})
    with pytest.raises(ValueError, match=r"largest 4 is too small; use at least 8"):
        replace(config, transformer=replace(config.transformer, largest=4)).build(spec, upstream)
    with pytest.raises(ValueError, match="must be three shares"):
        SD3Config(text_dropout=(0.1, 0.1, 1.0))
    with pytest.raises(ValueError, match="is not divisible by 4"):
        MMDiTConfig(heads=1, head_dim=6)
