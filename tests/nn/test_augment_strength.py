"""The strength of augmentation follows the discriminator's signs, on any number of ranks and over a restart."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from genlib.distributed import rank, world_size
from genlib.nn.augment_strength import AugmentStrength
from tests.processes import run_ranks

EVERY = torch.ones(10, dtype=torch.bool)


def logits(above: int) -> Tensor:
    """Ten, of which so many are above 0."""
    return torch.where(torch.arange(10) < above, 2.0, -3.0)[:, None]


def run(strength: AugmentStrength, above: list[int], start: int = 0) -> list[float]:
    found = []
    for index, share in enumerate(above, start):
        strength.observe(logits(share), EVERY)
        strength.settle(index)
        found.append(strength.strength.item())
    return found


def test_it_rises_where_more_than_the_target_is_above_and_falls_else() -> None:
    strength = AugmentStrength(speed_samples=400)
    assert run(strength, [10] * 8) == [0, 0, 0, pytest.approx(0.1), *[pytest.approx(0.1)] * 3, pytest.approx(0.2)]
    assert run(strength, [7] * 4)[-1] == pytest.approx(0.1), "7 of 10 above is a mean sign of 0.4"
    assert run(strength, [9] * 4)[-1] == pytest.approx(0.2), "0.8"
    assert run(strength, [8] * 4)[-1] == pytest.approx(0.2), "0.6 is the target"


def test_it_stays_a_probability() -> None:
    strength = AugmentStrength(speed_samples=30, every_steps=1)
    assert run(strength, [0] * 3) == [0] * 3
    assert run(strength, [10] * 5) == [pytest.approx(1 / 3), pytest.approx(2 / 3), 1, 1, 1]


def test_the_published_speed_is_500_thousand_samples() -> None:
    strength = AugmentStrength(every_steps=1)
    strength.observe(torch.ones(5000, 1), torch.ones(5000, dtype=torch.bool))
    strength.settle(0)
    assert strength.strength.item() == pytest.approx(0.01)


def test_rows_that_do_not_count_and_logits_that_are_not_finite_are_left_out() -> None:
    strength = AugmentStrength(speed_samples=100, every_steps=1)
    strength.observe(torch.tensor([[1.0], [torch.nan], [1.0], [-1.0], [torch.inf]]), torch.tensor([True, True, True, False, True]))
    assert strength.seen.total.tolist() == [2, 2]
    strength.settle(0)
    assert strength.strength.item() == pytest.approx(0.02)


def test_micro_batches_are_one_batch_and_patches_one_sample() -> None:
    strength = AugmentStrength()
    strength.observe(logits(10), EVERY)
    strength.observe(torch.cat([logits(10), logits(0), logits(0), logits(10)], 1).view(10, 1, 2, 2), EVERY)
    assert strength.seen.total.tolist() == [10, 20]


def test_nothing_seen_moves_nothing() -> None:
    strength = AugmentStrength(start=0.3)
    for index in range(8):
        strength.settle(index)
    assert strength.strength.item() == pytest.approx(0.3)


def test_a_restart_at_any_step_goes_on_as_if_there_were_none() -> None:
    shares = [10, 9, 10, 4, 10, 10, 10, 10, 3, 10]
    whole = run(AugmentStrength(speed_samples=400), shares)
    for stop in range(1, 10):
        first, second = AugmentStrength(speed_samples=400), AugmentStrength(speed_samples=400)
        before = run(first, shares[:stop])
        second.load_state_dict(first.state_dict())
        assert before + run(second, shares[stop:], stop) == whole


def on_ranks(folder: Path) -> None:
    strength = AugmentStrength(speed_samples=400)
    for index in range(6):
        share = slice(rank() * 10 // world_size(), (rank() + 1) * 10 // world_size())
        strength.observe(logits(9)[share], EVERY[share])
        strength.settle(index)
    save_file(strength.state_dict(), folder / f"{rank()}.safetensors")


def test_two_processes_are_one(tmp_path: Path) -> None:
    run_ranks(2, on_ranks, tmp_path)
    one = AugmentStrength(speed_samples=400)
    run(one, [9] * 6)
    for number in range(2):
        found = load_file(tmp_path / f"{number}.safetensors")
        assert found.keys() == {"strength", "signs"}
        for name, value in one.state_dict().items():
            torch.testing.assert_close(found[name], value)
