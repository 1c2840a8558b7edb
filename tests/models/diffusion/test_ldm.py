"""Latent diffusion with one text encoder: stages, conditioning, editing, export."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from genlib import checkpoint, companions, registry
from genlib.data.source import open_source
from genlib.engine.encoding import frozen_state
from genlib.engine.initial_task import InitialTask
from genlib.engine.trace import flops_per_sample
from genlib.models.diffusion.base.latent_unet import LatentUNetConfig
from genlib.models.diffusion.ldm import LatentDiffusion, LatentDiffusionConfig
from genlib.types import DataSpec, Step
from tests.models.diffusion.pipelines import drawn, request
from tests.models.stages import built_on_meta, built_untrained, source_of, train_stage, train_stages, without_values

PROMPTS = ["a red circle", "two blue squares"]
STAGES = {stage.name: stage for stage in registry.load("ldm_tiny").smoke}


@pytest.fixture(scope="module")
def final(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return train_stages("ldm_tiny", tmp_path_factory.mktemp("ldm"))


@pytest.fixture(scope="module")
def task(final: dict[str, Path]) -> LatentDiffusion:
    found = checkpoint.load_task(final["denoiser"])
    assert isinstance(found, LatentDiffusion)
    return found


@pytest.fixture(scope="module")
def images(task: LatentDiffusion) -> Tensor:
    batches = source_of(STAGES["denoiser"]).batches("validation", 2, transform=task.transform(False))
    return next(iter(batches))["image"]


def test_later_stages_leave_earlier_ones_as_they_were(final: dict[str, Path]) -> None:
    weights = checkpoint.load_weights(final["denoiser"])
    for role in ("autoencoder", "text"):
        for name, value in checkpoint.load_weights(final[role], ema=True).items():
            if name in ("scale", "shift"):
                continue  # measured when the denoiser's stage begins
            assert torch.equal(weights[f"frozen_tasks.{role}.{name}"], value), (role, name)
    assert checkpoint.read_manifest(final["denoiser"]).blueprint.upstream.keys() == {"autoencoder", "text"}


def test_earlier_stages_are_frozen_in_training(final: dict[str, Path]) -> None:
    """So that strategies leave them whole, and what they encode is known by their weights."""
    stage, upstream = STAGES["denoiser"], {role: final[role] for role in ("autoencoder", "text")}
    task = InitialTask(stage, source_of(stage), upstream).task
    assert isinstance(task, LatentDiffusion)
    assert not any(weight.requires_grad for earlier in task.upstream.values() for weight in earlier.parameters())
    task.train()
    assert not task.autoencoder.training
    assert all(name.startswith("net.") for name, _ in task.named_parameters())
    names = frozen_state(task).keys()
    assert {"frozen_tasks.autoencoder.net.encoder.conv_in.weight", "frozen_tasks.autoencoder.scale"} <= names
    assert not any(name.startswith("net.") for name in names)


def test_resume_begins_where_the_denoiser_stopped(final: dict[str, Path], tmp_path: Path) -> None:
    """Killed after half of the denoiser's steps, with the scale of latents measured by then."""
    last = train_stage("ldm_tiny", STAGES["denoiser"], tmp_path, final, keep_checkpoints=9)
    expected = checkpoint.load_weights(last)
    shutil.rmtree(last)
    again = checkpoint.load_weights(train_stage("ldm_tiny", STAGES["denoiser"], tmp_path, final, keep_checkpoints=9))
    assert all(torch.equal(again[name], value) for name, value in expected.items())


def test_latents_have_unit_spread(task: LatentDiffusion) -> None:
    batch = next(iter(source_of(STAGES["denoiser"]).batches("train", 256, transform=task.transform(False))))
    latents = task.latents({**task.encode(batch), "position": batch["position"]}, seed=0)
    assert abs(latents.std().item() - 1) < 0.1
    assert abs(latents.mean().item()) < 0.1


def prediction(task: LatentDiffusion, prompt: str) -> Tensor:
    x = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return task.net(x, torch.tensor([500]), *task.prompt_condition([prompt], 32, 32))


