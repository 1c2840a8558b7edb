"""CLIP in the formats that the field loads: a transformers folder and an open_clip folder, safetensors and JSON only.

`CLIPModel.from_pretrained(folder / "transformers")`, `open_clip.create_model("local-dir:...")` with `folder / "open_clip"`.
A residual tower is written as open_clip's ModifiedResNet; transformers has no such tower, so that format is left out.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor, nn

from genlib.json_text import json_text
from genlib.models.representation.base.clip_towers import ImageTransformer, TextTower, VisionTransformer
from genlib.models.representation.clip import CLIP
from genlib.models.representation.open_clip_names import State, to_open_clip
from genlib.nn.open_clip_residual import open_clip_weights
from genlib.nn.residual_tower import ResidualTower
from genlib.nn.tokenizer import END, START
from genlib.sharing.formats import Format

OPEN_CLIP = """
import open_clip
import torch
from PIL import Image

model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{folder}")
tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
model.eval()

texts = CAPTIONS
image = preprocess(Image.open(f"{folder}/input.png").convert("RGB"))[None]
with torch.no_grad():
    image_features = model.encode_image(image, normalize=True)
    text_features = model.encode_text(tokenizer(texts), normalize=True)
    probabilities = (model.logit_scale.exp() * image_features @ text_features.T).softmax(-1)[0]
for probability, text in sorted(zip(probabilities.tolist(), texts), reverse=True):
    print(f"{probability:6.1%}  {text}")
"""
TRANSFORMERS = """
import torch
from PIL import Image
from transformers import AutoTokenizer, CLIPImageProcessor, CLIPModel

model = CLIPModel.from_pretrained(folder).eval()
tokenizer = AutoTokenizer.from_pretrained(folder)
processor = CLIPImageProcessor.from_pretrained(folder)

texts = CAPTIONS
inputs = tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt")
pixels = processor(images=Image.open(f"{folder}/input.png").convert("RGB"), return_tensors="pt").pixel_values
with torch.no_grad():
    probabilities = model(input_ids=inputs.input_ids, pixel_values=pixels).logits_per_image.softmax(-1)[0]
for probability, text in sorted(zip(probabilities.tolist(), texts), reverse=True):
    print(f"{probability:6.1%}  {text}")
"""
CLEANING = """

AutoTokenizer and CLIPProcessor clean texts by the rules in tokenizer.json, as open_clip does; CLIPTokenizer has rules of its own. None mends text
that was decoded wrongly (mojibake): send it through `ftfy.fix_text` first."""


def export(task: CLIP, folder: Path) -> list[Format]:
    """Writes both folders; images become three channels where the task has one, by thirds of its first weights."""
    write_open_clip(task, folder / "open_clip")
    about: Any = {"title": f"CLIP of {task.config.image.image_size} pixels", "task": "zero-shot-image-classification", "tags": ("clip",)}
    found = [
        Format(
            folder="open_clip", library="open_clip", install="open_clip_torch==3.3.0 transformers", code=OPEN_CLIP, about=described(task),
            prepare_for_hub=name_tokenizer, **about,
        )
    ]  # fmt: skip
    if isinstance(task.config.image, VisionTransformer):
        write_transformers(task, folder / "transformers")
        install = "transformers torch pillow"
        found.append(
            Format(folder="transformers", library="transformers", install=install, code=TRANSFORMERS, about=described(task) + CLEANING, **about)
        )
    return found


def described(task: CLIP) -> str:
    """What a user of either folder must know."""
    config = task.config
    return (
        f"Contrastive language-image pretraining (Radford et al. 2021, arXiv:2103.00020): images of {config.image.image_size} pixels a side and\n"
        f"texts of up to {config.text.context_length} tokens become directions of {config.embed_dim} dimensions, near where they belong together."
    )


def name_tokenizer(folder: Path, repository: str) -> None:
    """open_clip takes the tokenizer of a local folder from there, and that of a repository from where the configuration says."""
    path = folder / "open_clip_config.json"
    config = json.loads(path.read_text())
    config["model_cfg"]["text_cfg"]["hf_tokenizer_name"] = repository
    path.unlink()  # it may be a link to the run's own
    _write_json(path, config)


def write_transformers(task: CLIP, folder: Path) -> None:
    """config.json, model.safetensors, tokenizer and preprocessor of a transformers CLIPModel."""
    from transformers import CLIPConfig

    folder.mkdir(parents=True, exist_ok=True)
    vision, text = hugging_face(task.net.image), hugging_face(task.net.text)
    settings = CLIPConfig(
        text_config={**text.config.to_dict(), **_marks(task), "vocab_size": task.config.text.vocab_size},
        vision_config={**vision.config.to_dict(), "num_channels": 3},
        projection_dim=task.config.embed_dim,
    )
    settings.architectures = ["CLIPModel"]
    settings.save_pretrained(folder)
    state = {**_rgb_vision(vision.state_dict()), **text.state_dict(), "logit_scale": bounded_scale(task)}
    _save(state, folder / "model.safetensors")
    write_tokenizer(task, folder)
    _write_json(folder / "preprocessor_config.json", preprocessor(task))


def write_open_clip(task: CLIP, folder: Path) -> None:
    """open_clip_config.json, open_clip_model.safetensors and tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    config, text = task.config, task.config.text
    if isinstance(config.image, VisionTransformer):
        image = config.image
        state = to_open_clip(_rgb_vision(hugging_face(task.net.image).state_dict()))
        vision_cfg: dict[str, Any] = {
            "image_size": image.image_size, "layers": image.layers, "width": image.width, "patch_size": image.patch_size,
            "head_width": image.width // image.heads,
        }  # fmt: skip
    else:
        assert isinstance(task.net.image, ResidualTower)
        tower, vision_cfg = open_clip_weights(task.net.image)
        state = {f"visual.{name}": value for name, value in tower.items()}
    model = {
        "embed_dim": config.embed_dim,
        "quick_gelu": config.activation == "quick_gelu",
        "vision_cfg": vision_cfg,
        "text_cfg": {
            "context_length": text.context_length, "vocab_size": text.vocab_size, "width": text.width, "heads": text.heads, "layers": text.layers,
            "hf_tokenizer_name": ".",  # of this folder
        },
    }  # fmt: skip
    mean, std = _three(config.mean), _three(config.std)
    preprocess = {"mean": mean, "std": std, "interpolation": "bicubic", "resize_mode": "shortest"}
    _write_json(folder / "open_clip_config.json", {"model_cfg": model, "preprocess_cfg": preprocess})
    state |= to_open_clip(hugging_face(task.net.text).state_dict())
    _save({**state, "logit_scale": bounded_scale(task)}, folder / "open_clip_model.safetensors")
    write_tokenizer(task, folder)


