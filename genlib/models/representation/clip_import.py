"""CLIP from the formats of the field: a folder of open_clip or of transformers, exported here or published, read as JSON and safetensors alone.

The task's sizes must be the folder's. Its tokenizer is taken over, unless `task.tokenizer_file` names another, and what its preprocessing does
otherwise than the task's, the first layer does: the same pixels have the same direction.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor

from genlib.models.base.components import read_config, read_json, read_weights
from genlib.models.representation.base.clip_towers import VisionTransformer
from genlib.models.representation.clip import CLIP, OPENAI_MEAN, OPENAI_STD
from genlib.models.representation.clip_export import hugging_face
from genlib.models.representation.open_clip_names import State, from_open_clip
from genlib.models.representation.text_encoder import read_tokenizer
from genlib.nn.open_clip_residual import take_open_clip_weights
from genlib.nn.residual_tower import ResidualTower
from genlib.nn.tokenizer import END, START

_IDLE = {
    *("hf_tokenizer_name", "hf_proj_type", "hf_pooler_type", "hf_model_pretrained", "timm_pool", "timm_proj", "attn_pooler_queries"),
    *("attn_pooler_heads", "pad_id", "eos_id", "patch_dropout", "output_tokens", "init_logit_scale", "output_dict"),
}
"""open_clip's settings that change nothing of what a trained CLIP of the same shapes computes."""
_PATCHES, _POSITIONS = "vision_model.embeddings.patch_embedding.weight", "vision_model.embeddings.position_embedding.weight"


@dataclass(frozen=True, slots=True)
class Published:
    """What a folder holds."""

    sizes: dict[str, Any]
    """By the names of our settings, or of theirs where we have none."""
    state: State
    """By transformers' names; those of a residual tower by open_clip's, with "visual." before them."""
    mean: list[float]
    std: list[float]


@torch.no_grad()
def load_pretrained(task: CLIP, folder: Path) -> None:
    """Fills the task from a folder of either format, or from an export that holds both. ValueError in one sentence, with nothing changed, where it
    does not fit."""
    folder = next((place for place in (folder, folder / "open_clip", folder / "transformers") if _is_clip(place)), folder)
    theirs = (folder / "open_clip_config.json").is_file() and (
        any(folder.glob("open_clip_model*.safetensors")) or not (folder / "config.json").is_file()
    )
    found = read_open_clip(folder) if theirs else read_transformers(folder)
    for name, value in expected(task).items():
        if found.sizes.get(name) != value:
            raise ValueError(f"{folder} has another architecture: {name} is {found.sizes.get(name)} there and {value} here; give the task its sizes")
    state, visual = dict(found.state), {}
    wanted = {**hugging_face(task.net.text).state_dict(), "logit_scale": task.net.logit_scale}
    if isinstance(task.config.image, VisionTransformer):
        wanted |= hugging_face(task.net.image).state_dict()
        _take_preprocessing(task, state, found)
    else:
        visual = {name: state.pop(name) for name in list(state) if name.startswith("visual.")}
    if "logit_scale" in state:
        state["logit_scale"] = state["logit_scale"].reshape(-1)
    check_names(state, wanted, folder)
    vocabulary = _vocabulary(task, folder)
    if isinstance(task.net.image, ResidualTower):
        _take_residual(task.net.image, visual, task, found, folder)
    for name, value in wanted.items():
        value.copy_(state[name])
    if vocabulary is not None:
        task.tokenizer.use(vocabulary)


def expected(task: CLIP) -> dict[str, Any]:
    """The sizes that a folder must have."""
    image, text = task.config.image, task.config.text
    values: dict[str, Any] = {f"task.image.{name}": getattr(image, name) for name in ("image_size", "width", "layers", "heads")}
    if isinstance(image, VisionTransformer):
        values |= {"task.image.patch_size": image.patch_size, "image mlp_ratio": 4.0}
    else:
        values["task.image.layers"] = list(image.layers)
    values |= {f"task.text.{name}": getattr(text, name) for name in ("context_length", "vocab_size", "width", "layers", "heads")}
    return {
        **values,
        "text mlp_ratio": 4.0,
        "task.embed_dim": task.config.embed_dim,
        "task.activation": task.config.activation,
        "layer_norm_eps": 1e-5,
    }


