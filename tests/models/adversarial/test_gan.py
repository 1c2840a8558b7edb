"""The game of two players: whose turn it is, how often, on what, and what comes out."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from genlib import checkpoint, companions
from genlib.config import DataConfig, OptimConfig, TaskConfig, TrainConfig
from genlib.data.source import open_source
from genlib.distributed import rank, world_size
from genlib.engine.strategies import strategy_of
from genlib.functional import adversarial
from genlib.models.adversarial.acgan import ACGANConfig
from genlib.models.adversarial.base.latent_arithmetic import LatentArithmetic
from genlib.models.adversarial.cgan import ConditionalGANConfig, LabelledConvolutional
from genlib.models.adversarial.dcgan import Convolutional, DCGANConfig
from genlib.models.adversarial.gan import Dense, Game, GANConfig
from genlib.models.adversarial.infogan import InfoGANConfig
from genlib.models.adversarial.wgan import WGANConfig
from genlib.models.adversarial.wgan_gp import ConvolutionalCritic, DenseWGANGPConfig, Penalised, WGANGPConfig
from genlib.recipe import Stage
from genlib.registry import load
from genlib.types import Batch, DataSpec, Step
from tests.models.stages import CPU, train_stage
from tests.processes import run_ranks

PIXELS = DataSpec(channels=1, image_size=8, class_names=("a", "b"))
POINTS = DataSpec(vector_size=2, class_names=("a", "b"))
SMALL, SMALL_CONV = Dense(latent_dim=4, width=16, layers=2), Convolutional(latent_dim=6, width=8)
CRITIC = ConvolutionalCritic(latent_dim=6, width=8)
FAMILIES: dict[str, tuple[TaskConfig, DataSpec]] = {
    "points": (GANConfig(network=SMALL), POINTS),
    "flat images": (GANConfig(network=SMALL), PIXELS),
    "dcgan": (DCGANConfig(network=SMALL_CONV), PIXELS),
    "wgan_gp": (WGANGPConfig(network=CRITIC), PIXELS),
    "dense wgan_gp": (DenseWGANGPConfig(network=SMALL), POINTS),
}
every_family = pytest.mark.parametrize("family", FAMILIES)
TOLD: dict[str, tuple[TaskConfig, DataSpec]] = {
    "cgan": (ConditionalGANConfig(network=LabelledConvolutional(latent_dim=6, width=8), game=Game(replay=16)), PIXELS),
    "acgan": (ACGANConfig(network=SMALL_CONV), PIXELS),
    "wgan": (WGANConfig(network=SMALL), POINTS),
    "infogan": (InfoGANConfig(network=SMALL), POINTS),
    "compared": (GANConfig(network=replace(SMALL, minibatch_kernels=2)), POINTS),
}
"""Others, whose actions are their own tests' matter."""


def made(family: str) -> LatentArithmetic:
    torch.manual_seed(0)
    config, data = FAMILIES[family]
    task = config.build(data, {})
    assert isinstance(task, LatentArithmetic)
    return task


def digest(module: nn.Module) -> str:
    """Of weights and buffers."""
    return hashlib.sha256(b"".join(value.detach().contiguous().numpy().tobytes() for value in module.state_dict().values())).hexdigest()


@pytest.mark.parametrize("family", [*FAMILIES, *TOLD])
@pytest.mark.parametrize("strategy", ["single", "zero1", "zero2"])
def test_each_player_stands_still_in_the_others_turn(family: str, strategy: str) -> None:
    torch.manual_seed(0)
    config, data = {**FAMILIES, **TOLD}[family]
    task = config.build(data, {})
    batch = companions.example(task, 8)
    chosen = strategy_of(strategy, CPU)
    chosen.setup(task, TrainConfig(optim=OptimConfig(name="adam", learning_rate=1e-3)))
    for index in range(3):
        for phase in task.phases:
            before = {player: digest(task.player(player)) for player in task.players()}
            chosen.run_phase(phase, [batch], Step(index, 10))
            moved = {player for player in task.players() if digest(task.player(player)) != before[player]}
            assert moved == {phase.player}


@pytest.mark.parametrize(
    ("task", "data"),
    [
        (GANConfig(network=SMALL, game=Game(d_steps=3)), "rings2d"),
        (DenseWGANGPConfig(network=SMALL, game=Penalised(n_critic=3)), "rings2d"),
    ],
)
def test_the_discriminator_moves_d_steps_times_as_often(task: TaskConfig, data: str, tmp_path: Path) -> None:
    stage = Stage(task=task, data=DataConfig(train=data), train=TrainConfig(steps=12, global_batch=8, checkpoint_every_steps=0))
    final = train_stage("gan", stage, tmp_path, {})
    assert checkpoint.read_manifest(final).updates == {"discriminator": 12, "generator": 4}


def test_a_critic_moves_five_times_as_often_by_default() -> None:
    assert [phase.every for phase in made("wgan_gp").phases] == [1, 5]


