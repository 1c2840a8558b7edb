"""Conversions as a user runs them: counts, resuming after a kill, refusing to mix, and many parts over Ray."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from genlib.config import DataConfig
from genlib.data.source import open_source
from jobs.prepare_data import main
from tests.data.codecs.test_encode import encoded
from tests.data.importers.test_convert import stored, write
from tests.data.shards import picture
from tests.jobs.runs import ROOT, alive, descendants, kill, wait_until


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENLIB_CACHE", str(tmp_path / "cache"))


def outputs(folder: Path) -> dict[str, bytes]:
    """FileContent of what a conversion writes, but the indices, which know when a shard was written."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file() and path.suffix != ".idx"}


def noise(seed: int, size: int = 40) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size, size, 3), np.uint8)).save(buffer, "PNG", compress_level=0)
    return buffer.getvalue()


def write_folder(folder: Path, count: int) -> Path:
    """Captioned images of 5 kB; every seventh is broken."""
    for number in range(count):
        write(folder / f"{number:04d}.png", noise(number) if number % 7 else b"broken")
        write(folder / f"{number:04d}.txt", f"number {number}")
    return folder


def test_a_folder_becomes_shards_that_train(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, content in (("cat/a.jpg", encoded("JPEG", size=(90, 60))), ("cat/b.bmp", encoded("BMP")), ("dog/c.png", picture()), ("dog/d.png", b"")):
        write(tmp_path / "in" / name, content)
    main(["folder", str(tmp_path / "in"), "--out", str(tmp_path / "out"), "--size", "16"])
    line = capsys.readouterr().out
    assert line.startswith(
        "3 train samples in 1 shard, 0.0 MB; bad: 1 not an image, first dog/d.png; 4 samples seen = 3 used + 1 bad; captions: none; "
        "labels: 2 classes by name from folders: cat is 0, dog is 1; splits: none; files: 4 seen = 4 images; picture: "
    )
    assert line.count("\n") == 1
    source = open_source(DataConfig(train=str(tmp_path / "out"), image_size=16))
    assert source.spec.class_names == ("cat", "dog")
    assert source.num_samples("train") == 3
    facts = json.loads((tmp_path / "out" / "dataset.json").read_text())
    assert facts.pop("taken")["files"] == "4 seen = 4 images"
    assert facts == {"name": "in", "class_names": ["cat", "dog"], "samples": {"train": 3}, "bad": {"not an image": 1}}
    assert Image.open(tmp_path / "out" / "contact_sheet.png").width > 500


def test_the_same_command_again_finds_all_done(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["folder", str(write_folder(tmp_path / "in", 20)), "--out", str(tmp_path / "out"), "--validation-share", "0.3"]
    main(command)
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*.tar")}
    before, line = outputs(tmp_path / "out"), capsys.readouterr().out
    main(command)
    assert capsys.readouterr().out == line.replace("; picture", "; 1 part was there already; picture")
    assert outputs(tmp_path / "out") == before
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*.tar")} == times


def test_another_job_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["folder", str(write_folder(tmp_path / "in", 8)), "--out", str(tmp_path / "out")]
    main(command)
    before = outputs(tmp_path / "out")
    capsys.readouterr()

    def refused(arguments: list[str]) -> str:
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        assert ended.value.code == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        return error

    assert "holds the output of another job (size was 0 and is 8); give another --out" in refused([*command, "--size", "8"])
    write(tmp_path / "in" / "new.png", picture())
    assert "(the input has changed)" in refused(command)
    (tmp_path / "in" / "new.png").unlink()
    write(tmp_path / "t.csv", "path\nin/0001.png\n")
    assert "(verb was folder and is table)" in refused(["table", str(tmp_path / "t.csv"), "--out", str(tmp_path / "out"), "--image-column", "path"])
    assert outputs(tmp_path / "out") == before
    (tmp_path / "out" / "job" / "manifest.json").unlink()
    assert "holds shards of another origin" in refused(command)


def test_nothing_usable_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "in" / "a.png", b"no")
    with pytest.raises(SystemExit):
        main(["folder", str(tmp_path / "in"), "--out", str(tmp_path / "out")])
    assert "none of the samples can be used: 1 not an image, first a.png" in capsys.readouterr().err


def start(*words: str, **environment: str) -> subprocess.Popen[str]:
    kept = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    command = [sys.executable, "jobs/prepare_data.py", *words]
    return subprocess.Popen(command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**kept, **environment})


