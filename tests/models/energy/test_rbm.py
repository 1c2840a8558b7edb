"""Restricted Boltzmann machines: what they learn, against enumeration and scikit-learn, and what they do then."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from genlib import companions
from genlib.config import DataConfig, OptimConfig, TrainConfig
from genlib.data.source import open_source
from genlib.data.transforms.vectors import VectorShape
from genlib.engine.strategies import strategy_of
from genlib.engine.trace import FakeTask, flops_per_sample
from genlib.functional.partition import annealed_log_partition, log_partition
from genlib.models.energy.base.contrastive import share_of
from genlib.models.energy.base.rbm_assess import auroc, shuffled
from genlib.models.energy.gaussian_rbm import GaussianRBM, GaussianRBMConfig
from genlib.models.energy.rbm import RBM, RBMConfig
from genlib.types import DataSpec, Step
from tests.models.energy.learning import bars_and_stripes, digits, start, train, trained_rbm
from tests.processes import run_ranks

BINARY = RBMConfig(hidden=16, initial_weight=0.1, sample_pixels=False)


@pytest.fixture(scope="module")
def bars() -> dict[str, RBM]:
    """Machines of bars and stripes by rule, 16 visible units."""
    rules = {"CD-1": BINARY, "CD-10": replace(BINARY, gibbs_steps=10), "PCD": replace(BINARY, chains=30)}
    return {name: trained_rbm(config, bars_and_stripes(), steps=1000, learning_rate=0.2, size=30) for name, config in rules.items()}


def log_likelihood(task: RBM, x: Tensor) -> float:
    rbm = task.params(torch.float64)
    return -rbm.free_energy(x.double()).mean().item() - log_partition(rbm)


@pytest.mark.slow
def test_learns_bars_and_stripes(bars: dict[str, RBM]) -> None:
    uniform = -16 * math.log(2)
    found = {name: log_likelihood(task, bars_and_stripes()) for name, task in bars.items()}
    assert all(value > uniform + 3 for value in found.values()), found
    assert found["CD-10"] > found["CD-1"], found
    assert max(found.values()) <= -math.log(30)  # no model can give 30 pictures more than 1/30 each


@pytest.mark.slow
def test_flipped_bits_are_recovered() -> None:
    x = bars_and_stripes(6)
    task = trained_rbm(replace(BINARY, hidden=64, gibbs_steps=5), x, steps=1500, learning_rate=0.1, size=60)
    clean = x.repeat(3, 1)
    flipped = (torch.rand(clean.shape, generator=torch.Generator().manual_seed(1)) < 0.2).float()
    noisy = (clean - flipped).abs()
    assert (noisy == clean).float().mean() < 0.82
    likely = (-torch.cdist(noisy, x, p=1) * math.log(4)).softmax(1) @ x  # what one can know who knows all pictures
    best = (likely.round() == clean).float().mean()
    assert 0.9 < (task.denoise(image=noisy, noise=0.2).round() == clean).float().mean() <= best + 0.01


def test_samples_are_bars_and_stripes(bars: dict[str, RBM]) -> None:
    known = {tuple(row) for row in bars_and_stripes().tolist()}
    made = bars["PCD"].generate(seed=list(range(200)), steps=200)
    assert made.shape == (200, 16)
    share = sum(tuple(row) in known for row in made.round().tolist()) / 200
    assert share > 0.3  # 30 pictures of 65,536
    assert len({tuple(row) for row in made.round().tolist()} & known) > 10


@pytest.mark.slow
def test_annealed_likelihood_is_the_exact_one(bars: dict[str, RBM]) -> None:
    for task in bars.values():
        rbm = task.params()
        found = annealed_log_partition(rbm, task.net.base, steps=2000, chains=200)
        assert abs(found.log_z - log_partition(rbm)) < max(4 * found.error, 0.02)


def test_pseudo_likelihood_is_at_least_that_of_scikit_learn() -> None:
    from sklearn.neural_network import BernoulliRBM

    x, _ = digits()
    seen, unseen = x[:1400], x[1400:]
    epochs, size, rate = 15, 20, 0.05
    theirs = BernoulliRBM(64, learning_rate=rate, batch_size=size, n_iter=epochs, random_state=0).fit(seen.numpy())
    config = RBMConfig(hidden=64, chains=100)
    torch.manual_seed(0)
    task = RBM(config, VectorShape((64,)))
    start(task, seen)
    optimizer = torch.optim.SGD(task.net.parameters(), rate)
    for epoch in range(epochs):
        for part, rows in enumerate(seen.split(size)):
            step = Step(epoch * 70 + part, 70 * epochs)
            batch = {"x": rows, "position": torch.arange(len(rows)) + step.index * size, "weight": torch.ones(len(rows))}
            optimizer.zero_grad()
            task.loss("train", batch, step)[0].backward()
            optimizer.step()
            with torch.no_grad():
                task.after_step(step)
    ours = BernoulliRBM(64, random_state=0).fit(seen[:64].numpy())
    ours.components_, ours.intercept_hidden_, ours.intercept_visible_ = (
        value.detach().numpy() for value in (task.net.weight.T, task.net.hidden, task.net.visible)
    )
    scores = {name: np.mean([score(model, unseen.numpy(), seed) for seed in range(20)]) for name, model in (("ours", ours), ("theirs", theirs))}
    assert scores["ours"] >= scores["theirs"], scores


def score(model, x: np.ndarray, seed: int) -> float:
    """scikit-learn's own estimate of the pseudo-likelihood, with the same units turned over for every model."""
    model.random_state = seed
    return float(model.score_samples(x).mean())


