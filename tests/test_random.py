"""Noise is a function of (seed, stream, position): no rank, batch or order can change it."""

import pytest
import torch

from genlib import random

POSITIONS = torch.arange(20_000)


def test_a_row_depends_on_its_position_alone() -> None:
    whole = random.normal(POSITIONS, (3, 2), seed=1, stream="z")
    shuffled = torch.randperm(len(POSITIONS), generator=torch.Generator().manual_seed(0))
    assert torch.equal(random.normal(POSITIONS[shuffled], (3, 2), seed=1, stream="z"), whole[shuffled])


def test_seeds_streams_and_positions_differ() -> None:
    draws = [random.uniform(POSITIONS, (4,), seed=s, stream=t).flatten() for s, t in ((0, "a"), (1, "a"), (0, "b"))]
    draws.append(draws[0].roll(4))
    for i, a in enumerate(draws):
        for b in draws[i + 1 :]:
            assert abs(torch.corrcoef(torch.stack([a, b]))[0, 1]) < 0.02


def test_moments() -> None:
    u, z = random.uniform(POSITIONS, (8,), seed=2, stream="u"), random.normal(POSITIONS, (8,), seed=2, stream="z")
    assert abs(u.mean() - 0.5) < 0.005
    assert abs(u.var() - 1 / 12) < 0.002
    assert abs(z.mean()) < 0.01
    assert abs(z.var() - 1) < 0.02
    assert abs(z.pow(4).mean() - 3) < 0.1
    assert u.min() >= 0
    assert u.max() < 1


def test_integers_are_uniform() -> None:
    counts = random.randint(POSITIONS, 7, seed=0, stream="k").bincount(minlength=7)
    assert len(counts) == 7
    assert (counts / len(POSITIONS) - 1 / 7).abs().max() < 0.01


def test_values_are_frozen() -> None:
    """A checkpoint's run goes on with the same noise only while these bits stand."""
    assert random.bits(torch.tensor([0, 1, 10**12]), (2,), seed=5, stream="frozen").tolist() == GOLDEN


GOLDEN = [[-7153419264659140668, 6645571466159926562], [3186102321423209216, 4485792163438238432], [8190195513383096608, -3473147983924832982]]


def test_nothing_can_be_drawn() -> None:
    assert random.normal(POSITIONS[:3], (0,), seed=0, stream="a").shape == (3, 0)
    assert random.uniform(POSITIONS[:0], (2,), seed=0, stream="a").shape == (0, 2)


def test_draws_compile() -> None:
    """As one graph of a run's seed; another one in the same process is another graph, or none."""
    compiled = [torch.compile(one, backend="eager", fullgraph=full) for full, one in ((True, draw), (False, draw))]
    assert torch.equal(compiled[0](POSITIONS[:5], 3), draw(POSITIONS[:5], 3))
    for seed in (3, 4, 5):
        assert torch.equal(compiled[1](POSITIONS[:5], seed), draw(POSITIONS[:5], seed))


def draw(position: torch.Tensor, seed: int) -> torch.Tensor:
    return random.normal(position, (2,), seed=seed, stream="a")


def test_noise_of_a_seed_is_diffusers_and_does_not_depend_on_the_others() -> None:
    from diffusers.utils.torch_utils import randn_tensor

    generators = [torch.Generator().manual_seed(seed) for seed in (7, 2**40)]
    ours = random.SeededNoise([7, 2**40], (3, 8, 8))
    for _ in range(2):
        assert torch.equal(ours(), randn_tensor((2, 3, 8, 8), generator=generators))
    assert torch.equal(random.seeded_normal([2**40], (3, 8, 8))[0], random.seeded_normal([7, 2**40], (3, 8, 8))[1])


def test_refuses_seeds_that_are_none() -> None:
    with pytest.raises(ValueError, match="seed -1 is not between"):
        random.SeededNoise([1, -1], (1,))
    with pytest.raises(ValueError, match="there is no seed"):
        random.SeededNoise([], (1,))