def read_transformers(folder: Path) -> Published:
    """A CLIPModel's folder."""
    from transformers import CLIPConfig

    values = read_config(folder)
    if values.get("model_type") != "clip":
        theirs = next(iter(values.get("architectures") or []), None) or values.get("_class_name") or "network without a class"
        raise ValueError(f"{folder} holds a {theirs}, but this stage is a CLIP; name a folder of a whole CLIP, of transformers or of open_clip")
    try:
        settings = CLIPConfig.from_dict(values)
    except Exception as error:  # of a class of huggingface_hub's, too
        raise ValueError(f"{folder / 'config.json'} is no configuration of a CLIP ({' '.join(str(error).split())}); get the folder again") from None
    text: Any = settings.text_config
    vision: Any = settings.vision_config
    if not (vision.hidden_size and text.hidden_size):
        raise ValueError(f"{folder / 'config.json'} is no configuration of a CLIP (a hidden_size is 0); get the folder again")
    same = text.hidden_act == vision.hidden_act and text.layer_norm_eps == vision.layer_norm_eps
    sizes = {
        "task.image.image_size": vision.image_size, "task.image.patch_size": vision.patch_size, "task.image.width": vision.hidden_size,
        "task.image.layers": vision.num_hidden_layers, "task.image.heads": vision.num_attention_heads,
        "image mlp_ratio": vision.intermediate_size / vision.hidden_size, "task.text.context_length": text.max_position_embeddings,
        "task.text.vocab_size": text.vocab_size, "task.text.width": text.hidden_size, "task.text.layers": text.num_hidden_layers,
        "task.text.heads": text.num_attention_heads, "text mlp_ratio": text.intermediate_size / text.hidden_size,
        "task.embed_dim": settings.projection_dim, "task.activation": text.hidden_act if same else f"{text.hidden_act} and {vision.hidden_act}",
        "layer_norm_eps": text.layer_norm_eps if same else None,
    }  # fmt: skip
    path = folder / "preprocessor_config.json"
    images = read_json(path) if path.is_file() else {}
    mean, std = ([0.0], [1.0]) if images.get("do_normalize") is False else (images.get("image_mean"), images.get("image_std"))
    state = {name: value for name, value in read_weights(folder, "model").items() if not name.endswith("position_ids")}
    return Published(sizes, state, _numbers(mean, OPENAI_MEAN, path), _numbers(std, OPENAI_STD, path, positive=True))


def read_open_clip(folder: Path) -> Published:
    """A folder with open_clip_config.json: a transformer, or a residual tower that was exported here."""
    path = folder / "open_clip_config.json"
    values = read_json(path)
    model, images = values.get("model_cfg"), values.get("preprocess_cfg") or {}
    vision, text = (model.get(name) if isinstance(model, dict) else None for name in ("vision_cfg", "text_cfg"))
    if not isinstance(model, dict) or not isinstance(vision, dict) or not isinstance(text, dict) or not isinstance(images, dict):
        raise ValueError(f"{path} has no model_cfg with vision_cfg and text_cfg; get the folder again")
    model, vision, text = {**model}, {"patch_size": 16, "image_size": 224, "layers": 12, "width": 768, **vision}, {**_TEXT_DEFAULTS, **text}
    sizes = {f"task.image.{name}": vision.pop(name) for name in ("image_size", "patch_size", "layers", "width")}
    head, width = vision.pop("head_width", 64), sizes["task.image.width"]
    if not all(isinstance(one, int) and one > 0 for one in (head, width)):
        raise ValueError(f"{path}: the width {width!r} and head_width {head!r} of its vision_cfg are no numbers of channels; get the folder again")
    width *= 32 if isinstance(sizes["task.image.layers"], list) else 1  # attention pools a residual tower's last stage
    sizes["task.image.heads"] = width // head
    sizes |= {f"task.text.{name}": text.pop(name) for name in ("context_length", "vocab_size", "width", "layers", "heads")}
    sizes |= {"image mlp_ratio": vision.pop("mlp_ratio", 4.0), "text mlp_ratio": text.pop("mlp_ratio", 4.0), "layer_norm_eps": 1e-5}
    sizes |= {"task.embed_dim": model.pop("embed_dim", None), "task.activation": "quick_gelu" if model.pop("quick_gelu", False) else "gelu"}
    _refuse_others({**model, "vision_cfg": None, "text_cfg": None}, vision, text, path)
    state = {name: value for name, value in read_weights(folder, "open_clip_model").items() if name != "attn_mask"}
    kept = {name: value for name, value in state.items() if isinstance(sizes["task.image.layers"], list) and name.startswith("visual.")}
    state = from_open_clip({name: value for name, value in state.items() if name not in kept}) | kept
    return Published(sizes, state, _numbers(images.get("mean"), OPENAI_MEAN, path), _numbers(images.get("std"), OPENAI_STD, path, positive=True))


_TEXT_DEFAULTS = {"context_length": 77, "vocab_size": 49_408, "width": 512, "heads": 8, "layers": 12}
_USUAL = {"pool_type": ("tok", "argmax"), "proj_type": ("linear",), "pos_embed_type": ("learnable",), "block_type": ("default",)}


