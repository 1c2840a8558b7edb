"""What a request asks of a model, once everything in it is checked: plain values that can be run now, streamed, or kept on disk and run later."""

from __future__ import annotations

import base64
import io
import json
import secrets
import zipfile
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, fields
from typing import IO, Any

import numpy as np
import pydantic_core
from jsonschema import Draft202012Validator, ValidationError

from serve.backend import ModelCard
from serve.json_fields import Taken, too_long
from serve.limits import Limits, check_entries
from serve.problem import Problem

SEEDS = 2**63
"""Seeds are below this."""
COUNTS = ("steps", "passes", "jump", "count")
"""By custom the arguments that say how often something is done."""
EXAMPLE = "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAgAAAAICAAAAADhZOFXAAAAEElEQVR42mM8wQABTAwUMQA6AADYbMmlZgAAAABJRU5ErkJggg=="
"""A grey picture of 8 x 8 pixels."""
_PICTURE = {"type": "string", "contentEncoding": "base64", "minLength": 1, "examples": [EXAMPLE]}


@dataclass(frozen=True, kw_only=True, slots=True)
class Call:
    """An action and its arguments, tensors as numpy arrays."""

    action: str
    arguments: dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Work:
    """One or several calls of a model, and what is needed to answer."""

    endpoint: str
    """Whose answer it is, a name in `serve.answers.ANSWERS`."""
    model: str
    calls: tuple[Call, ...]
    event: str = "action"
    """How its events are called: `image_generation.completed`."""
    seeds: tuple[int, ...] = ()
    steps: int = 0
    parameters: dict[str, str] | None = None
    """Text of each PNG; None writes none."""
    partial_images: int = 0
    link: bool = False
    """Pictures come as addresses rather than as base64."""
    note: dict[str, Any] = field(default_factory=dict)
    """What the answer needs beside the results."""
    request: dict[str, Any] = field(default_factory=dict)
    """What was asked, as its job shows: no pictures, but the seed that was used."""

    def texts(self) -> list[str]:
        """Words of the client that stand in it."""
        values = [value for call in self.calls for value in call.arguments.values()]
        flat = [one for value in values for one in (value if isinstance(value, list | tuple) else [value])]
        return [one for one in flat if isinstance(one, str)]


def to_bytes(work: Work) -> bytes:
    """The work as a .npz file: its plain values as JSON in the array `json`, its arrays beside it."""
    plain = {one.name: getattr(work, one.name) for one in fields(work)}
    arrays = {f"{number}.{name}": value for number, call in enumerate(work.calls) for name, value in _parts(call)[1].items()}
    plain["calls"] = [{"action": call.action, "arguments": _parts(call)[0]} for call in work.calls]
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name, array in {"json": np.frombuffer(pydantic_core.to_json(plain), np.uint8), **arrays}.items():
            with file.open(f"{name}.npy", "w", force_zip64=True) as member:
                _write(member, np.ascontiguousarray(array))
    return buffer.getvalue()


def _write(file: IO[bytes], array: np.ndarray) -> None:
    """As `np.savez` does, which would copy the array first."""
    np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(array))
    file.write(memoryview(array.reshape(-1).view(np.uint8)))


def _parts(call: Call) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Its plain arguments, and its arrays."""
    arrays = {name: value for name, value in call.arguments.items() if isinstance(value, np.ndarray)}
    return {name: value for name, value in call.arguments.items() if name not in arrays}, arrays


def from_bytes(data: bytes) -> Work:
    """The work that `to_bytes` wrote."""
    with np.load(io.BytesIO(data), allow_pickle=False) as file:
        plain = json.loads(file["json"].tobytes())
        for name in file.files:
            if name != "json":
                number, argument = name.split(".", 1)
                plain["calls"][int(number)]["arguments"][argument] = file[name]
    calls = tuple(Call(**call) for call in plain.pop("calls"))
    return Work(**{**plain, "calls": calls, "seeds": tuple(plain["seeds"])})


def seeds_from(seed: int | None, count: int) -> list[int]:
    """`count` seeds from the given one on, or from a random one of 32 bits, as other tools have them."""
    first = secrets.randbelow(2**32 - count) if seed is None else seed
    if first + count > SEEDS:
        raise Problem(400, f"the last seed would be 2**63 or more; take a seed below {SEEDS - count}", param="seed")
    return [first + number for number in range(count)]


def is_tensor(schema: Mapping[str, Any]) -> bool:
    """Whether an argument of this schema is a tensor."""
    return schema.get("contentEncoding") == "base64"


def _bounded(schema: dict[str, Any]) -> dict[str, Any]:
    """A schema in which a number has limits: what lies beyond is no value of any model, and overflows in some."""
    limit = {"number": 10**6, "integer": SEEDS - 1}.get(schema.get("type", ""))
    return schema if limit is None else {"minimum": -limit, "maximum": limit, **schema}


def public_schema(schema: Mapping[str, Any]) -> dict[str, Any]:
    """An action's schema as clients see it: what a tensor may be given as, and no marks of our own."""
    properties = {}
    for name, one in schema.get("properties", {}).items():
        rest = {key: value for key, value in one.items() if not key.startswith("x-")}
        if is_tensor(one):
            del rest["type"], rest["contentEncoding"]
            lists = {"type": "array", "minItems": 1, "items": {"type": ["number", "array"]}}
            rest["anyOf"] = [_PICTURE, {"type": "array", "minItems": 1, "items": _PICTURE}, lists]
            rest["description"] = "A picture (PNG, JPEG, WebP) or .npy file as base64 or a data URI, a list of pictures, or lists of numbers."
        elif name == "seed":
            one_seed = {"type": "integer", "minimum": 0, "maximum": SEEDS - 1}
            rest |= {"items": one_seed, "maxItems": Limits().pictures} if one.get("type") == "array" else one_seed
        elif name in COUNTS and one.get("type") == "integer":
            rest |= {"minimum": 1, "maximum": Limits().steps}
        elif name in ("width", "height") and one.get("type") == "integer":
            rest |= {"minimum": 0, "maximum": Limits().side}
        else:
            rest = {**_bounded(rest), **({"items": _bounded(rest["items"])} if "items" in rest else {})}
        if one.get("x-rows") and one.get("type") == "array":
            rest["minItems"] = 1
        properties[name] = rest
    return {**schema, "properties": properties}


