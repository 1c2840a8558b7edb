"""The norm-free residual tower as open_clip's ModifiedResNet, out and in: see `genlib.nn.residual_tower`."""

import copy
import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genlib.nn.residual_tower import STRIDE, AttentionPool, ResidualBlock, ResidualTower, StandardisedConv

EXPANSION = 4  # of ModifiedResNet's blocks
BATCH_NORM_EPS = 1e-5


@torch.no_grad()
def open_clip_weights(tower: ResidualTower) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tower as open_clip's ModifiedResNet: its state dict (fp32, names without "visual.") and open_clip's `vision_cfg`.

    A grey tower (one channel) becomes one of three channels that averages them. Under ZeRO-3 gather the weights first.
    """
    if tower.in_channels not in (1, 3):
        raise ValueError(f"open_clip's towers take RGB images, this one has in_channels {tower.in_channels}; train it with 1 or 3 to export it")
    state: dict[str, Tensor] = {}
    width, grey = tower.width, 3 // tower.in_channels
    places = [(stage, index) for stage, count in enumerate(tower.layers) for index in range(count)]
    stem = tower.stem.folded_weight().repeat(1, grey, 1, 1) / grey
    _put_conv(state, "conv1", "bn1", stem, tower.stem.bias, (width // 2, 3))
    identity = F.pad(torch.eye(width // 2, device=stem.device)[:, :, None, None], (1, 1, 1, 1))
    _put_conv(state, "conv2", "bn2", identity, None, (width // 2, width // 2))
    _put_conv(state, "conv3", "bn3", identity, None, (width, width // 2))
    in_channels = width
    for (stage, index), block in zip(places, tower.blocks, strict=True):
        planes = width * 2**stage
        _put_block(state, f"layer{stage + 1}.{index}.", block, in_channels, planes)
        in_channels = EXPANSION * planes
    _put_attention(state, tower.pool)
    return state, {"layers": list(tower.layers), "width": width, "image_size": tower.image_size, "head_width": STRIDE * width // tower.heads}


def _put_conv(state: dict[str, Tensor], conv: str, norm: str, weight: Tensor, bias: Tensor | None, shape: tuple[int, int]) -> None:
    """A convolution padded with zeros to `shape` (out, in), and the batch norm that only adds its bias."""
    out_channels, in_channels = shape
    state[f"{conv}.weight"] = F.pad(weight.float(), (0, 0, 0, 0, 0, in_channels - weight.shape[1], 0, out_channels - weight.shape[0]))
    one = weight.new_ones(out_channels, dtype=torch.float32)
    state[f"{norm}.weight"], state[f"{norm}.running_mean"], state[f"{norm}.running_var"] = one, 0 * one, one - BATCH_NORM_EPS
    state[f"{norm}.bias"] = 0 * one if bias is None else F.pad(bias.float(), (0, out_channels - len(bias)))
    state[f"{norm}.num_batches_tracked"] = torch.tensor(0, device=weight.device)


def _put_block(state: dict[str, Tensor], prefix: str, block: nn.Module, in_channels: int, planes: int) -> None:
    """A block as a bottleneck whose first convolution picks the channels in use; `in_channels` counts the padded ones."""
    assert isinstance(block, ResidualBlock)
    spatial, mix, shortcut = block.spatial, block.mix, block.shortcut
    pick = torch.eye(spatial.weight.shape[1], device=spatial.weight.device)[:, :, None, None]
    _put_conv(state, prefix + "conv1", prefix + "bn1", pick, None, (planes, in_channels))
    _put_conv(state, prefix + "conv2", prefix + "bn2", spatial.folded_weight(), spatial.bias, (planes, planes))
    _put_conv(state, prefix + "conv3", prefix + "bn3", mix.folded_weight(), mix.bias, (EXPANSION * planes, planes))
    if shortcut is not None:
        _put_conv(state, prefix + "downsample.0", prefix + "downsample.1", shortcut.folded_weight(), shortcut.bias, (EXPANSION * planes, in_channels))


def _put_attention(state: dict[str, Tensor], pool: AttentionPool) -> None:
    """Attention with every head padded by zeros to EXPANSION times its size."""
    channels, heads = pool.position.shape[1], pool.heads
    extra = (EXPANSION - 1) * channels

    def pad_heads(x: Tensor) -> Tensor:  # (channels, ...) -> (EXPANSION * channels, ...)
        split = x.float().unflatten(0, (heads, -1))
        return torch.cat([split, split.new_zeros(heads, extra // heads, *x.shape[1:])], 1).flatten(0, 1)

    state["attnpool.positional_embedding"] = F.pad(pool.position.float(), (0, extra))
    # scores are divided by the root of a head's size, which grew
    for name, linear, factor in (("q", pool.query, math.sqrt(EXPANSION)), ("k", pool.key, 1.0), ("v", pool.value, 1.0)):
        state[f"attnpool.{name}_proj.weight"] = F.pad(factor * pad_heads(linear.weight), (0, extra))
        state[f"attnpool.{name}_proj.bias"] = linear.weight.new_zeros(EXPANSION * channels, dtype=torch.float32)
    state["attnpool.c_proj.weight"] = pad_heads(pool.project.weight.T).T.contiguous()
    state["attnpool.c_proj.bias"] = pool.project.bias.float().clone()


@torch.no_grad()
def take_open_clip_weights(tower: ResidualTower, state: Mapping[str, Tensor]) -> None:
    """The inverse of `open_clip_weights`, names without "visual.". ValueError, with nothing changed, where no tower of this kind wrote them."""
    taken = copy.deepcopy(tower)
    try:
        _take_conv(taken.stem, state["conv1.weight"], state["bn1.bias"])
        places = [f"layer{stage + 1}.{index}." for stage, count in enumerate(tower.layers) for index in range(count)]
        for place, block in zip(places, taken.blocks, strict=True):
            assert isinstance(block, ResidualBlock)
            _take_conv(block.spatial, state[f"{place}conv2.weight"], state[f"{place}bn2.bias"])
            _take_conv(block.mix, state[f"{place}conv3.weight"], state[f"{place}bn3.bias"])
            if block.shortcut is not None:
                _take_conv(block.shortcut, state[f"{place}downsample.0.weight"], state[f"{place}downsample.1.bias"])
        _take_attention(taken.pool, state)
        again, _ = open_clip_weights(taken)
        same = again.keys() == state.keys() and all(
            torch.allclose(value.float(), state[name].float(), rtol=1e-4, atol=1e-5) for name, value in again.items()
        )
    except (KeyError, RuntimeError):  # a name or a shape that such a tower has not
        same = False
    if not same:
        raise ValueError(
            "its image tower is no norm-free residual tower as this library trains it; name a folder that was exported here, or take a ViT"
        )
    tower.load_state_dict(taken.state_dict())


def _take_conv(conv: StandardisedConv, weight: Tensor, bias: Tensor) -> None:
    """The convolution that `_put_conv` wrote, padded: kernels of norm 1, the rest is their gain."""
    out_channels, in_channels = conv.weight.shape[:2]
    weight = weight[:out_channels].float()
    weight = weight.sum(1, keepdim=True) if in_channels == 1 else weight[:, :in_channels]  # a grey stem was divided among three channels
    norm = weight.square().sum((1, 2, 3)).sqrt()
    conv.weight.copy_(torch.where(norm[:, None, None, None] > 0, weight / norm.clamp(min=1e-30)[:, None, None, None], conv.weight))
    conv.gain.copy_(norm * math.sqrt(1 + 1e-6) / conv.scale)
    conv.bias.copy_(bias[:out_channels])


def _take_attention(pool: AttentionPool, state: Mapping[str, Tensor]) -> None:
    """The attention that `_put_attention` wrote, without its zeros."""
    channels, heads = pool.position.shape[1], pool.heads

    def unpad_heads(x: Tensor) -> Tensor:  # (EXPANSION * channels, ...) -> (channels, ...)
        return x.float().unflatten(0, (heads, -1))[:, : channels // heads].flatten(0, 1)

    pool.position.copy_(state["attnpool.positional_embedding"][:, :channels])
    for name, linear, factor in (("q", pool.query, math.sqrt(EXPANSION)), ("k", pool.key, 1.0), ("v", pool.value, 1.0)):
        linear.weight.copy_(unpad_heads(state[f"attnpool.{name}_proj.weight"])[:, :channels] / factor)
    pool.project.weight.copy_(unpad_heads(state["attnpool.c_proj.weight"].T).T)
    pool.project.bias.copy_(state["attnpool.c_proj.bias"])
