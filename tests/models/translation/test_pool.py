"""The image pool: as the paper's code walks through it, whoever makes the pictures, and as it was after a pause."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from genlib import distributed, random
from genlib.models.translation.base.pool import ImagePool
from tests.processes import run_ranks

SIZE, ROWS, STEPS = 5, 6, 8
SHAPE = (1, 2, 2)


def made(step: int) -> tuple[Tensor, Tensor, Tensor]:
    """Pictures that say when they were made, their positions, and which count."""
    position = torch.arange(step * ROWS, (step + 1) * ROWS)
    valid = position % 7 != 3
    return position.float().view(-1, 1, 1, 1).expand(-1, *SHAPE).contiguous(), position, valid


def walked(seed: int = 0) -> list[list[float]]:
    """What is seen at each step, by the rule in words: one picture after the other."""
    pool: list[float] = []
    seen = []
    for step in range(STEPS):
        _, position, valid = made(step)
        swaps = random.uniform(position, seed=seed, stream="swaps in the pool of B") < 0.5
        places = random.randint(position, SIZE, seed=seed, stream="places in the pool of B").tolist()
        row = []
        for one, counts, swap, place in zip(position.tolist(), valid.tolist(), swaps.tolist(), places, strict=True):
            if not counts:
                row.append(float(one))
            elif len(pool) < SIZE:
                pool.append(float(one))
                row.append(float(one))
            elif swap:
                row.append(pool[place])
                pool[place] = float(one)
            else:
                row.append(float(one))
        seen.append(row)
    return seen


def run(pool: ImagePool, steps: range, micro: int = 1) -> list[list[float]]:
    found = []
    for step in steps:
        parts = zip(*(tensor.chunk(micro) for tensor in made(step)), strict=True)
        found.append(torch.cat([pool.exchanged(*part, seed=0, stream="B") for part in parts])[:, 0, 0, 0].tolist())
    return found


def test_it_gives_and_keeps_what_the_rule_says() -> None:
    seen = run(ImagePool(SIZE, SHAPE), range(STEPS))
    assert seen == walked()
    assert any(one < step * ROWS for step, row in enumerate(seen) for one in row), "some are of earlier steps"


def test_micro_batches_see_what_the_whole_batch_does() -> None:
    assert run(ImagePool(SIZE, SHAPE), range(STEPS), micro=3) == walked()


def test_it_goes_on_from_its_state() -> None:
    before, after = ImagePool(SIZE, SHAPE), ImagePool(SIZE, SHAPE)
    run(before, range(3))
    after.load_state_dict(before.state_dict())
    assert run(after, range(3, STEPS)) == walked()[3:]


def test_what_is_not_finite_is_not_kept() -> None:
    pool = ImagePool(SIZE, SHAPE)
    pictures, position, _ = made(0)
    pictures[2] = torch.nan
    pool.exchanged(pictures, position, torch.ones(ROWS, dtype=torch.bool), seed=0, stream="B")
    assert pool.pictures.isfinite().all()
    assert pool.kept.item() == SIZE


def test_without_room_it_is_not_there() -> None:
    pictures, position, valid = made(0)
    assert ImagePool(0, SHAPE).exchanged(pictures, position, valid, seed=0, stream="B") is pictures


def share(folder: Path) -> None:
    """One rank's rows of each step, taken crosswise."""
    rank, pool = distributed.rank(), ImagePool(SIZE, SHAPE)
    seen = [pool.exchanged(*(tensor[rank::2] for tensor in made(step)), seed=0, stream="B")[:, 0, 0, 0] for step in range(STEPS)]
    torch.save((torch.stack(seen), pool.state_dict()), folder / f"{rank}.pt")


def test_ranks_have_one_pool(tmp_path: Path) -> None:
    run_ranks(2, share, tmp_path)
    (even, one), (odd, other) = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    assert torch.stack([even, odd], 2).flatten(1).tolist() == walked()
    assert all(torch.equal(one[name], other[name]) for name in one)
