"""`--plan` for several numbers of GPUs: a simulated run for each."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from genlib.engine.run_simulation import slowest_rank
from genlib.engine.step_traffic import StepTraffic
from genlib.recipe import Stage
from jobs.command_line import parse
from jobs.plan import planned
from jobs.plan_scale import ScaledRun, scaled_stage
from jobs.run_options import RunOptions
from jobs.step_time import StepTime, link_gb_per_second, nodes_of, sending_seconds

SMALL = ("vae", "--smoke", "--plan", "--train.steps", "2000", "--train.global_batch", "64", "--gpu_tflops", "0.000002", "--node_failure_hours", "1")
NODES = ("--gpus_per_node", "1", "--restart_seconds", "20")


def scaled(*words: str) -> tuple[str, dict[int, ScaledRun]]:
    """The table of a small run, and the runs by GPUs."""
    command = parse([*SMALL, *words])
    stages: Mapping[str, Stage] = {stage.name: stage for stage in command.stages}
    text, runs = scaled_stage(command.stages[-1], stages, command.options)
    return text, {run.gpus: run for run in runs}


def test_a_table_has_a_row_a_number_of_gpus() -> None:
    text = planned(parse([*SMALL, *NODES, "--gpus", "4,1,2"]))
    assert re.findall(r"^ +(\d) +(single|ddp)\b", text, re.MULTILINE) == [("1", "single"), ("2", "ddp"), ("4", "ddp")]
    assert "GPU-hours" in text
    assert "assumed: 40% of 2e-06 TFLOP/s a GPU" in text


def test_a_run_is_the_plans_step_with_what_disturbs_it() -> None:
    _, runs = scaled(*NODES, "--gpus", "1,4", "--straggler_spread", "0.2", "--interconnect_gb_per_second", "0.0001", "--overlap", "0.5")
    for gpus, run in runs.items():
        assert run.step_seconds == pytest.approx(run.step.seconds * slowest_rank(gpus, 0.2).moments[0])
        assert run.outcome.finished == 1
        assert run.outcome.seconds > run.outcome.steps == pytest.approx(2000 * run.step_seconds, rel=0.02)
    assert runs[1].step.sending == 0
    assert runs[4].step.computing == pytest.approx(runs[1].step.computing / 4)
    assert runs[4].step.seconds == runs[4].step.computing + runs[4].step.sending - min(runs[4].step.computing, 0.5 * runs[4].step.sending)


def test_the_interval_is_the_best_of_those_that_were_tried_and_others_are_as_good() -> None:
    run = scaled(*NODES, "--gpus", "1,8", "--store_gb_per_second", "0.0001")[1][8]
    pace = {every: one.kept / one.seconds for every, one in run.intervals.items()}
    assert pace[run.every] == max(pace.values())
    assert pace[min(pace)] < 0.99 * pace[run.every] > pace[max(pace)], "neither end of what is tried"
    low, high = run.as_good
    assert low <= run.every <= high
    assert min(pace[low], pace[high]) >= pace[run.every] / 1.001
    assert all(pace[every] < pace[run.every] / 1.001 for every in pace if not low <= every <= high)


def test_more_nodes_are_lost_more_often() -> None:
    _, runs = scaled(*NODES, "--gpus", "1,8", "--interconnect_gb_per_second", "1000")
    each = {gpus: run.outcome.losses / run.outcome.seconds * 3600 for gpus, run in runs.items()}
    assert each[1] == pytest.approx(1, rel=0.15)
    assert each[8] == pytest.approx(8, rel=0.15)
    assert runs[8].outcome.goodput < runs[1].outcome.goodput


def test_costs_are_nodes_and_head() -> None:
    text, runs = scaled(*NODES, "--gpus", "1,2", "--node_price_per_hour", "3", "--head_price_per_hour", "10")
    for gpus, run in runs.items():
        assert run.cost(RunOptions(node_price_per_hour=3, head_price_per_hour=10)) == pytest.approx((gpus * 3 + 10) * run.outcome.seconds / 3600)
    assert " cost\n" in text


def test_elastic_runs_wait_less() -> None:
    fixed, elastic = (scaled(*NODES, "--gpus", "1,8", "--replacement_minutes", "10", "--workers", workers)[1][8] for workers in ("4", "1:2"))
    assert (fixed.paper.least_nodes, elastic.paper.least_nodes) == (8, 4)
    assert fixed.outcome.waits > 0.3 * fixed.outcome.seconds
    assert elastic.outcome.waits < 0.1 * elastic.outcome.seconds
    assert elastic.outcome.seconds < fixed.outcome.seconds


def test_the_strategy_is_the_runs_own_where_it_says_so() -> None:
    own = scaled("--gpus", "2,4", "--train.strategy", "zero2", "--train.offload", "optimizer")[1][4]
    assert (own.fit.parallelism.strategy, own.fit.parallelism.offload) == ("zero2", "optimizer")
    with pytest.raises(ValueError, match="single trains on one worker, but there are 2"):
        scaled("--gpus", "2,4", "--train.strategy", "single")


def test_shard_groups_send_inside_of_nodes() -> None:
    traffic, options = StepTraffic(gathered=8e9, gathered_in_groups=40e9), RunOptions(gpus_per_node=4, interconnect_gb_per_second=10)
    assert sending_seconds(traffic, 4, 8, options) == pytest.approx(8 * 7 / 8 / 10 + 40 * 3 / 4 / 450)
    assert sending_seconds(traffic, 8, 16, options) == pytest.approx(8 * 15 / 16 / 10 + 40 * 7 / 8 / 10), "a group of two nodes"
    assert sending_seconds(StepTraffic(gathered=8e9), 0, 2, options) == pytest.approx(8 / 2 / 450)


def test_what_does_not_fit_is_said_beside_what_does() -> None:
    text, runs = scaled("--gpus", "1,4", "--gpu_memory_gb", "0.0002")
    assert list(runs) == [4]
    assert "stage train does not fit 1 GPU of 0.0002 GB, not even one sample at once with everything offloaded; the smallest that can:" in text
    with pytest.raises(ValueError, match=r"does not fit 4 GPUs of 0.0001 GB"):
        scaled("--gpus", "1,4", "--gpu_memory_gb", "0.0001")


def test_gpus_without_samples_and_runs_that_give_up_are_told() -> None:
    text, _ = scaled(*NODES, "--gpus", "1,64,128,256", "--interconnect_gb_per_second", "1000")
    assert "of 256 GPUs 192 have no sample: a step has 64" in text
    assert "with --retries 3 a run on 64, 128 or 256 GPUs gives up before its end; give --retries -1" in text
    assert "gives up" not in scaled(*NODES, "--gpus", "1,2", "--retries", "-1")[0]


def test_a_run_that_never_ends_is_told() -> None:
    assert re.search(r" [01]\.\d% .* never +-$", scaled("--gpus", "1,64", "--preemptions_per_hour", "1000")[0], re.MULTILINE)


def test_a_picture_is_drawn(tmp_path: Path) -> None:
    text = planned(parse([*SMALL, *NODES, "--gpus", "1,2,4", "--picture", str(tmp_path / "scale.png"), "--node_price_per_hour", "3"]))
    assert text.endswith(f"drawn in {tmp_path / 'scale.png'}")
    with Image.open(tmp_path / "scale.png") as picture:
        assert picture.width > 1000
        assert len(set(picture.convert("RGB").resize((200, 60)).get_flattened_data())) > 50


def test_numbers_of_gpus_are_read_and_refused() -> None:
    assert RunOptions(gpus="512,8,64,8").gpu_counts == (8, 64, 512)
    for wrong in ("0", "8,", "8:64", "", "-1", "8 64", "many"):
        with pytest.raises(ValueError, match="use a number from 1, or several like 8,64,512"):
            RunOptions(gpus=wrong)
    with pytest.raises(ValueError, match="picture is of several numbers of GPUs, and gpus is 8"):
        RunOptions(gpus="8", picture="scale.png")
    with pytest.raises(ValueError, match=r"picture is 'scale.svg'; name a PNG file, like scale.png"):
        RunOptions(gpus="8,64", picture="scale.svg")
    with pytest.raises(ValueError, match="overlap is 2; it is a share"):
        RunOptions(overlap=2)
    with pytest.raises(ValueError, match="restart_seconds is -1; it must be at least 0"):
        RunOptions(restart_seconds=-1)


def test_a_link_is_that_of_the_node_as_long_as_there_is_one() -> None:
    options = RunOptions(gpus_per_node=4)
    assert [nodes_of(gpus, options) for gpus in (1, 4, 5, 9)] == [1, 1, 2, 3]
    assert [link_gb_per_second(gpus, options) for gpus in (4, 5)] == [450, 25]


def test_a_step_hides_what_it_sends_as_far_as_it_computes() -> None:
    assert StepTime(2.0, 1.0).seconds == 2
    assert StepTime(2.0, 3.0).seconds == 3
    assert StepTime(2.0, 1.0, overlap=0.25).seconds == 2.75
    assert replace(StepTime(2.0, 1.0), overlap=0.0).seconds == 3
