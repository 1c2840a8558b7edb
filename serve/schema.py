"""The JSON schema of an action's arguments, read from its typed keywords: images and other tensors travel as encoded text."""

from __future__ import annotations

import inspect
import typing
from typing import Any

from pydantic import ConfigDict, Field, create_model
from torch import Tensor

from genlib.types import Action


def arguments_schema(action: Action) -> dict[str, Any]:
    """JSON schema of one request; unknown arguments are refused. TypeError where an argument has no type.

    Arguments with an entry for each row are marked `x-rows`.
    """
    hints = typing.get_type_hints(action.method)
    fields: dict[str, Any] = {}
    for name, parameter in inspect.signature(action.method).parameters.items():
        if name == "self":
            continue
        if name not in hints:
            raise TypeError(f"argument {name} of action {action.name} has no type")
        extra: dict[str, Any] = {"x-rows": True} if name in action.rows else {}
        if hints[name] is Tensor:
            fields[name] = (str, Field(json_schema_extra={"contentEncoding": "base64", **extra}))
        else:
            default: Any = ... if parameter.default is parameter.empty else parameter.default
            fields[name] = (hints[name], Field(default, json_schema_extra=extra))
    return create_model(action.name, __config__=ConfigDict(extra="forbid"), **fields).model_json_schema()
