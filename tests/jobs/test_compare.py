"""`jobs/compare.py`: a page that tells judges nothing but two pictures, and what their answers say."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from genlib import checkpoint
from jobs import compare
from jobs.evaluate import located
from jobs.exit_codes import exit_code
from tests.models.stages import train_stages
from tests.serve.chromium import BINARY, Chromium, Page

PAIRS = 12


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Runs of two families that draw digits of nothing in particular."""
    root = tmp_path_factory.mktemp("runs")
    return [next(iter(train_stages(name, root / name).values())).parents[1] for name in ("dcgan", "wgan_gp")]


@pytest.fixture(scope="module")
def made(runs: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("comparison") / "out"
    assert compare.main([*map(str, runs), "--out", str(out), "--pairs", str(PAIRS), "--seed", "3", "--question", "Which is <more> of a digit?"]) == 0
    return out


def shown(page: Path) -> dict[str, Any]:
    found = re.search(r"const SET = (.*);\n", page.read_text())
    assert found
    return json.loads(found[1])


def pixels(uri: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))).astype(int)


def answers_of(key: dict[str, Any], prefer: str) -> dict[str, str]:
    return {str(number): "left" if left == prefer else "right" for number, left in enumerate(key["left"])}


def saved(path: Path, page: str, answers: dict[str, str]) -> str:
    path.write_text(json.dumps({"page": page, "answers": answers}))
    return str(path)


def test_the_pictures_are_those_of_the_runs_on_the_sides_that_the_key_says(made: Path, runs: list[Path]) -> None:
    key = json.loads((made / "key.json").read_text())
    tasks = {name: checkpoint.load_task(located(run)[0], ema=True) for name, run in zip("ab", runs, strict=True)}
    assert sorted(key["seed"]) == [*range(3, 3 + PAIRS)]
    assert key["seed"] != sorted(key["seed"])
    assert set(key["left"]) == {"a", "b"}
    for pair, left, seed in zip(shown(made / "page.html")["pairs"], key["left"], key["seed"], strict=True):
        for side, name in (("left", left), ("right", "ab".replace(left, ""))):
            (own,) = tasks[name].generate(seed=[seed])  # type: ignore[operator]
            assert np.abs(pixels(pair[side]) - (own.clamp(0, 1) * 255).round().int().squeeze(0).numpy()).max() <= 1


def test_nothing_in_the_page_tells_whose_a_picture_is(made: Path, runs: list[Path]) -> None:
    page = (made / "page.html").read_text()
    for run in runs:
        assert run.name not in page.replace("<!doctype", "")
        assert str(run) not in page
    for word in ("dcgan", "wgan", "step_", "seed"):
        assert word not in page
    assert "http" not in page.replace("http-equiv", ""), "it asks nobody for anything"
    assert "Which is &lt;more&gt; of a digit?" in page
    for pair in shown(made / "page.html")["pairs"]:
        for side in ("left", "right"):
            assert not Image.open(io.BytesIO(base64.b64decode(pair[side].partition(",")[2]))).info