def test_data_has_less_free_energy_than_noise() -> None:
    x, _ = digits()
    task = trained_rbm(RBMConfig(hidden=128, chains=50), x[:1400], steps=1500, learning_rate=0.1)
    data = task.free_energy(image=x[1400:])
    coins = torch.randint(0, 2, (400, 64), generator=torch.Generator().manual_seed(0)).float()
    for noise in (coins, shuffled(x[1400:])):
        strange = task.free_energy(image=noise)
        assert data.mean() < strange.mean()
        assert auroc(data, strange) > 0.9


def test_auroc_counts_pairs() -> None:
    low, high = torch.tensor([1.0, 2.0, 2.0, 5.0]), torch.tensor([2.0, 4.0, 3.0])
    pairs = (low[:, None] < high).double() + (low[:, None] == high).double() / 2
    assert auroc(low, high) == pytest.approx(pairs.mean().item())


def test_starts_at_the_means_of_the_data() -> None:
    source = open_source(DataConfig(train="digits"))
    torch.manual_seed(0)
    task = RBMConfig(hidden=4, chains=2000).build(source.spec, {})
    task.prepare(source)
    every = next(iter(source.batches("train", source.spec.num_samples, transform=task.transform(train=False))))
    mean = every["x"].mean(0)
    assert (torch.sigmoid(task.net.visible) - mean).abs().max() < 1e-3
    assert (task.net.chain_visible.mean(0) - mean).abs().max() < 0.06
    torch.testing.assert_close(task.net.chain_hidden, task.params().hidden_chance(task.net.chain_visible).detach())


def test_weights_of_placeholders_count_as_nothing() -> None:
    task, x = RBM(BINARY, VectorShape((16,))), bars_and_stripes()[:6]

    def gradient(rows: Tensor, weight: list[float]) -> Tensor:
        task.zero_grad()
        task.loss("train", {"x": rows, "position": torch.arange(len(rows)), "weight": torch.tensor(weight)}, Step(0, 1))[0].backward()
        return task.net.weight.grad.clone()

    torch.testing.assert_close(gradient(x[:3], [1.0] * 3), gradient(x, [2.0] * 3 + [0.0] * 3))


