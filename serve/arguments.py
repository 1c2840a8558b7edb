"""Arguments of actions: plain values in, what the action's method takes out."""

from __future__ import annotations

import inspect
import typing
from typing import Any

import numpy as np
import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from genlib.types import Action


class Arguments:
    """What an action takes."""

    def __init__(self, action: Action) -> None:
        self.action, self.rows = action, action.rows
        self.merged = () if action.joint else self.rows
        parameters = {name: one for name, one in inspect.signature(action.method).parameters.items() if name != "self"}
        hints = typing.get_type_hints(action.method)
        self.required = [name for name, one in parameters.items() if one.default is one.empty]
        self.kinds = {name: hints[name] for name in parameters}
        self.adapters = {name: TypeAdapter(kind) for name, kind in self.kinds.items() if kind is not Tensor}

    def taken(self, values: dict[str, Any]) -> dict[str, Any]:
        """The arguments, tensors on the CPU. ValueError in one sentence, which echoes no value, where the action does not take them."""
        if unknown := sorted(set(values) - set(self.kinds)):
            raise ValueError(f"{self.action.name} takes no argument {unknown[0][:40]!r}; it takes {', '.join(self.kinds)}")
        if missing := [name for name in self.required if name not in values]:
            raise ValueError(f"{self.action.name} needs {missing[0]}; give it")
        return {name: self.one(name, value) for name, value in values.items()}

    def one(self, name: str, value: Any) -> Any:
        """One argument."""
        taken = self.tensor(name, value) if self.kinds[name] is Tensor else self.plain(name, value)
        if name in self.rows and not len(taken):
            raise ValueError(f"{name} is empty; give at least one entry")
        return taken

    def plain(self, name: str, value: Any) -> Any:
        """An argument that is no tensor, as its type says."""
        try:
            return self.adapters[name].validate_python(value)
        except ValidationError as error:
            raise ValueError(f"{name}: {error.errors(include_input=False)[0]['msg']}") from None

    def tensor(self, name: str, value: Any) -> Tensor:
        """An array as a tensor of the precision that models take; bytes are levels of pictures, which become numbers in [0, 1]."""
        if not isinstance(value, np.ndarray) or value.dtype.kind not in "fiub" or not value.ndim:
            raise ValueError(f"{name} must be numbers in rows")
        if value.dtype == np.uint8:
            numbers = value.astype(np.float32)
            return torch.from_numpy(np.divide(numbers, np.float32(255), out=numbers))
        return torch.from_numpy(value.astype(np.int64 if value.dtype.kind in "iu" else np.float32))