@pytest.mark.ray
@pytest.mark.slow
def test_a_kill_costs_the_parts_under_way_alone(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "in", 3000)
    words = ["folder", str(folder), "--shard-mb", "0.2", "--validation-share", "0.1", "--size", "24"]
    whole = start(*words, "--out", str(tmp_path / "whole"))
    assert whole.wait(timeout=170) == 0, whole.communicate()[1]
    for done in (1, 4, 9):
        process = start(*words, "--out", str(tmp_path / "cut"))
        records = tmp_path / "cut" / "job"
        wait_until(lambda done=done, records=records: len(list(records.glob("part-*.json"))) >= done)
        below = descendants(process.pid)
        kill(process.pid)
        process.communicate()
        assert not (tmp_path / "cut" / "dataset.json").exists()
        wait_until(lambda below=below: not any(map(alive, below)), timeout_seconds=20)
    process = start(*words, "--out", str(tmp_path / "cut"))
    out, error = process.communicate(timeout=170)
    assert process.returncode == 0, error
    assert "parts were there already" in out
    assert outputs(tmp_path / "cut") == outputs(tmp_path / "whole")
    told = [sample["txt"] for name, shard in stored(tmp_path / "cut").items() if name.startswith("train") for sample in shard.values()]
    assert told == sorted(told, key=lambda text: int(text.split()[1]))
    assert sum(len(shard) for shard in stored(tmp_path / "cut").values()) == sum(1 for number in range(3000) if number % 7)