def test_text_reaches_the_prediction_by_cross_attention_alone(final: dict[str, Path]) -> None:
    task = checkpoint.load_task(final["denoiser"])
    assert isinstance(task, LatentDiffusion)
    assert not torch.equal(prediction(task, PROMPTS[0]), prediction(task, PROMPTS[1]))
    for name, p in task.net.named_parameters():
        if ".attn2.to_out." in name:
            p.data.zero_()
    assert torch.equal(prediction(task, PROMPTS[0]), prediction(task, PROMPTS[1]))


def test_a_step_costs_a_quarter_of_that_in_pixels_or_less() -> None:
    """Against the same network on the picture itself, in the size that is trained on icons; counted."""
    from torch.utils.flop_counter import FlopCounterMode

    task = built_on_meta("ldm_tiny")["denoiser"]
    assert isinstance(task, LatentDiffusion)
    width, length = task.towers[0].width, task.towers[0].length
    with torch.device("meta"), FlopCounterMode(display=False) as counter, torch.no_grad():
        pixels = task.config.unet.build(1, width, 32)
        pixels(torch.empty(1, 1, 32, 32), torch.zeros(1), torch.empty(1, length, width))
    assert 3 * counter.get_total_flops() > 4 * flops_per_sample(without_values("ldm_tiny", "denoiser"), 1, "fp32")


def test_captions_are_left_out_by_position(task: LatentDiffusion) -> None:
    batch = {**companions.example(task, 400), "text": torch.ones(400, task.towers[0].length, task.towers[0].width)}
    shown = task.train_condition(batch, Step(0, 1))[0]
    kept = (shown == 1).flatten(1).all(1)
    assert 0.05 < 1 - kept.float().mean() < 0.16
    assert torch.equal(shown[~kept], task.unconditional((shown,))[0][~kept])
    later = task.train_condition({**{name: value[100:] for name, value in batch.items()}}, Step(3, 9))[0]
    assert torch.equal(later, shown[100:]), "what is left out is a function of the position"


def test_a_picture_is_that_of_its_seed_and_prompt(task: LatentDiffusion) -> None:
    three = task.generate(prompt=[*PROMPTS, "x"], seed=[3, 4, 5], steps=4)
    alone = task.generate(prompt=PROMPTS[1:], seed=[4], steps=4)
    torch.testing.assert_close(alone[0], three[1], atol=1e-5, rtol=0)
    assert not torch.allclose(task.generate(prompt=PROMPTS[1:], seed=[5], steps=4), alone, atol=1e-3)


def test_pictures_need_not_be_square(task: LatentDiffusion) -> None:
    assert task.generate(prompt=PROMPTS, seed=[0, 1], steps=2, width=48, height=16).shape == (2, 3, 16, 48)


@pytest.mark.parametrize("sampler", ["ddim", "ancestral", "heun", "dpm_solver_pp_2m"])
def test_every_sampler_draws(task: LatentDiffusion, sampler: str) -> None:
    made = task.generate(prompt=PROMPTS, seed=[0, 1], steps=3, sampler=sampler, guidance_scale=2.0, guidance_rescale=0.5)  # type: ignore[arg-type]
    assert made.isfinite().all()
    assert made.min() >= 0
    assert made.max() <= 1


def test_strength_0_is_the_reconstruction_and_more_is_farther(task: LatentDiffusion, images: Tensor) -> None:
    options = {"image": images, "prompt": PROMPTS, "seed": [0, 1], "steps": 10}
    torch.testing.assert_close(task.image_to_image(strength=0.0, **options), task.autoencoder.reconstruct(image=images), atol=1e-5, rtol=0)
    base = task.autoencoder.reconstruct(image=images)
    distance = [(task.image_to_image(strength=share, **options) - base).square().mean().item() for share in (0.0, 0.3, 0.6, 1.0)]
    assert distance == sorted(distance)
    assert distance[-1] > 4 * distance[1] > 0


