"""Validation of a sidecar. Anyone may have written it, so it is accepted only where it fits the shard, itself and all limits.

A sidecar that lies within those limits costs samples (their bytes are checked again when they are read) and never more: no
read beyond the shard, no memory beyond what the shard's size allows, no control characters on a terminal. One that was damaged
by accident fails its checksum and counts as absent.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter
from typing_extensions import TypedDict

from genlib.data import array_file
from genlib.data.codecs.decode import KINDS, LIMIT_BYTES, LIMIT_LABELS, LIMIT_PIXELS, REASONS
from genlib.data.index import tar
from genlib.json_text import json_text

INDEX_VERSION = 5
SUSPECT = 1 << 31
"""Bit of a row next to damage. If such a row is incomplete, the damage is the reason, and is counted already."""
MAX_FIELDS = 16
MAX_NUMBERS = 32
FIELD = r"[a-z0-9_]{1,32}"
NUMBER = r"[A-Za-z0-9_.]{1,64}"
FIRST_BYTES = 1024
"""Longest part of a bad sample's name that is stored, for messages."""
DUPLICATE = "duplicate"
DOT_IN_KEY = "dot in the key, which ends it: unpack the tar and read it with `prepare_data.py folder`"
DROP_REASONS = (DUPLICATE, DOT_IN_KEY, tar.BROKEN, tar.TRUNCATED, tar.TRAILING, *REASONS)
"""Why a sample may have no number."""
HIDDEN, UNKNOWN_ENDING = "hidden file", "ending that is not read"
OTHER_TEXT, OTHER_KIND = "second caption file", "another kind of a field"
TOO_MANY_FIELDS, LINK, UNUSABLE = f"more than {MAX_FIELDS} fields", "link", "sparse file or lost name"
UNUSED_REASONS = (HIDDEN, UNKNOWN_ENDING, OTHER_TEXT, OTHER_KIND, TOO_MANY_FIELDS, LINK, UNUSABLE, *DROP_REASONS)
"""Why a member may be in no row."""
MAX_TEXTS, TEXT_CHARACTERS = 32, 64
"""Fields of JSON members with text that are noted, and longest name of one."""
ARRAYS = {
    "spans": np.int64,
    "sums": np.uint32,
    "masks": np.uint32,
    "pixels": np.int32,
    "numbers": np.float64,
    "texts": np.uint32,
    "key_ends": np.int64,
    "key_bytes": np.uint8,
}
LIMIT_SIDECAR_BYTES = 1 << 30


class InvalidSidecarError(ValueError):
    """A sidecar that is not valid."""


def _require(true: object) -> None:
    if not true:
        raise InvalidSidecarError


NaturalNumber = Annotated[int, Field(ge=0, lt=1 << 62)]
NumberPair = Annotated[list[NaturalNumber], Field(min_length=2, max_length=2)]
FieldName = Annotated[str, Field(pattern=rf"^{FIELD}$")]


def _printable(text: str) -> str:
    _require(text.isprintable())
    return text


def _known(reason: str) -> str:
    _require(reason in DROP_REASONS)
    return reason


def _known_unused(reason: str) -> str:
    _require(reason in UNUSED_REASONS)
    return reason


DropReason = Annotated[str, AfterValidator(_known)]
UnusedReason = Annotated[str, AfterValidator(_known_unused)]
PositiveNumber = Annotated[int, Field(ge=1, lt=1 << 62)]
ShortText = Annotated[str, Field(min_length=1, max_length=TEXT_CHARACTERS), AfterValidator(_printable)]


class ShardFacts(TypedDict):
    """Facts of a whole shard."""

    __pydantic_config__ = ConfigDict(strict=True, extra="forbid")  # type: ignore[misc]
    version: int
    size: NaturalNumber
    tag: str
    changed: str
    digest: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    fields: Annotated[list[Annotated[list[FieldName], Field(min_length=2, max_length=2)]], Field(max_length=MAX_FIELDS)]
    masks: list[NumberPair]
    bad: dict[DropReason, Annotated[int, Field(ge=1)]]
    first: dict[DropReason, Annotated[str, Field(max_length=16 * FIRST_BYTES), AfterValidator(_printable)]]
    numbers: Annotated[list[Annotated[str, Field(pattern=rf"^{NUMBER}$")]], Field(max_length=MAX_NUMBERS + 1)]
    highest_label: Annotated[int, Field(ge=-1, lt=LIMIT_LABELS)]
    sizes: Annotated[list[NumberPair], Field(max_length=2)]
    channels: dict[Literal["1", "3", "4"], NaturalNumber]
    joined: NumberPair
    members: NaturalNumber
    unused: dict[UnusedReason, PositiveNumber]
    endings: Annotated[dict[ShortText, PositiveNumber], Field(max_length=16)]
    texts: Annotated[list[ShortText], Field(max_length=MAX_TEXTS)]
    lists: Annotated[list[ShortText], Field(max_length=MAX_TEXTS)]


_FACTS = TypeAdapter(ShardFacts)


def packed(meta: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> bytes:
    """The content of a sidecar."""
    return array_file.packed(json_text(meta), arrays)


def read(path: Path, wanted: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, np.ndarray]] | None:
    """Facts and arrays of a sidecar; None where there is none, it is not valid, or its facts are not those `wanted`."""
    meta: dict[str, Any] = {}

    def allowed(text: str) -> int:
        meta.update(_FACTS.validate_json(text))
        _require(all(meta[name] == value for name, value in wanted.items()))
        _check_meta(meta)
        return min(LIMIT_SIDECAR_BYTES, _most_bytes(meta))

    try:
        _, arrays = array_file.unpacked(path, allowed)
        _check_shapes(arrays, meta)
        _check_arrays(meta, **arrays)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return meta, arrays


