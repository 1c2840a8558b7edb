"""Facts of the residual tower: open_clip's own network with the exported weights gives the same embeddings."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from genlib.nn.open_clip_residual import open_clip_weights
from genlib.nn.residual_tower import ResidualTower, StandardisedConv
from tests.open_clip_stub import open_clip


def lively_tower(**changes) -> ResidualTower:
    """A small tower with every parameter away from its starting value, so that a forgotten one is seen."""
    torch.manual_seed(0)
    tower = ResidualTower(**({"embed_dim": 24, "in_channels": 3, "image_size": 64, "width": 8, "layers": (1, 2, 1, 2), "heads": 2} | changes)).eval()
    with torch.no_grad():
        for parameter in tower.parameters():
            parameter.add_(0.2 * parameter.std().nan_to_num(0).clamp(min=0.3) * torch.randn_like(parameter))
    return tower


def images(count: int, channels: int = 3, size: int = 64) -> Tensor:
    """Coarse random patches: unlike noise, they differ after a tower's averaging."""
    patches = torch.randn(count, channels, 4, 4, generator=torch.Generator().manual_seed(1))
    return F.interpolate(2 * patches, size)


@pytest.mark.parametrize(
    "changes",
    [{}, {"in_channels": 1}, {"image_size": 96, "layers": (2, 1, 1, 1)}, {"image_size": 32, "width": 12, "heads": 4}],
    ids=["colour", "grey", "large", "one place"],
)
def test_open_clip_computes_the_same_embeddings(changes):
    tower = lively_tower(**changes)
    state, vision_cfg = open_clip_weights(tower)
    built = open_clip().model._build_vision_tower(24, vision_cfg)
    assert type(built).__name__ == "ModifiedResNet"
    built.load_state_dict(state, strict=True)
    x = images(5, tower.in_channels, tower.image_size)
    with torch.no_grad():
        ours, theirs = F.normalize(tower(x), dim=-1), F.normalize(built.eval()(x.expand(-1, 3, -1, -1)), dim=-1)
    assert ours.std(0).mean() > 0.01, "the embeddings must differ between images for the comparison to mean anything"
    assert (ours - theirs).abs().max() < 1e-5


def test_the_export_is_made_of_numbers_of_its_own():
    """Nothing in the exported weights shares memory with the tower or with another entry, which safetensors refuses."""
    tower = lively_tower()
    state, _ = open_clip_weights(tower)
    places = [tensor.untyped_storage().data_ptr() for tensor in [*state.values(), *tower.parameters()]]
    assert len(set(places)) == len(places)
    assert all(tensor.is_contiguous() for tensor in state.values())


def test_a_picture_is_embedded_alike_in_any_batch():
    tower, x = lively_tower().train(), images(6)
    assert torch.allclose(tower(x)[2:3], tower(x[2:3]), atol=1e-5)


def test_every_weight_learns_and_none_is_a_scalar():
    tower = lively_tower()
    tower(images(4)).square().sum().backward()
    for name, parameter in tower.named_parameters():
        assert parameter.ndim > 0
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


def test_bfloat16_stays_close():
    tower, x = lively_tower(), images(4)
    exact = F.normalize(tower(x), dim=-1)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = F.normalize(tower(x).float(), dim=-1)
    pure = F.normalize(tower.bfloat16()(x.bfloat16()).float(), dim=-1)
    assert (exact * mixed).sum(-1).min() > 0.999
    assert (exact * pure).sum(-1).min() > 0.99


def test_kernels_are_standardised_whatever_the_weights():
    conv = StandardisedConv(3, 5, 3, scale=2.0, gain=0.5)
    with torch.no_grad():
        conv.weight.mul_(7).add_(3)
    kernels = conv.folded_weight()
    assert torch.allclose(kernels.mean((1, 2, 3)), torch.zeros(5), atol=1e-6)
    assert torch.allclose(kernels.square().sum((1, 2, 3)), torch.ones(5), atol=1e-4)


def test_activations_keep_their_size_through_a_deep_tower():
    """Without norms the variance of the last map stays within two powers of ten of the input's."""
    torch.manual_seed(0)
    tower = ResidualTower(embed_dim=8, width=16, layers=(3, 3, 3, 3))
    maps = []
    tower.pool.register_forward_pre_hook(lambda _, inputs: maps.append(inputs[0]))
    tower(torch.randn(8, 3, 64, 64))
    assert 0.01 < maps[0].var() < 100


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"image_size": 40}, "image_size 40 .* use 32"),
        ({"layers": (1, 1)}, r"layers \(1, 1\) must be four"),
        ({"layers": (1, 0, 1, 1)}, r"layers \(1, 0, 1, 1\)"),
        ({"width": 6}, "width 6 must be a multiple of 4"),
        ({"heads": 3}, "heads 3"),
    ],
)
def test_wrong_shapes_are_refused_in_the_users_words(changes, words):
    with pytest.raises(ValueError, match=words):
        ResidualTower(**({"embed_dim": 8, "width": 8} | changes))


def test_images_of_another_size_are_refused():
    with pytest.raises(ValueError, match="resize them first"):
        lively_tower()(images(1, size=32))


def test_five_channels_have_no_open_clip_form():
    with pytest.raises(ValueError, match="in_channels 5"):
        open_clip_weights(lively_tower(in_channels=5))