@dataclass(frozen=True, slots=True)
class _Known:
    """What an action takes, made ready once."""

    schema: dict[str, Any]
    validator: Draft202012Validator
    tensors: frozenset[str]
    required: tuple[str, ...]


_KNOWN: dict[tuple[str, str, str], _Known] = {}
"""By model, its weights, and action."""


def _known(card: ModelCard, action: str) -> _Known:
    key = (card.name, card.sha256, action)
    if key not in _KNOWN:
        if len(_KNOWN) >= 4096:  # a server that reloads for months
            _KNOWN.clear()
        schema, public = card.actions[action], public_schema(card.actions[action])
        tensors = frozenset(name for name, one in schema.get("properties", {}).items() if is_tensor(one))
        plain = {name: one for name, one in public.get("properties", {}).items() if name not in tensors}
        rest = {**{name: value for name, value in public.items() if name != "required"}, "properties": plain}
        _KNOWN[key] = _Known(public, Draft202012Validator(rest), tensors, tuple(schema.get("required", ())))
    return _KNOWN[key]


def tensors_of(card: ModelCard, action: str) -> frozenset[str]:
    """Names of the arguments that are tensors."""
    return _known(card, action).tensors


def usual_counts(card: ModelCard, action: str) -> dict[str, int]:
    """How often an action does things that a request does not say."""
    known = card.actions[action].get("properties", {})
    return {name: known[name]["default"] for name in COUNTS if isinstance(known.get(name, {}).get("default"), int)}


def checked_arguments(card: ModelCard, action: str, values: Mapping[str, Any], limits: Limits, *, later: Collection[str] = ()) -> dict[str, Any]:
    """An action's arguments that are no tensors, checked against its schema; those named in `later` may lack, and tensors.

    Problem names the argument, and never what it was.
    """
    known = _known(card, action)
    check_entries(limits, values)
    _check_texts(values, limits)
    error = next(known.validator.iter_errors(dict(values)), None) if values else None
    if error is not None:
        raise _refused(error, action, known.schema)
    check_given(card, action, {*values, *later, *known.tensors})
    return dict(values)


def check_given(card: ModelCard, action: str, names: Collection[str]) -> None:
    """Problem where an argument lacks that an action needs."""
    if missing := [name for name in _known(card, action).required if name not in names]:
        raise Problem(400, f"{action} needs {missing[0]}; give it", param=missing[0], code="missing_parameter")


def taken_by(card: ModelCard, action: str, others: Collection[str]) -> Taken:
    """Which fields the body of an action may have, beside `others`."""
    known = _known(card, action)
    names = tuple(known.schema.get("properties", {}))
    refusal = f"there is an argument that {action} does not take; it takes {', '.join(names)}"
    return Taken(names={*names, *others}, refusal=refusal, files=known.tensors, arrays=known.tensors)


def _check_texts(values: Mapping[str, Any], limits: Limits) -> None:
    """Before anything else looks at them, which may put them into messages of its own."""
    for name, value in values.items():
        texts = value if isinstance(value, list) else [value]
        if any(isinstance(text, str) and len(text) > limits.text_characters for text in texts):
            raise too_long(name, limits)


def _refused(error: ValidationError, action: str, schema: Mapping[str, Any]) -> Problem:
    """A validator's finding in a sentence of ours, as its own holds the value."""
    known = schema.get("properties", {})
    name = str(error.path[0]) if error.path else None
    if error.validator == "additionalProperties":
        return Problem(400, f"there is an argument that {action} does not take; it takes {', '.join(known)}", code="unknown_parameter")
    if error.validator == "enum":
        choices: Any = error.validator_value
        return Problem(400, f"{name} must be one of {', '.join(map(str, choices))}", param=name)
    if error.validator in ("minimum", "maximum") and isinstance(error.instance, float) and not np.isfinite(error.instance):
        return Problem(400, f"{name} is not finite; give a number", param=name)
    if error.validator == "minItems":
        return Problem(400, f"{name} is empty; give at least one entry", param=name)
    if error.validator == "maxItems":
        return Problem(400, f"{name} has more than {error.validator_value} entries; send fewer", param=name, code="limit_exceeded")
    if error.validator in ("minimum", "maximum"):
        return Problem(400, f"{name} must be at {'least' if error.validator == 'minimum' else 'most'} {error.validator_value}", param=name)
    wanted = known.get(name, {}).get("type", "of another kind") if name else "an object"
    return Problem(400, f"{name or 'the body'} must be {wanted}; /v1/models has its schema", param=name)


def png_as_text(png: bytes) -> str:
    """As it stands in JSON."""
    return base64.b64encode(png).decode("ascii")