def test_the_discriminator_is_told_smoothed_and_flipped_targets() -> None:
    config = GANConfig(network=SMALL, game=Game(label_smoothing=0.2, label_flips=0.1))
    task, batch = config.build(POINTS, {}), {"position": torch.arange(50_000)}
    real, fake = task.targets(batch, seed=0)
    assert (real == 0).float().mean().item() == pytest.approx(0.1, abs=0.01)
    assert real[real > 0].unique().tolist() == [pytest.approx(0.8)]
    assert (fake > 0).float().mean().item() == pytest.approx(0.1, abs=0.01)


def test_losses_are_those_of_the_textbook() -> None:
    task, batch, step = made("points").eval(), companions.example(made("points"), 8), Step(0, 10)
    real, fake, on_real, on_fake = task.discriminator_logits(batch, step)
    torch.testing.assert_close(task.loss("discriminator", batch, step)[0], adversarial.non_saturating_discriminator(on_real, on_fake))
    logits = task.generator_logits(batch, step)
    torch.testing.assert_close(task.loss("generator", batch, step)[0], -logits.sigmoid().log()[:, 0])
    minimax = GANConfig(network=SMALL, game=Game(saturating=True)).build(POINTS, {})
    minimax.load_state_dict(task.state_dict())
    torch.testing.assert_close(minimax.loss("generator", batch, step)[0], (1 - logits.sigmoid()).log()[:, 0])
    assert real.shape == fake.shape == (8, 2)


@every_family
def test_generate_depends_on_each_seed_alone_and_keeps_its_range(family: str) -> None:
    task = made(family).eval()
    found = task.generate(seed=[3, 4, 5])
    assert found.shape == ((3, 2) if FAMILIES[family][1] is POINTS else (3, 1, 8, 8))
    torch.testing.assert_close(task.generate(seed=[4]), found[1:2])
    assert not torch.equal(found[0], found[1])
    if FAMILIES[family][1] is PIXELS:
        assert 0 <= found.min() <= found.max() <= 1


@every_family
def test_interpolation_goes_from_one_sample_to_the_other(family: str) -> None:
    task = made(family).eval()
    path = task.interpolate(first=1, last=2, steps=5)
    torch.testing.assert_close(path[[0, -1]], task.generate(seed=[1, 2]), atol=1e-5, rtol=1e-5)
    assert len(path) == 5
    with pytest.raises(ValueError, match="steps is 1; from one sample to another there are at least 2"):
        task.interpolate(first=1, last=2, steps=1)


@every_family
def test_noise_is_moved_along_an_attribute_and_added_up(family: str) -> None:
    task = made(family).eval()
    size = task.noise_size
    seeds = list(range(200))
    slope = torch.linspace(-1, 1, size)
    value = (task.latents(seeds) @ slope).tolist()
    direction = task.attribute_direction(seed=seeds, value=value)
    centred = torch.tensor(value) - torch.tensor(value).mean()
    torch.testing.assert_close(direction, torch.linalg.lstsq(centred[:, None], task.latents(seeds)).solution[0], atol=1e-4, rtol=1e-4)
    assert torch.cosine_similarity(direction, slope, dim=0) > 0.9
    frames = task.move(seed=[3, 4], direction=direction, amount=[-1.0, 0.0, 2.0])
    torch.testing.assert_close(frames[:, 1], task.generate(seed=[3, 4]))
    torch.testing.assert_close(frames[1, 2], task.generated(task.latents([4]) + 2 * direction)[0])
    torch.testing.assert_close(task.combine(seed=[3, 4, 5], weight=[0, 1, 0]), task.generate(seed=[4]))
    assert not torch.equal(task.combine(seed=[3, 4, 5], weight=[1, -1, 1]), task.generate(seed=[3]))
    for call, words in (
        (lambda: task.attribute_direction(seed=[1, 2], value=[1.0, 1.0]), "2 values for 2 seeds, 1 of them different"),
        (lambda: task.move(seed=[1], direction=torch.zeros(99), amount=[1.0]), rf"a direction of shape \(99,\) is not \({size},\)"),
        (lambda: task.combine(seed=[1, 2], weight=[1.0]), "weight has 1 number for 2 seeds"),
    ):
        with pytest.raises(ValueError, match=words):
            call()


def test_discriminators_describe_samples() -> None:
    assert made("points").eval().embed(x=torch.rand(3, 2)).shape == (3, 16)
    assert made("dcgan").eval().embed(image=torch.rand(3, 1, 8, 8)).shape == (3, 8 * 16)
    with pytest.raises(ValueError, match=r"images of shape \(1, 9, 9\) are given, and the discriminator knows \(1, 8, 8\)"):
        made("dcgan").embed(image=torch.rand(3, 1, 9, 9))


def test_vectors_are_brought_to_unit_scale_and_samples_back() -> None:
    source = open_source(DataConfig(train="rings2d"))
    task = GANConfig(network=SMALL).build(source.spec, {})
    task.prepare(source)
    batch = next(source.batches("train", 2048, transform=task.transform(train=True)))
    real = task.real(batch)
    torch.testing.assert_close(real.mean(0), torch.zeros(2), atol=0.1, rtol=0)
    assert real.square().mean().item() == pytest.approx(1, abs=0.05)
    torch.testing.assert_close(task.in_data_units(real), batch["x"])


