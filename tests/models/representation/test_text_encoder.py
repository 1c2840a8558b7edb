"""Text encoders from folders: what their texts are filled up with."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from genlib.models.representation.text_encoder import pad_token
from genlib.nn.tokenizer import END, train_bpe

TOKENIZER = train_bpe(["a red circle!", "two blue squares!"], 600)


def folder(root: Path, **files: object) -> Path:
    """A pipeline's text_encoder, beside whose tokenizer folder lie these JSON files."""
    (root / "text_encoder").mkdir()
    (root / "tokenizer").mkdir()
    for name, value in files.items():
        (root / "tokenizer" / f"{name}.json").write_text(json.dumps(value))
    return root / "text_encoder"


@pytest.mark.parametrize(
    ("settings", "marks", "expected"),
    [
        ({"pad_token": END}, None, END),
        ({"pad_token": {"content": END, "lstrip": False}}, None, END),
        ({"pad_token": END}, {"pad_token": "!"}, "!"),
        ({"pad_token": END, "added_tokens_decoder": {}}, {"pad_token": "!"}, END),
        ({}, {"pad_token": {"content": "!"}}, "!"),
    ],
)
def test_padding_is_the_one_that_transformers_would_take(tmp_path: Path, settings: dict, marks: dict | None, expected: str) -> None:
    files = {"tokenizer_config": settings, **({"special_tokens_map": marks} if marks else {})}
    assert TOKENIZER.token_to_id(expected) is not None
    assert pad_token(folder(tmp_path, **files), TOKENIZER) == TOKENIZER.token_to_id(expected)


def test_without_settings_the_first_token_fills_up(tmp_path: Path) -> None:
    assert pad_token(folder(tmp_path), TOKENIZER) == 0


def test_broken_settings_are_refused_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"tokenizer_config\.json is no JSON object"):
        pad_token(folder(tmp_path, tokenizer_config=["no"]), TOKENIZER)
