"""Folders in diffusers' and transformers' format: ours load there, theirs load here, and every other one is refused with nothing changed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from genlib.models.base.components import adopt_component, save_component


def autoencoder(**options: Any) -> nn.Module:
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2, "block_out_channels": (4, 8)}
    return AutoencoderKL(**{**blocks, "norm_num_groups": 2, **options})


def unet(**options: Any) -> nn.Module:
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

    blocks = {"down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"), "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D")}
    sizes = {"block_out_channels": (8, 16), "layers_per_block": 1, "cross_attention_dim": 8, "attention_head_dim": 4, "norm_num_groups": 4}
    return UNet2DConditionModel(**{**blocks, **sizes, **options})


def text(**options: Any) -> nn.Module:
    from transformers import CLIPTextConfig, CLIPTextModel

    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2, "num_hidden_layers": 1, "vocab_size": 40}
    return CLIPTextModel(CLIPTextConfig(**{**sizes, "bos_token_id": 0, "eos_token_id": 39, **options}))


def t5(**options: Any) -> nn.Module:
    from transformers import T5Config, T5EncoderModel

    return T5EncoderModel(T5Config(d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2, vocab_size=40, feed_forward_proj="gated-gelu", **options))


def same(one: nn.Module, two: nn.Module) -> bool:
    here, there = one.state_dict(), two.state_dict()
    return here.keys() == there.keys() and all(torch.equal(here[name], there[name]) for name in here)


@pytest.mark.parametrize("make", [autoencoder, unet, text, t5])
def test_ours_loads_there_and_theirs_loads_here(make: Callable[..., Any], tmp_path: Path) -> None:
    model, ours, theirs = make(), tmp_path / "ours", tmp_path / "theirs"
    save_component(model, ours)
    model.save_pretrained(theirs)
    assert same(type(model).from_pretrained(ours), model)
    for folder in (ours, theirs):
        other = make()
        assert not same(other, model)
        adopt_component(other, folder)
        assert same(other, model)
    assert {path.suffix for path in ours.iterdir()} == {".json", ".safetensors"}


def test_settings_are_written_and_returned(tmp_path: Path) -> None:
    save_component(autoencoder(), tmp_path, {"scaling_factor": 0.5})
    assert adopt_component(autoencoder(), tmp_path)["scaling_factor"] == 0.5


def test_weights_in_pieces_and_in_half_precision(tmp_path: Path) -> None:
    model = autoencoder().half()
    model.save_pretrained(tmp_path, max_shard_size="10KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    other = autoencoder()
    adopt_component(other, tmp_path)
    assert same(other, model.float())


def test_names_of_older_versions(tmp_path: Path) -> None:
    model, other = autoencoder(), autoencoder()
    save_component(model, tmp_path)
    path = tmp_path / "diffusion_pytorch_model.safetensors"
    old = {".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value.", ".to_out.0.": ".proj_attn."}
    state = load_file(path)
    for new, name in old.items():
        state = {key.replace(new, name): value for key, value in state.items()}
    save_file(state, path)
    adopt_component(other, tmp_path)
    assert same(other, model)


def test_text_towers_are_published_under_the_names_that_all_versions_know(tmp_path: Path) -> None:
    save_component(text(), tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    assert all(name.startswith("text_model.") for name in state)


def without_config(folder: Path) -> None:
    (folder / "vae").mkdir()
    (folder / "config.json").rename(folder / "vae" / "config.json")


def only_pickle(folder: Path) -> None:
    (folder / "diffusion_pytorch_model.safetensors").rename(folder / "diffusion_pytorch_model.bin")


def without_weights(folder: Path) -> None:
    (folder / "diffusion_pytorch_model.safetensors").unlink()


def cut_off(folder: Path) -> None:
    path = folder / "diffusion_pytorch_model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])


def no_json(folder: Path) -> None:
    (folder / "config.json").write_text("[" * 100_000)


def outside(folder: Path) -> None:
    (folder / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "../other.safetensors"}}))


def other_class(folder: Path) -> None:
    shutil.rmtree(folder)
    save_component(unet(), folder)


def other_setting(folder: Path) -> None:
    save_component(autoencoder(block_out_channels=(4, 16)), folder)


def other_function(folder: Path) -> None:
    save_component(autoencoder(act_fn="mish"), folder)


def edited(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        path = folder / "diffusion_pytorch_model.safetensors"
        state = load_file(path)
        change(state)
        save_file(state, path)

    return edit


NAME = "decoder.conv_out.weight"


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (without_config, r"has no config.json; name the folder of one component .*, such as .*vae"),
        (only_pickle, r"as a pickle alone \(diffusion_pytorch_model.bin\), which can run code"),
        (without_weights, r"has no weights: diffusion_pytorch_model.safetensors or model.safetensors"),
        (cut_off, r"is no whole safetensors file"),
        (no_json, r"config.json is no JSON object"),
        (outside, r"names files that are not in its folder"),
        (other_class, r"holds a UNet2DConditionModel, but this stage is a AutoencoderKL"),
        (other_setting, r"block_out_channels is \[4, 16\] there and \[4, 8\] here"),
        (other_function, r"act_fn is mish there and silu here"),
        (edited(lambda state: state.pop(NAME)), rf"its weights lack {NAME}"),
        (edited(lambda state: state.update(extra=torch.ones(1))), r"its weights have extra, which the network here has not"),
        (edited(lambda state: state.update({NAME: torch.ones(3, 9, 3, 3)})), rf"{NAME} is \(3, 9, 3, 3\) there and \(3, 4, 3, 3\) here"),
    ],
)
def test_what_does_not_fit_is_refused_in_a_sentence(spoil: Callable[[Path], None], words: str, tmp_path: Path) -> None:
    folder, model = tmp_path / "folder", autoencoder()
    save_component(autoencoder(), folder)
    spoil(folder)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ValueError, match=words) as error:
        adopt_component(model, folder)
    assert "\n" not in str(error.value)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
