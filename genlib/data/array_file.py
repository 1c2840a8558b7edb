"""Arrays and a text in a file of safetensors form, with a checksum over both: what is damaged, cut or no such file is refused.

The file is read and never mapped, so that one that is cut meanwhile raises an error, where a mapped one would end the process.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from genlib.files import open_regular, read_at

_HEADER_BYTES = 8 << 20
"""Names, types and shapes of the arrays, and the text."""


def packed(text: str, arrays: Mapping[str, np.ndarray]) -> bytes:
    """The content of such a file."""
    whole = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    return save(whole, {"genlib": text, "crc32": _checksum(text, whole)})


def unpacked(path: Path, allowed: Callable[[str], int]) -> tuple[str, dict[str, np.ndarray]]:
    """The text and the arrays. `allowed` gives for the text how many bytes of arrays there may be, before any is read, or raises.

    OSError where the file cannot be read, ValueError where it is damaged or no such file.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        length = int.from_bytes(read_at(file, 8, 0), "little")
        if not length <= min(size, _HEADER_BYTES):
            raise ValueError(f"{path} is no file of arrays")
        text, checksum = _text_and_checksum(read_at(file, length, 8))
        if size - 8 - length > allowed(text):
            raise ValueError(f"{path} is larger than its content can be")
        content = read_at(file, size, 0)
    try:
        arrays = load(content)
    except (SafetensorError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is no file of arrays: {error}") from None
    if _checksum(text, arrays) != checksum:
        raise ValueError(f"{path} is damaged")
    return text, arrays


def _text_and_checksum(header: bytes) -> tuple[str, str]:
    """The text and the checksum in a safetensors header."""
    try:
        metadata = json.loads(header)["__metadata__"]
        text, checksum = metadata["genlib"], metadata["crc32"]
    except (KeyError, TypeError, RecursionError):
        raise ValueError("a header without a text") from None
    if not isinstance(text, str):
        raise ValueError("a header without a text")
    return text, checksum


def _checksum(text: str, arrays: Mapping[str, np.ndarray]) -> str:
    """CRC-32 over the text and the arrays with their names, types and shapes."""
    value = zlib.crc32(text.encode())
    for name, array in sorted(arrays.items()):
        value = zlib.crc32(f"{name} {array.dtype.str} {array.shape}".encode(), value)
        value = zlib.crc32(array.reshape(-1).view(np.uint8).data, value)
    return f"{value:08x}"
