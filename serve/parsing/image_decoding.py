"""Pictures and arrays that clients send, as a model takes them. A picture's size is read from its header before anything decodes it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pydantic_core
from PIL import Image

from genlib.config import Color
from genlib.data.codecs.decode import BadSample, array_header, decode_array
from genlib.data.codecs.image_header import ImageHeader, image_header
from genlib.data.codecs.images import WHITE, decode_image, decode_palette, on_background
from genlib.plurals import counted
from genlib.ports import Port
from serve.api_error import ApiError
from serve.limits import Limits
from serve.parsing import number_lists
from serve.parsing.json_fields import Value, no_json
from serve.parsing.text_files import field_of, file_of

_PIXEL_BYTES = {("png", 3): 11, ("png", 4): 16, ("jpeg", 4): 14, ("webp", 3): 24, ("webp", 4): 24}
"""Memory that a pixel takes while its picture is decoded and fitted, where it is more than 8; measured with Pillow 13."""


def measured(data: bytes, limits: Limits, param: str) -> ImageHeader:
    """What a PNG, JPEG or WebP file says of itself. ApiError where it is none, or has too many pixels."""
    try:
        header = image_header(data)
        most = min(limits.input_pixels, limits.picture_bytes // _PIXEL_BYTES.get((header.format, 4 if header.clear else header.channels), 8))
        if header.height * header.width > most:
            size = f"{header.width}x{header.height} = {header.height * header.width:,} pixels"
            raise ApiError(400, f"{param} has {size}, and may have {most:,}; scale it", param=field_of(param), code="invalid_image")
    except BadSample as reason:
        raise _no_picture(param, str(reason), limits) from None
    return header


def pixels_of(data: bytes, limits: Limits, param: str) -> np.ndarray:
    """uint8 (H, W, C) of a PNG, JPEG or WebP file, upright; C is 1, 3, or 4 where it can be transparent."""
    header = measured(data, limits, param)
    channels = 3 if header.format == "jpeg" and header.channels == 4 else header.channels
    try:
        return decode_image(data, 4 if header.clear else channels)
    except BadSample as reason:
        raise _no_picture(param, str(reason), limits) from None


def mask_of(data: bytes, limits: Limits, param: str) -> np.ndarray:
    """uint8 (H, W, 1) of a PNG, JPEG or WebP file, upright: 255 where it is fully transparent, or, if nothing is, its grey levels.

    Of a palette with colours, as segmentations have, the indices count: 255 where there is another than 0.
    """
    header = measured(data, limits, param)
    try:
        palette = None if header.clear else decode_palette(data)
    except BadSample as reason:
        raise _no_picture(param, str(reason), limits) from None
    if palette is not None and (palette[1] != palette[1][:, :1]).any():
        return (palette[0] > 0) * np.uint8(255)
    pixels = pixels_of(data, limits, param)
    empty = transparent(pixels)
    return with_channels(pixels, 1) if empty is None else empty[:, :, None] * np.uint8(255)


def check_pixels(files: Sequence[bytes], limits: Limits, param: str, places: Sequence[str] = ()) -> None:
    """Problem where one is no picture, or they have too many pixels together. `places` are theirs in the field `param`."""
    if len(files) > limits.inputs:
        raise ApiError(400, f"{param} has more than {limits.inputs} pictures, which are the limit; send fewer", param=param, code="limit_exceeded")
    headers = [measured(file, limits, where) for file, where in zip(files, places or [param] * len(files), strict=True)]
    pixels = sum(header.height * header.width for header in headers)
    if pixels > limits.all_input_pixels:
        message = f"the pictures of {param} have {pixels:,} pixels together, and may have {limits.all_input_pixels:,}; send fewer, or smaller ones"
        raise ApiError(400, message, param=param, code="limit_exceeded")


def _no_picture(param: str, reason: str, limits: Limits) -> ApiError:
    form = f"a PNG, JPEG or WebP file of one frame and at most {limits.input_pixels:,} pixels"
    message = f"{param} cannot be used as a picture ({reason}); send {form}"
    return ApiError(400, message, param=field_of(param), code="invalid_image")


def transparent(pixels: np.ndarray) -> np.ndarray | None:
    """bool (H, W), whether a picture is fully transparent there; None where it has no such place."""
    if pixels.shape[2] != 4 or not (empty := pixels[:, :, 3] == 0).any():
        return None
    return empty


def opaque(pixels: np.ndarray, background: Color = WHITE) -> np.ndarray:
    """uint8 (H, W, 1 or 3); what is transparent lies on the background."""
    return on_background(pixels, background) if pixels.shape[2] == 4 else pixels


def with_channels(pixels: np.ndarray, channels: int, background: Color = WHITE) -> np.ndarray:
    """uint8 (H, W, channels), channels 1 or 3; what is transparent lies on the background."""
    pixels = opaque(pixels, background)
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


def fitted_with(pixels: np.ndarray, width: int, height: int, channels: int, background: Color = WHITE) -> np.ndarray:
    """uint8 (height, width, channels): cut and scaled, and then given its channels, which of the smaller picture takes less memory."""
    return with_channels(fitted(opaque(pixels, background), width, height), channels)


def batch_of(pictures: Sequence[np.ndarray]) -> np.ndarray:
    """uint8 (H, W, C) each, of one size -> uint8 (B, C, H, W), which a replica takes as numbers in [0, 1]."""
    made = np.empty((len(pictures), pictures[0].shape[2], *pictures[0].shape[:2]), np.uint8)
    for picture, row in zip(pictures, made, strict=True):
        row[:] = picture.transpose(2, 0, 1)
    return made


def tensor_of(value: Value, name: str, port: Port, channels: int, limits: Limits, background: Color = WHITE) -> np.ndarray:
    """What an action takes as a tensor: a picture or a list of them as base64 or data URIs, a .npy file as such, or lists of numbers.

    Pictures come out as `batch_of` gives them, those of a port with a single channel as masks (`mask_of`); numbers are float32, or whole as
    the port says.
    """

    def decode(file: bytes) -> np.ndarray:
        if "single" in port.axes:
            return mask_of(file, limits, name)
        return with_channels(pixels_of(file, limits, name), channels, background)

    if value.starts(b'"'):
        data = file_of(_parsed(value, name), name)
        return array_of(data, name, limits, whole=port.whole) if data[:6] == b"\x93NUMPY" else pictures_of([data], name, limits, decode)
    if value.starts(b"[", b'"'):
        texts = _parsed(value, name)
        return pictures_of([file_of(one, f"{name}[{at}]") for at, one in enumerate(texts)], name, limits, decode)
    if value.starts(b"["):
        return numbers_of(value.text(), name, limits, whole=port.whole)
    raise ApiError(400, f"{name} must be a picture, a .npy file or lists of numbers; /v1/models has its schema", param=name)


def _parsed(value: Value, name: str) -> Any:
    """A text, or a list of such."""
    try:
        parsed = pydantic_core.from_json(value.text(), cache_strings="none")
    except ValueError as error:
        raise no_json(str(error)) from None
    if isinstance(parsed, list) and (odd := [at for at, one in enumerate(parsed) if not isinstance(one, str)]):
        message = f"{name}[{odd[0]}] is no text, as the pictures of a list are; send each as data:image/png;base64,..."
        raise ApiError(400, message, param=name, code="invalid_array")
    return parsed


def pictures_of(files: Sequence[bytes], name: str, limits: Limits, decode: Callable[[bytes], np.ndarray]) -> np.ndarray:
    """Pictures of one size, as `decode` makes them of files, uint8 (H, W, C)."""
    check_pixels(files, limits, name, [f"{name}[{at}]" for at in range(len(files))] if len(files) > 1 else ())
    sizes = [image_header(file)[1:3] for file in files]
    if (odd := next((at for at, size in enumerate(sizes) if size != sizes[0]), 0)) or len(sizes) * math.prod(sizes[0]) > limits.input_pixels:
        raise ApiError(400, _not_together(name, sizes, odd, limits), param=name, code="invalid_image")
    return batch_of([decode(file) for file in files])


def _not_together(name: str, sizes: Sequence[tuple[int, int]], odd: int, limits: Limits) -> str:
    """Why pictures of sizes (height, width) are no batch; `odd` is the first that differs from the one before it, 0 is none."""
    (height, width), first = sizes[odd], sizes[0]
    if odd:
        return f"{name}[{odd}] has {width}x{height} pixels, and {name}[0] has {first[1]}x{first[0]}; scale them to one size"
    together = f"{len(sizes)} pictures of {width}x{height} have {len(sizes) * width * height:,} pixels together"
    return f"{name}: {together}, and may have {limits.input_pixels:,}; send fewer, or smaller ones"


def array_of(data: bytes, name: str, limits: Limits, *, whole: bool = False) -> np.ndarray:
    """The numbers of a .npy file."""
    try:
        check_size(math.prod(array_header(data)[0]), name, limits)
        array = np.asarray(decode_array(data))
    except BadSample:
        raise ApiError(400, f"{name} is no whole .npy file of plain numbers, as numpy.save writes them", param=name, code="invalid_array") from None
    if array.dtype.kind in "biu" and whole:
        return array.astype(np.int64 if array.dtype == np.uint64 else np.result_type(array.dtype, np.int8))  # uint8 are levels of pictures
    return array.astype(np.float32) if array.dtype.kind in "biu" else finite(array.astype(np.float32), name)


def numbers_of(text: bytes, name: str, limits: Limits, *, whole: bool = False) -> np.ndarray:
    """Lists of numbers in JSON, all of one depth and length at each depth."""
    check_size(number_lists.count_at_most(text), name, limits)
    try:
        return finite(number_lists.read(text, whole=whole), name)
    except number_lists.NotRectangular:
        said = f"is no rectangular list of {'whole numbers' if whole else 'numbers'}; give rows of one length, such as [[1, 2], [3, 4]]"
        raise ApiError(400, f"{name} {said}", param=name, code="invalid_array") from None


def check_size(numbers: int, name: str, limits: Limits) -> None:
    """Problem where an array is too large, or empty."""
    if not 0 < numbers <= limits.numbers:
        raise ApiError(400, f"{name} holds {counted(numbers, 'number')}, and may hold 1 to {limits.numbers:,}", param=name, code="invalid_array")


def finite(array: np.ndarray, name: str) -> np.ndarray:
    """The array. ApiError where it holds what is no number."""
    if not np.isfinite(array).all():
        raise ApiError(400, f"{name} holds a number that is not finite; take out NaN and infinity", param=name, code="invalid_array")
    return array
