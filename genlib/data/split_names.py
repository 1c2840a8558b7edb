"""Names of splits, as the field writes them: `train`, `Training`, `val`, `dev`, `test`, ..., alone or as a word of a shard's name or folder."""

from __future__ import annotations

import re

HELD_OUT = ("validation", "test")
"""Splits that are never trained on, in the order in which they are taken for held-out samples."""
_WORDS = {
    "train": "train", "training": "train", "validation": "validation", "valid": "validation", "val": "validation", "dev": "validation",
    "eval": "validation", "test": "test", "testing": "test",
}  # fmt: skip


def split_in(name: str) -> str:
    """The split that the last such word of a name says, in any case: `cc3m-train-0000.tar` is train, `VAL_3` validation; empty where none does."""
    return next((_WORDS[word] for word in reversed(re.findall(r"[a-z]+", name.lower())) if word in _WORDS), "")


def split_of_path(path: str) -> str:
    """The split that a path says: its last part before the folders above."""
    return next((split for part in reversed(path.split("/")) if (split := split_in(part))), "")


def split_named(folder: str) -> str:
    """The split that a folder is, as `Train`, `val` or `train2017`; empty where it has another name, of which such a word may be a part."""
    found = re.fullmatch(r"([a-z]+)[\W\d_]*", folder.lower())
    return _WORDS.get(found[1], "") if found else ""
