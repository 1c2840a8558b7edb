"""A photograph whose turn stands beside its pixels is upright wherever it is read, and so are its sizes.

kohya-ss/sd-scripts#1316, huggingface/diffusers#3465.
"""

from __future__ import annotations

import time
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from genlib.config import DataConfig
from genlib.data.codecs.encode import stored_image
from genlib.data.codecs.image_header import image_header
from genlib.data.codecs.images import decode_image
from genlib.data.importers.convert import ConversionPlan, InputPart, write_part
from genlib.data.importers.folder import open_folder
from genlib.data.shards.shard_set import ShardSet
from genlib.data.source import open_source
from serve.limits import Limits
from serve.parsing.image_decoding import pixels_of
from tests.data.order.test_buckets import WithSizes
from tests.field.pictures import (
    TURNS,
    encoded,
    exif_bytes,
    half_red,
    independent,
    paths_of,
    png_chunk,
    read_back,
    read_shards,
    with_segment,
)

KINDS = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp"}
PHOTOGRAPHS = {f"{KINDS[kind]}{turn}": encoded(half_red(), kind, turn) for kind in KINDS for turn in TURNS}


def near(found: np.ndarray, wanted: np.ndarray, most: float = 3) -> bool:
    """Whether pixels are the same but for what JPEG loses on an edge."""
    return found.shape == wanted.shape and float(np.abs(found.astype(int) - wanted.astype(int)).mean()) < most


def test_a_tar_is_read_upright_and_its_index_says_upright_sizes(tmp_path: Path) -> None:
    shards, found = read_back(tmp_path, {f"{name}.{name[:-1]}": data for name, data in PHOTOGRAPHS.items()})
    assert found.keys() == PHOTOGRAPHS.keys()
    for (name, data), (height, width) in zip(PHOTOGRAPHS.items(), shards.pixels(np.arange(len(shards))).tolist(), strict=True):
        wanted = independent(data)
        assert near(found[name], wanted), name
        assert (height, width) == wanted.shape[:2], name