@pytest.mark.parametrize("config", [BINARY, replace(BINARY, chains=7)], ids=["CD", "PCD"])
def test_a_step_in_micro_batches_is_the_step(config: RBMConfig) -> None:
    x, ends = bars_and_stripes()[:24], []
    batch = {"x": x, "position": torch.arange(24), "weight": (torch.arange(24) % 5 > 0).float()}
    for parts in (1, 3):
        torch.manual_seed(0)
        task = RBM(config, VectorShape((16,)))
        start(task, x)
        strategy = strategy_of("single", torch.device("cpu"))
        strategy.setup(task, TrainConfig(optim=OptimConfig(name="sgd", learning_rate=0.5)))
        for index in range(3):
            chunks = [{name: value.chunk(parts)[part] for name, value in batch.items()} for part in range(parts)]
            strategy.run_phase(task.phases[0], chunks, Step(index, 3))
            strategy.after_step(Step(index, 3))
        ends.append(task.state_dict())
    for name, value in ends[0].items():
        torch.testing.assert_close(ends[1][name], value, atol=1e-6, rtol=1e-6)


def moved_chains(steps: int) -> dict[str, Tensor]:
    torch.manual_seed(0)
    task = RBM(replace(BINARY, chains=7, gibbs_steps=2), VectorShape((16,)))
    task.first_chains()
    with torch.no_grad():
        for index in range(steps):
            task.after_step(Step(index, steps, 3))
    return {name: value.clone() for name, value in task.net.named_buffers()}


def test_chains_are_the_same_on_any_number_of_ranks(tmp_path: Path) -> None:
    expected = moved_chains(5)
    assert len(expected["chain_visible"].unique(dim=0)) > 3
    run_ranks(3, save_chains, tmp_path)
    for rank in range(3):
        found = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert torch.equal(found["chain_visible"], expected["chain_visible"])
        torch.testing.assert_close(found["chain_hidden"], expected["chain_hidden"])


def save_chains(root: Path) -> None:
    from genlib import distributed

    torch.save(moved_chains(5), root / f"{distributed.rank()}.pt")


