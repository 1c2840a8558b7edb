"""Members seen are members used and members counted by reason, whatever a tar holds.

webdataset/webdataset#237, huggingface/datasets#7144: keys with dots. TritonDataCenter/triton-dehydrated#29, openhatch/oh-mainline#931: macOS's tar.
"""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from genlib.data.index.validation import DOT_IN_KEY, HIDDEN, LINK, OTHER_KIND, OTHER_TEXT, UNKNOWN_ENDING
from genlib.data.shards.shard_set import ShardSet
from genlib.data.shards.usable import MISSING_MEMBER, NOT_READ
from tests.data.shards import pair, picture, write_tar

DOTTED = [entry for name in ("22.05", "22.06", "23.05", "v1.2.3") for entry in ((f"{name}.jpg", picture(kind="jpeg")), (f"{name}.txt", b"a day"))]


def seen_by_tarfile(path: Path) -> int:
    with tarfile.open(path) as tar:
        return sum(member.isfile() or member.islnk() or member.issym() for member in tar)


def opened(path: Path, **how) -> ShardSet:
    found = ShardSet.open([path], **how)
    assert found.seen == seen_by_tarfile(path) == found.used + found.unused.total()
    return found


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENLIB_CACHE", str(tmp_path / "cache"))


def test_keys_with_dots_are_counted_and_the_reason_says_how_to_read_them(tmp_path: Path) -> None:
    found = opened(write_tar(tmp_path / "0.tar", [*pair(0), *pair(1), *DOTTED]))
    assert (len(found), found.bad, found.unused) == (2, {DOT_IN_KEY: 4}, {DOT_IN_KEY: 8})
    assert found.first_bad[DOT_IN_KEY] == "0.tar:22.05"
    assert "prepare_data.py folder" in found.why_bad()
    alone = opened(write_tar(tmp_path / "1.tar", DOTTED))
    assert (len(alone), alone.bad[DOT_IN_KEY]) == (0, 4)


def test_fields_of_a_name_are_no_dots_in_keys(tmp_path: Path) -> None:
    masked = [(f"{n}.{ending}", picture()) for n in range(3) for ending in ("jpg", "mask.png", "depth.png")]
    found = opened(write_tar(tmp_path / "0.tar", masked))
    assert (found.fields, found.used) == (["depth", "image", "mask"], 9)
    two = [(f"{n}.{ending}", picture()) for n in range(3) for ending in ("input.png", "target.png")]
    assert opened(write_tar(tmp_path / "1.tar", two)).used == 6
    noted = [(f"{n}.{ending}", picture() if ending.endswith("png") else b"{}") for n in range(3) for ending in ("png", "mask.png", "mask.json")]
    assert opened(write_tar(tmp_path / "2.tar", noted)).unused == {OTHER_KIND: 3}


def test_every_other_member_has_its_reason(tmp_path: Path) -> None:
    more = [("00000.md", b"x"), ("README", b"x"), ("00001.caption", b"long"), ("00000.json", b"{}"), ("9.png", picture()), ("._1.png", b"x")]
    path = write_tar(tmp_path / "0.tar", [*pair(0), *pair(1), *pair(2), *more])
    with tarfile.open(path, "a") as tar:
        link = tarfile.TarInfo("00001.png")
        link.type, link.linkname = tarfile.LNKTYPE, "00000.png"
        tar.addfile(link, io.BytesIO())
    found = opened(path)
    assert found.unused == {HIDDEN: 1, UNKNOWN_ENDING: 2, OTHER_TEXT: 1, NOT_READ: 1, MISSING_MEMBER: 1, LINK: 1}
    assert found.endings == {".md": 1, "none": 1}
    assert opened(path, filters=["label>0"]).unused["does not pass the filters"] == 3


def test_what_macos_tars_beside_each_file_is_hidden(tmp_path: Path) -> None:
    beside = [(f"./._{name}", b"\0\5\x16\7") for name, _ in pair(0)]
    found = opened(write_tar(tmp_path / "0.tar", [entry for one in zip(beside, pair(0), strict=True) for entry in one]))
    assert (len(found), found.unused) == (1, {HIDDEN: len(beside)})


def test_a_set_of_pictures_that_no_decoder_takes_says_which_they_are(tmp_path: Path) -> None:
    found = opened(write_tar(tmp_path / "0.tar", [("a.tif", b"II*"), ("b.tif", b"II*"), ("c.gif", b"GIF8")]))
    assert found.why_bad() == f"members, {UNKNOWN_ENDING} 3 (.tif, .gif); `prepare_data.py folder` reads more kinds of images"


def test_captions_in_json_have_no_bytes_to_filter_by(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "0.tar", [("a.png", picture()), ("a.json", b'{"caption": "a long caption"}')])
    with pytest.raises(ValueError, match=r"data.filters: caption_bytes is known of captions in text members, and .* field 'caption' of JSON members"):
        ShardSet.open([path], caption_field="caption", filters=("caption_bytes>=5",))
