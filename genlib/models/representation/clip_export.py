"""CLIP in the formats that the field loads: a transformers folder and an open_clip folder, safetensors and JSON only.

`CLIPModel.from_pretrained(folder / "transformers")`, `open_clip.create_model("local-dir:...")` with `folder / "open_clip"`.
A residual tower is written as open_clip's ModifiedResNet; transformers has no such tower, so that format is left out.
"""

from __future__ import annotations

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


def export(task: CLIP, folder: Path) -> None:
    """Writes both folders; images become three channels where the task has one, by thirds of its first weights."""
    if isinstance(task.config.image, VisionTransformer):
        write_transformers(task, folder / "transformers")
    write_open_clip(task, folder / "open_clip")


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
    _write_json(folder / "preprocessor_config.json", _preprocessor(task))
    (folder / "README.md").write_text(model_card(task, "transformers"))


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
    (folder / "README.md").write_text(model_card(task, "open_clip"))


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


def _preprocessor(task: CLIP) -> dict[str, Any]:
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


def model_card(task: CLIP, library: str) -> str:
    """README.md with the front matter that model hubs read."""
    loading = {
        "open_clip": 'model = open_clip.create_model("local-dir:FOLDER")\ntokenizer = open_clip.get_tokenizer("local-dir:FOLDER")',
        "transformers": 'model = CLIPModel.from_pretrained("FOLDER")\ntokenizer = AutoTokenizer.from_pretrained("FOLDER")',
    }
    cleaning = {
        "open_clip": "",
        "transformers": """
AutoTokenizer and CLIPProcessor clean texts by the rules in tokenizer.json, as open_clip does; CLIPTokenizer has rules of its own. None mends
text that was decoded wrongly (mojibake): send it through `ftfy.fix_text` first.
""",
    }
    parameters = sum(p.numel() for p in task.net.parameters())
    return f"""---
license: apache-2.0
library_name: {library}
pipeline_tag: zero-shot-image-classification
tags:
- clip
- zero-shot-image-classification
metrics:
- recall
---

# CLIP, {parameters:,} parameters

Contrastive language-image pretraining (Radford et al. 2021, arXiv:2103.00020): images of {task.config.image.image_size} pixels a side
and texts of up to {task.config.text.context_length} tokens, into {task.config.embed_dim} dimensions.

```python
{loading[library]}
```
{cleaning[library]}
## Training

{task.data.num_samples:,} image-text pairs; data digest `{task.data.digest[:16]}`. Scores, steps, versions and configuration are in
`metrics.json` and the checkpoint's `manifest.json` beside the export.
"""
