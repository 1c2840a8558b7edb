"""What a file of DeepSpeed's settings may say trains the same weights; the rest is refused by name."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch

from genlib import checkpoint
from genlib.config import OptimConfig, TrainConfig
from genlib.engine.deepspeed_settings import check_players, merged, read_settings
from genlib.engine.fit import fit
from genlib.recipe import Stage
from tests.processes import run_ranks
from tests.tiny import ArraySource, TinyConfig

STEPS = 4
SETTINGS = {
    "small": {
        "stage3_max_live_parameters": 100, "stage3_max_reuse_distance": 0, "stage3_prefetch_bucket_size": 0, "reduce_bucket_size": 700,
        "allgather_bucket_size": 500, "sub_group_size": 300,
    },
    "persistent": {"stage3_param_persistence_threshold": 10**6, "stage3_model_persistence_threshold": 10**9, "reduce_bucket_size": 10**6},
    "other ways": {
        "contiguous_gradients": False, "overlap_comm": False, "memory_efficient_linear": False,
        "allgather_partitions": True, "reduce_scatter": True, "enable_sanity_checks": True, "log_trace_cache_warnings": False,
    },
}  # fmt: skip


def train(folder: Path, kind: str, strategy: str, settings: str) -> None:
    config = TrainConfig(
        steps=STEPS, global_batch=24, trackers=(), checkpoint_every_steps=0, ema_halflife_samples=48, strategy=strategy, deepspeed=settings,
        optim=OptimConfig(name="adam", clip_norm=1.0),
    )  # fmt: skip
    fit(Stage(task=TinyConfig(kind=kind), train=config), recipe="tiny", source=ArraySource(), folder=folder, device=torch.device("cpu"))


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return checkpoint.load_weights(folder / "checkpoints" / checkpoint.step_name(STEPS))


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, torch.Tensor]]:
    root = tmp_path_factory.mktemp("alone")
    for kind in ("VAE", "GAN"):
        train(root / kind, kind, "single", "")
    return {kind: weights(root / kind) for kind in ("VAE", "GAN")}


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("strategy", ["zero1", "zero2", "zero3"])
def test_a_file_that_is_taken_trains_the_same_weights(tmp_path: Path, alone: dict, strategy: str, name: str) -> None:
    path = tmp_path / "deepspeed.json"
    path.write_text(json.dumps({"zero_optimization": SETTINGS[name], "memory_breakdown": False}))
    for kind, expected in alone.items():
        run_ranks(2, train, tmp_path / kind, kind, strategy, str(path))
        for key, value in weights(tmp_path / kind).items():
            torch.testing.assert_close(value, expected[key], atol=1e-5, rtol=0, msg=lambda text, key=key: f"{key}: {text}")


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"gradient_clipping": 1.0}, "has gradient_clipping, which is --train.optim.clip-norm here"),
        ({"zero_optimization": {"stage": 2}}, "has zero_optimization.stage, which is --train.strategy here"),
        ({"zero_optimization": {"offload_param": {"device": "nvme"}}}, "which is --train.offload all here"),
        ({"bf16": {"enabled": True}}, "which is --train.precision here"),
        ({"communication_data_type": "bf16"}, "with which other weights come out"),
        ({"zero_optimization": {"zero_quantized_gradients": True}}, "has zero_optimization.zero_quantized_gradients, with which other weights"),
        ({"overlap_comm": True}, "has overlap_comm, which belongs to zero_optimization.overlap_comm; move it there"),
        ({"zero_optimization": {"round_robin_gradients": True}}, "not among the settings that are known to keep a run what it is; take it out"),
        ({"zero_optimization": {"reduce_bucket_size": "5e8"}}, 'reduce_bucket_size: "5e8"; give a whole number of elements'),
        ({"zero_optimization": {"reduce_bucket_size": 0}}, "reduce_bucket_size: 0; give a whole number of elements, 1 or more"),
        ({"zero_optimization": {"sub_group_size": 1.5}}, "sub_group_size: 1.5; give a whole number of elements, 0 or more"),
        ({"zero_optimization": {"reduce_bucket_size": -1}}, "reduce_bucket_size: -1; give a whole number of elements"),
        ({"zero_optimization": {"overlap_comm": 1}}, "overlap_comm: 1; give true or false"),
        ({"zero_optimization": []}, "must hold an object of settings"),
        ([], "must hold an object of settings"),
    ],
)
def test_what_may_not_be_given_is_refused_by_name(tmp_path: Path, settings: object, sentence: str) -> None:
    path = tmp_path / "deepspeed.json"
    path.write_text(json.dumps(settings))
    with pytest.raises(ValueError, match=re.escape(sentence)):
        read_settings(str(path))


def test_numbers_as_deepspeeds_examples_write_them(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"zero_optimization": {"reduce_bucket_size": 5e8, "stage3_prefetch_bucket_size": 0}}')
    found = read_settings(str(tmp_path / "a.json"))["zero_optimization"]
    assert found == {"reduce_bucket_size": 500_000_000, "stage3_prefetch_bucket_size": 0}
    assert isinstance(found["reduce_bucket_size"], int)


def test_a_file_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"cannot be read \(No such file or directory\)"):
        read_settings(str(tmp_path / "missing.json"))
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(ValueError, match="is no JSON"):
        read_settings(str(tmp_path / "broken.json"))
    assert read_settings("") == {}


def test_several_players_ask_for_weights_as_they_need_them() -> None:
    own = {"zero_optimization": {"stage3_prefetch_bucket_size": 5}}
    check_players(own, 1, "a.json")
    with pytest.raises(ValueError, match="a task of 2 players"):
        check_players(own, 2, "a.json")


def test_a_file_needs_zero() -> None:
    with pytest.raises(ValueError, match="zero1, zero2 or zero3, not ddp"):
        TrainConfig(deepspeed="a.json", strategy="ddp").validate()


def test_settings_that_are_not_given_stay() -> None:
    ours = {"gradient_clipping": 0.0, "zero_optimization": {"stage": 3, "sub_group_size": 5}}
    assert merged(ours, {"zero_optimization": {"sub_group_size": 7}}) == {
        "gradient_clipping": 0.0,
        "zero_optimization": {"stage": 3, "sub_group_size": 7},
    }
    assert merged(ours, {}) == ours
