"""InfoGAN: the bound on the information of codes, what is a code, and whether categories come to name clusters."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from genlib import checkpoint, companions
from genlib.data.source import open_source
from genlib.models.adversarial.gan import Dense, Game
from genlib.models.adversarial.infogan import Codes, InfoGAN, InfoGANConfig
from genlib.models.adversarial.infogan_assess import purity
from genlib.registry import load
from genlib.types import DataSpec, Step
from tests.models.stages import train_stage

POINTS = DataSpec(vector_size=2, class_names=("a", "b"))
CODES = Codes(categories=4, numbers=2)


def made(codes: Codes = CODES) -> InfoGAN:
    torch.manual_seed(0)
    return InfoGANConfig(network=Dense(latent_dim=3, width=16, layers=2), codes=codes).build(POINTS, {}).eval()


def test_codes_are_categories_as_likely_and_uniform_numbers() -> None:
    code = CODES.of(torch.randn(20_000, CODES.size, generator=torch.Generator().manual_seed(0)))
    assert set(code[:, :4].flatten().tolist()) == {0.0, 1.0}
    assert torch.equal(code[:, :4].sum(1), torch.ones(20_000))
    assert code[:, :4].mean(0).tolist() == pytest.approx([0.25] * 4, abs=0.01)
    assert code[:, 4:].abs().max() <= 1
    quartiles = code[:, 4:].quantile(torch.tensor([0.25, 0.5, 0.75]), dim=0)
    torch.testing.assert_close(quartiles, torch.tensor([[-0.5], [0.0], [0.5]]).expand(3, 2), atol=0.02, rtol=0)


def test_information_is_never_more_than_the_codes_entropy() -> None:
    code = CODES.of(torch.randn(500, CODES.size))
    for spread in (0.1, 1.0, 30.0):
        category, _ = CODES.information(spread * torch.randn(500, CODES.outputs), code)
        assert category.max() <= math.log(4) + 1e-6
    sure = torch.cat([100 * code[:, :4], torch.zeros(500, 4)], 1)
    assert CODES.information(sure, code)[0].mean().item() == pytest.approx(math.log(4))
    blind = CODES.information(torch.zeros(500, CODES.outputs), code)[0]
    torch.testing.assert_close(blind, torch.zeros(500))


def test_information_of_numbers_is_their_log_density_and_entropy() -> None:
    code, mean, logvar = torch.tensor([[1.0, 0, 0, 0, 0.3, -0.8]]), torch.tensor([[0.1, -0.5]]), torch.tensor([[-1.0, 0.5]])
    normal = torch.distributions.Normal(mean, (0.5 * logvar).exp())
    expected = (normal.log_prob(code[:, 4:]) + math.log(2)).sum(1)
    torch.testing.assert_close(CODES.information(torch.cat([torch.zeros(1, 4), mean, logvar], 1), code)[1], expected)


def test_both_players_raise_the_information() -> None:
    task, step = made(), Step(0, 10, seed=3)
    plain = made(replace(CODES, category_weight=0, number_weight=0))
    batch = companions.example(task, 8)
    for phase in ("discriminator", "generator"):
        loss, metrics = task.loss(phase, batch, step)
        expected = plain.loss(phase, batch, step)[0] - metrics["category_information"] - 0.1 * metrics["number_information"]
        torch.testing.assert_close(loss, expected)


def test_a_sample_is_made_of_its_seed_and_its_code() -> None:
    task = made()
    noise = task.latents([5, 6])
    torch.testing.assert_close(task.decode(seed=[5, 6], code=task.code(noise)), task.generate(seed=[5, 6]))
    code = torch.tensor([[1.0, 0, 0, 0, 0.5, 0], [0, 1.0, 0, 0, 0.5, 0]])
    first, second = task.decode(seed=[5, 5], code=code)
    assert not torch.equal(first, second)
    read = task.read(image=torch.randn(3, 2))
    assert read.shape == (3, 6)
    torch.testing.assert_close(read[:, :4].sum(1), torch.ones(3))
    with pytest.raises(ValueError, match=r"codes of shape \(2, 5\) are given for 2 seeds; give one of 6 numbers each"):
        task.decode(seed=[1, 2], code=torch.zeros(2, 5))


def test_fakes_of_earlier_steps_are_refused() -> None:
    with pytest.raises(ValueError, match=r"game.replay is 64, but Q reads the codes of the step's own fakes alone"):
        InfoGANConfig(game=Game(replay=64))


def test_purity_is_the_share_of_the_commonest() -> None:
    assert purity(torch.tensor([0, 0, 0, 1, 1]), torch.tensor([2, 2, 1, 0, 0])) == pytest.approx(0.8)


def recovery(folder: Path, weight: float | None = None) -> tuple[dict[str, float], float, float]:
    """Of a training on the ring: final scores, how often Q reads the right category, and the bound on its information."""
    (stage,) = load("infogan").stages
    config = stage.task
    assert isinstance(config, InfoGANConfig)
    config = config if weight is None else replace(config, codes=replace(config.codes, category_weight=weight))
    stage = replace(stage, task=config, train=replace(stage.train, evaluate_every_steps=0, checkpoint_every_steps=0))
    task, source = checkpoint.load_task(train_stage("infogan", stage, folder / "run", {})), open_source(stage.data)
    batch = next(source.batches("validation", 1024, transform=task.transform(train=False)))
    with torch.no_grad():
        values = task.evaluate(batch)
    return companions.assess(task, source, folder), values["code_accuracy"].mean().item(), values["category_information"].mean().item()


@pytest.mark.slow
def test_categories_come_to_name_the_places_and_those_of_a_plain_gan_do_not(tmp_path: Path) -> None:
    scores, accuracy, information = recovery(tmp_path)
    assert accuracy > 0.9
    assert scores["validation/code_recovery"] > 0.9
    assert 0.9 * math.log(8) < information <= math.log(8)
    plain, chance, _ = recovery(tmp_path / "plain", weight=0)
    assert chance < 0.3
    assert plain["validation/code_recovery"] < 0.5
