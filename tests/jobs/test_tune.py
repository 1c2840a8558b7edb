"""A search through Ray Tune from command to report, killed at random and resumed; and what a user reads where it cannot be."""

from __future__ import annotations

import csv
import json
import random
import re
import shlex
import time
from pathlib import Path
from typing import Any

import pytest

from genlib import registry
from jobs.command_line import parse
from jobs.exit_codes import exit_code
from jobs.tune import main
from jobs.tune_options import seconds
from tests.jobs.runs import descendants, finish, kill, launch, start, wait_until

SPACE = ("--space", "train.optim.learning_rate=1e-4:3e-2:log", "task.hidden=2:16")
SMALL = ("--train.steps", "54", "--concurrent", "2")


def table(run: Path) -> list[dict[str, str]]:
    with (run / "trials.csv").open() as file:
        return list(csv.DictReader(file))


def assert_gives(words: str, row: dict[str, str]) -> None:
    """The words of a command ask for the values of a trial."""
    (stage,) = parse(shlex.split(words)).stages
    assert (stage.task.hidden, stage.train.steps) == (int(row["task.hidden"]), 54)
    assert stage.train.optim.learning_rate == float(row["train.optim.learning_rate"])


def trained(run: Path) -> dict[str, list[int]]:
    """The steps in each trial's metrics.jsonl."""
    return {
        folder.name: [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
        for folder in (run / "trials").iterdir()
        if (folder / "metrics.jsonl").exists()
    }


@pytest.mark.ray
def test_a_search_ends_with_an_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "RECIPES", {"toy": "tests.jobs.toy:toy"})
    code, out, err = launch("tune", "toy", *SPACE, *SMALL, "--trials", "6", runs=tmp_path)
    assert (code, err) == (0, ""), out
    run = tmp_path / "tune-toy"
    rows = table(run)
    assert len(rows) == 6
    assert (float(rows[0]["train.optim.learning_rate"]), int(rows[0]["task.hidden"])) == (1e-2, 8), "the recipe's own values come first"
    assert {row["status"] for row in rows} <= {"finished", "stopped"}
    stopped = [row for row in rows if row["status"] == "stopped"]
    assert stopped
    assert all(row["reason"].startswith("behind the best quarter at step") and int(row["step"]) in (6, 24) for row in stopped)
    assert all(steps == list(range(1, steps[-1] + 1)) for steps in trained(run).values())
    best = min(rows, key=lambda row: float(row["val/loss"]))
    assert (run / "best").resolve().name == best["folder"]
    assert json.loads((run / "best" / "metrics.json").read_text())["digits/mse"] > 0
    assert f"the best is T{best['trial']} with loss {float(best['val/loss']):.4g}" in out
    (line,) = re.findall(r"train it again: +python jobs/train\.py (.*)", out)
    assert_gives(line, best)
    for row in rows:
        assert_gives(row["command"].removeprefix("python jobs/train.py "), row)
    assert json.loads((run / "trials" / "T0" / "outcome.json").read_text())["command"] == rows[0]["command"]
    page = (run / "report.html").read_text()
    assert page.count("data:image/png;base64,") >= 2
    assert "http" not in page
    nowhere = "127.0.0.1:1"  # it asks no Ray
    code, again, _ = launch("tune", "toy", *SPACE, *SMALL, "--trials", "6", runs=tmp_path, RAY_ADDRESS=nowhere)
    assert code == 0
    assert again[again.index("6 trials, ") :] == out[out.index("6 trials, ") :], "a finished search says again what it found"
    code, _, err = launch("tune", "toy", "--space", "task.hidden=2:32", *SMALL, "--trials", "6", runs=tmp_path)
    assert code == 2
    assert err.startswith("search tune-toy was started with space.task.hidden.high = 16")


def outcomes(run: Path) -> int:
    return len(list(run.glob("trials/*/outcome.json")))


KILLED = {
    "toy": (54, (*SPACE, "--task.seconds_per_step", "0.05", "--scheduler", "none")),
    "vae": (90, ("--data.train", "digits", "--train.global_batch", "512")),
    "rbm": (400, ()),
    "som": (27, ()),
    "dcgan": (27, ("--task.health.after", "1")),
    "simclr": (18, ("--train.global_batch", "64")),
}
"""Recipes: the steps of a trial, and words that make it one of seconds."""


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize("recipe", KILLED)
def test_kills_at_random_lose_no_result_and_train_nothing_twice(recipe: str, tmp_path: Path) -> None:
    steps, more = KILLED[recipe]
    words = ("tune", recipe, *more, "--train.steps", str(steps), "--concurrent", "2", "--trials", "6")
    moments, run = random.Random(recipe), tmp_path / f"tune-{recipe}"
    before: dict[str, Any] = {}
    for wanted in (1, 3):
        process = start(*words, runs=tmp_path)
        wait_until(lambda wanted=wanted: outcomes(run) >= wanted)
        time.sleep(moments.uniform(0, 2))
        children = descendants(process.pid)
        kill(process.pid)
        process.communicate()
        wait_until(lambda children=children: not any(Path(f"/proc/{pid}").exists() for pid in children))
        done = {path.parent.name: path.stat().st_mtime_ns for path in run.glob("trials/*/metrics.jsonl") if (path.parent / "outcome.json").exists()}
        assert before.items() <= done.items(), "a finished trial was trained again"
        before = done
    code, out, err = finish(start(*words, runs=tmp_path))
    assert (code, err) == (0, ""), out
    rows = table(run)
    assert [int(row["trial"]) for row in rows] == list(range(6))
    assert {row["status"] for row in rows} <= ({"finished"} if "none" in more else {"finished", "stopped"})
    assert all(logged == list(range(1, logged[-1] + 1)) for logged in trained(run).values())
    assert all((run / "trials" / name / "metrics.jsonl").stat().st_mtime_ns == at for name, at in before.items())


