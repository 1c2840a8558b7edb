"""A run of several stages that is killed in each of them ends with the weights of one that was not."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest

from genlib import registry
from tests.jobs.runs import finish, kill, launch, start, steps, wait_until, weights

pytestmark = [pytest.mark.slow, pytest.mark.ray]
STAGES = [stage.name for stage in registry.load("sdxl_tiny").smoke]
COMMAND = ("--smoke", "--run", "r", "--denoiser.train.encode", "ahead", "--refiner.train.encode", "ahead")
SCRIPT = "jobs/sdxl_pretrain.py"


def test_killed_in_every_stage(tmp_path: Path) -> None:
    own = {"GENLIB_CACHE": str(tmp_path / "cache")}
    code, out, err = launch(*COMMAND, runs=tmp_path / "whole", script=SCRIPT, **own)
    assert code == 0, out + err
    killed = 0
    for stage in STAGES:
        process = start(*COMMAND, runs=tmp_path / "cut", script=SCRIPT, **own)
        wait_until(lambda stage=stage, process=process: process.poll() is not None or len(steps(tmp_path / "cut" / "r" / stage)) >= 2, 300)
        killed += process.poll() is None
        with suppress(ProcessLookupError):  # it has ended by itself
            kill(process.pid)
        process.communicate()
    assert killed >= 3, "the machine was too fast for the kills"
    code, out, err = finish(start(*COMMAND, runs=tmp_path / "cut", script=SCRIPT, **own))
    assert code == 0, out + err
    for stage in STAGES:
        one, two = (tmp_path / which / "r" / stage for which in ("whole", "cut"))
        assert steps(two) == steps(one) == list(range(1, 9))
        assert weights(two) == weights(one), stage
    assert (tmp_path / "cut" / "r" / "export" / "diffusers" / "model_index.json").exists()