@pytest.mark.parametrize("size", [0, 32, 64, 200])
def test_a_folder_is_stored_so_that_it_is_read_upright_whatever_the_size(tmp_path: Path, size: int) -> None:
    files = {**PHOTOGRAPHS, **{f"tif{turn}": encoded(half_red(), "TIFF", turn) for turn in TURNS}, "avif6": encoded(half_red(), "AVIF", 6)}
    for name, data in files.items():
        (tmp_path / f"{name}.{name[:-1]}").write_bytes(data)
    source = open_folder(tmp_path)
    (part,) = source.cut(100)
    record = write_part(ConversionPlan(out=tmp_path / "out", read=source.read, size=size), InputPart(0, part))
    assert (record.samples, record.bad) == ({"train": len(files)}, {})
    shards = ShardSet.open(paths_of(tmp_path / "out"))
    for (name, data), found in zip(sorted(files.items()), read_shards(shards).values(), strict=True):
        wanted = Image.fromarray(independent(data))
        if 0 < size < 64:
            wanted = wanted.resize((wanted.width // 2, wanted.height // 2), Image.Resampling.LANCZOS)
        assert near(found, np.asarray(wanted), 8), name
        stored = stored_image(data, size)[1]
        assert (stored == data) == (name[:-1] in KINDS.values() and not 0 < size < 64), name
        if stored != data:
            assert image_header(stored).turn == 1


def test_buckets_and_original_sizes_are_those_of_the_upright_picture(tmp_path: Path) -> None:
    read_back(tmp_path, {f"{number}.jpg": encoded(half_red(), "JPEG", 6) for number in range(8)})
    source = open_source(DataConfig(train=str(tmp_path), image_size=64, bucket_step=16))
    batch = next(source.batches("train", 4, transform=WithSizes(64)))
    assert batch["image"].shape == (4, 3, 80, 48)
    assert batch["original"].tolist() == [[64, 96]] * 4
    assert batch["image"][:, 0, :30].mean() > 0.9  # what was left is above
    assert not len(ShardSet.open(paths_of(tmp_path), filters=["width>64"]))


@pytest.mark.parametrize("turn", TURNS)
def test_a_jpeg_that_is_decoded_at_a_fraction_covers_what_is_asked_for_upright(turn: int) -> None:
    data = encoded(half_red(800, 400), "JPEG", turn)
    upright = independent(data).shape[:2]
    for at_least in (60, (90, 50), (50, 90), (100, 190), (190, 100)):
        height, width = decode_image(data, at_least=at_least).shape[:2]
        least = (at_least, at_least) if isinstance(at_least, int) else at_least
        assert height >= min(least[0], upright[0])
        assert width >= min(least[1], upright[1])
        assert height / width == pytest.approx(upright[0] / upright[1])
        assert height < upright[0]


@pytest.mark.parametrize("name", PHOTOGRAPHS)
def test_a_server_reads_it_upright(name: str) -> None:
    assert near(pixels_of(PHOTOGRAPHS[name], Limits(), "image"), independent(PHOTOGRAPHS[name]))


def strange_files() -> dict[str, bytes]:
    """Where writers put the turn, beside what Pillow writes."""
    jpeg, png = encoded(half_red(), "JPEG"), encoded(half_red(), "PNG")
    xmp = b'<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    raw = b"\nexif\n      26\n" + exif_bytes(6).hex().encode() + b"\n"
    before = png.index(b"IDAT") - 4
    return {
        "big-endian": with_segment(jpeg, 0xE1, b"Exif\0\0" + exif_bytes(8, ">")),
        "of 32 bits": with_segment(jpeg, 0xE1, b"Exif\0\0" + exif_bytes(5, kind=4)),
        "behind a profile": with_segment(with_segment(jpeg, 0xE1, b"Exif\0\0" + exif_bytes(7)), 0xE2, b"ICC_PROFILE\0\1\1\xff\xda" + bytes(2000)),
        "no such turn": with_segment(jpeg, 0xE1, b"Exif\0\0" + exif_bytes(9)),
        "turn 0": with_segment(jpeg, 0xE1, b"Exif\0\0" + exif_bytes(0)),
        "XMP": with_segment(jpeg, 0xE1, b"http://ns.adobe.com/xap/1.0/\0" + xmp),
        "EXIF before XMP": with_segment(with_segment(jpeg, 0xE1, b"http://ns.adobe.com/xap/1.0/\0" + xmp), 0xE1, b"Exif\0\0" + exif_bytes(3)),
        "PNG, behind the pixels": png[:-12] + png_chunk(b"eXIf", exif_bytes(6)) + png[-12:],
        "PNG, as a text": png[:before] + png_chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(raw)) + png[before:],
        "PNG, XMP": png[:before] + png_chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp) + png[before:],
        "WebP, XMP": encoded(half_red(), "WEBP", xmp=xmp),
    }


@pytest.mark.parametrize("name", strange_files())
def test_the_turn_is_found_where_pillow_finds_it(name: str) -> None:
    data = strange_files()[name]
    assert near(decode_image(data), independent(data))


def hostile() -> dict[str, bytes]:
    """EXIF that lies: directories that are huge, point at themselves or beyond the end, or are garbage."""
    many = b"II*\0\x08\0\0\0\xff\xff" + b"\x12\x01\x03\0\x01\0\0\0\xff\0\0\0" * 5000
    cyclic = bytearray(exif_bytes(6))
    cyclic[22:26] = b"\x08\0\0\0"
    beyond = b"II*\0\xff\xff\xff\x7f" + bytes(20)
    garbage = np.random.default_rng(0).bytes(60_000)
    return {"many": many, "cyclic": bytes(cyclic), "beyond": beyond, "garbage": b"II*\0" + garbage, "cut": exif_bytes(6)[:12], "empty": b""}


@pytest.mark.parametrize("name", hostile())
def test_hostile_exif_costs_nothing(name: str) -> None:
    jpeg, png = encoded(half_red(), "JPEG"), encoded(half_red(), "PNG")
    exif = hostile()[name]
    files = [with_segment(jpeg, 0xE1, b"Exif\0\0" + exif), png[:-12] + png_chunk(b"eXIf", exif) * 20 + png[-12:]]
    bomb = png[:-12] + png_chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(bytes(1 << 24))) + png[-12:]
    begin = time.process_time()
    for data in (*files, bomb):
        for _ in range(10):
            header = image_header(data)
            assert (header.width, header.height) == ((64, 96) if name == "cyclic" and data is not bomb else (96, 64))
    assert time.process_time() - begin < 0.5
