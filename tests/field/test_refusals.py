"""What is refused leaves the run's folder as it was, before Ray starts where that can be known.

bghira/SimpleTuner#1172, tambetm/simple_dqn#13; Nerogar/OneTrainer#1604 and #297 for a run that goes on for longer.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest

from genlib.data.shards.writer import png, write_shards
from genlib.data.source import open_source
from genlib.engine import fit as fitting
from genlib.engine.fit import fit
from genlib.engine.listener import Listener
from jobs import encode, evaluate, train, tune, undo
from jobs.command_form import Command
from jobs.exit_codes import exit_code
from tests.models.stages import CPU

LOCKS = (".lock", ".worker_lock")
WORDS = ("vae", "--smoke", "--train.trackers")


def tree(run: Path) -> dict[str, bytes | None]:
    """Every file of a folder with what is in it, and every folder."""
    found = {str(path.relative_to(run)): path.read_bytes() if path.is_file() else None for path in sorted(run.rglob("*"))}
    return {name: content for name, content in found.items() if Path(name).name not in LOCKS}


class Ray:
    """In the place of Ray: whether it was started, and workers that train in this process."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.started = 0
        self.work: Callable[[Command, Path], None] = self.trained
        monkeypatch.delenv("RAY_ADDRESS", raising=False)
        for module in (train, tune, encode):
            monkeypatch.setattr(module, "connected", self.connected)
        monkeypatch.setattr(train, "worker_resources", lambda options: {"CPU": 1.0})
        monkeypatch.setattr(train, "check_cluster_fits", lambda *args: None)
        monkeypatch.setattr(train, "fit_on_ray", lambda work, **how: self.work(work, work.run))

    @contextmanager
    def connected(self, meanwhile: Callable[[], object] = lambda: None) -> Iterator[None]:
        meanwhile()
        self.started += 1
        yield

    def trained(self, work, run: Path) -> None:
        """What a worker does, as `jobs.worker` does it."""
        from jobs.pulse import Heart
        from jobs.run_metrics import RunMetrics
        from jobs.worker import ToRay

        (stage,) = work.stages
        source = open_source(stage.data, run / "data", needs=stage.task.fields)
        heart, corrupt = Heart(work.link, run, work.stall_seconds), source.failures.total
        listener = Started(ToRay(work, stage.train.steps, RunMetrics(run), heart, corrupt, None, lambda: None))
        final = fit(stage, recipe=work.recipe, source=source, folder=run, device=CPU, listener=listener)
        evaluate.evaluate(final, source, run, CPU)


