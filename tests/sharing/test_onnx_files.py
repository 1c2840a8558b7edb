"""ONNX files compute what the trained network's own actions do, for any size of a batch; what has none says why."""

from __future__ import annotations

import builtins
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from genlib import companions, registry
from genlib.functional.resampling import low_pass
from genlib.models.adversarial.stylegan.synthesis2 import modulated_conv
from genlib.random import seeded_normal
from genlib.sharing.card import Facts, write_card
from genlib.sharing.formats import Graph, Graphs
from genlib.sharing.onnx_files import FOLDER, check_installed, compared, write_graph, write_onnx
from genlib.types import DataSpec
from tests.models.stages import built_untrained
from tests.sharing.test_cards_run import run
from tests.test_companions import families

SPEC = DataSpec(channels=1, image_size=16, class_names=tuple("abcdefghij"), has_captions=True, has_source=True, has_other=True, num_samples=9)
Asked = tuple[str, dict[str, Tensor], Tensor]
"""A file, its inputs, and what the task's own action gives for them."""


def built(recipe: str, spec: DataSpec = SPEC) -> Any:
    torch.manual_seed(0)
    return registry.load(recipe).smoke[0].task.build(spec, {}).eval()


def of_clip(task: Any) -> list[Asked]:
    side, texts = task.config.image.image_size, ["circle", "a large red square", "x"]
    image, text = torch.rand(3, task.data.channels, side, side), task.tokenizer.encode(texts)
    mean, std = (torch.tensor(values).expand(3)[:, None, None] for values in (task.config.mean, task.config.std))
    tokens = torch.nn.functional.pad(text, (0, task.config.text.context_length - text.shape[1]))
    pixels = (image.expand(-1, 3, -1, -1) - mean) / std
    return [
        ("vision_model", {"pixel_values": pixels}, task.embed_image(image=image)),
        ("text_model", {"input_ids": tokens}, task.embed_text(text=texts)),
    ]


def of_generator(task: Any) -> list[Asked]:
    seeds = [1, 2, 3]
    noise = seeded_normal(seeds, (task.noise_size,), torch.device("cpu"))
    if task.condition_sizes[0]:
        label = torch.eye(task.condition_sizes[0])[[0, 3, 9]]
        return [("generator", {"noise": noise, "label": label}, task.generate(seed=seeds, label=[0, 3, 9]))]
    return [("generator", {"noise": noise}, task.generate(seed=seeds))]


def of_style(task: Any) -> list[Asked]:
    styles = torch.randn(3, task.networks.style_dim)
    labels = {"label": [0, 3, 9]} if task.condition_sizes[0] else {}
    more = {"label": torch.eye(10)[[0, 3, 9]]} if labels else {}
    noise = seeded_normal([1, 2, 3], (task.noise_size,), torch.device("cpu"))
    return [("synthesis", {"style": styles}, task.draw(code=styles)), ("mapping", {"noise": noise, **more}, task.styles_of([1, 2, 3], 1.0, **labels))]


def of_codes(task: Any) -> list[Asked]:
    code, image = torch.randn(3, task.config.latent_dim), torch.rand(3, *task.shape.sides)
    return [("decoder", {"code": code}, task.decode(code=code)), ("encoder", {"sample": image}, task.embed(image=image))]


def of_latents(task: Any) -> list[Asked]:
    image = torch.rand(3, task.data.channels, task.image_size, task.image_size)
    task.scale.fill_(0.5)
    task.shift.fill_(0.25)
    with torch.no_grad():
        latent = (task.encode_image(2 * image - 1)[0] - 0.25) * 0.5
    return [("encoder", {"image": image}, latent), ("decoder", {"latent": latent}, task.reconstruct(image=image))]


def of_images(task: Any) -> list[Asked]:
    image = torch.rand(3, task.data.channels, task.image_size, task.image_size)
    found: list[Asked] = [("features", {"image": image}, task.embed(image=image))]
    return [*found, ("model", {"image": image}, task.classify(image=image))] if hasattr(task, "classify") else found


def of_domains(task: Any) -> list[Asked]:
    image = torch.rand(3, task.channels, task.side, task.side)
    return [("a_to_b", {"image": image}, task.translate(image=image)), ("b_to_a", {"image": image}, task.translate(image=image, to="A"))]


FAMILIES: dict[str, Callable[[Any], list[Asked]]] = {
    **dict.fromkeys(("clip_tiny", "clip_vit_b32"), of_clip),
    **dict.fromkeys(("gan", "dcgan", "wgan_gp", "acgan", "cgan", "infogan", "progan"), of_generator),
    **dict.fromkeys(("stylegan1", "stylegan2", "stylegan2_labelled", "stylegan3_t", "stylegan3_r", "r3gan"), of_style),
    **dict.fromkeys(("autoencoder", "autoencoder_denoising", "pca", "vae"), of_codes),
    **dict.fromkeys(("autoencoder_kl", "autoencoder_vq"), of_latents),
    **dict.fromkeys(("classifier", "simclr", "moco"), of_images),
    **dict.fromkeys(("cyclegan", "unit"), of_domains),
}


