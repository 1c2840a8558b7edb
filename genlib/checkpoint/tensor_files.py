"""Many tensors as safetensors: one file, or, where they are more than the field puts into one, several with an index beside them.

`weights.safetensors`, or `weights-00001-of-00003.safetensors` and so on and `weights.safetensors.index.json`: the form of transformers and
diffusers, whose loaders take such a folder as it is. Where each byte lies follows from the tensors' names, types and shapes alone, so that every
process writes its part of each tensor where it belongs, and the files are the same whoever wrote which part.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from genlib.json_text import json_text

FILE_BYTES = 5_000_000_000
"""The most in a file; one tensor that has more lies in a file alone."""
_TYPES = {
    torch.bool: "BOOL", torch.uint8: "U8", torch.int8: "I8", torch.int16: "I16", torch.int32: "I32", torch.int64: "I64",
    torch.float16: "F16", torch.bfloat16: "BF16", torch.float32: "F32", torch.float64: "F64", torch.complex64: "C64",
}  # fmt: skip
"""As the files name them."""
_MOST_AT_ONCE = 64 << 20
"""Bytes; a process that is to end does not wait for more."""

Extent = tuple[str, int, int]
"""A file, the first byte in it, and how many."""


@dataclass(frozen=True, slots=True)
class Shard:
    """A piece of some tensor as this rank holds it: `tensor` (n,) is elements offset to offset + n of the flattened whole.

    Where several ranks hold the same piece, `mine` tells the one that writes it; where all of them do, it is `shared`, and each writes its share.
    """

    name: str
    offset: int
    tensor: Tensor
    mine: bool = True
    shared: bool = False


class FileLayout:
    """Where each byte of the tensors lies in which file, before any is written.

    tensors: of each its type and shape alone are used, so they may be on the meta device. ValueError for a type that such files cannot hold.
    """

    def __init__(self, tensors: Mapping[str, Tensor], stem: str) -> None:
        facts = {name: torch.empty(tensor.shape, dtype=tensor.dtype, device="meta") for name, tensor in tensors.items()}
        if odd := next((name for name, tensor in facts.items() if tensor.dtype not in _TYPES), None):
            raise ValueError(f"{odd} is of {facts[odd].dtype}, which a file of weights cannot hold; keep it in another type")
        self.index_name, self.index = f"{stem}.safetensors.index.json", ""
        self.headers: dict[str, bytes] = {}
        self._where: dict[str, tuple[str, int]] = {}
        if sum(tensor.nbytes for tensor in facts.values()) <= FILE_BYTES:
            self._add(f"{stem}.safetensors", facts)
            return
        from huggingface_hub import split_torch_state_dict_into_shards

        split = split_torch_state_dict_into_shards(facts, filename_pattern=f"{stem}{{suffix}}.safetensors", max_shard_size=FILE_BYTES)
        for file, names in split.filename_to_tensors.items():
            self._add(file, {name: facts[name] for name in names})
        self.index = json_text({"metadata": split.metadata, "weight_map": split.tensor_to_filename}, indent=2)

    def _add(self, file: str, tensors: Mapping[str, Tensor]) -> None:
        """A file of those tensors, the widest types first, so that each begins at a multiple of its elements' size."""
        header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
        end = 0
        for name, tensor in sorted(tensors.items(), key=lambda item: (-item[1].element_size(), item[0])):
            header[name] = {"dtype": _TYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [end, end + tensor.nbytes]}
            end += tensor.nbytes
        text = json_text(header).encode()
        text += b" " * (-len(text) % 8)
        self.headers[file] = len(text).to_bytes(8, "little") + text
        begin = len(self.headers[file])
        self._where |= {name: (file, begin + header[name]["data_offsets"][0]) for name in tensors}

    def create(self, folder: Path) -> None:
        """Makes the files, which have no values yet; one process does it, before any writes."""
        for file, header in self.headers.items():
            with _opened(folder / file, os.O_CREAT | os.O_EXCL) as handle:
                _write(handle, memoryview(header), 0)
        if self.index:
            with _opened(folder / self.index_name, os.O_CREAT | os.O_EXCL) as handle:
                _write(handle, memoryview(self.index.encode()), 0)

    def write(self, folder: Path, shards: Iterable[Shard]) -> None:
        """Writes pieces of tensors, which lie in the host's memory one element after the other, to where they belong, and waits for the disk."""
        with files_to_write(folder) as write:
            for extent, values in self.extents(shards):
                write(extent, values)

    def extents(self, shards: Iterable[Shard]) -> list[tuple[Extent, memoryview]]:
        """Where the bytes of pieces of tensors belong, in the order in which they lie in the files, and the bytes."""
        found = []
        for shard in sorted(shards, key=lambda shard: (*self._where[shard.name], shard.offset)):
            file, begin = self._where[shard.name]
            values = shard.tensor.detach().reshape(-1).view(torch.uint8).numpy().data
            found.append(((file, begin + shard.offset * shard.tensor.element_size(), len(values)), values))
        return found


@contextmanager
def files_to_write(folder: Path) -> Iterator[Callable[[Extent, memoryview], None]]:
    """Inside, a function that writes bytes to an extent of files in the folder that are there; at the end all of it is on the disk."""
    with ExitStack() as stack:
        handles: dict[str, int] = {}

        def write(extent: Extent, values: memoryview) -> None:
            file, begin, _ = extent
            if file not in handles:
                handles[file] = stack.enter_context(_opened(folder / file))
            _write(handles[file], values, begin)

        yield write


@contextmanager
def _opened(path: Path, flags: int = 0) -> Iterator[int]:
    """For writing; closed when it is on the disk."""
    handle = os.open(path, os.O_WRONLY | os.O_CLOEXEC | flags, 0o666)
    try:
        yield handle
        os.fsync(handle)
    finally:
        os.close(handle)


def _write(handle: int, data: memoryview, offset: int) -> None:
    """All of it, though the system takes 2 GB at a time; other threads run meanwhile."""
    done = 0
    while done < len(data):
        done += os.pwrite(handle, data[done : done + _MOST_AT_ONCE], offset + done)


def are_there(folder: Path, stem: str) -> bool:
    """Whether tensors were written there."""
    return any((folder / f"{stem}.safetensors{end}").exists() for end in ("", ".index.json"))


class TensorFiles:
    """Reads what was written by a `FileLayout`; a context that closes the files. Tensors are on the CPU."""

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