def test_a_kill_in_the_middle_of_a_part_leaves_no_half(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "in", 400)
    words = ["folder", str(folder), "--shard-mb", "0.3"]
    main([*words, "--out", str(tmp_path / "whole")])
    script = (
        "import os, signal, sys, genlib.data.shards.writer as writer\n"
        "write, count = writer.ShardWriter.write, [0]\n"
        "def dying(self, *some):\n"
        "    count[0] += 1\n"
        "    write(self, *some)\n"
        "    if count[0] == 150: os.kill(os.getpid(), signal.SIGKILL)\n"
        "writer.ShardWriter.write = dying\n"
        "from jobs.prepare_data import main\n"
        "main(sys.argv[1:])\n"
    )
    ended = subprocess.run([sys.executable, "-c", script, *words, "--out", str(tmp_path / "cut")], cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == -9, ended.stderr
    assert list((tmp_path / "cut").glob(".*.part"))
    main([*words, "--out", str(tmp_path / "cut")])
    assert outputs(tmp_path / "cut") == outputs(tmp_path / "whole")


def test_two_at_once_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import fcntl

    write_folder(tmp_path / "in", 4)
    with write(tmp_path / "out" / "job" / "lock", "").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(SystemExit):
            main(["folder", str(tmp_path / "in"), "--out", str(tmp_path / "out")])
    assert "another process writes to" in capsys.readouterr().err


def make_dataset(count: int = 30):
    datasets = pytest.importorskip("datasets")
    rows = {
        "picture": [{"bytes": picture(number) if number != 4 else b"no", "path": None} for number in range(count)],
        "words": [f"number {number}" if number != 5 else None for number in range(count)],
        "kind": [number % 2 for number in range(count)],
    }
    features = datasets.Features({"picture": datasets.Image(), "words": datasets.Value("string"), "kind": datasets.ClassLabel(names=["even", "odd"])})
    return datasets.Dataset.from_dict(rows, features=features)


@pytest.mark.parametrize("form", ["disk", "parquet", pytest.param("streaming", marks=pytest.mark.ray)])
def test_hugging_face_data_sets(tmp_path: Path, form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = make_dataset()
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "hub")
    if form == "disk":
        data.save_to_disk(tmp_path / "in")
    else:
        (tmp_path / "in").mkdir()
        for number in range(2):
            data.shard(2, number, contiguous=True).to_parquet(tmp_path / "in" / f"train-{number}.parquet")
    words = ["huggingface", str(tmp_path / "in"), "--caption-column", "words", "--out", str(tmp_path / "out")]
    main([*words, "--streaming"] if form == "streaming" else words)
    samples = [sample for shard in stored(tmp_path / "out").values() for sample in shard.values()]
    kept = [number for number in range(30) if number not in (4, 5)]
    assert samples == [{"png": picture(number), "txt": f"number {number}".encode(), "cls": b"%d" % (number % 2)} for number in kept]
    facts = json.loads((tmp_path / "out" / "dataset.json").read_text())
    assert facts["class_names"] == ["even", "odd"]
    assert facts["bad"] == {"missing caption": 1, "not an image": 1}


def test_two_splits_of_one_data_set(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    data = make_dataset()
    datasets.DatasetDict(train=data.select(range(10, 30)), test=data.select(range(6, 10))).save_to_disk(tmp_path / "in")
    main(["huggingface", str(tmp_path / "in"), "--validation-split", "test", "--out", str(tmp_path / "out")])
    counts = {name: len(shard) for name, shard in stored(tmp_path / "out").items()}
    assert counts == {"train-00000-000.tar": 20, "validation-00001-000.tar": 4}


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--caption-column", "wrds"], "has no column 'wrds'. Did you mean 'words'"),
        (["--image-column", "words"], "none of the samples can be used"),
        (["--split", "trian"], "has no split 'trian'; it has: train"),
    ],
)
def test_hugging_face_words_that_are_wrong(tmp_path: Path, words: list[str], sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    datasets = pytest.importorskip("datasets")
    datasets.DatasetDict(train=make_dataset(4)).save_to_disk(tmp_path / "in")
    with pytest.raises(SystemExit):
        main(["huggingface", str(tmp_path / "in"), "--out", str(tmp_path / "out"), *words])
    assert sentence in capsys.readouterr().err


def test_verify_decodes_pixels_where_it_is_told_to(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "in" / "a.png", picture())
    changed = bytearray(noise(1))
    changed[len(changed) // 2] ^= 255  # of its end nothing is missing
    write(tmp_path / "in" / "b.png", bytes(changed))
    main(["folder", str(tmp_path / "in"), "--out", str(tmp_path / "out")])
    capsys.readouterr()
    main(["verify", str(tmp_path / "out")])
    assert json.loads(capsys.readouterr().out) == {"shards": 1, "samples": 2, "bad": {}, "members": {"seen": 2, "used": 2, "unused": {}}}
    with pytest.raises(SystemExit) as ended:
        main(["verify", str(tmp_path / "out"), "--decode", "--max-bad", "0.4"])
    assert ended.value.code == 1
    output = capsys.readouterr()
    members = {"seen": 2, "used": 1, "unused": {"undecodable": 1}}
    assert json.loads(output.out) == {"shards": 1, "samples": 1, "bad": {"undecodable": 1}, "members": members}
    assert "undecodable: first is train-00000-000:00000000001" in output.err


def test_look_prints_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_folder(tmp_path / "in", 15)
    main(["folder", str(tmp_path / "in"), "--out", str(tmp_path / "out")])
    capsys.readouterr()
    main(["look", str(tmp_path / "out"), "--out", str(tmp_path / "sheet.png")])
    lines = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines()[1:])
    assert lines["fields"] == "image, text"
    assert lines["width"] == "40 / 40 / 40 pixels (least, median, most)"
    assert lines["caption"] == "8 / 8 / 9 characters (least, median, most)"
    assert lines["captions"] == "12 different ones"


@pytest.mark.parametrize("encoding", ["utf-8:strict", "ascii:strict"])
def test_names_that_a_terminal_cannot_show_end_nothing(tmp_path: Path, encoding: str) -> None:
    place = os.fsencode(tmp_path / "in") + b"/caf\xe9"
    os.makedirs(place)
    for name, content in ((b"a\xe9.png", b"broken"), (b"b.png", picture())):
        Path(os.fsdecode(place + b"/" + name)).write_bytes(content)
    for verb in (["look"], ["folder", "--out", str(tmp_path / "out"), "--labels", "folders"]):
        command = [sys.executable, str(ROOT / "jobs" / "prepare_data.py"), verb[0], str(tmp_path / "in"), *verb[1:]]
        done = subprocess.run(command, env={**os.environ, "PYTHONIOENCODING": encoding}, capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "")
    assert r"first caf\udce9/a\udce9.png" in done.stdout