@pytest.mark.parametrize("strength", [0.5, 1.0])
def test_an_edit_into_the_same_words_is_the_reconstruction(task: LatentDiffusion, images: Tensor, strength: float) -> None:
    options = {"image": images, "source_prompt": PROMPTS, "strength": strength, "steps": 10}
    base = task.autoencoder.reconstruct(image=images)
    same = task.edit(prompt=PROMPTS, guidance_scale=1.0, **options)
    other = task.edit(prompt=PROMPTS[::-1], guidance_scale=8.0, **options)
    assert (same - base).abs().max() < 0.02
    assert (other - base).square().mean() > 10 * (same - base).square().mean()


def test_filling_keeps_what_is_known_and_never_sees_the_hole(task: LatentDiffusion, images: Tensor) -> None:
    mask = torch.zeros(2, 1, 32, 32)
    mask[0, :, 5:20, 7:21], mask[1, :, :, 16:] = 1, 1
    options = {"mask": mask, "prompt": PROMPTS, "seed": [0, 1], "steps": 6}
    filled = task.inpaint(image=images, **options)
    hole = mask.expand(-1, 3, -1, -1) > 0
    assert torch.equal(filled[~hole], images[~hole])
    other = torch.where(hole, torch.rand_like(images), images)
    assert torch.equal(task.inpaint(image=other, **options), filled)


def test_continuing_keeps_the_picture_where_it_was_put(task: LatentDiffusion, images: Tensor) -> None:
    made = task.outpaint(image=images[..., :20, :24], prompt=PROMPTS, seed=[0, 1], width=32, height=48, left=0.5, top=1.0, steps=4)
    assert made.shape == (2, 3, 48, 32)
    assert torch.equal(made[..., 28:48, 4:28], images[..., :20, :24])


def test_the_exported_pipeline_draws_the_same_pictures(final: dict[str, Path], tmp_path: Path) -> None:
    """The autoencoder's latents are centred, of which StableDiffusionPipeline knows nothing: its convolutions take the shift."""
    task = checkpoint.load_task(final["denoiser"])
    assert isinstance(task, LatentDiffusion)
    task.autoencoder.shift.fill_(0.7)
    companions.export(task, tmp_path)
    ways = [{"guidance_scale": 5.0}, {"guidance_scale": 1.0}, {"guidance_scale": 3.0, "negative_prompt": "green"}, {"width": 48, "height": 32}]
    folder = tmp_path / "diffusers"
    usual = {"num_inference_steps": 8, "guidance_scale": 5.0}
    requests = [request("StableDiffusionPipeline", folder, PROMPTS, [3, 4], **{**usual, **way}) for way in ways]
    for theirs, way in zip(drawn(requests, tmp_path), ways, strict=True):
        ours = task.generate(prompt=PROMPTS, seed=[3, 4], steps=8, **way)  # type: ignore[arg-type]
        torch.testing.assert_close(theirs, ours, atol=1e-3, rtol=0)


def test_an_exported_folder_is_adopted_whole(final: dict[str, Path], tmp_path: Path) -> None:
    """Every stage with start_from its part of the folder and no steps is the model that was exported."""
    first = checkpoint.load_task(final["denoiser"])
    companions.export(first, tmp_path)
    parts = {"autoencoder": "vae", "denoiser": "unet"}
    taken = {"text": final["text"]}  # a CLIP's stage keeps its own run; text encoders from folders are the published presets'
    for name, part in parts.items():
        taken[name] = train_stage("ldm_tiny", STAGES[name], tmp_path / name, taken, steps=0, start_from=str(tmp_path / "diffusers" / part))
    second = checkpoint.load_task(taken["denoiser"])
    assert isinstance(first, LatentDiffusion)
    assert isinstance(second, LatentDiffusion)
    options = {"prompt": PROMPTS, "seed": [0, 1], "steps": 4}
    torch.testing.assert_close(second.generate(**options), first.generate(**options), atol=1e-3, rtol=0)  # type: ignore[arg-type]


def config(**options: object) -> LatentDiffusionConfig:
    base = STAGES["denoiser"].task
    assert isinstance(base, LatentDiffusionConfig)
    return replace(base, **options)