def hugging_face(tower: nn.Module) -> Any:
    """The transformers model inside one of our towers."""
    assert isinstance(tower, ImageTransformer | TextTower)
    return tower.model


def bounded_scale(task: CLIP) -> Tensor:
    """Logarithm of the scale of logits, a scalar."""
    return task.net.logit_scale.clamp(max=math.log(100.0))[0]


def _rgb_vision(state: Mapping[str, Tensor]) -> State:
    """The image tower's weights for three channels; of a grey one each gets a third."""
    name = "vision_model.embeddings.patch_embedding.weight"
    weight = state[name]
    return {**state, name: weight if weight.shape[1] == 3 else weight.repeat(1, 3, 1, 1) / 3}


def _marks(task: CLIP) -> dict[str, int]:
    tokenizer = task.tokenizer.tokenizer
    assert tokenizer is not None
    start, end = (tokenizer.token_to_id(mark) or 0 for mark in (START, END))
    return {"bos_token_id": start, "eos_token_id": end, "pad_token_id": end}


def write_tokenizer(task: CLIP, folder: Path) -> None:
    """tokenizer.json and what transformers' AutoTokenizer needs beside it; texts end at the context length with the end mark."""
    (folder / "tokenizer.json").write_text(task.tokenizer.to_json())
    marks = {"bos_token": START, "eos_token": END, "unk_token": END, "pad_token": END}
    _write_json(
        folder / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": task.config.text.context_length, **marks}
    )
    _write_json(folder / "special_tokens_map.json", marks)


def preprocessor(task: CLIP) -> dict[str, Any]:
    """What transformers' image processor is told."""
    side = task.config.image.image_size
    return {
        "image_processor_type": "CLIPImageProcessor", "do_convert_rgb": True, "do_resize": True, "size": {"shortest_edge": side}, "resample": 3,
        "do_center_crop": True, "crop_size": {"height": side, "width": side}, "do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True,
        "image_mean": _three(task.config.mean), "image_std": _three(task.config.std),
    }  # fmt: skip


def _three(values: tuple[float, ...]) -> list[float]:
    return list(values) if len(values) == 3 else [values[0]] * 3


def _save(state: State, path: Path) -> None:
    save_file({name: value.detach().clone().contiguous() for name, value in state.items()}, path, metadata={"format": "pt"})
    path.chmod(0o644)  # safetensors writes for the owner alone


def _write_json(path: Path, values: Mapping[str, Any]) -> None:
    path.write_text(json_text(values, indent=2) + "\n")
