"""Pictures and arrays that clients send, as float32 numbers for a model. A picture's size is read from its header before anything decodes it."""

from __future__ import annotations

import base64
import binascii
import io
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from genlib.data.decode import BadSample, decode_array, decode_image, image_header
from serve.limits import Limits
from serve.problem import Problem

_DATA_URI = re.compile(r"data:[a-z]+/[a-z0-9.+-]+(?:;[a-z0-9=.-]+)*;base64,", re.IGNORECASE)
_ORIENTATION = 274
"""EXIF's tag."""
_TURNS = {2: (0, True), 3: (2, False), 4: (2, True), 5: (3, True), 6: (3, False), 7: (1, True), 8: (1, False)}
"""For each orientation: quarter turns to the left, then whether to mirror (Exif 2.32, section 4.6.4)."""


def is_data_uri(text: str) -> bool:
    """Whether a text holds a file rather than words."""
    return text[:5].lower() == "data:" and _DATA_URI.match(text[:200]) is not None


def file_of(text: str, param: str) -> bytes:
    """The bytes of base64 text or of a data URI. Nothing is ever fetched."""
    if text[:8].lower().startswith(("http://", "https://", "file://")):
        raise Problem(
            400, f"{param} is an address, and this server fetches nothing; send the picture as a data URI", param=param, code="invalid_image"
        )
    start = _DATA_URI.match(text[:200])
    try:
        return base64.b64decode(text[start.end() if start else 0 :], validate=True)
    except (binascii.Error, ValueError):
        raise Problem(400, f"{param} is neither base64 nor a data URI", param=param, code="invalid_image") from None


def pixels_of(data: bytes, limits: Limits, param: str) -> np.ndarray:
    """uint8 (H, W, C) of a PNG, JPEG or WebP file, upright; C is 1, 3, or 4 where it has alpha."""
    try:
        header = image_header(data)
        if header.height * header.width > limits.input_pixels:
            raise BadSample("over the pixel limit")
        pixels = decode_image(data, 3 if header.format == "jpeg" and header.channels == 4 else header.channels)
        return upright(pixels, data) if header.format == "jpeg" else pixels
    except BadSample as reason:
        limit = f"; the limit is {limits.input_pixels:,} pixels" if "pixel" in str(reason) else ""
        message = f"{param} cannot be used as a picture ({reason}{limit}); send a PNG, JPEG or WebP file of one frame"
        raise Problem(400, message, param=param, code="invalid_image") from None


def upright(pixels: np.ndarray, data: bytes) -> np.ndarray:
    """As the camera was held, which a JPEG says beside its pixels."""
    try:
        turns, mirrored = _TURNS[Image.open(io.BytesIO(data), formats=("JPEG",)).getexif().get(_ORIENTATION, 1)]
    except Exception:  # upright, or what Pillow raises on a strange tag
        return pixels
    turned = np.rot90(pixels, turns)
    return np.ascontiguousarray(turned[:, ::-1] if mirrored else turned)


def transparent(pixels: np.ndarray) -> np.ndarray | None:
    """float32 (H, W), 1 where a picture is fully transparent; None where it has no such place."""
    if pixels.shape[2] != 4 or not (empty := pixels[:, :, 3] == 0).any():
        return None
    return empty.astype(np.float32)


def with_channels(pixels: np.ndarray, channels: int) -> np.ndarray:
    """uint8 (H, W, channels), channels 1 or 3; what is transparent lies on white."""
    if pixels.shape[2] == 4:
        alpha = pixels[:, :, 3:].astype(np.uint16)
        pixels = ((pixels[:, :, :3] * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)
    if pixels.shape[2] == channels:
        return pixels
    if channels == 3:
        return np.repeat(pixels, 3, axis=2)
    return np.asarray(Image.fromarray(pixels).convert("L"))[:, :, None]


def fitted(pixels: np.ndarray, width: int, height: int, *, smooth: bool = True) -> np.ndarray:
    """uint8 (height, width, C): cut in the middle to these proportions, then scaled."""
    rows, columns, channels = pixels.shape
    if (rows, columns) == (height, width):
        return pixels
    cut_rows, cut_columns = min(rows, max(1, columns * height // width)), min(columns, max(1, rows * width // height))
    top, left = (rows - cut_rows) // 2, (columns - cut_columns) // 2
    cut = np.ascontiguousarray(pixels[top : top + cut_rows, left : left + cut_columns])
    image = Image.fromarray(cut[:, :, 0] if channels == 1 else cut)
    scaled = image.resize((width, height), Image.Resampling.BICUBIC if smooth else Image.Resampling.NEAREST, reducing_gap=3.0 if smooth else None)
    return np.asarray(scaled).reshape(height, width, channels)


def batch_of(pictures: Sequence[np.ndarray]) -> np.ndarray:
    """uint8 (H, W, C) each, of one size -> float32 (B, C, H, W) in [0, 1]."""
    return np.stack(pictures).transpose(0, 3, 1, 2).astype(np.float32) / np.float32(255)


def tensor_of(value: Any, name: str, channels: int, limits: Limits) -> np.ndarray:
    """What an action takes as a tensor: a picture or a list of them as base64 or data URIs, a .npy file as such, or lists of numbers.

    Pictures come out (B, C, H, W) in [0, 1]; of lists, float32 but for `codes`, which are int64.
    """
    if isinstance(value, str):
        data = file_of(value, name)
        if data[:6] == b"\x93NUMPY":
            return array_of(data, name, limits)
        return batch_of([with_channels(pixels_of(data, limits, name), 1 if name == "mask" else channels)])
    if all(isinstance(one, str) for one in value):
        pictures = [with_channels(pixels_of(file_of(one, name), limits, name), 1 if name == "mask" else channels) for one in value]
        if len({picture.shape for picture in pictures}) != 1 or sum(picture.size for picture in pictures) > limits.input_pixels * 3:
            raise Problem(400, f"the pictures of {name} differ in size, or are too large together; scale them", param=name, code="invalid_image")
        return batch_of(pictures)
    return numbers_of(value, name, limits)


def array_of(data: bytes, name: str, limits: Limits) -> np.ndarray:
    """The numbers of a .npy file."""
    try:
        array = np.asarray(decode_array(data))
    except BadSample:
        raise Problem(400, f"{name} is no .npy file of plain numbers", param=name, code="invalid_array") from None
    return checked(array.astype(np.int64 if array.dtype.kind in "biu" and name == "codes" else np.float32), name, limits)


def numbers_of(value: list[Any], name: str, limits: Limits) -> np.ndarray:
    """Lists of numbers, all of one depth and length at each depth."""
    try:
        with np.errstate(over="ignore"):
            array = np.asarray(value, np.int64 if name == "codes" else np.float32)
    except (ValueError, TypeError, OverflowError):
        raise Problem(400, f"{name} is no rectangular list of numbers", param=name, code="invalid_array") from None
    return checked(array, name, limits)


def checked(array: np.ndarray, name: str, limits: Limits) -> np.ndarray:
    """The array. Problem where it is too large, empty, or holds what is no number."""
    if not 0 < array.size <= limits.numbers or array.ndim > 6:
        raise Problem(400, f"{name} holds {array.size} numbers, and may hold 1 to {limits.numbers:,}", param=name, code="invalid_array")
    if not np.isfinite(array).all():
        raise Problem(400, f"{name} holds a number that is not finite", param=name, code="invalid_array")
    return np.ascontiguousarray(array)