def test_what_judges_say_is_counted(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    key = json.loads((made / "key.json").read_text())
    files = [saved(tmp_path / f"{number}.json", key["page"], answers_of(key, "a")) for number in range(2)]
    assert compare.main(["--answers", *files, "--out", str(made)]) == 0
    found = json.loads((made / "result.json").read_text())
    assert (found["prefer_a"], found["interval"], found["pairs"], found["pairs_for_a"], found["judges"]) == (1.0, [1.0, 1.0], PAIRS, PAIRS, 2)
    assert found["p"] == pytest.approx(2 / 2**PAIRS)
    assert "is preferred to" in capsys.readouterr().out
    tied = compare.result(key, [dict.fromkeys(range(4), "same")])
    assert (tied["prefer_a"], tied["p"]) == (0.5, 1.0)
    halves = [{int(number): choice for number, choice in answers_of(key, who).items()} for who in "ab"]
    assert compare.result(key, halves)["prefer_a"] == 0.5, "judges who disagree about every pair"
    mixed = compare.result(key, [{**halves[0], 0: halves[1][0], 1: halves[1][1], 2: halves[1][2]}])
    assert mixed["prefer_a"] == pytest.approx(9 / 12)
    assert 0.4 < mixed["interval"][0] < 0.75 < mixed["interval"][1] <= 1
    assert mixed["p"] == pytest.approx(2 * (1 + 12 + 66 + 220) / 2**12)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ('{"page": "another", "answers": {"0": "left"}}', "answers another page"),
        ('{"answers": 3}', "no file of answers"),
        ("left", "no file of answers"),
        ('{"page": PAGE, "answers": {"0": "up"}}', "pair 0 is answered 'up'"),
        ('{"page": PAGE, "answers": {"12": "left"}}', "pairs are 0 to 11"),
        ('{"page": PAGE, "answers": {}}', "nobody has answered"),
    ],
)
def test_other_answers_are_refused(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str, why: str) -> None:
    page = json.loads((made / "key.json").read_text())["page"]
    path = tmp_path / "answers.json"
    path.write_text(content.replace("PAGE", json.dumps(page)))
    assert exit_code(lambda: compare.main(["--answers", str(path), "--out", str(made)])) != 0
    said = capsys.readouterr().err
    assert why in said
    assert "Traceback" not in said


def test_what_cannot_be_compared_is_refused_before_anything_is_drawn(made: Path, runs: list[Path], tmp_path: Path) -> None:
    by_class = next(iter(train_stages("cgan", tmp_path / "cgan").values())).parents[1]
    with pytest.raises(ValueError, match="unlike things, nothing in particular and label"):
        compare.make([runs[0], by_class], tmp_path / "out", 4, 0, "?")
    with pytest.raises(ValueError, match="holds a comparison"):
        compare.make(runs, made, 4, 0, "?")
    renamed = shutil.copytree(by_class, tmp_path / "renamed")
    for path in renamed.glob("checkpoints/step_*"):
        manifest = checkpoint.read_manifest(path)
        spec = replace(manifest.blueprint.spec, class_names=tuple(f"another {name}" for name in manifest.blueprint.spec.class_names))
        checkpoint.write_manifest(path, replace(manifest, blueprint=replace(manifest.blueprint, spec=spec)))
    with pytest.raises(ValueError, match="classes of other names"):
        compare.make([by_class, renamed], tmp_path / "out", 4, 0, "?")
    both = compare.make([by_class, by_class], tmp_path / "classes", 6, 0, "?")
    pairs = shown(tmp_path / "classes" / "page.html")["pairs"]
    assert all(np.array_equal(pixels(pair["left"]), pixels(pair["right"])) for pair in pairs)
    assert len({pair["caption"] for pair in pairs}) > 1
    assert len(both["left"]) == 6


def visit(page: Page, path: Path) -> None:
    page.do("Page.navigate", url=path.as_uri())
    page.until("document.getElementById('place')?.textContent")


@pytest.mark.slow
@pytest.mark.skipif(BINARY is None, reason="Chromium is not installed")
def test_a_judge_answers_goes_back_and_comes_again(made: Path, tmp_path: Path) -> None:
    with Chromium() as browser:
        page = browser.page()
        visit(page, made / "page.html")
        page.screenshot(tmp_path / "pair.png")
        for choice in ("left", "right", "same"):
            page.click(f"[data-choice={choice}]")
        page.click("#back")
        page.click("[data-choice=left]")
        assert page.script("document.getElementById('place').textContent") == f"Pair 4 of {PAIRS}"
        page.do("Page.navigate", url="about:blank")
        visit(page, made / "page.html")
        assert page.script("document.getElementById('place').textContent") == f"Pair 4 of {PAIRS}"
        assert page.script("answers") == {"0": "left", "1": "right", "2": "left"}
        for _ in range(PAIRS - 3):
            page.click("[data-choice=same]")
        page.screenshot(tmp_path / "end.png")
        assert page.script("document.getElementById('pair').hidden") is True