@pytest.mark.slow
@pytest.mark.parametrize("recipe", FAMILIES)
def test_files_compute_what_actions_do_and_their_cards_code_runs(recipe: str, tmp_path: Path) -> None:
    import onnxruntime

    task: Any = built_untrained(recipe)["train"].eval() if recipe.startswith("clip") else built(recipe)
    asked = FAMILIES[recipe](task)  # first: it may set what the files have to hold
    form = write_onnx(companions.graphs(task), tmp_path)
    image = tmp_path / "image.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (16, 16), np.uint8)).save(image)
    facts = Facts(recipe=recipe, stage="train", parameters=1, data=SPEC, data_name="x", captions=["a red circle", "a blue one"])
    write_card(facts, form, tmp_path, picture=None, image=image)
    for name, inputs, expected in asked:
        session = onnxruntime.InferenceSession(tmp_path / FOLDER / f"{name}.onnx", providers=["CPUExecutionProvider"])
        for rows in (3, 1):
            (made,) = session.run(None, {key: value[:rows].numpy() for key, value in inputs.items()})
            torch.testing.assert_close(torch.from_numpy(made), expected[:rows], atol=2e-4, rtol=1e-4)
    assert run([tmp_path / FOLDER]).count("\n") >= 2


def test_a_network_with_more_pixels_than_channels_becomes_a_graph_for_any_batch() -> None:
    """Where StyleGAN2 otherwise computes with groups by sample, which no such graph holds."""

    class Convolved(nn.Module):
        def forward(self, x: Tensor, style: Tensor) -> Tensor:
            return modulated_conv(x, torch.ones(3, 4, 3, 3), style, low_pass(), gain=1.0, demodulate=True)

    inputs = (torch.randn(2, 4, 32, 32), torch.randn(2, 4))
    batch = torch.export.Dim("batch")
    program = torch.export.export(Convolved(), inputs, dynamic_shapes={"x": {0: batch}, "style": {0: batch}})
    many = (torch.randn(5, 4, 32, 32), torch.randn(5, 4))
    torch.testing.assert_close(program.module()(*many), Convolved()(*many), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("recipe", "sentence"),
    [
        ("ddpm", "ClassDDPM does not become ONNX files: it draws in many steps of a sampler, and a graph is one pass"),
        ("rectified_flow", "RectifiedFlow does not become ONNX files: it draws in many steps"),
        ("pix2pix", "Pix2Pix does not become ONNX files: its noise is dropout that is drawn from a seed by whole numbers"),
        ("rbm", "does not become ONNX files: its units are drawn at random again and again"),
        ("som", "SOM does not become ONNX files: all that it is stands in prototypes.npy"),
    ],
)
def test_what_has_no_graph_says_why(recipe: str, sentence: str) -> None:
    spec = SPEC if recipe != "pix2pix" else DataSpec(channels=3, image_size=16, has_source=True)
    with pytest.raises(ValueError, match=sentence):
        companions.graphs(built(recipe, spec))


def test_every_family_has_graphs_or_says_why_not() -> None:
    drawn = {kind for kind in families() if kind.actions() and not kind.__subclasses__()}
    assert [kind.__name__ for kind in drawn if not (kind.companions.graphs or kind.companions.no_graphs)] == []


def test_a_missing_package_is_one_sentence_with_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    check_installed()
    real = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name == "onnxruntime":
            raise ImportError(name=name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ValueError, match=r"ONNX files need onnxruntime, which is not installed: pip install 'genlib\[onnx\]'"):
        check_installed()


@pytest.mark.slow
def test_a_file_that_computes_something_else_is_refused(tmp_path: Path) -> None:
    net = nn.Linear(3, 2)
    graph = Graph(name="net", inputs={"x": torch.randn(2, 3)}, output="y", compute=net, owner=net, about="x to y")
    write_graph(graph, tmp_path / "net.onnx")
    assert compared(graph, tmp_path / "net.onnx") < 1e-6
    with torch.no_grad():
        net.weight += 1
    with pytest.raises(ValueError, match="computes something else than the trained network: it differs by"):
        compared(graph, tmp_path / "net.onnx")
    fixed = Graph(name="net", inputs={"x": torch.randn(2, 3)}, output="y", compute=lambda x: net(x) + len(x), owner=net, about="x to y")
    with pytest.raises(ValueError, match=r"net\.onnx"):
        write_onnx(Graphs(graphs=[fixed], title="", about="", code=""), tmp_path)
