"""`train.start_from` takes a CLIP in open_clip's or transformers' format, ours or published: pixels and texts have the same directions.

mlfoundations/open_clip#411 and #1076.
"""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor

from genlib import checkpoint, companions
from genlib.models.representation.base.clip_towers import ResidualNetwork, TextTransformer, VisionTransformer
from genlib.models.representation.clip import CLIP, CLIPConfig
from genlib.nn.tokenizer import train_bpe
from genlib.recipe import Stage
from genlib.types import DataSpec
from tests.models.stages import train_stage
from tests.open_clip_stub import open_clip

TEXTS = ["heart outline", "AT&amp;amp;T’s arrow", "home", "a much longer caption than the context can hold, to be cut at its end mark"]
VIT = VisionTransformer(image_size=32, patch_size=8, width=64, layers=2, heads=2)
TEXT = TextTransformer(context_length=12, vocab_size=600, width=32, layers=2, heads=4)
MEAN, STD = (0.3, 0.4, 0.5), (0.2, 0.3, 0.4)
TOLERANCE: dict[str, Any] = {"atol": 1e-5, "rtol": 0}


def config(image: VisionTransformer | ResidualNetwork = VIT, **options: Any) -> CLIPConfig:
    return CLIPConfig(**{"image": image, "text": TEXT, "embed_dim": 24, **options})


def fresh(channels: int = 3, **options: Any) -> CLIP:
    torch.manual_seed(1)
    return config(**options).build(DataSpec(channels=channels, has_captions=True), {}).eval()


def stirred(module: torch.nn.Module) -> None:
    """Weights away from zeros and ones, which would hide a swapped one."""
    for p in module.parameters():
        p.data += 0.05 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel()))


def tokenizer_files(folder: Path) -> None:
    """As transformers publishes them."""
    from transformers import CLIPTokenizer

    trained = train_bpe(TEXTS, 600)
    (folder / "vocab.json").write_text(json.dumps(trained.get_vocab()))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(map(" ".join, json.loads(trained.to_str())["model"]["merges"])) + "\n")
    CLIPTokenizer.from_pretrained(folder).save_pretrained(folder)


def of_open_clip(folder: Path, quick_gelu: bool) -> None:
    """A published folder of open_clip."""
    sizes = {
        "embed_dim": 24, "quick_gelu": quick_gelu, "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "head_width": 32, "patch_size": 8},
        "text_cfg": {"context_length": 12, "vocab_size": trained_size(), "width": 32, "heads": 4, "layers": 2},
    }  # fmt: skip
    torch.manual_seed(0)
    model = open_clip().model.CLIP(**json.loads(json.dumps(sizes)))
    stirred(model)
    folder.mkdir()
    sizes["text_cfg"]["hf_tokenizer_name"] = "somewhere/else"  # type: ignore[index]
    images = {"mean": MEAN, "std": STD, "interpolation": "bicubic", "resize_mode": "shortest"}
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": sizes, "preprocess_cfg": images}))
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, folder / "open_clip_model.safetensors")
    tokenizer_files(folder)


def of_transformers(folder: Path, activation: str) -> None:
    """A published folder of transformers."""
    from transformers import CLIPConfig as Settings
    from transformers import CLIPImageProcessor, CLIPModel

    tower = {"num_hidden_layers": 2, "hidden_act": activation}
    text = {"vocab_size": trained_size(), "hidden_size": 32, "intermediate_size": 128, "num_attention_heads": 4, **tower}
    text |= {"max_position_embeddings": 12, "bos_token_id": trained_size() - 2, "eos_token_id": trained_size() - 1}
    vision = {"image_size": 32, "patch_size": 8, "hidden_size": 64, "intermediate_size": 256, "num_attention_heads": 2, **tower}
    torch.manual_seed(0)
    model = CLIPModel(Settings(text_config=text, vision_config=vision, projection_dim=24))
    stirred(model)
    model.save_pretrained(folder)
    CLIPImageProcessor(image_mean=list(MEAN), image_std=list(STD)).save_pretrained(folder)
    tokenizer_files(folder)


def trained_size() -> int:
    return train_bpe(TEXTS, 600).get_vocab_size()