def _rows(meta: Mapping[str, Any]) -> int:
    return sum(count for _, count in meta["masks"])


def _most_bytes(meta: Mapping[str, Any]) -> int:
    """Bytes of all arrays: the number of rows is known, and their names are part of the shard."""
    fields, numbers = len(meta["fields"]), len(meta["numbers"])
    return _rows(meta) * (20 * fields + 8 * numbers + 24) + meta["size"]


def _check_meta(meta: Mapping[str, Any]) -> None:
    names, kinds = [name for name, _ in meta["fields"]], set(KINDS.values())
    _require(len(set(names)) == len(names) and len(set(meta["numbers"])) == len(meta["numbers"]))
    _require(all(kind in kinds and (name == kind or name not in kinds) for name, kind in meta["fields"]))
    _require(set(meta["first"]) <= set(meta["bad"]))
    _require(len(set(meta["texts"])) == len(meta["texts"]) and set(meta["lists"]) <= set(meta["texts"]))
    _require(meta["members"] <= meta["size"] // tar.BLOCK)
    _require(_rows(meta) <= meta["size"] // tar.BLOCK)  # each took a header at least


def _check_shapes(arrays: Mapping[str, np.ndarray], meta: Mapping[str, Any]) -> None:
    """The shapes follow from the number of rows."""
    rows, fields = _rows(meta), len(meta["fields"])
    _require({name: array.dtype.type for name, array in arrays.items()} == ARRAYS)
    wanted = {"spans": (rows, fields, 2), "sums": (rows, fields), "pixels": (rows, 2), "numbers": (rows, len(meta["numbers"]))}
    names, one_each = arrays["key_bytes"], dict.fromkeys(("masks", "texts", "key_ends"), (rows,))
    _require({name: array.shape for name, array in arrays.items()} == {**wanted, **one_each, "key_bytes": (names.size,)})
    _require(names.size <= meta["size"])


def _check_arrays(
    meta: Mapping[str, Any],
    *,
    spans: np.ndarray,
    sums: np.ndarray,
    masks: np.ndarray,
    pixels: np.ndarray,
    numbers: np.ndarray,
    texts: np.ndarray,
    key_ends: np.ndarray,
    key_bytes: np.ndarray,
) -> None:
    present = _check_spans(meta, *np.ascontiguousarray(spans.transpose(2, 1, 0)))
    _require(not sums[~present.T].any())
    columns = {name: present[column] for column, (name, _) in enumerate(meta["fields"])}
    _check_masks(meta, masks, present)
    _require(meta["members"] == int(present.sum()) + sum(meta["unused"].values()))
    _require(not (texts & np.uint32(0xFFFFFFFF << len(meta["texts"]) & 0xFFFFFFFF)).any())
    _require(not texts[~columns.get("json", np.zeros(len(masks), bool))].any())
    heights, widths = np.ascontiguousarray(pixels.T).astype(np.int64)
    _check_pixels(meta, heights, widths, columns.get("image", np.zeros(len(masks), bool)))
    if "label" in columns:
        _check_labels(meta, numbers, columns["label"])
    ends = np.concatenate([[0], key_ends])
    _require((ends[1:] >= ends[:-1]).all() and ends[-1] == len(key_bytes))


def _check_spans(meta: Mapping[str, Any], offsets: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Which members (F, n) are present. Each lies in the shard behind a header, within its kind's limit; together they are no larger than it."""
    limits = np.array([LIMIT_BYTES[kind] for _, kind in meta["fields"]], np.int64)[:, None]
    absent = (offsets == -1) & (sizes == -1)
    present = (offsets >= tar.BLOCK) & (sizes >= 0) & (sizes <= limits) & (offsets <= meta["size"] - sizes)
    _require((present | absent).all())
    members = int(present.sum())
    _require(int(sizes.sum()) + (present.size - members) + tar.BLOCK * members <= meta["size"])
    return present


def _check_masks(meta: Mapping[str, Any], masks: np.ndarray, present: np.ndarray) -> None:
    bits = np.zeros(len(masks), np.uint32)
    for column, there in enumerate(present):
        bits |= there.astype(np.uint32) << np.uint32(column)
    _require(bits.all() and np.array_equal(masks & np.uint32(SUSPECT - 1), bits))
    values, counts = np.unique(masks, return_counts=True)
    _require(meta["masks"] == [list(pair) for pair in zip(values.tolist(), counts.tolist(), strict=True)])


def _check_pixels(meta: Mapping[str, Any], heights: np.ndarray, widths: np.ndarray, pictures: np.ndarray) -> None:
    areas = heights * widths  # of 32 bits each
    good = np.where(pictures, (heights > 0) & (areas > 0) & (areas <= LIMIT_PIXELS), (heights == 0) & (widths == 0))
    _require(good.all())
    left, sizes = heights << 32 | widths, []
    while len(left) and len(sizes) < 2:
        smallest = int(left.min())
        sizes.append([smallest >> 32, smallest & 0xFFFFFFFF])
        left = left[left > smallest]
    _require(meta["sizes"] == sizes and sum(meta["channels"].values()) == pictures.sum())


def _check_labels(meta: Mapping[str, Any], numbers: np.ndarray, labelled: np.ndarray) -> None:
    if labelled.any():
        _require("label" in meta["numbers"])
        labels = numbers[labelled, meta["numbers"].index("label")]
        _require(((labels >= 0) & (labels <= meta["highest_label"]) & (labels == np.floor(labels))).all())
