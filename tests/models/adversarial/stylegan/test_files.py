"""Generators as folders: written, read again, and refused where they are of another network."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from genlib import companions
from genlib.models.adversarial.stylegan.settings import StyleGame, StyleNetworks
from genlib.models.adversarial.stylegan.synthesis3 import AliasFree
from genlib.models.adversarial.stylegan.task import StyleGAN
from genlib.models.base.health import Health
from genlib.types import DataSpec

NETWORKS = {"latent_dim": 8, "style_dim": 8, "mapping_layers": 2, "channel_base": 128, "channel_max": 16}
DESIGN = AliasFree(num_layers=4, margin=4, first_cutoff=1.0, first_stopband=2.0)


def made(seed: int = 0, **changes: object) -> StyleGAN:
    torch.manual_seed(seed)
    return StyleGAN(StyleNetworks(**{**NETWORKS, **changes}), StyleGame(), Health(), DataSpec(channels=1, image_size=16))  # type: ignore[arg-type]


@pytest.mark.parametrize("synthesis", ["stylegan2", "stylegan3"])
def test_a_generator_comes_back_from_its_folder(tmp_path: Path, synthesis: str) -> None:
    one, other = (made(seed, synthesis=synthesis, alias_free=DESIGN) for seed in (0, 1))
    one.generator.mapping.w_avg.copy_(torch.randn(8))
    companions.export(one, tmp_path)
    assert not torch.allclose(one.generate(seed=[1]), other.generate(seed=[1]))
    companions.load_pretrained(other, tmp_path)
    assert torch.equal(one.generate(seed=[1], truncation=0.7), other.generate(seed=[1], truncation=0.7))


def test_names_shapes_and_settings_are_the_published_ones(tmp_path: Path) -> None:
    companions.export(made(), tmp_path)
    weights = load_file(tmp_path / "generator" / "model.safetensors")
    assert weights["synthesis.b8.conv0.noise_strength"].shape == ()
    assert {
        "mapping.fc0.weight",
        "mapping.w_avg",
        "synthesis.b4.const",
        "synthesis.b16.conv1.affine.bias",
        "synthesis.b16.torgb.weight",
    } <= weights.keys()
    settings = json.loads((tmp_path / "generator" / "config.json").read_text())
    assert settings["img_resolution"] == 16
    assert settings["synthesis_kwargs"] == {"channel_base": 128, "channel_max": 16, "num_fp16_res": 0, "use_noise": True}


def test_a_state_dict_of_all_networks_gives_its_generator(tmp_path: Path) -> None:
    one, other = made(0), made(1)
    weights = {f"G_ema.{name}": value.clone() for name, value in one.generator.state_dict().items() if not name.endswith("resample_filter")}
    weights |= {"D.b16.conv0.weight": torch.zeros(3), "G.mapping.fc0.weight": torch.zeros(3)}
    save_file(weights, tmp_path / "network-snapshot-000100.safetensors")
    companions.load_pretrained(other, tmp_path)
    assert torch.equal(one.generate(seed=[1]), other.generate(seed=[1]))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"channel_base": 64}, r"is \(.*\) there and \(.*\) here; its synthesis_kwargs is .* here: give the task its sizes"),
        ({"mapping_layers": 3}, "lack mapping.fc2.weight, which .* has; its mapping_kwargs is {'num_layers': 2} and {'num_layers': 3} here"),
        ({"mapping_layers": 1}, "have mapping.fc1.bias, which this generator has not"),
    ],
)  # fmt: skip
def test_another_network_is_refused_and_nothing_has_changed(tmp_path: Path, change: dict, sentence: str) -> None:
    companions.export(made(), tmp_path)
    other = made(1, **change)
    before = other.generate(seed=[1])
    with pytest.raises(ValueError, match=sentence):
        companions.load_pretrained(other, tmp_path)
    assert torch.equal(before, other.generate(seed=[1]))
