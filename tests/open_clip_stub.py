"""open_clip and lightly without torchvision, which has no CPU build beside this torch: the names they import, none of which our tests use."""

from __future__ import annotations

import importlib
import importlib.machinery
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class _Enumeration(type):
    """A class of which every attribute is its own name."""

    def __getattr__(cls, name: str) -> str:
        return name


class _Anything(types.ModuleType):
    """A module in which every name is such a class."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Enumeration(name, (), {"__init__": lambda self, *args, **kwargs: None})


@contextmanager
def without_torchvision(*parts: str) -> Iterator[None]:
    """Inside, torchvision and these parts of it can be imported and hold anything, and timm cannot."""
    names = ("torchvision", *(f"torchvision.{part}" for part in parts))
    stubs: dict[str, Any] = {name: _Anything(name) for name in names}
    for name, module in stubs.items():
        module.__spec__ = importlib.machinery.ModuleSpec(name, None)
        module.__path__ = []
        parent, _, child = name.rpartition(".")
        if parent:
            setattr(stubs[parent], child, module)
    sys.modules.update({**stubs, "timm": None})  # type: ignore[dict-item]  (our peers do without timm)
    try:
        yield
    finally:
        for name in (*stubs, "timm"):
            del sys.modules[name]


def open_clip() -> types.ModuleType:
    """The real open_clip package."""
    if "open_clip" not in sys.modules:
        import transformers  # noqa: F401  (looks for torchvision by itself, so it comes before the stub)

        with without_torchvision("transforms", "transforms.functional", "ops", "ops.misc", "datasets"):
            importlib.import_module("open_clip")
    return sys.modules["open_clip"]


def lightly_losses() -> types.ModuleType:
    """The real losses of the lightly package."""
    if "lightly.loss" not in sys.modules:
        with without_torchvision("models", "models.vision_transformer", "ops"):
            importlib.import_module("lightly.loss")
    return sys.modules["lightly.loss"]
