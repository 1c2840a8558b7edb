"""Pictures after captions: which pairs the discriminator sees, what it is told of them, and whether it knows a wrong caption."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from genlib import checkpoint, companions
from genlib.data.builtin.shapes import COLORS
from genlib.data.source import open_source
from genlib.distributed import rank, world_size
from genlib.encoded_batch import encoded
from genlib.models.adversarial.dcgan import Convolutional
from genlib.models.adversarial.gan import Game
from genlib.models.adversarial.text_gan import TextGAN, TextGANConfig
from genlib.models.representation.text_encoder import TextEncoderConfig
from genlib.registry import load
from genlib.task import Task
from genlib.types import Batch, DataSpec, Step
from tests.models.stages import built_untrained, train_stage
from tests.processes import run_ranks


@pytest.fixture(scope="module")
def task() -> TextGAN:
    made = built_untrained("text_gan")["pictures"]
    assert isinstance(made, TextGAN)
    with torch.no_grad():
        for parameter in made.parameters():  # which start so small that all logits are near 0
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return made.eval()


def captions(task: TextGAN, texts: list[str]) -> Batch:
    batch = companions.example(task, len(texts))
    return {**batch, "text": task.of(texts)}


def test_a_wrong_caption_is_that_of_the_next_sample_unless_it_is_the_same(task: TextGAN) -> None:
    batch = captions(task, ["a red ring", "a blue star", "a blue star", "a green cross", "a white square"])
    batch["valid"][3] = False
    other, counts = task.mismatched(batch)
    torch.testing.assert_close(other[[0, 1, 2, 4]], batch["text"][[1, 2, 4, 0]])
    assert counts[[0, 1, 2, 4]].tolist() == [True, False, True, True]


def test_the_discriminator_lowers_what_three_kinds_of_pairs_say(task: TextGAN) -> None:
    batch, step = captions(task, ["a red ring", "a blue star", "a green cross"]), Step(0, 10)
    images, fake, _, _ = task.discriminator_logits(batch, step)
    text, valid = batch["text"], batch["valid"]
    right, wrong, made = (
        task.discriminator(x, valid, condition)[:, 0].sigmoid() for x, condition in ((images, text), (images, text.roll(-1, 0)), (fake, text))
    )
    loss, metrics = task.loss("discriminator", batch, step)
    torch.testing.assert_close(loss, -(right.log() + ((1 - wrong).log() + (1 - made).log()) / 2), atol=1e-5, rtol=1e-5)
    assert {"real_accuracy", "fake_accuracy", "mismatched_accuracy"} == metrics.keys()


def shared(folder: Path) -> None:
    """Wrong captions of seven samples, shared over the ranks."""
    made = built_untrained("text_gan")["pictures"]
    assert isinstance(made, TextGAN)
    text = torch.randn(8, made.condition_sizes[0], generator=torch.Generator().manual_seed(0))
    count = 8 // world_size()
    mine = slice(rank() * count, (rank() + 1) * count)
    other, counts = made.mismatched({"text": text[mine], "valid": torch.arange(8)[mine] < 7})
    save_file({"other": other.contiguous(), "counts": counts}, folder / f"{world_size()}-{rank()}.safetensors")


def test_wrong_captions_are_the_same_on_any_number_of_workers(tmp_path: Path) -> None:
    shared(tmp_path)
    run_ranks(2, shared, tmp_path)
    alone, first, second = (load_file(tmp_path / f"{name}.safetensors") for name in ("1-0", "2-0", "2-1"))
    for name, value in alone.items():
        assert torch.equal(torch.cat([first[name], second[name]])[:7], value[:7])


def test_generate_takes_a_prompt_a_seed(task: TextGAN) -> None:
    found = task.generate(seed=[3, 3, 4], prompt=["a red ring", "a large blue star", "a red ring"])
    assert found.shape == (3, 3, 16, 16)
    assert not torch.equal(found[0], found[1])
    torch.testing.assert_close(task.generate(seed=[4], prompt=["a red ring"]), found[2:], atol=1e-4, rtol=1e-4)
    way = task.interpolate(first=3, last=3, prompt=["a red ring", "a large blue star"], steps=3)
    torch.testing.assert_close(way[[0, 2]], found[:2], atol=1e-4, rtol=1e-4)
    with pytest.raises(ValueError, match="prompt has 1 entry for 2 seeds; give one prompt a picture"):
        task.generate(seed=[1, 2], prompt=["a red ring"])


def test_unfit_data_and_text_encoders_are_refused() -> None:
    config, data = TextGANConfig(), DataSpec(channels=3, image_size=16)
    with pytest.raises(ValueError, match=r"this recipe makes pictures of captions, but the samples have none .*; take a set with captions"):
        config.check_data(data)
    tower = replace(TextEncoderConfig(), text=replace(TextEncoderConfig().text, width=16, layers=1, heads=2))
    upstream: dict[str, Task] = {"text": tower.build(replace(data, has_captions=True), {})}
    with pytest.raises(ValueError, match="the text stage gives no vector of a whole text; name a CLIP"):
        config.build(replace(data, has_captions=True), upstream)
    with pytest.raises(ValueError, match="needs a stage for the role 'text'"):
        config.build(replace(data, has_captions=True), {})


@pytest.mark.slow
def test_the_discriminator_knows_wrong_captions_and_pictures_have_the_colour_asked_for(tmp_path: Path) -> None:
    final: dict[str, Path] = {}
    for stage in load("text_gan").stages:
        final[stage.name] = train_stage("text_gan", stage, tmp_path / stage.name, final)
    task, source = checkpoint.load_task(final["pictures"]), open_source(stage.data)
    assert isinstance(task, TextGAN)
    batch = encoded(task, next(source.batches("validation", 256, transform=task.transform(train=False))))
    with torch.no_grad():
        assert task.evaluate(batch)["mismatched_accuracy"].mean().item() > 0.8
    names = list(COLORS) * 20
    images = task.generate(seed=list(range(140)), prompt=[f"a large {name} square in the middle" for name in names])
    weight = images.amax(1, keepdim=True)
    colour = (images * weight).sum((2, 3)) / weight.square().sum((2, 3))
    shades = torch.tensor(list(COLORS.values())) / 255
    found = torch.cdist(colour, shades / shades.amax(1, keepdim=True)).argmin(1)
    assert (found == torch.arange(140) % 7).float().mean().item() > 0.8
    assert (tmp_path / "pictures").is_dir()
    assert companions.assess(task, source, tmp_path)["validation/diversity"] > 0.5
    assert (tmp_path / "samples.png").stat().st_size > 10_000


def test_replay_keeps_captions_beside_fakes(task: TextGAN) -> None:
    config = TextGANConfig(network=Convolutional(latent_dim=4, width=8), game=Game(replay=8))
    made = config.build(task.data, {"text": task.upstream["text"]})
    assert made.replay is not None
    assert made.replay.get_buffer("kept_1").shape == (8, made.tower.pooled_width)