class Started(Listener):
    """The worker's listener without Ray Train."""

    def __init__(self, to_ray: Listener) -> None:
        self.on_start = to_ray.on_start


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Ray:
    monkeypatch.setenv("GENLIB_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("GENLIB_CACHE", str(tmp_path / "cache"))
    return Ray(monkeypatch)


def written(folder: Path, count: int, **members: object) -> Path:
    rng = np.random.default_rng(len(list(folder.glob("*.tar"))) if folder.exists() else 0)
    samples = [{"png": png(rng.integers(0, 256, (8, 8, 1), dtype=np.uint8)), **members} for _ in range(count)]
    write_shards(folder, f"train{count}", samples)
    return folder


def launched(*words: object) -> int:
    return exit_code(lambda: train.main([*WORDS, *map(str, words)]))


def test_a_finished_run_stays_finished_whenever_more_of_it_is_refused(
    ray: Ray, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    data, run = written(tmp_path / "data", 40), tmp_path / "runs" / "r"
    assert launched("--run", "r", "--data.train", data) == 0, capsys.readouterr().err
    before = tree(run)
    assert {"metrics.json", "run.json", "data/train.set"} <= before.keys()
    more = ("--run", "r", "--data.train", data, "--train.steps", 16)

    def refused(words: Sequence[object], sentence: str) -> None:
        assert launched(*words) == 2
        assert sentence in capsys.readouterr().err
        assert tree(run) == before
        assert launched("--run", "r", "--data.train", data) == 0, "it is still finished"
        assert "run r is finished: 8 steps" in capsys.readouterr().out

    refused([*more, "--task.latent_dim", 9], "was started with --task.latent-dim = 8, now it is 9")  # before anything
    refused([*more, "--train.seed", 5], f"--train.start-from {run}")
    refused([*more, "--workers", 2, "--train.strategy", "single"], "strategy single trains on one worker")
    started = ray.started
    ray.work = raising(ValueError("a worker says no"))  # when Ray has started
    refused(more, "a worker says no")
    assert ray.started == started + 1
    ray.work = ray.trained
    monkeypatch.setattr(fitting, "strategy_of", raising(ValueError("the strategy says no")))  # when the task is built
    refused(more, "the strategy says no")
    monkeypatch.undo()
    Ray.__init__(ray, monkeypatch)
    monkeypatch.setenv("GENLIB_RUNS", str(tmp_path / "runs"))
    monkeypatch.setattr(fitting.Training, "step", raising(ValueError("the first batch says no")))  # in the first step
    refused(more, "the first batch says no")


def raising(error: Exception) -> Callable:
    def fail(*args: object, **how: object) -> None:
        raise error

    return fail


def test_other_data_is_refused_before_ray_with_the_way_that_works(ray: Ray, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, run = written(tmp_path / "data", 40), tmp_path / "runs" / "r"
    assert launched("--run", "r", "--data.train", data) == 0
    before, started = tree(run), ray.started
    written(data, 41)  # one shard more
    assert launched("--run", "r", "--data.train", data, "--train.steps", 16) == 2
    error = capsys.readouterr().err
    assert "the training data changed since the checkpoint" in error
    assert f"--train.start-from {run}" in error
    assert (tree(run), ray.started) == (before, started)
    assert launched("--run", "other", "--data.train", data, "--train.steps", 4, "--train.start_from", run) == 0, "which works"


def test_a_longer_run_says_what_becomes_of_its_learning_rate(ray: Ray, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("--run", "r", "--data.train", written(tmp_path / "data", 40), "--train.optim.schedule", "cosine", "--train.optim.learning_rate", 5e-4)
    assert launched(*words) == 0
    assert "schedule of" not in capsys.readouterr().out
    assert launched(*words, "--train.steps", 16) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "schedule of" in line]
    assert line.startswith("the cosine schedule of 8 steps had brought the learning rate to 1.9e-05; that of 16 steps goes on from 0.00025.")
    assert f"--train.start_from {tmp_path / 'runs' / 'r'}" in line
    assert "with a schedule that starts again, or, to stay where it was, with --train.optim.schedule constant" in line
    constant = ("--run", "c", "--data.train", tmp_path / "data")
    assert (launched(*constant), launched(*constant, "--train.steps", 16)) == (0, 0)
    assert "schedule of" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("vae", "--data.train", "nothing"), "data.train='nothing': there are no shards"),
        (("clip_tiny", "--data.train", "DATA"), "CLIP learns from captions, but the samples have none"),
        (("clip_tiny", "--data.train", "DATA", "--data.caption_field", "words"), "words"),
        (("vae", "--data.train", "DATA", "--train.start_from", "nowhere"), "--train.start-from is 'nowhere', which is no folder"),
        (("classifier", "--data.train", "DATA"), "a classifier learns from labels"),
    ],
)
@pytest.mark.parametrize("script", [train, tune, encode])
def test_what_cannot_be_used_is_refused_before_ray_and_leaves_nothing(
    ray: Ray, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: Sequence[str], sentence: str, script
) -> None:
    if script is not train and "--train.start_from" in words:
        pytest.skip("which neither of these starts")
    data = written(tmp_path / "data", 40)
    recipe, *rest = [str(data) if word == "DATA" else word for word in words]
    assert exit_code(lambda: script.main([recipe, "--smoke", *rest])) == 2
    assert sentence in capsys.readouterr().err
    assert ray.started == 0
    assert not (tmp_path / "runs").exists()


def test_a_launch_that_was_killed_is_taken_back_by_the_next(tmp_path: Path) -> None:
    run = tmp_path / "r"
    for name, text in (("run.json", "{}"), ("metrics.json", '{"steps": 8}'), ("data/train.set", "set"), ("log.txt", "a\n")):
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).write_text(text)
    before = tree(run)
    if not (child := os.fork()):
        with undo.undone_unless_begun(run, [run]):
            (run / "metrics.json").unlink()
            (run / "data" / "train.set").unlink()
            (run / "data" / "train.set").write_text("other")
            (run / "error.log").touch()
            with open(run / "log.txt", "a") as file:
                file.write("b\n")
            (run / "checkpoints").mkdir()
            os._exit(0)
    os.waitpid(child, 0)
    assert not (run / "metrics.json").exists()
    with pytest.raises(ValueError, match="no"), undo.undone_unless_begun(run, [run]):
        raise ValueError("no")
    assert tree(run) == {**before, "error.log": b""}
    with undo.undone_unless_begun(run, [run]):
        (run / "metrics.json").unlink()
        undo.accept(run)
    assert not (run / "metrics.json").exists()
    with suppress(KeyboardInterrupt), undo.undone_unless_begun(run, [run]):
        undo.accept(run)
        (run / "run.json").unlink()
        raise KeyboardInterrupt
    assert not (run / "run.json").exists(), "a run that has begun is not taken back"


def test_run_and_run_dir_are_one_or_the_other(ray: Ray, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for script in (train, tune, encode):
        assert exit_code(lambda script=script: script.main(["vae", "--smoke", "--run-dir", str(tmp_path / "R"), "--run", "a"])) == 2
        error = capsys.readouterr().err
        assert f"give --run-dir {tmp_path / 'R' / 'a'}, or --run a with GENLIB_RUNS={tmp_path / 'R'}" in error
        assert not (tmp_path / "R").exists()
    data = written(tmp_path / "data", 40)
    assert launched("--run-dir", tmp_path / "R", "--data.train", data) == 0
    assert (tmp_path / "R" / "run.json").exists()
    assert launched("--run-dir", tmp_path / "R", "--data.train", data, "--train.seed", 3) == 2
    assert "give another --run or --run-dir" in capsys.readouterr().err
