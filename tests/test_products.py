"""Products by oneDNN are PyTorch's own, with their gradients; where PyTorch's are as fast, these are them."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from genlib import products

SHAPES = [(128, 784, 512), (100, 64, 784), (3, 5, 2)]


@pytest.fixture(params=[True, False], ids=["onednn", "own"])
def slow_mkl(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if on a processor where MKL is slow, and as if not."""
    monkeypatch.setattr(products, "_mkl_is_slow", lambda: request.param and torch.backends.mkldnn.is_available())


def draw(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


@pytest.mark.usefixtures("slow_mkl")
@pytest.mark.parametrize(("rows", "inputs", "outputs"), SHAPES)
def test_linear_and_its_gradients(rows: int, inputs: int, outputs: int) -> None:
    leaves = [draw(rows, inputs), draw(outputs, inputs), draw(outputs)]
    found = []
    for linear, dtype in ((products.linear, torch.float32), (F.linear, torch.float64)):
        x, weight, bias = (leaf.to(dtype).requires_grad_() for leaf in leaves)
        y = linear(x, weight, bias)
        first = torch.autograd.grad(y.square().sum(), (x, weight, bias), create_graph=True)
        second = torch.autograd.grad(first[0].square().sum(), (x, weight, bias))
        found.append([y, *first, *second])
    for ours, exact in zip(*found, strict=True):
        assert (ours - exact).abs().max() <= 3e-6 * exact.abs().max()


@pytest.mark.usefixtures("slow_mkl")
@pytest.mark.parametrize("turned", [False, True])
def test_product_of_turned_matrices(turned: bool) -> None:
    a, b = (draw(100, 512).T, draw(784, 100).T) if turned else (draw(512, 100), draw(100, 784))
    exact = a.double() @ b.double()
    for found in (products.product(a, b), products.product(b.T, a.T).T, products.product(a.requires_grad_(), b)):
        assert (found - exact).abs().max() < 1e-5 * exact.abs().max()


@pytest.mark.usefixtures("slow_mkl")
def test_rounds_under_autocast_and_takes_any_shape_and_type() -> None:
    x, weight = draw(128, 784), draw(512, 784)
    with torch.autocast("cpu", torch.bfloat16):
        assert products.linear(x, weight).dtype == torch.bfloat16
    assert products.linear(x.double(), weight.double()).dtype == torch.float64
    assert products.linear(x.view(2, 64, 784), weight).shape == (2, 64, 512)
