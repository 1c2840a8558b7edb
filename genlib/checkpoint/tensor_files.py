"""Many tensors as safetensors: one file, or, where they are more than the field puts into one, several with an index beside them.

`weights.safetensors`, or `weights-00001-of-00003.safetensors` and so on and `weights.safetensors.index.json`: the form of transformers and
diffusers, whose loaders take such a folder as it is.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from genlib.json_text import json_text

FILE_BYTES = 5_000_000_000
"""The most in a file; one tensor that has more lies in a file alone."""


def write_tensors(tensors: Mapping[str, Tensor], folder: Path, stem: str) -> Iterator[Path]:
    """Writes them into one file or several, and yields each path once it is written."""
    if sum(tensor.nbytes for tensor in tensors.values()) <= FILE_BYTES:
        path = folder / f"{stem}.safetensors"
        save_file(dict(tensors), path)
        yield path
        return
    from huggingface_hub import split_torch_state_dict_into_shards

    split = split_torch_state_dict_into_shards(dict(tensors), filename_pattern=f"{stem}{{suffix}}.safetensors", max_shard_size=FILE_BYTES)
    for file, names in split.filename_to_tensors.items():
        save_file({name: tensors[name] for name in names}, folder / file, {"format": "pt"})
        yield folder / file
    index = folder / f"{stem}.safetensors.index.json"
    index.write_text(json_text({"metadata": split.metadata, "weight_map": split.tensor_to_filename}, indent=2))
    yield index


def are_there(folder: Path, stem: str) -> bool:
    """Whether tensors were written there."""
    return any((folder / f"{stem}.safetensors{end}").exists() for end in ("", ".index.json"))


class TensorFiles:
    """Reads what `write_tensors` wrote; a context that closes the files. Tensors are on the CPU."""

    def __init__(self, folder: Path, stem: str) -> None:
        index = folder / f"{stem}.safetensors.index.json"
        names = json.loads(index.read_text())["weight_map"] if index.exists() else None
        self._stack = ExitStack()
        files = {file: safe_open(folder / file, "pt") for file in (sorted(set(names.values())) if names else [f"{stem}.safetensors"])}
        for file in files.values():
            self._stack.enter_context(file)
        self._where = {name: file for file in files.values() for name in file.keys()}  # noqa: SIM118  (a file, which is no dict)

    def __enter__(self) -> TensorFiles:
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def __iter__(self) -> Iterator[str]:
        return iter(self._where)

    def __getitem__(self, name: str) -> Tensor:
        return self._where[name].get_tensor(name)

    def slices(self, name: str) -> Any:
        """The tensor, of which rows are read as they are asked for."""
        return self._where[name].get_slice(name)

    def shape(self, name: str) -> tuple[int, ...]:
        """Of a tensor, without reading it."""
        return tuple(self.slices(name).get_shape())
