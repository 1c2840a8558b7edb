"""Schemas come from the ports of actions."""

from __future__ import annotations

import pytest

from genlib.models.diffusion.ddpm import ClassDDPM
from genlib.models.representation.clip import CLIP
from genlib.task import Task, action
from serve.inference.schema import arguments_schema
from serve.limits import Limits

LIMITS = Limits(steps=100, pictures=8).of_ports()


def test_clip_classify() -> None:
    schema = {one.name: arguments_schema(one, LIMITS) for one in CLIP.actions()}
    assert set(schema) == {"classify", "embed_image", "embed_text"}
    classify = schema["classify"]
    assert classify["required"] == ["image", "labels"]
    assert classify["properties"]["labels"]["items"] == {"type": "string"}
    assert classify["properties"]["image"]["x-port"] == "image"
    assert classify["properties"]["templates"]["default"] == []
    assert classify["additionalProperties"] is False


def test_limits_and_choices_stand_in_the_schema() -> None:
    (draw,) = (arguments_schema(one, LIMITS)["properties"] for one in ClassDDPM.actions() if one.name == "generate")
    assert (draw["steps"]["minimum"], draw["steps"]["maximum"], draw["steps"]["default"]) == (1, 100, 50)
    assert (draw["seed"]["minItems"], draw["seed"]["maxItems"], draw["seed"]["items"]["maximum"]) == (1, 8, 2**63 - 1)
    assert draw["sampler"]["enum"] == ["ddim", "ancestral", "heun", "dpm_solver_pp_2m"]
    assert draw["seed"]["x-axes"] == ["batch"]


def test_what_has_no_port_is_refused() -> None:
    class Odd(Task):
        @action
        def shift(self, *, by: int) -> int:
            """Shifts."""
            return by

    with pytest.raises(TypeError, match=r"argument by of action shift has no port; annotate it with one of genlib\.ports, such as Image"):
        Odd.actions()
