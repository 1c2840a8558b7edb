"""A file of several pictures: the first of a phone's JPEG, and no animation; how many samples there are does not depend on `--size`.

jarun/imgp#21, idealo/imagededup#35.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from genlib.data.codecs.encode import stored_image
from genlib.data.codecs.image_header import image_header
from genlib.data.codecs.images import decode_image
from genlib.data.importers.convert import ConversionPlan, InputPart, write_part
from genlib.data.importers.folder import open_folder
from serve.limits import Limits
from serve.parsing.image_decoding import pixels_of
from tests.field.pictures import encoded, exif_bytes, half_red, independent, png_chunk, read_back

WHITE = Image.new("RGB", (96, 64), "white")


def frames(kind: str, count: int, **options) -> bytes:
    """A file of several frames of which the first is half red."""
    buffer = io.BytesIO()
    half_red().save(buffer, kind, save_all=True, append_images=[WHITE.copy() for _ in range(count - 1)], **options)
    return buffer.getvalue()


def with_second(jpeg: bytes) -> bytes:
    """A JPEG and another one behind it, without an index, as motion photos and gain maps are."""
    return jpeg + encoded(WHITE, "JPEG") + b"ftypmp42" + bytes(99)


PHONES = {
    "mpo": frames("MPO", 2), "mpo of three": frames("MPO", 3), "turned": frames("MPO", 2, exif=b"Exif\0\0" + exif_bytes(6)),
    "behind": with_second(encoded(half_red(), "JPEG")), "turned, behind": with_second(encoded(half_red(), "JPEG", 6)),
}  # fmt: skip
ANIMATED = {"png": frames("PNG", 2), "webp": frames("WEBP", 2), "gif": frames("GIF", 2), "tif": frames("TIFF", 2)}


@pytest.mark.parametrize("name", PHONES)
def test_the_first_picture_is_read(name: str, tmp_path: Path) -> None:
    data = PHONES[name]
    shape = (96, 64, 3) if "turned" in name else (64, 96, 3)
    shards, found = read_back(tmp_path, {"0.jpg": data})
    assert shards.pixels(np.zeros(1, int)).tolist() == [list(shape[:2])]
    for pixels in (found["0"], pixels_of(data, Limits(), "image"), decode_image(data)):
        assert pixels.shape == shape
        assert np.abs(pixels.astype(int) - independent(data)).mean() < 4
    extension, shrunk = stored_image(data, 32)
    assert extension == "jpg"
    small = decode_image(shrunk)
    assert small.shape == (shape[0] // 2, shape[1] // 2, 3)
    assert small[2, 2, 0] > 200
    assert small[-2, -2, 2] > 200


@pytest.mark.parametrize("size", [0, 32, 128])
def test_the_number_of_samples_does_not_depend_on_the_size(tmp_path: Path, size: int) -> None:
    for number, data in enumerate(PHONES.values()):
        (tmp_path / f"{number}.jpg").write_bytes(data)
    for kind, data in ANIMATED.items():
        (tmp_path / f"animated.{kind}").write_bytes(data)
    source = open_folder(tmp_path)
    (part,) = source.cut(100)
    record = write_part(ConversionPlan(out=tmp_path / "out", read=source.read, size=size), InputPart(0, part))
    assert record.samples == {"train": len(PHONES)}
    assert record.bad == {"several frames": len(ANIMATED)}


def one_frame_apng() -> bytes:
    """A PNG that says it is an animation of one frame."""
    data = encoded(half_red(), "PNG")
    return data[:33] + png_chunk(b"acTL", (1).to_bytes(4, "big") + bytes(4)) + data[33:]


def one_frame_webp() -> bytes:
    """An animated WebP of one frame."""
    still = encoded(half_red(), "WEBP")[12:]
    frame = bytes(6) + (95).to_bytes(3, "little") + (63).to_bytes(3, "little") + bytes(3) + b"\0" + still
    chunk = lambda name, content: name + len(content).to_bytes(4, "little") + content + bytes(len(content) % 2)  # noqa: E731
    canvas = b"\x02" + bytes(3) + (95).to_bytes(3, "little") + (63).to_bytes(3, "little")
    body = b"WEBP" + chunk(b"VP8X", canvas) + chunk(b"ANIM", bytes(6)) + chunk(b"ANMF", frame)
    return b"RIFF" + len(body).to_bytes(4, "little") + body


@pytest.mark.parametrize("data", [one_frame_apng(), one_frame_webp(), frames("GIF", 1)], ids=["png", "webp", "gif"])
@pytest.mark.parametrize("size", [0, 32])
def test_an_animation_of_one_frame_is_a_picture(data: bytes, size: int) -> None:
    found = decode_image(stored_image(data, size)[1])
    assert found.shape == ((32, 48, 3) if size else (64, 96, 3))
    assert found[2, 2].tolist() == pytest.approx([255, 0, 0], abs=6)


def test_a_header_that_says_it_moves_is_refused() -> None:
    for kind in ("png", "webp"):
        with pytest.raises(ValueError, match="several frames"):
            image_header(ANIMATED[kind])
