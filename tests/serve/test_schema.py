"""Schemas come from the typed arguments of actions."""

import pytest

from genlib.models.representation.clip import CLIP
from genlib.task import Task, action
from serve.schema import arguments_schema


def test_clip_classify() -> None:
    schema = {one.name: arguments_schema(one) for one in CLIP.actions()}
    assert set(schema) == {"classify", "embed_image", "embed_text"}
    classify = schema["classify"]
    assert classify["required"] == ["image", "labels"]
    assert classify["properties"]["labels"]["items"] == {"type": "string"}
    assert classify["properties"]["image"]["contentEncoding"] == "base64"
    assert classify["additionalProperties"] is False


def test_an_argument_without_type_is_refused() -> None:
    class Odd(Task):
        @action
        def shift(self, *, by) -> int:
            """Shifts."""
            return by

    with pytest.raises(TypeError, match="argument by of action shift has no type"):
        arguments_schema(Odd.actions()[0])
