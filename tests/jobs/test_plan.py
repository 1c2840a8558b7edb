"""`--plan` for every recipe, without Ray, GPU, weights or shards; and for what no number of GPUs holds."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from genlib import registry
from jobs.command_form import Command
from jobs.command_line import parse
from jobs.plan import planned, save_words, traffic_words
from jobs.run_options import RunOptions
from jobs.step_time import SaveTime, StepTime

ONCE = {repr(registry.load(name).smoke): name for name in registry.RECIPES}.values()  # those of one smoke form
SLOW = (  # each like one that stays
    "ldm_tiny", "sd3_tiny", "sdxl_tiny", "stylegan3_r", "stylegan3_t", "r3gan", "stylegan2_labelled", "stylegan1_1024", "progan_1024", "acgan",
    "cyclegan_256", "unit", "autoencoder_kl_sdxl", "clip_vit_l14", "resampling", "ddpm_cifar10",
)  # fmt: skip


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in ONCE])
def test_every_recipe_has_a_plan(name: str) -> None:
    text = planned(Command(name, registry.load(name).smoke, RunOptions(gpus="2")))
    for stage in registry.load(name).smoke:
        assert re.search(rf"^{stage.name}: \w+, [\d,]+ parameters to train", text, re.MULTILINE)
    trains = text.count("first that fits")
    assert trains == text.count("FLOPs a step") == text.count("GPU-hours")
    assert trains + text.count("nothing is trained") == len(registry.load(name).smoke)


def test_says_which_data_it_assumes() -> None:
    (stage,) = registry.load("clip_vit_b32").smoke
    unknown = replace(stage, data=replace(stage.data, train=""))
    assert "data: assumed to be 32 px, 3 channels, with captions" in planned(Command("clip_vit_b32", (unknown,), RunOptions()))


def test_a_built_in_set_is_not_drawn_anew_at_the_size_of_the_plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENLIB_CACHE", str(tmp_path))
    small, large = (planned(parse(["dcgan", "--smoke", "--plan", "--data.train", "digits", "--data.image_size", size])) for size in ("16", "64"))
    assert "data: the built-in set digits" in small
    assert [path.name for path in tmp_path.glob("digits-*px-*/")] == [next(tmp_path.glob("digits-8px-*/")).name]
    assert [int(re.search(r"([\d,]+) parameters", text)[1].replace(",", "")) for text in (small, large)] != [0, 0]
    assert small != large


def every(words: str) -> int:
    return int(re.search(r"--train.checkpoint-every-steps (\d+) ", words)[1])


def lost(steps: int, *, stands: float, writes: float, apart: float) -> float:
    """Share of the time that is lost to saves, and to steps that are done again, where steps of a second are saved every so many."""
    return stands / steps + (steps / 2 + writes) / apart


def test_the_interval_between_saves_loses_the_least_time() -> None:
    options = RunOptions(gpus="64", host_gb_per_second=10, store_gb_per_second=8, node_failure_hours=48)
    words = save_words(SaveTime(2, 160), 1_280_000_000_000, 1.0, 10**6, options)
    assert "a checkpoint of 1,280 GB: steps stand still for 2 s at 10 GB/s a GPU, and it is written in 160 s at 8 GB/s" in words
    assert "with a failure every 6 hours" in words, "8 nodes"
    found = every(words)
    facts = {"stands": 2, "writes": 160, "apart": 6 * 3600}
    assert all(lost(found, **facts) <= lost(other, **facts) for other in range(161, 2000))
    assert f"loses {lost(found, **facts):.2%} of the time" in words


def test_nodes_that_are_taken_away_come_on_top_of_those_that_fail() -> None:
    options = RunOptions(gpus="64", gpus_per_node=4, node_failure_hours=48, preemptions_per_hour=1 / 24)
    assert "with a failure every 1 hours" in save_words(SaveTime(2, 160), 1_280_000_000_000, 1.0, 10**6, options)


def test_saves_come_no_faster_than_the_store_takes_them_and_within_the_run() -> None:
    slow = RunOptions(gpus="64", node_failure_hours=192)
    assert every(save_words(SaveTime(0.01, 640), 64_000_000_000, 2.0, 10**6, slow)) == 320
    assert every(save_words(SaveTime(0.01, 640), 64_000_000_000, 2.0, 100, slow)) == 100


def test_failures_that_come_faster_than_checkpoints_are_told() -> None:
    options = RunOptions(gpus="64", store_gb_per_second=0.1, node_failure_hours=8)
    words = save_words(SaveTime(0.5, 6400), 640_000_000_000, 1.0, 10**6, options)
    assert (
        "a checkpoint of 640 GB is written in 6.4e+03 s at 0.1 GB/s, too long where a failure comes every 1 hours: the run would not get on" in words
    )


@pytest.mark.parametrize("name", ["muon", "adamw_8bit"])
def test_what_an_optimizer_does_not_go_with_is_no_choice(name: str) -> None:
    plan = planned(parse(["clip_tiny", "--plan", "--smoke", "--gpus", "2", "--train.optim.name", name]))
    assert re.search(r"zero2 +zero3$", plan, re.MULTILINE)
    assert "+opt" not in plan


def test_traffic_is_told_beside_computing_and_where_it_sets_the_pace() -> None:
    options = RunOptions(gpus="64", interconnect_gb_per_second=50)
    assert traffic_words(25e9, StepTime(2.0, 0.5), options) == ["a step sends 25 GB a GPU, which takes 0.5 s at 50 GB/s, beside 2 s of computing"]
    (words,) = traffic_words(25e9, StepTime(2.0, 0.5, overlap=0.4), options)
    assert words == "a step sends 25 GB a GPU, which takes 0.5 s at 50 GB/s, 0.2 s of that beside 2 s of computing"
    (words,) = traffic_words(25e9, StepTime(0.1, 0.5), options)
    assert words.startswith(
        "a step sends 25 GB a GPU, which takes 0.5 s at 50 GB/s, and computing no more than 0.1 s: the interconnect sets the pace"
    )
    assert "at 450 GB/s" in traffic_words(25e9, StepTime(2.0, 0.1), RunOptions(gpus="8"))[0], "of one node"
    assert traffic_words(25e9, StepTime(2.0, 0.0), RunOptions(gpus="1")) == []


def test_too_large_a_batch_is_split() -> None:
    text = planned(parse(["clip_vit_b32", "--smoke", "--plan", "--train.global_batch", "65536", "--gpu_memory_gb", "1"]))
    assert "--train.accumulation" in text


def test_what_no_number_of_gpus_holds_is_refused_with_the_smallest_that_can() -> None:
    with pytest.raises(ValueError, match=r"no number of them can hold it; the smallest that can: 4 GPUs of \d+ GB, or more GPUs of \d+ GB"):
        planned(parse(["clip_vit_b32", "--smoke", "--plan", "--gpus", "4", "--gpu_memory_gb", "0.0001"]))


def test_too_few_gpus_are_refused_with_how_many_suffice() -> None:
    from genlib.engine.memory_plan import PARALLELISMS
    from genlib.engine.memory_plan import estimate_memory as traced
    from jobs.plan import FakeTask, assumed_spec, built

    (stage,) = registry.load("clip_vit_b32").smoke
    train = replace(stage.train, ema_halflife_samples=1000)  # what is still shared out when all else is in the host's memory
    view = traced(FakeTask(lambda: built(stage, {}, assumed_spec(stage)[0])), train, 1)
    enough = min(view.at(parallelism, 64, 1).device_bytes for parallelism in PARALLELISMS if parallelism.strategy != "single") / 0.95 / 1e9
    with pytest.raises(ValueError, match=r"the smallest that can: 1 GPU of 1 GB, or \d+ GPUs"):
        planned(Command("clip_vit_b32", (replace(stage, train=train),), RunOptions(gpus="1", gpu_memory_gb=enough)))


WITHOUT_RAY = """
import sys
from jobs.train import exit_code, main
codes = [exit_code(lambda: main([*sys.argv[1:], gigabytes])) for gigabytes in ("80", "0.0001")]
assert codes == [0, 2]
assert "ray" not in sys.modules
"""


def test_never_starts_ray() -> None:
    words = ["clip_vit_b32", "--smoke", "--plan", "--gpus", "2", "--gpu_memory_gb"]
    done = subprocess.run([sys.executable, "-c", WITHOUT_RAY, *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "first that fits: ddp" in done.stdout
    assert "stage train does not fit 2 GPUs of 0.0001 GB" in done.stderr
