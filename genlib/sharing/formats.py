"""What an exporter says of each folder that it wrote, and of each network that becomes an ONNX file."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn

INPUT = "input.png"
"""A held-out image beside the card, for code that names it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Format:
    """One folder of an export, in the words of its card."""

    folder: str
    """Below the export; empty is the export itself."""
    library: str
    """That loads it, by the hub's name (`library_name`)."""
    install: str
    """What `pip install` needs to be given for the code to run."""
    code: str
    """Python that loads and uses it. It has the folder's path in `folder`, the words in `captions` where it says CAPTIONS, and may open
    `f"{folder}/input.png"`. It writes nothing into the folder."""
    title: str
    about: str
    """What the model does, and what a user of the folder must know."""
    task: str = ""
    """The hub's `pipeline_tag`; empty where it has no name for it."""
    tags: tuple[str, ...] = ()
    hub_folder: str = ""
    """Where it lies in a repository; several formats may share the root, where equal names are equal files."""
    prepare_for_hub: Callable[[Path, str], None] | None = None
    """(folder, owner/name): changes what must name the repository, in a copy."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Graph:
    """One network of an ONNX export. Row i of what comes out is a function of row i of what goes in."""

    name: str
    """Of the file, without its ending."""
    inputs: Mapping[str, Tensor]
    """An example of each by name, of two rows at least."""
    output: str
    compute: Callable[..., Tensor]
    """The inputs in their order -> the output."""
    owner: nn.Module
    """Whose weights `compute` uses."""
    about: str
    """What goes in and comes out, with ranges."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Graphs:
    """What a family says of its ONNX files; they lie in the folder `onnx` of the export."""

    graphs: Sequence[Graph]
    title: str
    about: str
    code: str
    """As of a `Format`."""
    install: str = "onnxruntime numpy"
    task: str = ""
    tags: tuple[str, ...] = ()
    preprocessing: Mapping[str, Any] = field(default_factory=dict)
    """What a user must do before: `preprocessor_config.json`."""
    write: Callable[[Path], None] | None = None
    """Writes further files, such as a tokenizer's."""
