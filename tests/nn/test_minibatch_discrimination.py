"""Minibatch discrimination against its formula, on one worker and on two."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from genlib.distributed import mean_over_ranks, rank, world_size
from genlib.nn.minibatch_discrimination import MinibatchDiscrimination
from tests.processes import run_ranks


def layer() -> MinibatchDiscrimination:
    torch.manual_seed(0)
    return MinibatchDiscrimination(5, kernels=3, dims=4)


def test_closeness_is_the_sum_over_the_others() -> None:
    one, x = layer(), torch.randn(6, 5)
    vectors = one.vectors(x).detach().view(6, 3, 4)
    expected = [[sum((-(vectors[i, k] - vectors[j, k]).abs().sum()).exp() for j in range(6) if j != i) for k in range(3)] for i in range(6)]
    found = one(x)
    assert torch.equal(found[:, :5], x)
    torch.testing.assert_close(found[:, 5:], torch.tensor(expected))


def test_a_collapsed_batch_is_as_close_as_can_be_and_a_scattered_one_is_not_close() -> None:
    one = layer()
    torch.testing.assert_close(one.closeness(torch.ones(6, 5)), torch.full((6, 3), 5.0))
    assert one.closeness(100 * torch.randn(6, 5)).max() < 1e-3


def test_placeholders_are_near_to_none() -> None:
    one, x = layer(), torch.randn(6, 5)
    valid = torch.tensor([True, True, False, True, True, False])
    torch.testing.assert_close(one.closeness(x, valid)[valid], one.closeness(x[valid]))


def test_beside_maps_it_is_the_same_at_every_place() -> None:
    one, x = MinibatchDiscrimination(2 * 3 * 3, kernels=4), torch.randn(5, 2, 3, 3)
    found = one(x)
    assert found.shape == (5, 6, 3, 3)
    torch.testing.assert_close(found[:, 2:], one.closeness(x)[:, :, None, None].expand(5, 4, 3, 3))


def compared(folder: Path) -> None:
    """Of eight samples shared over the ranks: closeness, and the gradient of its mean with respect to the layer's weights."""
    one, x = layer(), torch.randn(8, 5, generator=torch.Generator().manual_seed(1))
    count = 8 // world_size()
    mine = x[rank() * count : (rank() + 1) * count]
    weight = torch.arange(8.0)[rank() * count : (rank() + 1) * count, None]
    found = one.closeness(mine)
    (weight * found).mean().backward()
    assert one.vectors.weight.grad is not None
    save_file({"closeness": found.detach(), "gradient": mean_over_ranks(one.vectors.weight.grad)}, folder / f"{world_size()}-{rank()}.safetensors")


def test_samples_are_compared_over_all_ranks(tmp_path: Path) -> None:
    compared(tmp_path)
    run_ranks(2, compared, tmp_path)
    alone, first, second = (load_file(tmp_path / f"{name}.safetensors") for name in ("1-0", "2-0", "2-1"))
    torch.testing.assert_close(torch.cat([first["closeness"], second["closeness"]]), alone["closeness"])
    torch.testing.assert_close(first["gradient"], alone["gradient"])