def evaluated(folder: Path) -> None:
    """Held-out values of untrained tasks on 13 samples, shared over the ranks."""
    kept = {}
    for family in ("points", "dcgan"):
        source = open_source(DataConfig(train="rings2d" if family == "points" else "digits"))
        task = made(family).eval()
        batches = source.batches("validation", 13, rank=rank(), world=world_size(), transform=task.transform(train=False))
        with torch.no_grad():
            values = task.evaluate(next(batches))
        kept |= {f"{family} {name}": value.clone() for name, value in values.items() if value.dim() == 0}
    save_file(kept, folder / f"{world_size()}-{rank()}.safetensors")


def test_the_values_of_a_set_are_the_same_on_any_number_of_workers(tmp_path: Path) -> None:
    evaluated(tmp_path)
    run_ranks(2, evaluated, tmp_path)
    alone, first, second = (load_file(tmp_path / f"{name}.safetensors") for name in ("1-0", "2-0", "2-1"))
    assert {"points modes", "points sliced_wasserstein", "dcgan sliced_wasserstein", "dcgan coverage"} <= alone.keys()
    for name, value in alone.items():
        torch.testing.assert_close(first[name], value, msg=name)
        assert torch.equal(first[name], second[name])


@every_family
def test_evaluation_names_what_a_search_ranks_by_and_what_the_monitor_reads(family: str) -> None:
    task = made(family).eval()
    batch: Batch = {**companions.example(task, 16), "label": torch.arange(16) % 2}
    with torch.no_grad():
        values = task.evaluate(batch)
    assert {task.objective[0], "diversity", "modes", "coverage", "progress"} <= values.keys()
    assert all(value.isfinite().all() for value in values.values())
    assert task.objective[1] == "min"


@pytest.mark.parametrize(
    ("config", "spec", "words"),
    [
        (GANConfig(), DataSpec(), "neither images of one size nor vectors"),
        (DCGANConfig(), POINTS, "convolutions need images of one size, and the samples have none"),
        (
            DCGANConfig(),
            replace(PIXELS, image_size=18),
            "image_size 18 is not 4, 5, 6 or 7 doubled at least once.*use 16",
        ),
        (WGANGPConfig(), replace(PIXELS, image_size=7), "image_size 7 is not .*; use 8"),
    ],
)
def test_unfit_data_is_refused(config: TaskConfig, spec: DataSpec, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        config.build(spec, {})


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["gan", "wgan_gp_points"])
def test_the_recipe_covers_all_eight_modes(recipe: str, tmp_path: Path) -> None:
    (stage,) = load(recipe).stages
    final = train_stage(recipe, stage, tmp_path / "run", {})
    task = checkpoint.load_task(final)
    scores = companions.assess(task, open_source(stage.data), tmp_path)
    assert scores["validation/modes"] == 1
    assert isinstance(task, LatentArithmetic)
    seeds = list(range(2000))
    direction = task.attribute_direction(seed=seeds, value=task.generate(seed=seeds)[:, 0].tolist())
    way = task.move(seed=seeds[:200], direction=direction, amount=[-3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0])[:, :, 0].mean(0)
    assert (way.diff() > 0).all(), "noise moved along the direction of x moves samples to the right, step by step"
    assert scores["validation/sliced_wasserstein"] < 0.3
    assert (tmp_path / "samples.png").stat().st_size > 10_000


def train_all(root: Path, stages: dict[str, Stage]) -> None:
    for name, stage in stages.items():
        for strategy in ("zero1", "zero2"):
            train_stage(name, replace(stage, train=replace(stage.train, strategy=strategy)), root / f"{name}-{strategy}", {})


def losses(folder: Path) -> list[float]:
    """Both players' at every step."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [row[key] for row in rows for key in sorted(row) if key.endswith("/loss")]


@pytest.mark.slow
def test_two_engines_on_two_workers_have_the_losses_of_one_process(tmp_path: Path) -> None:
    """Two DeepSpeed engines, twenty steps of Adam: both losses to 1e-4."""
    stages = {}
    for name in ("gan", "dcgan", "wgan_gp"):
        (stage,) = load(name).smoke
        stages[name] = replace(stage, train=replace(stage.train, steps=20, checkpoint_every_steps=0, log_every_seconds=1e-6))
        train_stage(name, stages[name], tmp_path / f"{name}-single", {})
    run_ranks(2, train_all, tmp_path, stages)
    for name in stages:
        alone = losses(tmp_path / f"{name}-single")
        assert len(alone) >= 30
        for strategy in ("zero1", "zero2"):
            assert losses(tmp_path / f"{name}-{strategy}") == pytest.approx(alone, abs=1e-4), (name, strategy)


def test_a_checkpoint_from_before_the_monitor_followed_losses_still_loads() -> None:
    task = made("points")
    state = {name: value for name, value in task.state_dict().items() if name != "course"}
    task.course.fill_(1.0)
    task.load_state_dict(state)
    assert not task.course.any()
