"""DeepSpeed settings of one's own, from a JSON file, beside those that `genlib.engine.zero` writes.

What says how messages are cut, when they are sent and what is logged may be given; what changes the weights that come out, or what a checkpoint
holds, or is an option of ours, is refused by its name. So every file that is taken trains the same weights.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_SECTION = "zero_optimization"
_NUMBERS = (
    "stage3_max_live_parameters", "stage3_max_reuse_distance", "stage3_prefetch_bucket_size", "stage3_param_persistence_threshold",
    "stage3_model_persistence_threshold", "reduce_bucket_size", "allgather_bucket_size", "sub_group_size",
)  # fmt: skip
_SWITCHES = (
    "contiguous_gradients", "overlap_comm", "reduce_scatter", "allgather_partitions", "stage3_use_all_reduce_for_fetch_params",
    "memory_efficient_linear", "log_trace_cache_warnings", "enable_sanity_checks",
)  # fmt: skip
_TAKEN: dict[str, dict[str, type]] = {
    _SECTION: {**dict.fromkeys(_NUMBERS, int), **dict.fromkeys(_SWITCHES, bool)},
    "": {"wall_clock_breakdown": bool, "memory_breakdown": bool, "dump_state": bool, "comms_logger": dict, "flops_profiler": dict},
}
_OPTIONS = {
    "train_batch_size": "--train.global-batch", "train_micro_batch_size_per_gpu": "--train.global-batch and --train.accumulation",
    "gradient_accumulation_steps": "--train.accumulation", "gradient_clipping": "--train.optim.clip-norm", "optimizer": "--train.optim.name",
    "scheduler": "--train.optim.schedule", "bf16": "--train.precision", "fp16": "--train.precision", "torch_autocast": "--train.precision",
    "stage": "--train.strategy", "offload_optimizer": "--train.offload optimizer", "offload_param": "--train.offload all",
    "cpu_offload": "--train.offload optimizer", "cpu_offload_param": "--train.offload all", "activation_checkpointing": "the task's options",
    "zero_hpz_partition_size": "--train.shard-group-size",
    "tensorboard": "--train.trackers tensorboard", "wandb": "--train.trackers wandb", "steps_per_print": "--train.log-every-seconds",
}  # fmt: skip
_OTHER_WEIGHTS = (
    "communication_data_type", "prescale_gradients", "gradient_predivide_factor", "zero_quantized_weights", "zero_quantized_gradients",
    "zero_quantized_nontrainable_weights", "zenflow", "compression_training", "data_efficiency", "curriculum_learning", "progressive_layer_drop",
    "sparse_attention", "sparse_gradients", "quantize_training", "eigenvalue",
)  # fmt: skip


def read_settings(path: str) -> dict[str, Any]:
    """The settings of that file, {} where there is none to read. ValueError in a sentence where one may not be given."""
    if not path:
        return {}
    try:
        found = json.loads(Path(path).read_text())
    except OSError as error:
        raise ValueError(f"train.deepspeed {path} cannot be read ({error.strerror}); name a JSON file that every worker sees") from None
    except ValueError as error:
        raise ValueError(f"train.deepspeed {path} is no JSON ({error}); see https://www.deepspeed.ai/docs/config-json") from None
    if not isinstance(found, dict) or not isinstance(found.get(_SECTION, {}), dict):
        raise ValueError(f"train.deepspeed {path} must hold an object of settings, with those of ZeRO as an object under {_SECTION!r}")
    for section, settings in (("", found), (_SECTION, found.get(_SECTION, {}))):
        for name, value in settings.items():
            if section or name != _SECTION:
                settings[name] = _checked(path, section, name, value)
    return found


def check_players(own: Mapping[str, Any], players: int, path: str) -> None:
    """ValueError where a task of so many players cannot have what the file says."""
    name = "stage3_prefetch_bucket_size"
    if players > 1 and own.get(_SECTION, {}).get(name):
        raise ValueError(f"train.deepspeed {path} has {_SECTION}.{name}, but a task of {players} players has to ask for weights as it needs them; "
                         "give 0, or take it out")  # fmt: skip


def merged(ours: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Ours, but for what the file says."""
    return {**ours, **own, _SECTION: {**ours[_SECTION], **own.get(_SECTION, {})}}


def _checked(path: str, section: str, name: str, value: Any) -> Any:
    """The value, a number such as 5e8, as DeepSpeed's own examples have it, as a whole one."""
    where, kind = f"train.deepspeed {path} has {section and section + '.'}{name}", _TAKEN[section].get(name)
    if name in _OPTIONS:
        raise ValueError(f"{where}, which is {_OPTIONS[name]} here; give that and take it out of the file")
    if name in _OTHER_WEIGHTS:
        raise ValueError(f"{where}, with which other weights come out than with the other strategies; take it out")
    if kind is None:
        place = next((f"{place}.{name}".strip(".") for place, names in _TAKEN.items() if name in names), "")
        unknown = "which is not among the settings that are known to keep a run what it is; take it out"
        raise ValueError(f"{where}, {f'which belongs to {place}; move it there' if place else unknown}")
    if kind is int and isinstance(value, float) and value.is_integer():
        value = int(value)
    least = int(name == "reduce_bucket_size")
    if type(value) is not kind or (kind is int and value < least):
        wanted = {int: f"a whole number of elements, {least} or more", bool: "true or false", dict: "an object"}
        raise ValueError(f"{where}: {json.dumps(value)}; give {wanted[kind]}")
    return value
