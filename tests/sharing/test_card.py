"""What a card says: front matter that the hub reads, scores, data, licence, and code that stands for itself."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from genlib.sharing.card import Facts, card, code, public_name, telling_picture, write_card
from genlib.sharing.formats import Format
from genlib.types import DataSpec
from jobs.model_export import set_license
from tests.sharing.run_cards import code_of

SPEC = DataSpec(channels=1, image_size=28, class_names=("cat", "dog"), num_samples=1234, digest="0123456789abcdef0123", validation_name="held-out")
FORM = Format(
    folder="diffusers", library="diffusers", install="diffusers torch", title="A model", about="It does it.", task="text-to-image", tags=("small",),
    code='import os\n\nfrom_there = CAPTIONS\none = CAPTION\nprint(f"{folder}/input.png")\n',
)  # fmt: skip


def facts(**options: object) -> Facts:
    return Facts(**{"recipe": "vae", "stage": "train", "parameters": 1000, "data": SPEC, "data_name": "animals", **options})  # type: ignore[arg-type]


def test_the_front_matter_is_what_the_hub_reads() -> None:
    found = ModelCard(card(facts(scores={"held-out/acc": 0.25, "worse": float("nan")}, license="mit"), [FORM], has_picture=True)).data
    assert (found.license, found.library_name, found.pipeline_tag, found.tags) == ("mit", "diffusers", "text-to-image", ["small", "genlib"])
    assert [(one.dataset_name, one.metric_type, one.metric_value) for one in found.eval_results] == [("held-out", "acc", 0.25)]


def test_a_set_of_the_hub_is_named_as_one() -> None:
    assert ModelCard(card(facts(data_name="hf://datasets/a/b"), [FORM], has_picture=False)).data.datasets == ["a/b"]
    assert ModelCard(card(facts(), [FORM], has_picture=False)).data.datasets is None


def test_no_licence_is_made_up() -> None:
    text = card(facts(), [FORM], has_picture=False)
    assert ModelCard(text).data.license == "unknown"
    assert "Not set: nobody has said yet what may be done with these weights." in text
    assert "`mit`" in card(facts(license="mit"), [FORM], has_picture=False)


def test_data_and_scores_are_told() -> None:
    text = card(facts(scores={"held-out/acc": 0.123456, "odd": float("inf")}), [FORM], has_picture=False)
    for words in (
        "1,234 labelled samples of `animals`; held out: `held-out`.",
        "2 classes: 0 cat, 1 dog.",
        "28 x 28 pixels, grey",
        "`0123456789abcdef`",
    ):
        assert words in text
    assert "| held-out/acc | 0.1235 |" in text
    assert "| odd | not finite |" in text
    assert "None were taken." in card(facts(), [FORM], has_picture=False)


@pytest.mark.parametrize("captions", [['it\'s "so"', "a\nb```c", "CAPTION", "\\"], []])
def test_any_captions_leave_the_code_whole(captions: list[str]) -> None:
    """They are a stranger's words."""
    assigned = {
        node.targets[0].id: ast.literal_eval(node.value)
        for node in ast.parse(code(facts(captions=captions), FORM)).body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
    }
    words = captions or ["a picture"]
    assert assigned == {"folder": ".", "from_there": words, "one": words[0]}


def test_code_for_a_repository_fetches_it() -> None:
    form = Format(**{**{name: getattr(FORM, name) for name in FORM.__slots__}, "hub_folder": "onnx"})
    lines = code(facts(), form, "me/it").splitlines()
    assert lines[:2] == ["import os", "from huggingface_hub import snapshot_download"]
    assert 'folder = snapshot_download("me/it") + "/onnx"' in lines


def test_a_folder_has_all_that_its_card_names(tmp_path: Path) -> None:
    picture, image = tmp_path / "samples.png", tmp_path / "image.png"
    picture.write_bytes(b"1")
    image.write_bytes(b"2")
    write_card(facts(), FORM, tmp_path / "export", picture=picture, image=image)
    folder = tmp_path / "export" / "diffusers"
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "input.png", "sample.png"]
    assert "![What it makes](sample.png)" in (folder / "README.md").read_text()
    assert code_of(folder) == code(facts(), FORM).rstrip("\n")


def test_the_picture_that_tells_most(tmp_path: Path) -> None:
    assert telling_picture(tmp_path) is None
    for name in ("a.png", "samples.png", "prompts.png"):
        (tmp_path / name).touch()
        (tmp_path / "other").mkdir(exist_ok=True)
        assert telling_picture(tmp_path / "other", tmp_path) == tmp_path / name


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("icons", "icons"),
        ("/home/bob/private/photos/", "photos"),
        ("/home/bob/pairs/{00000..00099}.tar", "pairs"),
        ("s3://bucket/set/part/*.tar", "part"),
        ("https://user:key@host/a/set/{000..009}.tar", "set"),
        ("hf://datasets/me/birds", "hf://datasets/me/birds"),
        ("data/a::/x/y/b", "a and b"),
        ("one.tar", "one.tar"),
    ],
)
def test_a_card_names_data_without_the_way_to_them(path: str, name: str) -> None:
    assert public_name(path) == name


def test_what_is_no_licence_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"--license 'MIT License' is no identifier of a licence; give one as the hub writes it, such as mit"):
        set_license(tmp_path, "MIT License")
    set_license(tmp_path, "apache-2.0")
    assert '"apache-2.0"' in (tmp_path / "card" / "settings.json").read_text()
