"""Exports load in transformers and in open_clip, and give the same directions."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from genlib import companions
from genlib.models.representation.base.clip_towers import ResidualNetwork, TextTransformer, VisionTransformer
from genlib.models.representation.clip import CLIP, CLIPConfig
from genlib.nn.tokenizer import train_bpe
from genlib.types import DataSpec
from tests.open_clip_stub import open_clip

TEXTS = ["heart outline", "arrow left circle", "home", "a much longer caption than the context can hold, to be cut at its end mark"]
VIT = VisionTransformer(image_size=32, patch_size=8, width=64, layers=2, heads=4)
RESIDUAL = ResidualNetwork(width=8, layers=(1, 2, 1, 1))


def made(image: VisionTransformer | ResidualNetwork, channels: int) -> CLIP:
    torch.manual_seed(0)
    text = TextTransformer(context_length=12, vocab_size=600, width=32, layers=2, heads=4)
    mean, std = ((0.3,), (0.4,)) if channels == 1 else ((0.3, 0.4, 0.5), (0.2, 0.3, 0.4))
    task = CLIPConfig(image=image, text=text, embed_dim=24, mean=mean, std=std).build(DataSpec(channels=channels, has_captions=True), {})
    task.tokenizer.use(train_bpe(TEXTS, 600))
    for p in task.parameters():  # away from zeros and ones, which would hide a swapped weight
        p.data += 0.05 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel()))
    return task.eval()


def pixels(channels: int, side: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Images as our task takes them, and as RGB."""
    images = torch.rand(5, channels, side, side, generator=torch.Generator().manual_seed(1))
    return images, images.expand(-1, 3, -1, -1)


@pytest.mark.parametrize("channels", [1, 3])
def test_transformers_gives_the_same_directions(channels: int, tmp_path: Path) -> None:
    from transformers import AutoTokenizer, CLIPModel

    task = made(VIT, channels)
    companions.export(task, tmp_path)
    model = CLIPModel.from_pretrained(tmp_path / "transformers").eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "transformers")
    images, rgb = pixels(channels, 32)
    mean, std = (torch.tensor(v)[:, None, None] for v in (task.config.mean, task.config.std))
    with torch.no_grad():
        tokens = tokenizer(TEXTS, padding="max_length", truncation=True, max_length=12, return_tensors="pt")
        out = model(input_ids=tokens.input_ids, pixel_values=(rgb - mean) / std)
    torch.testing.assert_close(out.image_embeds, task.embed_image(image=images), atol=1e-5, rtol=0)
    torch.testing.assert_close(out.text_embeds, task.embed_text(text=TEXTS), atol=1e-5, rtol=0)
    torch.testing.assert_close(out.logits_per_image.softmax(1), task.classify(image=images, labels=TEXTS), atol=1e-5, rtol=0)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("image", [VIT, RESIDUAL], ids=["vit", "residual"])
def test_open_clip_gives_the_same_directions(image: VisionTransformer | ResidualNetwork, channels: int, tmp_path: Path) -> None:
    task = made(image, channels)
    companions.export(task, tmp_path)
    model = open_clip().create_model(f"local-dir:{tmp_path / 'open_clip'}").eval()
    tokenizer = open_clip().get_tokenizer(f"local-dir:{tmp_path / 'open_clip'}")
    images, rgb = pixels(channels, image.image_size)
    mean, std = (torch.tensor(v)[:, None, None] for v in (task.config.mean, task.config.std))
    with torch.no_grad():
        found_images, found_texts = model.encode_image((rgb - mean) / std), model.encode_text(tokenizer(TEXTS))
    torch.testing.assert_close(F.normalize(found_images, dim=-1), task.embed_image(image=images), atol=1e-5, rtol=0)
    torch.testing.assert_close(F.normalize(found_texts, dim=-1), task.embed_text(text=TEXTS), atol=1e-5, rtol=0)
    torch.testing.assert_close(model.logit_scale, task.net.logit_scale[0])


def test_a_folder_holds_no_code_and_its_format_is_said(tmp_path: Path) -> None:
    formats = companions.export(made(VIT, 3), tmp_path)
    assert {path.suffix for path in tmp_path.rglob("*") if path.is_file()} <= {".json", ".safetensors"}
    assert [(form.folder, form.library, form.task) for form in formats] == [
        (name, name, "zero-shot-image-classification") for name in ("open_clip", "transformers")
    ]


def test_a_repository_names_itself_as_the_place_of_its_tokenizer(tmp_path: Path) -> None:
    """Of a local folder open_clip takes the one in there, of a repository that which the configuration names."""
    (form, _) = companions.export(made(VIT, 3), tmp_path)
    assert form.prepare_for_hub
    form.prepare_for_hub(tmp_path / "open_clip", "me/clip")
    settings = json.loads((tmp_path / "open_clip" / "open_clip_config.json").read_text())
    assert settings["model_cfg"]["text_cfg"]["hf_tokenizer_name"] == "me/clip"
    assert settings["model_cfg"]["embed_dim"] == 24
