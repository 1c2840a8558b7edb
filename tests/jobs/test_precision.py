"""The headline jobs compute in bf16 where the processor has it, in fp32 where it does not, and as the user says."""

from __future__ import annotations

import pytest
import torch

from genlib import registry
from jobs import clip_pretrain, sdxl_pretrain, train
from jobs.precision import fitting_precision, words_on_precision


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """What the jobs ask jobs/train.py for."""
    asked: list[list[str]] = []
    monkeypatch.setattr(train, "main", lambda words, *_: asked.append(list(words)) or 1)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    return asked


@pytest.mark.parametrize(("capability", "precision"), [("AVX2", "fp32"), ("DEFAULT", "fp32"), ("AVX512", "bf16")])
def test_a_tiny_recipe_takes_what_is_fast_on_the_processor(
    monkeypatch: pytest.MonkeyPatch, commands: list[list[str]], capability: str, precision: str
) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    clip_pretrain.main([])
    sdxl_pretrain.main([])
    for words in commands:
        asked = train.parse(words)
        assert {stage.train.precision for stage in asked.stages if _own(asked.recipe)[stage.name] == "bf16"} == {precision}


def _own(recipe: str) -> dict[str, str]:
    """The precision that the recipe itself has, by stage."""
    return {stage.name: stage.train.precision for stage in registry.load(recipe).stages}


def test_what_the_user_says_wins(monkeypatch: pytest.MonkeyPatch, commands: list[list[str]]) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    clip_pretrain.main(["--train.precision", "bf16"])
    assert train.parse(commands[0]).stages[0].train.precision == "bf16"


@pytest.mark.parametrize("recipe", ["clip_tiny", "ldm_tiny", "sd3_tiny", "autoencoder_vq"])
def test_every_recipe_for_processors_fits_and_says_so(recipe: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    asked, own = train.parse([recipe]), registry.load(recipe).stages
    assert {stage.train.precision for stage in asked.stages} == {"fp32"}
    assert words_on_precision(asked.stages, own).startswith("this processor has no bf16 instructions")
    assert words_on_precision(own, own) == ""
    assert train.parse([recipe]).again == f"python jobs/train.py {recipe}"


def test_a_recipe_for_gpus_a_machine_with_one_and_a_cluster_keep_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    large, tiny = registry.load("clip_vit_b32").stages, registry.load("clip_tiny").stages
    assert fitting_precision(large) == large
    assert fitting_precision(tiny) != tiny
    with monkeypatch.context() as elsewhere:
        elsewhere.setenv("RAY_ADDRESS", "http://head:8265")
        assert fitting_precision(tiny) == tiny
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert fitting_precision(tiny) == tiny
