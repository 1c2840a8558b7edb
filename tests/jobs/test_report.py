"""The page of a run: what it says of runs that are whole, cut off, damaged or of several stages, and that it needs nobody else."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from genlib import registry
from genlib.data.source import open_and_cache
from genlib.engine.fit import fit
from genlib.engine.timeline import Timeline
from jobs import report, run_folder
from jobs.control import Stopped
from jobs.evaluate import evaluate, gather
from jobs.goodput import goodput
from jobs.launches import launched, lines, note_data
from jobs.run_curves import drawn, is_main, panels, thinned
from jobs.run_record import read_run
from tests.models.stages import CPU
from tests.serve.chromium import BINARY, Chromium, Page

COMMAND = "python jobs/train.py dcgan --smoke --run 'it is <mine>'"


def make(recipe: str, run: Path, **train: object) -> Path:
    """A smoke run as jobs/train.py makes it, without Ray."""
    stages = tuple(
        replace(one, train=replace(one.train, trackers=(), pictures_every_steps=4, **train))
        for one in registry.load(recipe).smoke
    )  # fmt: skip
    run.mkdir(parents=True)
    run_folder.begin(run, recipe, stages)
    finals: dict[str, Path] = {}
    with launched(run, COMMAND):
        for stage in stages:
            folder = run_folder.stage_folder(run, stages, stage)
            source = open_and_cache(stage.data, run_folder.set_folder(run, stages, stage), map, stage.task.fields)
            upstream = {role: finals[name] for role, name in stage.needs.items()}
            finals[stage.name] = fit(stage, recipe=recipe, source=source, folder=folder, device=CPU, upstream=upstream)
            note_data(folder, source.described)
            with Timeline(folder).timed("scores", stage.train.steps):
                evaluate(finals[stage.name], source, folder, CPU)
        if len(stages) > 1:
            gather(run, [stage.name for stage in stages])
    return run


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run, for tests that leave it as it is."""
    return make("dcgan", tmp_path_factory.mktemp("runs") / "digits")


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "digits"))


def written(*words: Path | str) -> str:
    """The page as text; it asks nobody for anything and leaves no place empty."""
    out = Path(words[0]) / "page.html"
    assert report.main([*map(str, words), "--out", str(out)]) == 0
    page = out.read_text()
    assert not re.search(r"""(src|href)=["'](?!data:|#)|url\((?!#)|@import""", re.sub(r"<style type[^>]*>.*?</style>", "", page))
    assert not re.search(r"<t[dh]>\s*[-–—]?\s*</t[dh]>|<dd>\s*</dd>|\bNone\b|\bnan\b", page)
    return page


