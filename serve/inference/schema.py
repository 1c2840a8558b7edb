"""The JSON schema of an action's arguments, read from their ports."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from genlib.actions import Action, Input
from genlib.ports import BATCH, Port

EXAMPLE = "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAgAAAAICAAAAADhZOFXAAAAEElEQVR42mM8wQABTAwUMQA6AADYbMmlZgAAAABJRU5ErkJggg=="
"""A grey picture of 8 x 8 pixels."""
_PICTURE = {"type": "string", "contentEncoding": "base64", "minLength": 1, "examples": [EXAMPLE]}
_LISTS = {"type": "array", "minItems": 1, "items": {"type": ["number", "array"]}}


def arguments_schema(action: Action, limits: Mapping[str, int]) -> dict[str, Any]:
    """JSON schema of one request; unknown arguments are refused.

    `x-port` names what an argument is, `x-axes` its axes; `x-picture` marks what may be a picture.
    """
    return {
        "type": "object", "title": action.name, "additionalProperties": False, "required": list(action.required),
        "properties": {name: _argument(one, limits) for name, one in action.inputs.items()},
    }  # fmt: skip


def result_schema(port: Port) -> dict[str, Any]:
    """What comes out, as a model's description names it."""
    return {"port": port.kind, "axes": list(port.axes), "picture": port.picture}


def _argument(one: Input, limits: Mapping[str, int]) -> dict[str, Any]:
    port = one.port
    form = _tensor(port) if port.array else _list(port, limits) if port.axes else port.plain(limits)
    default = {} if one.required else {"default": one.default}
    axes = {"x-axes": list(port.axes)} if port.axes else {}
    return {**form, **default, "x-port": port.kind, **axes, **({"x-picture": True} if port.visible else {})}


def _tensor(port: Port) -> dict[str, Any]:
    what = "A .npy file as base64 or a data URI, or lists of numbers." if not port.visible else (
        "A picture (PNG, JPEG, WebP) or .npy file as base64 or a data URI, a list of pictures, or lists of numbers."
    )  # fmt: skip
    return {"anyOf": [_PICTURE, {"type": "array", "minItems": 1, "items": _PICTURE}, _LISTS], "description": what}


def _list(port: Port, limits: Mapping[str, int]) -> dict[str, Any]:
    least = {"minItems": 1} if port.axes[0] == BATCH else {}
    most = {"maxItems": limits[port.limit]} if port.limit else {}
    return {"type": "array", "items": port.plain(limits), **least, **most}