def directions(folder: Path, rgb: Tensor) -> tuple[Tensor, Tensor]:
    """What the library whose format it is makes of pixels and texts."""
    pixels = (rgb - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
    with torch.no_grad():
        if (folder / "open_clip_config.json").is_file():
            model = open_clip().create_model(f"local-dir:{folder}").eval()
            found = model.encode_image(pixels), model.encode_text(open_clip().get_tokenizer(f"local-dir:{folder}")(TEXTS))
        else:
            from transformers import AutoTokenizer, CLIPModel

            tokens = AutoTokenizer.from_pretrained(folder)([text.replace("&amp;amp;", "&").replace("’", "'") for text in TEXTS], truncation=True,
                padding="max_length", max_length=12, return_tensors="pt")  # fmt: skip
            out = CLIPModel.from_pretrained(folder).eval()(input_ids=tokens.input_ids, pixel_values=pixels)
            found = out.image_embeds, out.text_embeds
    return F.normalize(found[0], dim=-1), F.normalize(found[1], dim=-1)


WRITERS = {"open_clip": of_open_clip, "transformers": of_transformers}


def published(folder: Path, kind: str, activation: str = "gelu") -> Path:
    of_open_clip(folder, activation == "quick_gelu") if kind == "open_clip" else of_transformers(folder, activation)
    return folder


def sized(**options: Any) -> dict[str, Any]:
    return {"text": replace(TEXT, vocab_size=trained_size()), "activation": "gelu", **options}


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize(
    ("channels", "options"),
    [(3, {"mean": MEAN, "std": STD}), (3, {}), (1, {"mean": (0.1,), "std": (0.4,)}), (3, {"mean": MEAN, "std": STD, "activation": "quick_gelu"})],
    ids=["same pixels", "other mean", "grey", "quick_gelu"],
)
def test_a_published_folder_has_the_directions_that_its_library_gives(kind: str, channels: int, options: dict[str, Any], tmp_path: Path) -> None:
    options = sized(**options)
    folder = published(tmp_path / "clip", kind, options["activation"])
    task = fresh(channels, **options)
    companions.load_pretrained(task, folder)
    images = torch.rand(5, channels, 32, 32, generator=torch.Generator().manual_seed(1))
    image, text = directions(folder, images.expand(-1, 3, -1, -1))
    torch.testing.assert_close(task.embed_image(image=images), image, **TOLERANCE)
    torch.testing.assert_close(task.embed_text(text=TEXTS), text, **TOLERANCE)


@pytest.mark.parametrize("form", ["", "open_clip", "transformers"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("image", [VIT, ResidualNetwork(image_size=32, width=8, layers=(1, 2, 1, 1))], ids=["vit", "residual"])
def test_an_export_of_ours_is_taken_back(image: VisionTransformer | ResidualNetwork, channels: int, form: str, tmp_path: Path) -> None:
    if form == "transformers" and isinstance(image, ResidualNetwork):
        pytest.skip("transformers has no such tower")
    first = fresh(channels, image=image, mean=(0.2,), std=(0.5,))
    stirred(first)
    first.tokenizer.learn(TEXTS, 600)
    companions.export(first, tmp_path)
    second = fresh(channels, image=image, mean=(0.2,), std=(0.5,))
    companions.load_pretrained(second, tmp_path / form)
    images = torch.rand(5, channels, image.image_size, image.image_size, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(second.embed_image(image=images), first.embed_image(image=images), **TOLERANCE)
    torch.testing.assert_close(second.embed_text(text=TEXTS), first.embed_text(text=TEXTS), **TOLERANCE)
    torch.testing.assert_close(second.net.logit_scale, first.net.logit_scale)


def test_a_run_starts_from_a_folder(tmp_path: Path) -> None:
    """Also through a checkpoint, with which what was taken over travels."""
    from genlib import registry

    folder = published(tmp_path / "clip", "open_clip")
    (smoke,) = registry.load("clip_vit_b32").smoke
    stage: Stage = replace(smoke, task=config(**sized()))
    final = train_stage("clip_vit_b32", stage, tmp_path / "run", {}, steps=0, start_from=str(folder))
    task = checkpoint.load_task(final)
    assert isinstance(task, CLIP)
    images = torch.rand(5, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    image, text = directions(folder, images)
    torch.testing.assert_close(task.embed_image(image=images), image, **TOLERANCE)
    torch.testing.assert_close(task.embed_text(text=TEXTS), text, **TOLERANCE)


def refused(task: CLIP, folder: Path, words: str) -> None:
    before = {name: value.clone() for name, value in task.state_dict().items()}
    with pytest.raises(ValueError, match=words) as told:
        companions.load_pretrained(task, folder)
    assert "\n" not in str(told.value)
    assert all(torch.equal(value, before[name]) for name, value in task.state_dict().items())


@pytest.mark.parametrize("kind", WRITERS)
def test_what_does_not_fit_is_refused_in_a_sentence_and_changes_nothing(kind: str, tmp_path: Path) -> None:
    folder = published(tmp_path / "clip", kind)
    refused(fresh(**sized(image=replace(VIT, width=32))), folder, r"task\.image\.width is 64 there and 32 here")
    refused(fresh(**sized(image=replace(VIT, heads=4))), folder, r"task\.image\.heads is 2 there and 4 here")
    refused(fresh(**sized(activation="quick_gelu")), folder, r"task\.activation is gelu there and quick_gelu here")
    refused(fresh(**sized(embed_dim=16)), folder, r"task\.embed_dim is 24 there and 16 here")
    refused(fresh(**sized(image=ResidualNetwork(image_size=32, width=8))), folder, r"task\.image\.\w+ is .* there")
    weights = next(folder.glob("*.safetensors"))
    state = load_file(weights)
    for change, words in (({"odd": torch.zeros(1)}, "have odd, which"), ({"logit_scale": None}, "lack logit_scale")):
        save_file({name: value for name, value in {**state, **change}.items() if value is not None}, weights)
        refused(fresh(**sized()), folder, words)
    save_file(state, weights)
    for name in ("tokenizer.json", "vocab.json", "merges.txt"):
        (folder / name).unlink()
    refused(fresh(**sized()), folder, "--task.tokenizer-file")
    weights.rename(weights.with_suffix(".bin"))
    refused(fresh(**sized()), folder, "as a pickle alone")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"text_cfg": {"hf_model_name": "roberta"}}, "hf_model_name is 'roberta'"), ({"vision_cfg": {"ls_init_value": 0.1}}, "ls_init_value is 0.1"),
        ({"vision_cfg": {"pool_type": "avg"}}, "pool_type is 'avg'"), ({"text_cfg": {"tokenizer_kwargs": {"clean": "canonicalize"}}}, "canonicalize"),
        ({"custom_text": True}, "custom_text is True"),
    ],
)  # fmt: skip
def test_a_tower_of_another_kind_is_refused(change: dict[str, Any], words: str, tmp_path: Path) -> None:
    folder = published(tmp_path / "clip", "open_clip")
    path = folder / "open_clip_config.json"
    values = json.loads(path.read_text())
    for name, value in change.items():
        values["model_cfg"][name] = {**values["model_cfg"][name], **value} if isinstance(value, dict) else value
    path.write_text(json.dumps(values))
    refused(fresh(**sized()), folder, words)


def test_a_published_residual_tower_is_refused(tmp_path: Path) -> None:
    """It has batch statistics and other blocks than the norm-free one."""
    folder = published(tmp_path / "clip", "open_clip")
    path = folder / "open_clip_config.json"
    values = json.loads(path.read_text())
    sizes = {**values["model_cfg"], "vision_cfg": {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8, "head_width": 64}}
    path.write_text(json.dumps({**values, "model_cfg": sizes}))
    model = open_clip().model.CLIP(**{**sizes, "text_cfg": {**sizes["text_cfg"], "hf_tokenizer_name": None}})
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, folder / "open_clip_model.safetensors")
    task = fresh(**sized(image=ResidualNetwork(image_size=32, width=8, heads=4), mean=MEAN, std=STD))
    refused(task, folder, "no norm-free residual tower")


