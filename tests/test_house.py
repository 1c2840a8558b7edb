"""The house keeps its own rules: one name for one thing, and what is named as text exists."""

from __future__ import annotations

import ast
import importlib
import re
from collections import defaultdict
from functools import cache
from pathlib import Path

from genlib import registry

ROOT = Path(__file__).parents[1]
FOLDERS = ("genlib", "jobs", "serve", "cluster", "tune_spaces", "infra")


@cache
def sources() -> dict[str, ast.Module]:
    """The product's files, parsed."""
    paths = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]
    return {path.relative_to(ROOT).as_posix(): ast.parse(path.read_text()) for path in paths}


def test_no_class_name_stands_for_two_things() -> None:
    places = defaultdict(list)
    for path, tree in sources().items():
        for node in tree.body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places[node.name].append(path)
    twice = {name: found for name, found in places.items() if len(found) > 1}
    assert twice == {}, "give one of them another name"


def test_functions_that_are_named_as_text_exist() -> None:
    names = set()
    for tree in sources().values():
        texts = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
        names |= {text for text in texts if re.fullmatch(r"(genlib|jobs|serve|cluster|tune_spaces|infra)(\.\w+)+:\w+", text)}
    assert len(names) > 30, "the registry is among them"
    for name in sorted(names):
        module, _, attribute = name.partition(":")
        assert hasattr(importlib.import_module(module), attribute), name


def test_what_families_share_imports_no_family_of_its_group() -> None:
    found = []
    for path, tree in sources().items():
        if shared := re.fullmatch(r"genlib/models/(?:(\w+)/)?base/\w+\.py", path):
            own = "genlib.models." + (shared[1] or "")
            names = [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
            found += [f"{path} imports {name}" for name in names if name.startswith(own) and ".base" not in name]
    assert found == []


def test_configurations_stay_where_checkpoints_name_them() -> None:
    """A manifest names `module:class`, so that a class that moves or is renamed leaves checkpoints behind that cannot be opened."""
    stages = [stage for name in registry.RECIPES for recipe in [registry.load(name)] for stage in (*recipe.stages, *recipe.smoke)]
    kinds = {f"{type(stage.task).__module__}:{type(stage.task).__qualname__}".removeprefix("genlib.models.") for stage in stages}
    assert kinds >= {
        *("adversarial.acgan:ACGANConfig", "adversarial.cgan:ConditionalGANConfig", "adversarial.dcgan:DCGANConfig", "adversarial.gan:GANConfig"),
        *("adversarial.infogan:ConvInfoGANConfig", "adversarial.infogan:InfoGANConfig", "adversarial.progan:ProGANConfig"),
        *("adversarial.stylegan.labelled:LabelledStyleGANConfig", "adversarial.stylegan.task:StyleGANConfig", "adversarial.text_gan:TextGANConfig"),
        *("adversarial.wgan:WGANConfig", "adversarial.wgan_gp:DenseWGANGPConfig", "adversarial.wgan_gp:WGANGPConfig"),
        *("autoencoders.autoencoder:AutoencoderConfig", "autoencoders.kl:AutoencoderKLConfig", "autoencoders.vq:AutoencoderVQConfig"),
        *("diffusion.ddpm:ClassDDPMConfig", "diffusion.ddpm:DDPMConfig", "diffusion.inpainting:InpaintingConfig"),
        *("diffusion.inpainting:ResamplingConfig", "diffusion.ldm:LatentDiffusionConfig", "diffusion.rectified_flow:RectifiedFlowConfig"),
        *("diffusion.rectified_flow:ReflowConfig", "diffusion.sd3:SD3Config", "diffusion.sdxl:SDXLConfig", "diffusion.sdxl:SDXLRefinerConfig"),
        *("energy.dbn:DBNConfig", "energy.dbn:StackedRBMConfig", "energy.gaussian_rbm:GaussianRBMConfig", "energy.rbm:RBMConfig"),
        *("maps.som:SOMConfig", "representation.classifier:ClassifierConfig", "representation.clip:CLIPConfig"),
        *("representation.moco:MoCoConfig", "representation.simclr:SimCLRConfig", "representation.text_encoder:T5EncoderConfig"),
        *("representation.text_encoder:TextEncoderConfig", "variational.vae:VAEConfig"),
    }


def test_json_is_written_by_one_function() -> None:
    """`json.dumps` says NaN: what is kept goes through `json_text`; a digest, a copy and a sentence may use it."""
    found = []
    for path, tree in sources().items():
        nodes = list(ast.walk(tree))
        said = [node for node in nodes if called(node, "json", "dumps", "dump") and not any(one.arg == "allow_nan" for one in node.keywords)]
        if said:
            harmless = [node for node in nodes if isinstance(node, ast.Raise) or called(node, "hashlib", "sha256") or called(node, "json", "loads")]
            inside = {id(inner) for node in harmless for inner in ast.walk(node)}
            found += [f"{path}:{node.lineno}" for node in said if id(node) not in inside]
    assert found == []


def called(node: ast.AST, module: str, *names: str) -> bool:
    function = node.func if isinstance(node, ast.Call) else None
    return isinstance(function, ast.Attribute) and function.attr in names and isinstance(function.value, ast.Name) and function.value.id == module