def test_what_cannot_be_trained_is_refused_in_a_sentence() -> None:
    tasks = built_untrained("ldm_tiny")
    upstream = {role: tasks[role] for role in ("autoencoder", "text")}
    spec = DataSpec(channels=3, image_size=32, has_captions=True)
    with pytest.raises(ValueError, match="learns from captions, but the samples have none"):
        config().build(replace(spec, has_captions=False), upstream)
    with pytest.raises(ValueError, match=r"image size 30 is not divisible by 4.*use 28"):
        config(image_size=30).build(spec, upstream)
    with pytest.raises(ValueError, match=r"many sizes; give one with --task\.image-size"):
        config().build(replace(spec, image_size=0), upstream)
    with pytest.raises(ValueError, match="needs a stage for the role 'text'; it was given autoencoder"):
        config().build(spec, {"autoencoder": tasks["autoencoder"]})
    with pytest.raises(ValueError, match="makes no latents of images"):
        config().build(spec, {"autoencoder": tasks["text"], "text": tasks["text"]})
    with pytest.raises(ValueError, match="has no text encoder"):
        config().build(spec, {"autoencoder": tasks["autoencoder"], "text": tasks["autoencoder"]})
    with pytest.raises(ValueError, match="no resolution with a block"):
        LatentUNetConfig(block_out_channels=(32, 32), transformer_layers=(0, 0))
    with pytest.raises(ValueError, match="differ in length"):
        LatentUNetConfig(block_out_channels=(32, 32), transformer_layers=(1,))


def test_what_cannot_be_drawn_is_refused_in_a_sentence(task: LatentDiffusion, images: Tensor) -> None:
    with pytest.raises(ValueError, match="prompt has 2 entries for 1 seed"):
        task.generate(prompt=PROMPTS, seed=[1])
    with pytest.raises(ValueError, match="both must be multiples of 4; use 28 x 32"):
        task.generate(prompt=PROMPTS, seed=[1, 2], width=30)
    with pytest.raises(ValueError, match="prompts: 1 for 2 images"):
        task.image_to_image(image=images, prompt=["x"], seed=[1])
    with pytest.raises(ValueError, match=r"strength 1\.5 is not a share"):
        task.image_to_image(image=images, prompt=PROMPTS, seed=[1, 2], strength=1.5)
    with pytest.raises(ValueError, match="source prompts: 1 for 2 images"):
        task.edit(image=images, source_prompt=["x"], prompt=PROMPTS)
    with pytest.raises(ValueError, match="30 x 30 pixels: both must be multiples of 4"):
        task.image_to_image(image=F.interpolate(images, 30), prompt=PROMPTS, seed=[1, 2])
    with pytest.raises(ValueError, match=r"the mask is \(1, 1, 16, 16\)"):
        task.inpaint(image=images, mask=torch.zeros(1, 1, 16, 16), prompt=PROMPTS, seed=[1, 2])
    with pytest.raises(ValueError, match="do not fit into 16 x 32"):
        task.outpaint(image=images, prompt=PROMPTS, seed=[1, 2], width=16)


def test_strange_folders_are_refused_and_change_nothing(final: dict[str, Path], tmp_path: Path) -> None:
    task = checkpoint.load_task(final["denoiser"])
    companions.export(task, tmp_path)
    unet = tmp_path / "diffusers" / "unet"
    other = config(unet=replace(config().unet, head_dim=4))
    tasks = built_untrained("ldm_tiny")
    upstream = {role: tasks[role] for role in ("autoencoder", "text")}
    smaller = other.build(open_source(STAGES["denoiser"].data).spec, upstream)
    before = {name: value.clone() for name, value in smaller.state_dict().items() if value.is_floating_point()}
    with pytest.raises(ValueError, match="another architecture: attention_head_dim"):
        companions.load_pretrained(smaller, unet)
    with pytest.raises(ValueError, match="holds a AutoencoderKL"):
        companions.load_pretrained(smaller, tmp_path / "diffusers" / "vae")
    (unet / "diffusion_pytorch_model.safetensors").rename(unet / "diffusion_pytorch_model.bin")
    with pytest.raises(ValueError, match="as a pickle alone"):
        companions.load_pretrained(tasks["denoiser"], unet)
    assert all(torch.equal(value, before[name]) for name, value in smaller.state_dict().items() if name in before)
