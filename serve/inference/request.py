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

from genlib.plurals import counted
from genlib.ports import Port
from serve.api_error import ApiError
from serve.backend import ModelCard
from serve.inference.schema import arguments_schema
from serve.limits import Limits, check_entries
from serve.parsing.json_fields import Taken, too_long
from serve.parsing.refusals import form_of, unknown

SEEDS = 2**63
"""Seeds are below this."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ActionCall:
    """An action and its arguments, tensors as numpy arrays."""

    action: str
    arguments: dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class InferenceRequest:
    """One or several calls of a model, and what is needed to answer."""

    endpoint: str
    """Whose answer it is, a name in `serve.inference.answers.ANSWERS`."""
    model: str
    calls: tuple[ActionCall, ...]
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


def to_bytes(work: InferenceRequest) -> bytes:
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
    file.write(array.reshape(-1).view(np.uint8).data)


def _parts(call: ActionCall) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Its plain arguments, and its arrays."""
    arrays = {name: value for name, value in call.arguments.items() if isinstance(value, np.ndarray)}
    return {name: value for name, value in call.arguments.items() if name not in arrays}, arrays


def from_bytes(data: bytes) -> InferenceRequest:
    """The work that `to_bytes` wrote."""
    with np.load(io.BytesIO(data), allow_pickle=False) as file:
        plain = json.loads(file["json"].tobytes())
        for name in file.files:
            if name != "json":
                number, argument = name.split(".", 1)
                plain["calls"][int(number)]["arguments"][argument] = file[name]
    calls = tuple(ActionCall(**call) for call in plain.pop("calls"))
    return InferenceRequest(**{**plain, "calls": calls, "seeds": tuple(plain["seeds"])})


def seeds_from(seed: int | None, count: int) -> list[int]:
    """`count` seeds from the given one on, or from a random one of 32 bits, as other tools have them."""
    first = secrets.randbelow(2**32 - count) if seed is None else seed
    if first + count > SEEDS:
        most = f"the largest seed of {counted(count, 'picture')} is {SEEDS - count}"
        raise ApiError(400, f"seed is {first}, and {most}; take that or a smaller one", param="seed")
    return [first + number for number in range(count)]


def checked_arguments(card: ModelCard, action: str, values: Mapping[str, Any], limits: Limits, *, later: Collection[str] = ()) -> dict[str, Any]:
    """An action's arguments that are no tensors, checked against their ports; those named in `later` may lack, and tensors.

    ApiError names the argument, and never a text that it was.
    """
    known = card.actions[action]
    check_entries(limits, values)
    _check_texts(values, limits)
    for name, value in values.items():
        if name not in known.inputs:
            raise unknown(name, known.inputs, by=action, what="argument")
        _check_value(known.inputs[name].port, name, value, limits)
    check_given(card, action, {*values, *later, *tensors_of(card, action)}, limits)
    return dict(values)


def _check_value(port: Port, name: str, value: Any, limits: Limits) -> None:
    try:
        port.taken(value, limits.of_ports())
    except ValueError as reason:
        raise ApiError(400, f"{name} {reason}; /v1/models has its schema", param=name) from None
    if isinstance(value, list) and port.limit and len(value) > limits.of_ports()[port.limit]:
        message = f"{name} has {len(value):,} entries, and may have {limits.of_ports()[port.limit]:,}; send fewer"
        raise ApiError(400, message, param=name, code="limit_exceeded")


def tensors_of(card: ModelCard, action: str) -> frozenset[str]:
    """Names of the arguments that are tensors."""
    return frozenset(name for name, one in card.actions[action].inputs.items() if one.port.array)


def check_given(card: ModelCard, action: str, names: Collection[str], limits: Limits) -> None:
    """Problem where an argument lacks that an action needs."""
    if missing := [name for name in card.actions[action].required if name not in names]:
        schema = arguments_schema(card.actions[action], limits.of_ports())["properties"][missing[0]]
        said = schema.get("description", "")
        form = f"{said[0].lower()}{said[1:]}".rstrip(".") if said else form_of(schema)
        raise ApiError(400, f"{action} needs {missing[0]}; give {form}", param=missing[0], code="missing_parameter")


def taken_by(card: ModelCard, action: str, others: Collection[str]) -> Taken:
    """Which fields the body of an action may have, beside `others`."""
    names, tensors = card.actions[action].inputs, tensors_of(card, action)
    return Taken(names={*names, *others}, said=tuple(names), by=action, what="argument", files=tensors, arrays=tensors)


def _check_texts(values: Mapping[str, Any], limits: Limits) -> None:
    """Before anything else looks at them, which may put them into messages of its own."""
    for name, value in values.items():
        texts = value if isinstance(value, list) else [value]
        if any(isinstance(text, str) and len(text) > limits.text_characters for text in texts):
            raise too_long(name, limits)


def png_as_text(png: bytes) -> str:
    """As it stands in JSON."""
    return base64.b64encode(png).decode("ascii")
