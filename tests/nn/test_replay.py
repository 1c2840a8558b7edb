"""The replay buffer: what it keeps, in which order it forgets, and how much of it comes back."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from genlib.distributed import rank, world_size
from genlib.nn.replay import Replay
from tests.processes import run_ranks

POSITION = torch.arange(20_000)


def rows(low: int, high: int) -> tuple[list[Tensor], Tensor, Tensor]:
    """Values that are their positions, the positions, and that all count."""
    position = torch.arange(low, high)
    return [position.float()[:, None], 10 * position.float()[:, None, None]], position, torch.ones(high - low, dtype=torch.bool)


def filled(capacity: int, *ends: int) -> Replay:
    """A buffer after steps that put in rows up to each of these ends."""
    replay, low = Replay(capacity, [(1,), (1, 1)]), 0
    for high in ends:
        replay.put(*rows(low, high))
        replay.step()
        low = high
    return replay


def kept(replay: Replay) -> list[int]:
    return sorted(replay.get_buffer("kept_0")[:, 0].int().tolist())


def test_the_oldest_rows_go_first() -> None:
    assert kept(filled(6, 3, 6)) == [0, 1, 2, 3, 4, 5]
    assert kept(filled(6, 4, 8)) == [2, 3, 4, 5, 6, 7]
    assert kept(filled(6, 4, 20, 21)) == [15, 16, 17, 18, 19, 20], "a step of more rows than it holds leaves the last ones"
    assert filled(6, 4, 20, 21).count == 21


def test_a_share_of_the_rows_are_kept_ones_each_as_likely() -> None:
    fresh = [torch.full((20_000, 1), -1.0), torch.full((20_000, 1, 1), -1.0)]
    replay = filled(4, 3, 6)
    first, second = replay.mixed(fresh, POSITION, share=0.3, seed=0)
    old = first[:, 0] >= 0
    assert old.float().mean().item() == pytest.approx(0.3, abs=0.01)
    assert torch.equal(second[old][:, 0], 10 * first[old]), "what belongs together comes together"
    found, counts = first[old].int().unique(return_counts=True)
    assert found.tolist() == [2, 3, 4, 5]
    assert counts.float().div(old.sum()).tolist() == pytest.approx([0.25] * 4, abs=0.02)
    half = filled(4, 2).mixed(fresh, POSITION, share=0.3, seed=0)[0]
    assert half[half >= 0].unique().tolist() == [0, 1], "places that were never filled are not drawn"
    again = replay.mixed([one[50:60] for one in fresh], POSITION[50:60], share=0.3, seed=0)[0]
    assert torch.equal(again, first[50:60]), "a row is a function of its position"


def test_while_nothing_is_kept_all_rows_are_new() -> None:
    replay = Replay(4, [(1,), (1, 1)])
    fresh, position, valid = rows(0, 50)
    replay.put(fresh, position, valid)
    assert torch.equal(replay.mixed(fresh, position, share=0.9, seed=0)[0], fresh[0]), "what is put in comes back from the next step on"


def test_placeholders_and_what_is_not_finite_are_not_kept() -> None:
    replay, (fresh, position, valid) = Replay(4, [(1,), (1, 1)]), rows(0, 4)
    fresh[0][1], valid[2] = torch.nan, False
    replay.put(fresh, position, valid)
    replay.step()
    assert replay.count == 2
    assert kept(replay) == [0, 0, 0, 3]


def test_it_lives_in_the_state_dict() -> None:
    replay, other = filled(6, 4, 9), Replay(6, [(1,), (1, 1)])
    other.load_state_dict(replay.state_dict())
    for one in (replay, other):
        one.put(*rows(9, 12))
        one.step()
    assert kept(other) == kept(replay) == [6, 7, 8, 9, 10, 11]
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in replay.state_dict().items())


def shared(folder: Path) -> None:
    """Three steps of six rows in two micro-batches, each shared over the ranks."""
    replay = Replay(8, [(1,), (1, 1)])
    for low in range(0, 18, 6):
        for micro in (low, low + 3):
            count = -(-3 // world_size())
            fresh, position, valid = rows(micro + rank() * count, micro + (rank() + 1) * count)
            replay.put(fresh, position, valid & (position < micro + 3))
        replay.step()
    save_file(replay.state_dict(), folder / f"{world_size()}-{rank()}.safetensors")


def test_any_number_of_workers_keeps_the_same(tmp_path: Path) -> None:
    shared(tmp_path)
    run_ranks(2, shared, tmp_path)
    alone, *others = (load_file(tmp_path / f"{name}.safetensors") for name in ("1-0", "2-0", "2-1"))
    assert alone["kept_0"][:, 0].int().sort().values.tolist() == list(range(10, 18))
    assert all(torch.equal(other[name], value) for other in others for name, value in alone.items())
