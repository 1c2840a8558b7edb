"""Batch normalisation against PyTorch's own, over rows that count, and over two processes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from genlib.distributed import rank, world_size
from genlib.nn.batch_norm import BatchNorm
from tests.processes import run_ranks

SHAPES = ((6, 5), (6, 5, 3, 4), (6, 5, 7))


def pair(features: int = 5) -> tuple[BatchNorm, nn.BatchNorm1d]:
    """Ours and PyTorch's with the same lively weights; PyTorch's takes any shape as (N, C, L)."""
    torch.manual_seed(0)
    ours, theirs = BatchNorm(features), nn.BatchNorm1d(features)
    for mine, other in ((ours.weight, theirs.weight), (ours.bias, theirs.bias)):
        with torch.no_grad():
            other.copy_(mine.copy_(torch.randn(features)))
    return ours, theirs


@pytest.mark.parametrize("shape", SHAPES)
def test_value_gradients_and_running_statistics_are_pytorchs(shape: tuple[int, ...]) -> None:
    ours, theirs = pair()
    x, slope = 3 * torch.randn(shape) + 2, torch.randn(shape)
    mine, other = x.clone().requires_grad_(), x.clone().requires_grad_()
    y, expected = ours(mine, torch.ones(6, dtype=torch.bool)), theirs(other.reshape(6, 5, -1)).view(shape)
    torch.testing.assert_close(y, expected)
    y.backward(slope)
    expected.backward(slope)
    for found, wanted in ((mine, other), (ours.weight, theirs.weight), (ours.bias, theirs.bias)):
        assert found.grad is not None
        torch.testing.assert_close(found.grad, wanted.grad)
    torch.testing.assert_close(ours.running_mean, theirs.running_mean)
    torch.testing.assert_close(ours.running_var, theirs.running_var)
    torch.testing.assert_close(ours.eval()(x), theirs.eval()(x.reshape(6, 5, -1)).view(shape))


def test_gradient_by_differences() -> None:
    layer, valid = pair(3)[0].double(), torch.tensor([True, True, False, True])
    x = torch.randn(4, 3, 2, dtype=torch.float64)

    def value(values: Tensor) -> Tensor:
        return (layer(values, valid)[valid].sin() * torch.arange(1, 3)).sum()

    leaf = x.clone().requires_grad_()
    value(leaf).backward()
    assert leaf.grad is not None
    for index in ((0, 1, 0), (1, 2, 1), (3, 0, 1)):
        step = torch.zeros_like(x)
        step[index] = 1e-2
        slope = (value(x + step) - value(x - step)) / 2e-2  # the layer computes in float32
        assert leaf.grad[index].item() == pytest.approx(slope.item(), abs=2e-3)


def test_rows_that_do_not_count_change_nothing_for_those_that_do() -> None:
    torch.manual_seed(1)
    x, slope = torch.randn(4, 5, 3, 3), torch.randn(4, 5, 3, 3)
    padded, steeper = torch.cat([x, 100 * torch.randn(2, 5, 3, 3)]), torch.cat([slope, torch.zeros(2, 5, 3, 3)])
    found = []
    for values, valid, gradient in ((x, torch.ones(4, dtype=torch.bool), slope), (padded, torch.arange(6) < 4, steeper)):
        layer, leaf = pair()[0], values.clone().requires_grad_()
        y = layer(leaf, valid)
        y.backward(gradient)
        assert leaf.grad is not None
        found.append((y[:4].detach(), leaf.grad[:4], layer.weight.grad, layer.running_mean, layer.running_var))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b)


def test_a_frozen_layer_and_one_in_eval_mode_keep_their_running_statistics() -> None:
    layer, x = BatchNorm(5), torch.randn(6, 5) + 3
    layer.requires_grad_(False)(x, torch.ones(6, dtype=torch.bool))
    layer.requires_grad_(True).eval()(x, torch.ones(6, dtype=torch.bool))
    assert torch.equal(layer.running_mean, torch.zeros(5))
    layer.train()(x, torch.ones(6, dtype=torch.bool))
    torch.testing.assert_close(layer.running_mean, 0.1 * x.mean(0))


def test_a_batch_that_is_not_finite_leaves_the_running_statistics() -> None:
    layer, x = BatchNorm(2), torch.randn(6, 2) + 3
    x[0, 0] = torch.inf
    layer(x, torch.ones(6, dtype=torch.bool))
    assert layer.running_mean[0] == 0
    assert layer.running_mean[1] != 0


def test_with_running_statistics_a_row_depends_on_itself_alone() -> None:
    layer, x = pair()[0], torch.randn(6, 5, 2, 2)
    layer(x, torch.ones(6, dtype=torch.bool))
    torch.testing.assert_close(layer.eval()(x)[2:3], layer(x[2:3]))


def test_half_precision_is_normalised_in_float32() -> None:
    layer = BatchNorm(3)
    y = layer((torch.randn(64, 3) + 200).bfloat16(), torch.ones(64, dtype=torch.bool))
    assert y.dtype == torch.bfloat16
    assert y.float().mean(0).abs().max() < 0.01


def batch(rows: int = 7) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    x, slope = torch.randn(rows, 5, 3, 2, generator=generator) * 2 + 5, torch.randn(rows, 5, 3, 2, generator=generator)
    return x, slope, torch.ones(rows, dtype=torch.bool)


def on_ranks(folder: Path) -> None:
    """Seven rows over the ranks, four a rank at most; the last one of the last rank is a placeholder."""
    x, slope, valid = batch()
    share = -(-len(x) // world_size())
    padding = share * world_size() - len(x)
    x, slope = torch.cat([x, 99 * torch.ones(padding, 5, 3, 2)]), torch.cat([slope, torch.zeros(padding, 5, 3, 2)])
    valid = torch.cat([valid, torch.zeros(padding, dtype=torch.bool)])
    mine = slice(rank() * share, (rank() + 1) * share)
    layer, leaf = pair()[0], x[mine].clone().requires_grad_()
    y = layer(leaf, valid[mine])
    y.backward(slope[mine])
    assert leaf.grad is not None
    assert layer.weight.grad is not None
    kept = {"y": y.detach(), "grad": leaf.grad, "weight_grad": layer.weight.grad, "mean": layer.running_mean, "var": layer.running_var}
    save_file({name: value.contiguous() for name, value in kept.items()}, folder / f"{rank()}.safetensors")


def test_two_processes_normalise_as_one(tmp_path: Path) -> None:
    run_ranks(2, on_ranks, tmp_path)
    ranks = [load_file(tmp_path / f"{number}.safetensors") for number in range(2)]
    x, slope, valid = batch()
    layer, leaf = pair()[0], x.clone().requires_grad_()
    y = layer(leaf, valid)
    y.backward(slope)
    assert leaf.grad is not None
    torch.testing.assert_close(torch.cat([one["y"] for one in ranks])[:7], y.detach())
    torch.testing.assert_close(torch.cat([one["grad"] for one in ranks])[:7], leaf.grad)
    torch.testing.assert_close(ranks[0]["weight_grad"] + ranks[1]["weight_grad"], layer.weight.grad)
    for name, value in (("mean", layer.running_mean), ("var", layer.running_var)):
        assert torch.equal(ranks[0][name], ranks[1][name])
        torch.testing.assert_close(ranks[0][name], value)