@pytest.mark.ray
@pytest.mark.slow
def test_under_pbt_the_worst_go_on_from_the_bests_weights_and_stay_the_trials_they_are(tmp_path: Path) -> None:
    words = ("--space", SPACE[1], *SMALL, "--scheduler", "pbt", "--search", "random", "--trials", "4", "--seed", "3")
    code, out, err = launch("tune", "toy", *words, runs=tmp_path)
    assert (code, err) == (0, ""), out
    run = tmp_path / "tune-toy"
    assert {row["status"] for row in table(run)} == {"finished"}
    assert {folder.name for folder in (run / "trials").iterdir()} == {"T0", "T1", "T2", "T3"}
    taken = {path.parent.name: json.loads(path.read_text()) for path in run.glob("trials/*/taken.json")}
    assert taken
    for name, one in taken.items():
        assert all(f"/trials/{name}/" not in donor for donor in one["from"])
        assert (run / "trials" / name / "metrics.jsonl").read_text().splitlines()[-1].startswith('{"step": 54')


@pytest.mark.ray
@pytest.mark.slow
def test_a_collapsed_gan_is_stopped_with_the_reason(tmp_path: Path) -> None:
    """The generator of the first trial runs to the one place that a discriminator likes best which hardly learns."""
    words = ("--space", "train.players.discriminator.learning_rate=1e-5,2e-3", "--search", "grid", "--scheduler", "none", "--concurrent", "2")
    code, out, err = launch("tune", "gan", *words, runs=tmp_path)
    assert (code, err) == (0, ""), out
    first, second = table(tmp_path / "tune-gan")
    assert (first["status"], second["status"]) == ("stopped", "finished")
    assert "the generator has collapsed" in first["reason"]
    assert int(first["step"]) < 2500 == int(second["step"])


@pytest.mark.ray
@pytest.mark.slow
def test_trials_of_several_workers_reach_what_one_process_reaches(tmp_path: Path) -> None:
    words = ("--smoke", *SPACE[:2], "--train.steps", "12", "--trials", "2", "--scheduler", "none", "--search", "random", "--evaluations", "3")
    values = []
    for name, more in (("one", ()), ("two", ("--workers", "2"))):
        code, out, err = launch("tune", "autoencoder", *words, *more, "--run", name, runs=tmp_path)
        assert (code, err) == (0, ""), out
        values.append([float(row["val/loss"]) for row in table(tmp_path / name)])
        assert all(steps == list(range(1, steps[-1] + 1)) for steps in trained(tmp_path / name).values())
    assert values[1] == pytest.approx(values[0], rel=1e-5)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["nothing"], "there is no recipe 'nothing'"),
        (["ddpm", "--space", "task.nothing=1:2"], "'task.nothing' is no field of this recipe; `--help` shows all"),
        (["ddpm", "--space", "task.label_dropout=0.5:2"], "the recipe refuses: --task.label-dropout is 2.0; it must be below 1"),
        (["ddpm", "--space", "task.label_dropout=0.5-2"], "--task.label-dropout: Input should be a valid number"),
        (["ddpm", "--space", "task.label_dropout=0.5:high"], "--space 'task.label_dropout=0.5:high' is no range; write NAME=LOW:HIGH"),
        (["ddpm", "--trials", "0"], "--trials is 0; it must be at least 1"),
        (["ddpm", "--scheduler", "pbt"], "give --search random with it"),
        (["ddpm", "--metric", "fid"], "say with --mode min or --mode max"),
        (["ddpm", "--time-budget", "soon"], "--time-budget is 'soon'; write a time like 90s, 30m or 2h"),
        (["sdxl_tiny", "--stage", "base"], "there is no stage 'base'; the recipe has autoencoder, text, text_2, denoiser, refiner"),
    ],
)  # fmt: skip
def test_bad_input_is_one_sentence(
    words: list[str], sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GENLIB_RUNS", str(tmp_path))
    assert exit_code(lambda: main(words)) == 2
    err = capsys.readouterr().err
    assert sentence in err
    assert err.count("\n") == 1


def test_times() -> None:
    assert [seconds(text) for text in ("", "90", "90s", "1.5m", "2h")] == [None, 90, 90, 90, 7200]
