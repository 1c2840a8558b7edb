"""What a CLIP's weights are called in open_clip, of those that transformers has too: the text tower and the image transformer."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

State = dict[str, Tensor]

_NAMES = {
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "ln_final.weight": "text_model.final_layer_norm.weight",
    "ln_final.bias": "text_model.final_layer_norm.bias",
    "text_projection": "text_projection.weight",
    "visual.class_embedding": "vision_model.embeddings.class_embedding",
    "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "visual.ln_pre.weight": "vision_model.pre_layrnorm.weight",
    "visual.ln_pre.bias": "vision_model.pre_layrnorm.bias",
    "visual.ln_post.weight": "vision_model.post_layernorm.weight",
    "visual.ln_post.bias": "vision_model.post_layernorm.bias",
    "visual.proj": "visual_projection.weight",
}
_TRANSPOSED = {"text_projection", "visual.proj"}
_IN_BLOCKS = {"attn.out_proj": "self_attn.out_proj", "ln_1": "layer_norm1", "ln_2": "layer_norm2", "mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2"}
_STEMS = {"transformer.resblocks": "text_model.encoder.layers", "visual.transformer.resblocks": "vision_model.encoder.layers"}
_BLOCK = re.compile(r"(.+)\.(\d+)\.(.+)\.(weight|bias)")


def to_open_clip(state: Mapping[str, Tensor]) -> State:
    """Weights of transformers' towers under open_clip's names, which keeps query, key and value of a block in one matrix."""
    names, stems, parts = _inverse(_NAMES), _inverse(_STEMS), _inverse(_IN_BLOCKS)
    found: State = {}
    for name, value in state.items():
        if name in names:
            found[names[name]] = value.T if names[name] in _TRANSPOSED else value
        elif (match := _BLOCK.fullmatch(name)) and match[3] in parts:
            found[f"{stems[match[1]]}.{match[2]}.{parts[match[3]]}.{match[4]}"] = value
        elif match and match[3] == "self_attn.q_proj":
            three = [state[f"{match[1]}.{match[2]}.self_attn.{part}_proj.{match[4]}"] for part in "qkv"]
            found[f"{stems[match[1]]}.{match[2]}.attn.in_proj_{match[4]}"] = torch.cat(three)
    return found


def from_open_clip(state: Mapping[str, Tensor]) -> State:
    """The inverse of `to_open_clip`; names that it does not know stay as they are."""
    found: State = {}
    for name, value in state.items():
        match = _BLOCK.fullmatch(name.replace("attn.in_proj_", "attn.in_proj."))
        if name in _NAMES:
            found[_NAMES[name]] = value.T if name in _TRANSPOSED else value
        elif match and match[1] in _STEMS and match[3] in _IN_BLOCKS:
            found[f"{_STEMS[match[1]]}.{match[2]}.{_IN_BLOCKS[match[3]]}.{match[4]}"] = value
        elif match and match[1] in _STEMS and match[3] == "attn.in_proj":
            for part, third in zip("qkv", value.chunk(3), strict=True):
                found[f"{_STEMS[match[1]]}.{match[2]}.self_attn.{part}_proj.{match[4]}"] = third
        else:
            found[name] = value
    return found


def _inverse(names: Mapping[str, str]) -> dict[str, str]:
    return {theirs: ours for ours, theirs in names.items()}
