"""A palette PNG as a mask gives its indices, not how bright its colours are: classes of like brightness stay apart.

Sets like VOC's: index 1 shown in dark red, 2 in dark green. kohya-ss/sd-scripts#589 and #1172, Nerogar/OneTrainer,
derrian-distro/LoRA_Easy_Training_Scripts#331, naoto0804/pytorch-inpainting-with-partial-conv#47: masks beside pictures, or in a folder of their own.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from genlib.config import DataConfig
from genlib.data.codecs.images import decode_image
from genlib.data.importers.convert import ConversionInput, ConversionPlan, InputPart, write_part
from genlib.data.importers.folder import open_folder
from genlib.data.importers.huggingface import HuggingfaceDataset, open_huggingface
from genlib.data.importers.table import open_table
from genlib.data.shards.shard_set import ShardSet
from genlib.data.source import open_source
from genlib.ports import PORTS
from serve.limits import Limits
from serve.parsing.image_decoding import mask_of, tensor_of
from tests.data.shards import picture, write_tar
from tests.field.pictures import encoded, half_red, paths_of, read_back, read_shards
from tests.field.test_captions_and_labels import metadata, put, written
from tests.serve.models import uri
from tests.serve.test_image_decoding import given_as

CLASSES = np.repeat(np.repeat(np.array([[0, 1, 2], [3, 20, 255]], np.uint8), 16, 0), 16, 1)
COLORS = [0, 0, 0, 128, 0, 0, 0, 128, 0, 128, 128, 0]


def mask(colors: list[int] = COLORS, turn: int = 1, indices: np.ndarray = CLASSES, **options) -> bytes:
    """A palette PNG."""
    image = Image.fromarray(indices, "P")
    image.putpalette(colors + [77] * (768 - len(colors)) if indices.max() > 3 else colors)
    return encoded(image, "PNG", turn, **options)


@pytest.mark.parametrize("field", ["mask", "seg", "person_mask"])
def test_a_tar_gives_indices(tmp_path: Path, field: str) -> None:
    few = (CLASSES > 0).astype(np.uint8) + (CLASSES == 2)
    files = {"whole": mask(), "turned": mask(turn=6), "of 2 bits": mask(indices=few, bits=2), "with a clear one": mask(transparency=0)}
    members = {f"{name}.{end}": data for name, own in files.items() for end, data in (("png", picture(1)), (f"{field}.png", own))}
    _, found = read_back(tmp_path, members, field)
    assert (found["whole"][:, :, 0] == CLASSES).all()
    assert (found["turned"][:, :, 0] == np.rot90(CLASSES, 3)).all()
    assert (found["of 2 bits"][:, :, 0] == few).all()
    assert (found["with a clear one"][:, :, 0] == CLASSES).all()


def test_a_batch_has_them_unmixed_in_any_size(tmp_path: Path) -> None:
    write_tar(tmp_path / "train-00000.tar", [("0.jpg", encoded(half_red(48, 32), "JPEG")), ("0.mask.png", mask())])
    for size, step in ((0, 0), (24, 0), (32, 8)):
        source = open_source(DataConfig(train=str(tmp_path), image_size=size, bucket_step=step))
        found = next(source.batches("train", 1))["mask"]
        assert found.shape[1] == 1
        assert set((found * 255).round().int().flatten().tolist()) <= set(CLASSES.flatten().tolist())


def test_a_palette_picture_that_is_no_mask_gives_its_colours() -> None:
    assert decode_image(mask())[0, [0, 20, 40]].tolist() == [[0, 0, 0], [128, 0, 0], [0, 128, 0]]


def test_a_grey_mask_keeps_its_levels_and_one_of_16_bits_is_counted(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.fromarray(CLASSES.astype(np.uint16)).save(buffer, "PNG")
    good = [("0.png", picture(1)), ("0.mask.png", encoded(Image.fromarray(CLASSES), "PNG"))]
    shards, found = read_back(tmp_path, dict([*good, ("1.png", picture(1)), ("1.mask.png", buffer.getvalue())]), "mask")
    assert (found["0"][:, :, 0] == CLASSES).all()
    assert dict(shards.bad) == {"mask of 16 bits": 1}
    depth = ShardSet.open([write_tar(tmp_path / "depth-0.tar", [("1.png", picture(1)), ("1.depth.png", buffer.getvalue())])])
    assert len(depth) == 1


def test_a_server_fills_what_a_segmentation_marks() -> None:
    filled = mask_of(mask(), Limits(), "mask")[:, :, 0]
    assert ((filled == 255) == (CLASSES > 0)).all()
    assert set(np.unique(filled)) == {0, 255}
    port = tensor_of(given_as(uri(mask(turn=6))), "mask", PORTS["mask"], 3, Limits())
    assert port.shape == (1, 1, 48, 32)
    assert ((port[0, 0] == 255) == np.rot90(CLASSES > 0, 3)).all()


def test_a_server_takes_a_mask_of_black_and_white_by_its_colours() -> None:
    bright = (CLASSES > 0).astype(np.uint8)
    white_first = mask([255, 255, 255, 0, 0, 0], indices=1 - bright)
    for data in (white_first, encoded(Image.fromarray(bright * 255), "PNG"), encoded(Image.fromarray(bright * 255).convert("RGBA"), "PNG")):
        assert ((mask_of(data, Limits(), "mask")[:, :, 0] == 255) == (bright > 0)).all()
    clear = np.dstack([np.zeros((32, 48, 3), np.uint8), 255 - bright * 255])
    assert ((mask_of(encoded(Image.fromarray(clear), "PNG"), Limits(), "mask")[:, :, 0] == 255) == (bright > 0)).all()


@pytest.mark.parametrize("size", [0, 16])
def test_a_folder_takes_masks_beside_the_pictures(tmp_path: Path, size: int) -> None:
    masks = {"a": ("png", mask()), "b": ("tif", encoded(Image.open(io.BytesIO(mask())), "TIFF")), "c": ("jpg", b"")}
    for name, (end, data) in masks.items():
        (tmp_path / f"{name}.jpg").write_bytes(encoded(half_red(48, 32), "JPEG"))
        if data:
            (tmp_path / f"{name}.mask.{end}").write_bytes(data)
    source = open_folder(tmp_path)
    (part,) = source.cut(100)
    record = write_part(ConversionPlan(out=tmp_path / "out", read=source.read, size=size), InputPart(0, part))
    assert (source.total, record.samples, record.bad) == (3, {"train": 2}, {"missing mask": 1})
    found = read_shards(ShardSet.open(paths_of(tmp_path / "out")), "mask")
    assert [(one[:, :, 0] == CLASSES).all() for one in found.values()] == [True, True]


GREY = encoded(Image.fromarray(CLASSES), "PNG")


def rows_of(folder: Path, form: str, values: list[Any], column: str = "mask") -> Path:
    """A table of as many rows, each of the picture a.png, or of its bytes where masks are bytes."""
    (folder / "a.png").write_bytes(picture(1))
    (folder / "m.png").write_bytes(mask())
    inline = form == "huggingface"
    rows = [{"image": picture(1) if inline else "a.png", column: value} for value in values]
    path = folder / f"t.{'parquet' if inline else form}"
    metadata(path, rows)
    return path


def opened_rows(path: Path, form: str, **how: str) -> ConversionInput:
    if form != "huggingface":
        return open_table(path, "image", **how)
    pytest.importorskip("datasets")
    return open_huggingface(HuggingfaceDataset(path=str(path)), image="image", **how)


@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet", "huggingface"])
def test_a_column_of_masks_gives_indices(tmp_path: Path, form: str) -> None:
    asked = {"mask": "mask"} if form == "huggingface" else {}  # bytes alone say not that they are images
    source = opened_rows(
        rows_of(tmp_path, form, [mask(), GREY, None] if form == "huggingface" else ["m.png", "gone.png", None, "m.png"]), form, **asked
    )
    record, _ = written(source, tmp_path / "out")
    assert record.samples == {"train": 2}
    assert record.bad == ({"missing mask": 1} if form == "huggingface" else {"missing mask": 2})
    found = read_shards(ShardSet.open(paths_of(tmp_path / "out")), "mask")
    assert [(one[:, :, 0] == CLASSES).all() for one in found.values()] == [True, True]
    assert source.said["masks"] == f"column 'mask'{'' if asked else ', by its name; --mask-column none leaves them out'}"


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
@pytest.mark.parametrize(
    ("value", "said"),
    [
        (1, "holds values of type int and no paths of pictures; a mask is a file that its row names"),
        ("1 3 10 5", r"holds '1 3 10 5', which is no path of a picture \(.avif, "),
        ({"bytes": "x"}, "holds images and not paths; use the verb huggingface"),
    ],
)
def test_a_column_that_holds_something_else_is_no_mask(tmp_path: Path, form: str, value: Any, said: str) -> None:
    path = rows_of(tmp_path, form, [None, value])
    with pytest.raises(ValueError, match=said):
        open_table(path, "image", mask="mask")
    record, samples = written(open_table(path, "image"), tmp_path / "out")
    assert (record.bad, [list(sample) for sample in samples]) == ({}, [[], []])


def test_a_mask_column_that_is_not_there_or_not_wanted(tmp_path: Path) -> None:
    path = rows_of(tmp_path, "csv", ["m.png"], "Mask")
    with pytest.raises(ValueError, match=r"has no column 'msk'\."):
        open_table(path, "image", mask="msk")
    assert open_table(path, "image").said["masks"].startswith("column 'Mask', by its name")
    assert "masks" not in open_table(path, "image", mask="none").said
    assert "masks" not in open_table(path, "image", label="Mask").said


def segmentation(features: dict[str, str]) -> Any:
    """A data set of the library: a picture, its mask, and what else is asked for."""
    datasets = pytest.importorskip("datasets")
    kinds = {"Image": (datasets.Image(), picture(1)), "Mask": (datasets.Image(), mask()), "int": (datasets.Value("int64"), 3)}
    kinds["list"] = (datasets.List(datasets.Value("int64")), [1, 2])
    one = {name: kinds[kind][1] for name, kind in features.items()}
    return datasets.Dataset.from_list([one], datasets.Features({name: kinds[kind][0] for name, kind in features.items()}))


@pytest.mark.parametrize("name", ["mask", "annotation", "label", "Segmentation_Mask"])
def test_a_data_set_of_images_and_masks_is_told_apart(tmp_path: Path, name: str) -> None:
    segmentation({"pixel_values": "Image", name: "Mask", "n": "int"}).save_to_disk(tmp_path / "in")
    source = open_huggingface(HuggingfaceDataset(path=str(tmp_path / "in")))
    written(source, tmp_path / "out")
    found = read_shards(ShardSet.open(paths_of(tmp_path / "out")), "mask")
    assert [(one[:, :, 0] == CLASSES).all() for one in found.values()] == [True]
    assert source.said["masks"].startswith(f"column {name!r}, by its name")


def test_columns_of_a_data_set_that_hold_no_images(tmp_path: Path) -> None:
    segmentation({"image": "Image", "mask": "list", "n": "int"}).save_to_disk(tmp_path / "in")
    place = HuggingfaceDataset(path=str(tmp_path / "in"))
    assert "masks" not in open_huggingface(place).said
    for how, said in (
        ({"mask": "mask"}, r"'mask' holds List\(.* and no images, their bytes or paths; give --mask-column another name or none"),
        ({"image": "n"}, r"'n' holds Value\('int64'\) and no images, their bytes or paths; give --image-column another name$"),
        ({"mask": "gone"}, "has no column 'gone'"),
    ):
        with pytest.raises(ValueError, match=said):
            open_huggingface(place, **how)
    segmentation({"mask": "Mask"}).save_to_disk(tmp_path / "alone")
    assert "masks" not in open_huggingface(HuggingfaceDataset(path=str(tmp_path / "alone"))).said


BESIDE = {
    "NAME_mask": ("a.jpg", "a_mask.png"),
    "NAME-masklabel": ("x/a.jpg", "x/a-masklabel.png"),
    "folder masks": ("images/a.jpg", "masks/a.png"),
    "folder Mask": ("train/imgs/a.jpg", "train/Mask/a_mask.png"),
    "folder SegmentationClass": ("JPEGImages/a.jpg", "SegmentationClass/a.png"),
    "folder mask": ("a.jpg", "mask/a.png"),
}


@pytest.mark.parametrize("case", BESIDE)
def test_masks_under_the_names_that_are_used(tmp_path: Path, case: str) -> None:
    pictured, masked = BESIDE[case]
    for name in "ab":
        own = masked.replace("/a", f"/{name}") if "/" in masked else f"{name}{masked[1:]}"
        put(tmp_path / "in", **{pictured.replace("a.jpg", f"{name}.jpg"): picture(), own: mask()})
    source = open_folder(tmp_path / "in")
    record, _ = written(source, tmp_path / "out")
    assert (record.samples, record.bad) == ({"train": 2}, {})
    found = read_shards(ShardSet.open(paths_of(tmp_path / "out")), "mask")
    assert [(one[:, :, 0] == CLASSES).all() for one in found.values()] == [True, True]
    how = "NAME_mask" if "_mask" in masked else case
    assert source.said["masks"] == f"{how} 2; --masks none takes them as images"
    assert source.said["labels"] == "none"
    assert open_folder(tmp_path / "in", masks="none").total == 4


def test_a_picture_that_is_called_like_a_mask_among_many_stays_one(tmp_path: Path) -> None:
    folder = put(tmp_path / "in", **{f"{name}.jpg": picture() for name in ("man", "man_mask", "dog", "cat", "masks/owl", "mask/man")})
    source = open_folder(folder)
    assert (source.total, "masks" in source.said) == (6, False)


@pytest.mark.parametrize("names", [("file_name", "mask_file_name"), ("image_file_name", "mask"), ("file_name", "segmentation")])
def test_masks_that_metadata_names(tmp_path: Path, names: tuple[str, str]) -> None:
    folder = put(tmp_path / "in", **{"p/a.jpg": picture(), "p/b.jpg": picture(), "m/1.png": mask()})
    metadata(folder / "metadata.jsonl", [{names[1]: "m/1.png", names[0]: "p/a.jpg", "text": "x"}, {names[1]: None, names[0]: "p/b.jpg", "text": "y"}])
    source = open_folder(folder)
    record, samples = written(source, tmp_path / "out")
    assert (record.samples, record.bad) == ({"train": 1}, {"missing mask": 1})
    assert (samples[0]["txt"], samples[0]["mask.png"]) == (b"x", mask())
    assert source.said["masks"] == f"column {names[1]!r}"
    assert "masks" not in open_folder(folder, masks="none").said
