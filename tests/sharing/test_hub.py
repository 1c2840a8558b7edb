"""An export becomes a repository of a hub, by the hub's own library against a server of its API; whatever fails is one sentence."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import huggingface_hub
import pytest

from genlib.sharing import hub
from genlib.sharing.card import Facts, write_card
from genlib.sharing.formats import Format
from genlib.types import DataSpec
from tests.sharing.hub_server import TOKEN, Hub, serving


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with serving(tmp_path / "hub") as found:
        to(found.url, monkeypatch, tmp_path)
        yield found


def to(url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Sends the hub's library there with a good token; the library read HF_ENDPOINT when it was imported."""
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", url)
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setenv("HF_TOKEN", TOKEN)


def rename(folder: Path, repository: str) -> None:
    """What a format may change in its copy."""
    (folder / "model.json").unlink()
    (folder / "model.json").write_text(repository)


@pytest.fixture
def export(tmp_path: Path) -> tuple[Path, Facts, Sequence[Format]]:
    """Two formats for the root, which share a file, and one for a folder of its own."""
    folder = tmp_path / "export"
    usual = {"install": "it", "code": "import os\n\nprint(folder)\n", "title": "A model", "about": "It does it."}
    formats = [
        Format(folder="one", library="one", prepare_for_hub=rename, **usual),  # type: ignore[arg-type]
        Format(folder="two", library="two", **usual),  # type: ignore[arg-type]
        Format(folder="onnx", library="onnx", hub_folder="onnx", **usual),  # type: ignore[arg-type]
    ]
    facts = Facts(recipe="vae", stage="train", parameters=1, data=DataSpec(), data_name="pairs", scores={"val/R@1": 0.5})
    (tmp_path / "held_out.png").write_bytes(b"PNG")
    for form, name in zip(formats, ("model.json", "model.safetensors", "model.onnx"), strict=True):
        (folder / form.folder).mkdir(parents=True)
        (folder / form.folder / name).write_text(name)
        (folder / form.folder / "tokenizer.json").write_text("{}")
        write_card(facts, form, folder, picture=tmp_path / "held_out.png", image=None)
    return folder, facts, formats


def test_formats_lie_where_they_belong_and_one_card_tells_of_all(export: tuple, tmp_path: Path) -> None:
    folder, facts, formats = export
    before = {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
    hub.lay_out(facts, formats, folder, "me/it", tmp_path / "out")
    there = {str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*") if path.is_file()}
    at_root = {"README.md", "sample.png", "tokenizer.json", "model.json", "model.safetensors"}
    assert there == at_root | {"onnx/model.onnx", "onnx/sample.png", "onnx/tokenizer.json"}
    text = (tmp_path / "out" / "README.md").read_text()
    assert text.count('folder = snapshot_download("me/it")\n') == 2
    assert text.count('folder = snapshot_download("me/it") + "/onnx"\n') == 1
    assert huggingface_hub.ModelCard(text).data.library_name == "one"
    assert (tmp_path / "out" / "model.json").read_text() == "me/it"
    assert all(path.read_bytes() == content for path, content in before.items()), "the run's own export is as it was"


def test_a_pushed_folder_comes_back_as_it_was(export: tuple, server: Hub, tmp_path: Path) -> None:
    folder, facts, formats = export
    hub.lay_out(facts, formats, folder, "me/clip", tmp_path / "out")
    pushed = hub.push(tmp_path / "out", "me/clip", private=True, message="first")
    assert (pushed.url, pushed.existed, server.private) == (f"{server.url}/me/clip", False, {"me/clip": True})
    back = Path(huggingface_hub.snapshot_download("me/clip", cache_dir=tmp_path / "cache", endpoint=server.url))
    for path in (tmp_path / "out").rglob("*"):
        assert path.is_dir() or (back / path.relative_to(tmp_path / "out")).read_bytes() == path.read_bytes(), path.name
    (tmp_path / "out" / "README.md").write_text("---\nlicense: mit\n---\n")
    again = hub.push(tmp_path / "out", "me/clip", private=True, message="second")
    assert again.existed
    assert [commit["summary"] for commit in server.commits] == ["first", "second"]


def test_a_token_that_is_not_taken(export: tuple, server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_bad")
    with pytest.raises(ValueError, match=r"does not take the token \(401\), so me/clip is not written; log in again: `hf auth login`"):
        hub.push(export[0] / "one", "me/clip", private=False, message="m")


def test_a_token_that_may_not_write(export: tuple, server: Hub) -> None:
    server.read_only = True
    with pytest.raises(ValueError, match=r"the token may not write other/clip \(403: You don't have the rights"):
        hub.push(export[0] / "one", "other/clip", private=False, message="m")


def test_no_network(export: tuple, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    to("http://127.0.0.1:9", monkeypatch, tmp_path)
    with pytest.raises(ValueError, match=r"http://127.0.0.1:9 cannot be reached .*the export is whole: give the same command again"):
        hub.push(export[0] / "one", "me/clip", private=False, message="m")


def test_no_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    to("http://127.0.0.1:9", monkeypatch, tmp_path)
    hub.check_ready("me/clip")
    monkeypatch.delenv("HF_TOKEN")
    assert not os.environ.get("HUGGING_FACE_HUB_TOKEN")
    with pytest.raises(ValueError, match=r"there is no token for the hub, so me/clip cannot be written: `hf auth login` keeps one"):
        hub.check_ready("me/clip")


@pytest.mark.parametrize("name", ["clip", "me/clip/again", "me/", "me/a b", "", "me/--x"])
def test_what_is_no_name_of_a_repository(name: str) -> None:
    with pytest.raises(ValueError, match="is no repository's name; give OWNER/NAME"):
        hub.check_ready(name)