DAMAGED: dict[str, list[tuple[str, str, Any, str]]] = {
    "open_clip": [
        ("model_cfg.vision_cfg", "head_width", 0, "head_width 0 of its vision_cfg are no numbers of channels"),
        ("model_cfg.vision_cfg", "width", "64", "the width '64' and head_width 32 of its vision_cfg are no numbers"),
        ("preprocess_cfg", "std", [0.1, 0, 0.1], "are no three numbers by which colours are normalised"),
        ("preprocess_cfg", "mean", [math.nan] * 3, "are no three numbers by which colours are normalised"),
    ],
    "transformers": [
        ("vision_config", "hidden_size", 0, "is no configuration of a CLIP"),
        ("text_config", "num_hidden_layers", "two", "is no configuration of a CLIP"),
    ],
}  # fmt: skip


@pytest.mark.parametrize("kind", WRITERS)
def test_a_folder_with_numbers_that_cannot_be_is_refused(kind: str, tmp_path: Path) -> None:
    folder = published(tmp_path / "clip", kind)
    path = folder / ("open_clip_config.json" if kind == "open_clip" else "config.json")
    whole, task = path.read_text(), fresh(**sized())
    for place, name, value, words in DAMAGED[kind]:
        settings = json.loads(whole)
        inner = settings
        for part in place.split("."):
            inner = inner[part]
        inner[name] = value
        path.write_text(json.dumps(settings))
        refused(task, folder, words)


@pytest.mark.parametrize("kind", WRITERS)
def test_a_tokenizer_that_is_damaged_is_refused_in_a_sentence(kind: str, tmp_path: Path) -> None:
    folder = published(tmp_path / "clip", kind)
    (folder / "tokenizer.json").write_text("{")
    refused(fresh(**sized()), folder, r"tokenizer.json cannot be read as a tokenizer \(.*\); or give --task.tokenizer-file")
    for name, content in (("merges.txt.gz", b"no gzip"), ("merges.txt", b"\xff\xfe"), ("tokenizer.json", b"[]")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=rf"{name} cannot be read as a tokenizer \(.*\); get it again"):
            fresh(**sized(tokenizer_file=str(tmp_path / name)))
