"""Small encoders and decoders: mirrored sizes, images of any side, weights that are shared."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from genlib.nn.coders import CODERS, TransposedLinear, convolutional_coder, dense_coder, tied_coder


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_a_dense_decoder_mirrors_its_encoder() -> None:
    net = dense_coder((1, 8, 8), (40, 20), 3)
    sizes = [[(layer.in_features, layer.out_features) for layer in part if isinstance(layer, nn.Linear)] for part in (net.encoder, net.decoder)]
    assert sizes[0] == [(64, 40), (40, 20), (20, 3)]
    assert sizes[1] == [(b, a) for a, b in reversed(sizes[0])]
    assert dense_coder((64,), (40,), 100).encoder(torch.rand(2, 64)).shape == (2, 100)


@pytest.mark.parametrize("kind", CODERS)
@pytest.mark.parametrize("sides", [(1, 8, 8), (3, 16, 16), (1, 28, 28), (3, 32, 32), (1, 15, 15), (2, 9, 13)])
def test_what_comes_out_has_the_shape_of_what_went_in(kind: str, sides: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    net, x = CODERS[kind](sides, (6, 5), 4), torch.rand(3, sides[0] * sides[1] * sides[2])
    code = net.encoder(x)
    assert code.shape == (3, 4)
    assert net.decoder(code).shape == x.shape
    assert torch.equal(net.decoder(code), net(x))


@pytest.mark.parametrize("kind", ["dense", "convolutional"])
def test_an_encoder_may_give_more_numbers_than_a_code_has(kind: str) -> None:
    net = CODERS[kind]((1, 8, 8), (6, 5), 4, 8)
    assert net.encoder(torch.rand(3, 64)).shape == (3, 8)
    assert net.decoder(torch.rand(3, 4)).shape == (3, 64)


def test_every_pixel_is_seen_and_drawn_at_sides_that_do_not_halve() -> None:
    torch.manual_seed(0)
    net, x = convolutional_coder((1, 15, 15), (6, 5), 20), torch.rand(4, 225, requires_grad=True)
    out = net.decoder(torch.randn(4, 20))
    assert (out.std(0) > 0).all()
    net.encoder(x).square().sum().backward()
    assert x.grad is not None
    assert (x.grad.abs().sum(0)[:196] > 0).float().mean() > 0.9


def test_a_tied_decoder_is_the_encoders_transpose_with_half_the_weights() -> None:
    net, untied = tied_coder((64,), (40, 20), 3), dense_coder((64,), (40, 20), 3)
    biases = 40 + 20 + 3
    assert count(net) - biases - (20 + 40 + 64) == (count(untied) - biases - (20 + 40 + 64)) / 2
    layers = [layer for layer in net.decoder if isinstance(layer, TransposedLinear)]
    owners = [layer for layer in net.encoder if isinstance(layer, nn.Linear)]
    for mirrored, owner in zip(layers, reversed(owners), strict=True):
        assert mirrored.weight.data_ptr() == owner.weight.data_ptr()
        assert torch.equal(mirrored.weight, owner.weight.T)
    assert len(net.state_dict()) == 3 + 6


def test_tied_weights_learn_from_both_uses_and_a_copy_ties_its_own() -> None:
    torch.manual_seed(0)
    net = tied_coder((6,), (), 2)
    x = torch.rand(5, 6)
    net(x).square().sum().backward()
    weight, (encoder, decoder) = net.encoder[0].weight, (net.encoder[0], net.decoder[0])
    apart = [w.detach().clone().requires_grad_() for w in (weight, weight)]
    (nn.functional.linear(nn.functional.linear(x, apart[0], encoder.bias), apart[1].T, decoder.bias)).square().sum().backward()
    torch.testing.assert_close(weight.grad, apart[0].grad + apart[1].grad)
    other = copy.deepcopy(net)
    assert other.decoder[0].weight.data_ptr() == other.encoder[0].weight.data_ptr() != weight.data_ptr()


def test_images_too_small_to_halve_so_often_are_refused() -> None:
    with pytest.raises(ValueError, match=r"images of 8 px cannot be halved 4 times; give fewer task.widths, or a larger --data.image-size"):
        convolutional_coder((1, 8, 8), (4, 4, 4, 4), 2)
