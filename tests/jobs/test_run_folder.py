"""Where runs live, that one process works in a run, and what a second launch of a run finds."""

import dataclasses
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from genlib.config import TrainConfig, to_json
from genlib.engine.fit import fit
from genlib.recipe import Stage
from jobs import run_folder
from jobs.run_folder import begin, only_one, runs_root, stage_folder, write_json
from tests.jobs.toy import stage
from tests.tiny import ArraySource, TinyConfig

HOLDER = """
import sys
from pathlib import Path
from jobs.run_folder import only_one
with only_one(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    begin(tmp_path, "toy", [stage()])
    (tmp_path / "checkpoints" / "step_00000010").mkdir(parents=True)
    return tmp_path


def changed(base: Stage, **train: object) -> Stage:
    return dataclasses.replace(base, train=dataclasses.replace(base.train, **train))


def test_a_run_is_held_by_one_process_and_freed_by_its_death(tmp_path: Path) -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path / "clip")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline() == "held\n"
        with (
            pytest.raises(ValueError, match=rf"run clip is running \(pid {holder.pid} on .*\); wait for it, or give another --run or --run-dir"),
            only_one(tmp_path / "clip"),
        ):
            pass
    finally:
        os.kill(holder.pid, signal.SIGKILL)
        holder.communicate()
    with only_one(tmp_path / "clip"):
        pass


def test_a_held_run_is_waited_for(tmp_path: Path) -> None:
    code = HOLDER.replace("sys.stdin.read()", "import time; time.sleep(0.5)")
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        with only_one(tmp_path, wait_seconds=30):
            assert holder.wait(5) == 0


def test_runs_live_in_the_folder_of_the_user_but_not_in_a_jobs_copy_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GENLIB_RUNS", raising=False)
    monkeypatch.chdir(tmp_path)
    assert runs_root() == tmp_path / "runs"
    copy = tmp_path / "working_dir_files" / "_ray_pkg_0123456789abcdef"
    copy.mkdir(parents=True)
    monkeypatch.chdir(copy)
    assert runs_root() == Path.home() / "genlib-runs"
    monkeypatch.setenv("GENLIB_RUNS", str(tmp_path / "elsewhere"))
    assert run_folder.run_folder("clip", "") == tmp_path / "elsewhere" / "clip"
    assert run_folder.run_folder("", "", "clip") == tmp_path / "elsewhere" / "clip"
    assert run_folder.run_folder("", str(tmp_path / "here"), "clip") == tmp_path / "here"
    with pytest.raises(ValueError, match="--run 'a/b' is no name"):
        run_folder.run_folder("a/b", "")


def test_one_stage_trains_in_the_runs_own_folder_and_several_in_their_own() -> None:
    one, two = stage("one"), stage("two")
    assert stage_folder(Path("run"), [one], one) == Path("run")
    assert stage_folder(Path("run"), [one, two], two) == Path("run/two")


def test_a_finished_run_is_known_by_its_metrics(trained: Path) -> None:
    assert begin(trained, "toy", [stage()]) is None
    write_json(trained / "metrics.json", {"steps": 60})
    assert begin(trained, "toy", [stage()]) == {"steps": 60}
    assert begin(trained, "toy", [changed(stage(), strategy="zero1")]) == {"steps": 60}


def test_half_written_metrics_are_none(trained: Path) -> None:
    (trained / "metrics.json").write_text('{"steps": 6')
    assert begin(trained, "toy", [stage()]) is None


def test_more_steps_reopen_a_finished_run(trained: Path) -> None:
    write_json(trained / "metrics.json", {"steps": 60})
    assert begin(trained, "toy", [changed(stage(), steps=90)]) is None
    assert not (trained / "metrics.json").exists()


def test_scores_whose_checkpoints_are_gone_do_not_pass_for_those_of_other_settings(trained: Path) -> None:
    write_json(trained / "metrics.json", {"steps": 60})
    shutil.rmtree(trained / "checkpoints")
    assert begin(trained, "toy", [stage()]) is None
    assert (trained / "metrics.json").exists()  # the same settings give the same scores
    assert begin(trained, "toy", [changed(stage(), global_batch=64)]) is None
    assert not (trained / "metrics.json").exists()


def test_another_setting_is_refused_by_name_and_leaves_the_run_alone(trained: Path) -> None:
    before = (trained / "run.json").read_text()
    with pytest.raises(ValueError, match=r"run .* was started with train.global_batch = 32, now it is 64; restore it"):
        begin(trained, "toy", [changed(stage(), global_batch=64)])
    with pytest.raises(ValueError, match="is of recipe toy, not vae"):
        begin(trained, "vae", [stage()])
    with pytest.raises(ValueError, match="has the stages train, not first, second"):
        begin(trained, "toy", [stage("first"), stage("second")])
    assert (trained / "run.json").read_text() == before


def test_before_its_first_checkpoint_a_run_may_change(tmp_path: Path) -> None:
    begin(tmp_path, "toy", [changed(stage(), global_batch=64)])
    assert begin(tmp_path, "toy", [stage()]) is None
    assert run_folder.read_json(tmp_path / "run.json")["stages"]["train"]["train"]["global_batch"] == 32


@pytest.mark.parametrize("damage", ["flipped", "cut", "gone"])
def test_where_the_run_file_is_damaged_the_checkpoints_tell_what_the_run_is_of(tmp_path: Path, damage: str) -> None:
    config = TrainConfig(steps=2, global_batch=8, trackers=())
    small = Stage(task=TinyConfig(), train=config)
    begin(tmp_path, "tiny", [small])
    fit(small, recipe="tiny", source=ArraySource(), folder=tmp_path, device=torch.device("cpu"))
    path = tmp_path / "run.json"
    whole = path.read_bytes()
    if damage == "flipped":
        path.write_bytes(whole.replace(b'"global_batch": 8', b'"global_batch": 9'))
    elif damage == "cut":
        path.write_bytes(whole[:100])
    else:
        path.unlink()
    damaged = path.read_bytes() if path.exists() else None
    with pytest.raises(ValueError, match=r"the run was started with train\.global_batch = 8, now it is 16; restore it or use another run name"):
        begin(tmp_path, "tiny", [changed(small, global_batch=16)])
    assert (path.read_bytes() if path.exists() else None) == damaged
    assert begin(tmp_path, "tiny", [small]) is None
    assert path.read_bytes() == whole


def test_the_command_is_noted_and_may_change(trained: Path) -> None:
    before = run_folder.read_json(trained / "run.json")
    assert begin(trained, "toy", [stage()], {"command": "train toy", "options": {}}) is None
    noted = run_folder.read_json(trained / "run.json")
    assert noted == {**before, "command": "train toy", "options": {}, "sha256": noted["sha256"]}
    assert begin(trained, "toy", [stage()], {"command": "train toy --workers 2"}) is None
    assert run_folder.read_json(trained / "run.json")["command"] == "train toy --workers 2"
    with pytest.raises(ValueError, match=r"was started with train\.seed"):
        begin(trained, "toy", [changed(stage(), seed=1)], {"command": "another"})


def test_several_stages_name_theirs(tmp_path: Path) -> None:
    begin(tmp_path, "two", [stage("first"), stage("second")])
    (tmp_path / "first" / "checkpoints" / "step_00000010").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"second.train.seed = 0, now it is 1"):
        begin(tmp_path, "two", [stage("first"), changed(stage("second"), seed=1)])


def test_what_is_described_is_plain_values() -> None:
    assert run_folder.described(stage())["train"] == to_json(stage().train)