def text_of(page: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<svg.*?</svg>|<style.*?</style>|<[^>]+>", " ", page, flags=re.DOTALL))


def test_the_page_of_a_finished_run_has_it_all(made: Path) -> None:
    page = written(made)
    text = text_of(page)
    for words in (
        "Run digits: dcgan", "Handwritten digits of 16 x 16 pixels, from noise. Finished after 8 steps.", "after 4 steps", "after 8 steps",
        "sliced wasserstein", "1,442 samples of 1 shard", "no captions", "held out 355 samples", "python jobs/train.py dcgan --smoke",
        "was spent in training steps", "Final scores and exports", "one device", "torch 2.", "step_00000008", "--train.steps 8 2500",
    ):  # fmt: skip
        assert words in text, words
    assert page.count("<svg") > 4
    assert page.count("data:image/png") == 4, "two of the end, two of the way there"
    assert "loss of generator" in page
    assert "it&#x27;s &lt;mine&gt;" not in page, "a shell quotes it"
    assert "&lt;mine&gt;" in page
    assert "<mine>" not in page


def test_the_time_adds_up_to_what_passed(made: Path) -> None:
    begin, end = (line["time"] for line in lines(made / "launches.jsonl"))
    found = goodput(read_run(made))
    assert sum(found.values()) == pytest.approx(end - begin, rel=1e-3)
    assert all(found[part] > 0 for part in ("steps", "start", "picture", "save", "scores"))
    assert found["lost"] == 0


def test_a_run_that_was_killed_says_where_it_goes_on(run: Path) -> None:
    """With half a line at the end, and no word of its end."""
    for name in ("metrics.json", "samples.png", "interpolations.png"):
        (run / name).unlink()
    shutil.rmtree(run / "checkpoints" / "step_00000008")
    for name in ("metrics.jsonl", "timeline.jsonl", "launches.jsonl"):
        kept = (run / name).read_bytes().splitlines(keepends=True)
        (run / name).write_bytes(b"".join(kept[:-1]) + kept[-1][: len(kept[-1]) // 2])
    text = text_of(written(run))
    assert "Cut off at step 7 of 8; the same command goes on from step 4." in text
    assert "What it makes" not in text
    assert "Scores" not in text
    assert "after 4 steps" in text


def test_how_it_ended_is_said(run: Path, tmp_path: Path) -> None:
    (run / "metrics.json").unlink()
    shutil.rmtree(run / "checkpoints")
    (run / "metrics.jsonl").write_text("".join(f'{{"step": {step}, "train/loss": 1}}\n' for step in (1, 2, 3)))
    with pytest.raises(Stopped), launched(run, COMMAND):
        raise Stopped
    assert "Stopped at step 3 of 8, before its first checkpoint." in text_of(written(run))
    with pytest.raises(RuntimeError), launched(run, COMMAND):
        raise RuntimeError
    assert "Ended by an error, see error.log, at step 3 of 8" in text_of(written(run))
    with run_folder.only_one(run), launched(run, COMMAND):
        pass  # this process holds the lock, which it may take twice: another would see that it is running
    assert not run_folder.is_running(run)


def test_what_befell_the_workers_is_said_with_its_time(run: Path) -> None:
    begun = json.loads((run / "launches.jsonl").read_text().splitlines()[0])["time"]
    with open(run / "launches.jsonl", "a") as file:
        file.write(json.dumps({"what": "leaving", "time": begun + 90, "why": "1 node (10.0.0.7) will be taken away in 60 s"}) + "\n")
    text = text_of(written(run))
    assert "what befell its workers" in text
    assert "1.5 min 1 node (10.0.0.7) will be taken away in 60 s" in " ".join(text.split())


def test_a_lost_worker_costs_start_and_steps(tmp_path: Path) -> None:
    """A launch whose worker was lost at 60 s, twenty seconds after its checkpoint, and whose second session had its first step at 75 s."""
    events = [
        {"what": "start", "step": 0, "time": 10, "seconds": 4, "heard": None}, {"what": "save", "step": 3, "time": 40, "seconds": 2},
        {"what": "start", "step": 3, "time": 75, "seconds": 5, "heard": 60}, {"what": "save", "step": 6, "time": 98, "seconds": 1},
        {"what": "seal", "step": 6, "time": 99, "seconds": 3, "waited": 2},
    ]  # fmt: skip
    rows = [{"step": step, "batch_time": 5, "data_time": 1} for step in range(1, 7)]
    launches = [{"what": "launch", "time": 0, "command": "x"}, {"what": "end", "time": 100, "how": "finished"}]
    for name, values in (("timeline", events), ("metrics", rows), ("launches", launches)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(value) + "\n" for value in values))
    os.utime(tmp_path / "metrics.jsonl", (99, 99))
    found = goodput(read_run(tmp_path))
    assert found == {"steps": 16, "data": 4, "start": 25, "evaluate": 0, "picture": 0, "save": 5, "scores": 0, "lost": 20, "other": 30}


def test_time_between_launches_is_nobodys(tmp_path: Path) -> None:
    launches = [
        {"what": "launch", "time": 0}, {"what": "end", "time": 20, "how": "stopped"}, {"what": "launch", "time": 5000},
        {"what": "end", "time": 5030, "how": "finished"},
    ]  # fmt: skip
    events = [
        {"what": "start", "step": 0, "time": 10, "seconds": 4, "heard": None}, {"what": "save", "step": 2, "time": 20, "seconds": 0},
        {"what": "start", "step": 2, "time": 5010, "seconds": 4, "heard": 20},
    ]  # fmt: skip
    for name, values in (("timeline", events), ("metrics", [{"step": 4, "batch_time": 5}]), ("launches", launches)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(value) + "\n" for value in values))
    os.utime(tmp_path / "metrics.jsonl", (5029, 5029))
    found = goodput(read_run(tmp_path))
    assert (sum(found.values()), found["start"], found["lost"]) == (50, 20, 0)


def test_what_is_not_finite_is_a_gap(tmp_path: Path) -> None:
    values = [1.0, 2.0, float("nan"), 4.0, 3.0]
    assert str(thinned([1, 2, 3, 4, 5], values)[1]) == str(values)
    many = [1.0] * 900 + [float("nan")] + [1.0] * 99
    assert sum(value != value for value in thinned(list(range(1000)), many)[1]) == 1
    (tmp_path / "metrics.jsonl").write_text("".join(f'{{"step": {step}, "train/loss": {value}}}\n' for step, value in ((1, 2), (2, "null"), (3, 1))))
    series = read_run(tmp_path).stages[0].series
    lines_drawn = re.findall(r'd="M [^"]*" clip-path', drawn(["train/loss"], {"run": series}))
    assert any(path.count("M") == 2 or path.count("L") == 0 for path in lines_drawn), "the curve is not drawn across"
    assert "Cut off at step 3" in text_of(written(tmp_path))


def test_values_of_one_thing_share_a_drawing() -> None:
    names = ["fid_judge", "samples_per_second", "train/G/loss", "train/loss", "val/coverage", "val/loss"]
    assert panels(names) == [["train/G/loss"], ["train/loss", "val/loss"], ["fid_judge"], ["samples_per_second"], ["val/coverage"]]
    assert [is_main(some, "coverage") for some in panels(names)] == [True, True, True, False, True]


def test_two_runs_lie_beside_each_other(run: Path, made: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(made, tmp_path / "other"))
    said = {name: value for name, value in json.loads((other / "run.json").read_text()).items() if name != "sha256"}
    said["stages"]["train"]["train"]["optim"]["learning_rate"] = 0.125
    (other / "run.json").write_text(json.dumps(said))
    (other / "pictures" / "step_00000004.png").unlink()
    (other / "interpolations.png").unlink()
    page = written(run, other)
    text = text_of(page)
    assert "train.optim.learning_rate" in text
    assert "0.125" in text
    assert "other has no such picture." in text
    assert "digits: after 8 steps" in text
    assert "other: after 8 steps" in text
    assert "after 4 steps" not in text, "the other has none there"
    assert ">digits<" in page
    assert ">other<" in page


def test_runs_of_one_name_are_told_apart(made: Path, run: Path) -> None:
    assert f"{made.parent.name}/digits" in text_of(written(run, made))


@pytest.mark.slow
def test_a_run_of_several_stages_has_a_part_for_each(tmp_path: Path) -> None:
    text = text_of(written(make("rectified_flow", tmp_path / "flow")))
    for words in ("Stage flow", "Stage reflow", "Finished after 8 steps, then 8 steps.", "While stage flow trained"):
        assert words in text


@pytest.mark.parametrize(
    ("file", "sentence"),
    [
        ("", "does not exist; name the folder of a run"),
        ("notes.txt", "holds no run: it has neither run.json nor metrics.jsonl nor checkpoints; name the folder of a run"),
        ("search.json", "is a search, whose page is .*report.html; name a run, such as "),
    ],
)
def test_a_folder_that_is_no_run_is_refused_in_a_sentence(tmp_path: Path, file: str, sentence: str) -> None:
    folder = tmp_path / "some"
    if file:
        folder.mkdir()
        (folder / file).write_text("{}")
    with pytest.raises(ValueError, match=sentence):
        report.main([str(folder)])


def test_an_empty_run_has_a_page(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text("\x00\n[[[\n5\n")
    text = text_of(written(tmp_path))
    assert "Nothing was logged yet." in text
    assert "Cut off at step 0, before its first checkpoint." in text


@pytest.fixture
def page() -> Iterator[Page]:
    with Chromium() as browser:
        one = browser.page()
        yield one
        assert one.complaints == []
        assert all(address.startswith(("file:", "data:")) for address in one.requested)


@pytest.mark.slow
@pytest.mark.skipif(BINARY is None, reason="Chromium is not installed")
def test_the_page_fits_wide_and_narrow_screens_in_both_themes(made: Path, run: Path, tmp_path: Path, page: Page) -> None:
    files = []
    for words in ([run], [run, made]):
        files.append(tmp_path / f"{len(words)}.html")
        report.main([*map(str, words), "--out", str(files[-1])])
    for file in files:
        for theme, light in (("light", True), ("dark", False)):
            for width in (390, 1280):
                page.look(width, 900, theme)
                page.open(file.as_uri())
                page.script("document.querySelectorAll('details').forEach((one) => (one.open = true))")
                assert page.script("innerWidth") == width
                root = "document.documentElement"
                assert page.script(f"{root}.scrollWidth <= {root}.clientWidth"), "nothing is wider than the screen"
                assert page.script("[...document.images].every((one) => one.complete && one.naturalWidth > 0)")
                paper = page.script("getComputedStyle(document.body).backgroundColor")
                assert (paper == "rgb(255, 255, 255)") == light
                ink = page.script("getComputedStyle(document.querySelector('svg text')).fill")
                assert ink == page.script("getComputedStyle(document.body).color"), "curves are read in both themes"
