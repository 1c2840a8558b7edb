"""What is transparent lies on one background, named once in the data, in every format and mode, and for training and serving alike.

kohya-ss/sd-scripts#1223, tdrussell/diffusion-pipe#24.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from genlib.checkpoint import Manifest
from genlib.config import Color, Config, DataConfig, color, from_json, to_json
from genlib.data.codecs.encode import stored_image
from genlib.data.codecs.images import decode_image
from genlib.data.source import open_source
from genlib.engine.same_run import check_same_settings
from genlib.ports import PORTS
from genlib.task import Task
from serve.limits import Limits
from serve.models import model_card
from serve.parsing.image_decoding import fitted_with, pixels_of, tensor_of, with_channels
from serve.routes.pictures import fitted_batch
from tests.field.pictures import disc, encoded, independent, png_chunk, raw_png, read_back
from tests.serve.models import card_of, run, uri
from tests.serve.test_image_decoding import given_as

ORANGE: Color = (255, 128, 0)


def palette(image: Image.Image) -> Image.Image:
    """P with a colour that stands for nothing: index 1."""
    made = Image.fromarray((np.asarray(image)[..., 3] == 0).astype(np.uint8), "P")
    made.putpalette([0, 0, 0, 90, 10, 10])
    return made


def clear_files() -> dict[str, bytes]:
    """The disc in every format and mode that can be transparent."""
    image = disc()
    grey = Image.fromarray(np.where(np.asarray(image)[..., 3] == 0, 200, 0).astype(np.uint8))
    half = np.asarray(image).copy()
    half[..., :3], half[..., 3] = 50, half[..., 3] // 2
    return {
        "RGBA.png": encoded(image, "PNG"),
        "LA.png": encoded(image.convert("LA"), "PNG"),
        "P.png": encoded(palette(image), "PNG", transparency=1),
        "P-levels.png": encoded(palette(image), "PNG", transparency=bytes([200, 40])),
        "L.png": encoded(grey, "PNG", transparency=200),
        "RGB.png": encoded(grey.convert("RGB"), "PNG", transparency=(200, 200, 200)),
        "1.png": encoded(Image.fromarray(np.asarray(image)[..., 3] == 0), "PNG", transparency=1),
        "I16.png": encoded(Image.fromarray(np.asarray(grey).astype(np.uint16) * 256 + 7), "PNG", transparency=200 * 256 + 7),
        "half.png": encoded(Image.fromarray(half), "PNG"),
        "turned.png": encoded(image, "PNG", 6),
        "RGBA.webp": encoded(image, "WEBP"),
        "lossy.webp": encoded(image, "WEBP", lossless=False, quality=90),
    }


FILES = clear_files()
OTHERS = {
    "RGBA.tif": encoded(disc(), "TIFF"), "LA.tif": encoded(disc().convert("LA"), "TIFF"),
    "P.gif": encoded(palette(disc()), "GIF", transparency=1), "RGBA.avif": encoded(disc(), "AVIF", quality=100),
}  # fmt: skip


def on(background: Color, name: str, data: bytes) -> np.ndarray:
    """What is right; Pillow itself has no reading of 16 bits with a level that stands for nothing."""
    if name == "I16.png":
        empty = np.asarray(disc())[..., 3:] == 0
        return np.where(empty, np.array(background, np.uint8), np.uint8(0))
    return independent(data, "RGB", background)


def close(found: np.ndarray, wanted: np.ndarray) -> bool:
    return found.shape == wanted.shape and int(np.abs(found.astype(int) - wanted.astype(int)).max()) <= 1


@pytest.mark.parametrize("background", [(255, 255, 255), (0, 0, 0), ORANGE])
def test_a_tar_is_read_on_the_background(tmp_path: Path, background: Color) -> None:
    files = {f"{name.replace('.', '_', 1)}.{name.split('.')[1]}": data for name, data in FILES.items()}
    _, found = read_back(tmp_path, files, background=background)
    for name, data in FILES.items():
        assert close(found[name.replace(".", "_", 1)], on(background, name, data)), name


def test_a_source_takes_the_background_of_its_data(tmp_path: Path) -> None:
    read_back(tmp_path, {"0.png": FILES["RGBA.png"]})
    for text, corner in (("white", (1, 1, 1)), ("black", (0, 0, 0)), ("#ff8000", (1, 128 / 255, 0))):
        source = open_source(DataConfig(train=str(tmp_path), background=text))
        batch = next(source.batches("train", 1))
        assert next(source.once([np.arange(1)], 1))["image"].equal(batch["image"]), "as it is encoded ahead"
        assert batch["image"][0, :, 0, 0].tolist() == pytest.approx(corner)
        assert batch["image"][0, :, 16, 16].tolist() == [0, 0, 0]


@pytest.mark.parametrize("name", FILES)
def test_four_channels_keep_alpha(name: str) -> None:
    found = decode_image(FILES[name], 4)
    assert found[0, 0, 3] == {"P-levels.png": 40}.get(name, 0)
    assert found[16, 16, 3] == {"P-levels.png": 200, "half.png": 127}.get(name, 255)


@pytest.mark.parametrize("size", [0, 16])
@pytest.mark.parametrize("name", [*FILES, *OTHERS])
def test_what_is_converted_or_shrunk_stays_transparent(name: str, size: int) -> None:
    stored = stored_image({**FILES, **OTHERS}[name], size)[1]
    found = decode_image(stored, background=ORANGE)
    assert found.shape == ((16, 16, 3) if size else (32, 32, 3))
    assert np.abs(found[0, 0].astype(int) - on(ORANGE, name, {**FILES, **OTHERS}[name])[0, 0].astype(int)).max() <= 2
    whole = {"half.png": 160, "P-levels.png": 60}.get(name, 3)
    assert found[len(found) // 2, len(found) // 2, 1] <= whole


@pytest.mark.parametrize("background", [(255, 255, 255), ORANGE])
@pytest.mark.parametrize("name", FILES)
def test_a_server_shows_a_model_what_it_was_trained_on(name: str, background: Color) -> None:
    pixels = pixels_of(FILES[name], Limits(), "image")
    assert pixels.shape[2] == 4
    trained = decode_image(FILES[name], 3, background=background)
    assert (with_channels(pixels, 3, background) == trained).all()
    assert (fitted_with(pixels, 32, 32, 3, background) == trained).all()


@pytest.mark.parametrize(("data", "background"), [(DataConfig(), (255, 255, 255)), (DataConfig(background="#ff8000"), ORANGE)])
def test_every_endpoint_asks_the_card(data: DataConfig, background: Color) -> None:
    card = dataclasses.replace(card_of("a", Task, side=32), background=color(data.background))
    pictures, _ = run(fitted_batch(card, [uri(FILES["P.png"])], Limits(), "image"))
    assert pictures[0, :, 0, 0].tolist() == list(background)
    taken = tensor_of(given_as(uri(FILES["RGBA.webp"])), "image", PORTS["image"], 3, Limits(), card.background)
    assert taken[0, :, 0, 0].tolist() == list(background)


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_a_grey_level_that_stands_for_nothing_is_one_of_the_files_own(bits: int) -> None:
    level = 2**bits - 1
    row = (0 << bits | level).to_bytes(4 if bits == 16 else 2, "big") if bits > 4 else bytes([level << (8 - 2 * bits)])
    data = raw_png(2, 1, bits, 0, [row], png_chunk(b"tRNS", level.to_bytes(2, "big")))
    assert decode_image(data, 4)[0, :, 3].tolist() == [255, 0]
    assert decode_image(data, 3, background=ORANGE)[0].tolist() == [[0, 0, 0], list(ORANGE)]


def test_a_colour_of_16_bits_that_stands_for_nothing() -> None:
    row = b"\x12\x34\x56\x78\x9a\xbc" + b"\xff\xff\0\0\0\0"
    data = raw_png(2, 1, 16, 2, [row], png_chunk(b"tRNS", b"\x12\x34\x56\x78\x9a\xbc"))
    assert decode_image(data, 4)[0, :, 3].tolist() == [0, 255]
    assert decode_image(data)[0].tolist() == [[255, 255, 255], [255, 0, 0]]


def test_names_of_colours() -> None:
    assert [color(text) for text in ("white", "black", "grey", "#FF8000")] == [(255,) * 3, (0,) * 3, (128,) * 3, ORANGE]
    for text in ("", "whyte", "#fff", "#gggggg", "255,255,255"):
        with pytest.raises(ValueError, match="no colour; give white, black, grey, or"):
            DataConfig(background=text)


@dataclasses.dataclass
class Stage:
    """As much of a stage as the comparison looks at."""

    name: str
    task: Config
    train: Config
    data: DataConfig


def manifest(data: dict[str, Any]) -> Manifest:
    """As much of a manifest as the comparison looks at."""
    return Manifest(
        recipe="r",
        stage="s",
        blueprint=type("Blueprint", (), {"task": {}})(),
        train={},
        data=data,
        data_state=None,
        step=1,
        steps=1,
        samples_seen=1,
        updates={},
    )  # type: ignore[arg-type]


def test_a_run_goes_on_with_its_background_and_one_from_before_with_white() -> None:
    before = {name: value for name, value in to_json(DataConfig()).items() if name != "background"}
    assert from_json(DataConfig, before).background == "white"
    white, black = (Stage("s", Config(), Config(), DataConfig(background=name)) for name in ("white", "black"))
    check_same_settings(manifest(before), "r", white)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"data\.background = 'white', now it is 'black'"):
        check_same_settings(manifest(before), "r", black)  # type: ignore[arg-type]


@pytest.mark.parametrize(("data", "background"), [({}, (255, 255, 255)), ({"background": "#ff8000"}, ORANGE)])
def test_a_card_has_the_background_of_its_checkpoint(tmp_path: Path, data: dict[str, Any], background: Color) -> None:
    (tmp_path / "manifest.json").touch()
    spec = type("Blueprint", (), {"spec": None})()
    made = dataclasses.replace(manifest(data), blueprint=spec, files={"weights.safetensors": "0"})

    class Made:
        sizes = staticmethod(lambda spec: None)
        actions = staticmethod(list)

    assert model_card.of(Made(), tmp_path, made, "name", 1).background == background  # type: ignore[arg-type]