def _refuse_others(model: Mapping[str, Any], vision: Mapping[str, Any], text: Mapping[str, Any], path: Path) -> None:
    """ValueError for the first setting of open_clip that our towers have not."""
    for settings in (model, vision, text):
        for name, value in settings.items():
            cleans = name == "tokenizer_kwargs" and value and value.keys() <= {"clean"} and value["clean"] in ("lower", "whitespace")
            if value and not cleans and name not in _IDLE and value not in _USUAL.get(name, ()):
                raise ValueError(f"{path}: {name} is {value!r}, which the CLIP here has not; name another folder")


def _numbers(values: Any, usual: tuple[float, ...], path: Path, *, positive: bool = False) -> list[float]:
    """One value a colour."""
    values = list(usual) if values is None else values
    good = isinstance(values, list) and len(values) in (1, 3) and all(isinstance(value, int | float) and math.isfinite(value) for value in values)
    if not good or (positive and min(values) <= 0):
        raise ValueError(f"{path}: {values!r} are no three numbers by which colours are normalised; get the folder again")
    return values if len(values) == 3 else values * 3


def _take_preprocessing(task: CLIP, state: State, found: Published) -> None:
    """The patches' weights for pixels as the task normalises them; what is the same for all pixels goes to the patches' positions."""
    weight, positions = state.get(_PATCHES), state.get(_POSITIONS)
    if task.data.channels not in (1, 3):
        raise ValueError(f"the folder is for RGB images, the data's have {task.data.channels} channels; give images of 1 or 3")
    if weight is None or positions is None or weight.dim() != 4 or weight.shape[1] != 3 or positions.dim() != 2:
        return  # which the check of names and shapes says
    here, there = ([torch.tensor(values, dtype=torch.float64).expand(3)[:, None, None] for values in pair] for pair in (
        (task.config.mean, task.config.std), (found.mean, found.std),
    ))  # fmt: skip
    patches = weight.double()
    constant = (patches * (here[0] - there[0]) / there[1]).sum((1, 2, 3))
    patches = patches * (here[1] / there[1])
    state[_PATCHES] = patches if task.data.channels == 3 else patches.sum(1, keepdim=True)
    state[_POSITIONS] = torch.cat([positions[:1].double(), positions[1:].double() + constant])


def _take_residual(tower: ResidualTower, visual: State, task: CLIP, found: Published, folder: Path) -> None:
    """The residual tower's weights, whose pixels must be normalised as there: the border of zeros is a colour to it."""
    mean, std = ([*values] * (3 // len(values)) for values in (task.config.mean, task.config.std))
    if not torch.allclose(torch.tensor([mean, std]), torch.tensor([found.mean, found.std])):
        raise ValueError(f"{folder} normalises colours by {found.mean} and {found.std}; give these as task.mean and task.std")
    try:
        take_open_clip_weights(tower, {name.removeprefix("visual."): value for name, value in visual.items()})
    except ValueError as error:
        raise ValueError(f"{folder}: {error}") from None


def check_names(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor], folder: Path) -> None:
    """ValueError that names the first weight that is not on both sides, or of another shape."""
    for name in sorted({*wanted, *state}):
        if name not in state:
            raise ValueError(f"{folder}: its weights lack {name}, which the CLIP here has; get the folder again")
        if name not in wanted:
            raise ValueError(f"{folder}: its weights have {name}, which the CLIP here has not; name a folder of the same architecture")
        if state[name].shape != wanted[name].shape:
            here, there = tuple(wanted[name].shape), tuple(state[name].shape)
            raise ValueError(f"{folder} has another architecture: {name} is {there} there and {here} here; give the task its sizes")


def _vocabulary(task: CLIP, folder: Path) -> Tokenizer | None:
    """The folder's, None where the task names its own. ValueError where the text tower cannot read by it."""
    if task.config.tokenizer_file:
        return None
    try:
        found = read_tokenizer(folder)
    except ValueError as error:
        what = str(error).partition(";")[0]
        raise ValueError(f"{what}; or give --task.tokenizer-file, for published weights OpenAI's list of merges") from None
    numbers = found.get_vocab()
    if START not in numbers or END not in numbers or numbers[END] != max(numbers.values()) or numbers[END] >= task.config.text.vocab_size:
        raise ValueError(f"{folder}: its tokenizer is not CLIP's, whose last of {task.config.text.vocab_size} tokens is {END}; get the folder again")
    return found


def _is_clip(folder: Path) -> bool:
    return any((folder / name).is_file() for name in ("open_clip_config.json", "config.json"))
