"""The JSON schema of an action's arguments, read from its typed keywords: images and other tensors travel as encoded text."""

from __future__ import annotations

import inspect
import typing
from typing import Any

from pydantic import ConfigDict, Field, create_model
from torch import Tensor

from genlib.types import Action

_ENCODED = (str, Field(json_schema_extra={"contentEncoding": "base64"}))


def arguments_schema(action: Action) -> dict[str, Any]:
    """JSON schema of one request; unknown arguments are refused. TypeError where an argument has no type."""
    hints = typing.get_type_hints(action.method)
    fields: dict[str, Any] = {}
    for name, parameter in inspect.signature(action.method).parameters.items():
        if name == "self":
            continue
        if name not in hints:
            raise TypeError(f"argument {name} of action {action.name} has no type")
        if hints[name] is Tensor:
            fields[name] = _ENCODED
        else:
            fields[name] = (hints[name], ... if parameter.default is parameter.empty else parameter.default)
    return create_model(action.name, __config__=ConfigDict(extra="forbid"), **fields).model_json_schema()