@pytest.mark.parametrize(("count", "world"), [(7, 1), (7, 2), (7, 3), (2, 5), (8, 4)])
def test_shares_are_all_chains_once(count: int, world: int) -> None:
    shares = [range(*share_of(count, rank, world)) for rank in range(world)]
    assert [slot for share in shares for slot in share] == list(range(count))
    assert max(map(len, shares)) == -(-count // world)


def test_a_sample_depends_on_its_seed_alone(bars: dict[str, RBM]) -> None:
    task = bars["CD-10"]
    together = task.generate(seed=[4, 9, 2**62], steps=300)
    for row, seed in enumerate((4, 9, 2**62)):
        torch.testing.assert_close(task.generate(seed=[seed], steps=300)[0], together[row])
    assert len(task.generate(seed=list(range(20)), steps=100).round().unique(dim=0)) > 5


def test_codes_and_back(bars: dict[str, RBM]) -> None:
    task, x = bars["CD-1"], bars_and_stripes()
    code = task.embed(image=x)
    assert code.shape == (30, 16)
    assert 0 <= code.min() < code.max() <= 1
    torch.testing.assert_close(task.decode(code=code), task.reconstruct(image=x))
    assert (task.reconstruct(image=x).round() == x).float().mean() > 0.9


def test_images_go_in_and_come_out() -> None:
    task = RBMConfig(hidden=5).build(DataSpec(channels=1, image_size=8), {})
    for made in (
        task.reconstruct(image=torch.rand(3, 1, 8, 8)),
        task.reconstruct(image=torch.rand(3, 1, 20, 20)),
        task.generate(seed=[0, 1, 2], steps=2),
    ):
        assert made.shape == (3, 1, 8, 8)
        assert 0 <= made.min() <= made.max() <= 1


@pytest.fixture(scope="module")
def rings() -> tuple[GaussianRBM, Tensor]:
    """An RBM of Gaussian units trained on eight modes, and held-out points."""
    source = open_source(DataConfig(train="rings2d"))
    torch.manual_seed(0)
    task = GaussianRBMConfig(hidden=32, noise=0.2, chains=200).build(source.spec, {})
    task.prepare(source)
    points = torch.cat([batch["x"] for batch in islice(batches(source, task, "train"), 8)])
    train(task, torch.optim.SGD(task.net.parameters(), 0.02, momentum=0.5), points, steps=1500)
    return task, next(batches(source, task, "validation"))["x"]


def batches(source, task: GaussianRBM, split: str):
    return source.batches(split, 1024, transform=task.transform(train=False))


def test_gaussian_units_learn_the_plane(rings: tuple[GaussianRBM, Tensor]) -> None:
    task, points = rings
    made = task.generate(seed=list(range(500)), steps=200)
    assert made.shape == (500, 2)
    radius = made.norm(dim=1)
    assert abs(radius.median().item() - 2) < 0.3
    assert auroc(task.free_energy(image=points), task.free_energy(image=4 * torch.rand(1000, 2) - 2)) > 0.9
    # the density of a normal distribution with the moments of the data
    normal = torch.distributions.MultivariateNormal(points.mean(0), points.T.cov())
    rbm = task.params(torch.float64)
    v = task.to_visible(points).double()
    density = -rbm.free_energy(v).mean().item() - annealed_log_partition(rbm, task.net.base.double(), steps=1000).log_z + task.log_density
    assert density > normal.log_prob(points).mean() + 0.3


def test_gaussian_noise_is_undone(rings: tuple[GaussianRBM, Tensor]) -> None:
    task, points = rings
    noisy = points + 0.5 * torch.randn(points.shape, generator=torch.Generator().manual_seed(0))
    restored = task.denoise(image=noisy, noise=0.5)
    assert (restored - points).square().mean() < 0.8 * (noisy - points).square().mean()


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    points = open_source(DataConfig(train="rings2d"))
    with pytest.raises(ValueError, match=r"chances in \[0, 1\].*rbm_gaussian"):
        RBMConfig(hidden=4).build(points.spec, {}).prepare(points)
    with pytest.raises(ValueError, match=r"--data\.image-size"):
        RBMConfig(hidden=4).build(DataSpec(channels=3), {})
    task = RBM(BINARY, VectorShape((16,)))
    for wrong, words in (
        (lambda: task.embed(image=torch.rand(2, 5)), "not what the model knows"),
        (lambda: task.decode(code=torch.rand(2, 5)), r"not \(B, 16\)"),
        (lambda: task.denoise(image=torch.rand(2, 16), noise=0.7), "between 0 and 0.5"),
        (lambda: task.generate(seed=[]), "give one seed"),
        (lambda: task.generate(seed=[-1]), "seed -1"),
    ):
        with pytest.raises(ValueError, match=words):
            wrong()
    with pytest.raises(ValueError, match=r"RBMConfig\.hidden"):
        RBMConfig(hidden=0)


def test_scores_and_pictures(tmp_path: Path) -> None:
    source = open_source(DataConfig(train="digits"))
    torch.manual_seed(0)
    task = RBMConfig(hidden=12).build(source.spec, {})
    task.prepare(source)
    scores = companions.assess(task.eval(), source, tmp_path)
    assert scores["validation/log_partition_error"] == 0  # 2**12 states are added up
    assert scores["validation/log_likelihood"] == pytest.approx(-scores["validation/loss"], abs=1.5)  # without weights units are independent
    assert abs(scores["validation/auroc_noise"] - 0.5) < 0.1
    for name in ("filters", "denoised", "samples"):
        with Image.open(tmp_path / f"{name}.png") as picture:
            assert picture.width > 500


@pytest.mark.parametrize(("chains", "gibbs_steps"), [(0, 1), (0, 3), (500, 1)])
def test_operations_of_a_step_are_those_counted_by_hand(chains: int, gibbs_steps: int) -> None:
    """Products of V x H a row: one up from the data, two a Gibbs step, and one for the rule a row of data and of model. Chains move after it."""
    visible, hidden, rows = 64, 32, 100
    config = RBMConfig(hidden=hidden, chains=chains, gibbs_steps=gibbs_steps)
    counted = flops_per_sample(FakeTask(lambda: RBM(config, VectorShape((visible,)))), rows, "fp32")
    rule = 1 + (chains or rows) / rows
    products = 1 + (0 if chains else 2 * gibbs_steps) + rule
    assert counted == 2 * visible * hidden * products + 2 * visible * rule
