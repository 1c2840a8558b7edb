"""Names that a library keeps for itself and this project uses: which, where, why, and what breaks when they go. There are no others.

A new version of a library is looked at here first: the rows that name it say what to try.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from sysconfig import get_path

import pytest

ROOT = Path(__file__).parents[1]
SCANNED = ("genlib", "jobs", "serve", "cluster", "tune_spaces", "infra")
DOCUMENTED = {"_current_frames", "_exit", "_replace"}
"""With an underscore, and in the library's public documentation (sys._current_frames, os._exit, and of named tuples)."""


@dataclass(frozen=True)
class PrivateDoor:
    """A private name of a library."""

    library: str
    version: str
    """In which it was last looked at."""
    name: str
    source: str
    """Where the library has it, in site-packages."""
    used: str
    """The one file that uses it."""
    breaks: str
    """What stops working without it, and why nothing public does the same."""


def doors(library: str, version: str, source: str, used: str, breaks: str, *names: str) -> list[PrivateDoor]:
    return [PrivateDoor(library, version, name, source, used, breaks) for name in names]


ZERO = (
    "zero1 to zero3 save and resume optimizer state by name and offset; deepspeed.utils' safe_get_* give no offsets, and whole tensors in stages 1, 2"
)
ONE = "fp32 weights lie in memory once and not twice; DeepSpeed means to do so and compares a device with its name"
PLAN = "--plan, and counts of operations; torch exports fake tensors and dispatch modes under these names alone"
LEAN = "four processes more start with a run on a head of its own, a third of the time to its first step; Ray Train has no switch for them"
HEAD = "a head that is started after ray was imported: Ray reads its environment once, and has no call to read it again"
DOORS = (
    *doors("torch", "2.13", "torch/_subclasses/fake_tensor.py", "genlib/engine/trace.py", PLAN, "_subclasses"),
    *doors("torch", "2.13", "torch/utils/_python_dispatch.py", "genlib/engine/trace.py", PLAN, "_python_dispatch"),
    *doors("torch", "2.13", "torch/utils/_pytree.py", "genlib/engine/trace.py", PLAN, "_pytree"),
    *doors("torch", "2.13", "torch/storage.py", "genlib/engine/trace.py", f"which storages are alive: {PLAN}", "_cdata"),
    *doors(
        "torch", "2.13", "torch/_decomp/decompositions.py", "genlib/engine/trace.py", "operations of fused attention on a CPU are not counted",
        "_scaled_dot_product_flash_attention_for_cpu",
    ),
    *doors(
        "torch", "2.13", "torch/_meta_registrations.py", "genlib/engine/trace.py", "operations of fused attention on a CPU are not counted",
        "_scaled_dot_product_flash_attention_for_cpu_backward",
    ),
    *doors(
        "torch", "2.13", "torch/_dynamo/decorators.py", "genlib/random.py",
        "draws break a compiled graph, or every process imports the compiler for torch.compiler.assume_constant_result", "_dynamo_marked_constant",
    ),
    *doors("torch", "2.13", "torch/nn/modules/module.py", "jobs/encoder.py", "encoders on GPUs move networks, but for what is on meta", "_apply"),
    *doors(
        "deepspeed", "0.19.8", "deepspeed/ops/__init__.py", "genlib/engine/zero.py", "its import probes compilers for a minute", "__compatible_ops__"
    ),
    *doors("deepspeed", "0.19.8", "deepspeed/runtime/zero/partition_parameters.py", "genlib/engine/zero.py", ZERO, "ds_tensor", "ds_numel"),
    *doors(
        "deepspeed", "0.19.8", "deepspeed/runtime/zero/stage3.py", "genlib/engine/zero.py", ZERO,
        "grad_position", "get_param_id", "fp32_partitioned_groups_flat",
    ),
    *doors(
        "deepspeed", "0.19.8", "deepspeed/runtime/zero/stage_1_and_2.py", "genlib/engine/zero.py", ZERO,
        "single_partition_of_fp32_groups", "_hp_mapping",
    ),
    *doors("deepspeed", "0.19.8", "deepspeed/runtime/zero/stage3.py", "genlib/engine/zero.py", ONE, "fp16_partitioned_groups_flat"),
    *doors("deepspeed", "0.19.8", "deepspeed/runtime/zero/stage_1_and_2.py", "genlib/engine/zero.py", ONE, "parallel_partitioned_bit16_groups"),
    *doors("deepspeed", "0.19.8", "deepspeed/utils/tensor_fragment.py", "genlib/engine/zero.py", ONE, "lp_fragment", "hp_fragment"),
    *doors(
        "deepspeed", "0.19.8", "deepspeed/utils/groups.py", "genlib/engine/zero.py",
        "a second stage or task with shard groups in one process: DeepSpeed makes the group once and forgets it with the world's alone",
        "_ZERO_PARAM_INTRA_PARALLEL_GROUP",
    ),
    *doors(
        "ray", "2.60.0", "ray/_private/worker.py", "cluster/connect.py", "a raylet's notices come between ours", "_private", "print_to_stdstream"
    ),
    *doors(
        "ray", "2.60.0", "ray/_private/state.py", "cluster/preflight.py", "how far a cluster may grow: Ray has no public call for it",
        "_private", "get_max_resources_from_cluster_config",
    ),
    *doors("ray", "2.60.0", "ray/_private/ray_constants.py", "cluster/local.py", HEAD, "_private", "ENABLE_RAY_CLUSTER", "IS_WINDOWS_OR_OSX"),
    *doors("ray", "2.60.0", "ray/_raylet.so", "cluster/local.py", HEAD, "_raylet", "AuthenticationTokenLoader"),
    *doors(
        "ray", "2.60.0", "ray/train/v2/api/data_parallel_trainer.py", "jobs/lean_trainer.py", LEAN,
        "_internal", "_create_default_callbacks", "_initialize_and_run_controller",
    ),
    *doors(
        "ray", "2.60.0", "ray/train/v2/_internal/execution/scaling_policy/scaling_policy.py", "jobs/lean_trainer.py", LEAN,
        "_maybe_send_resource_request", "_cancel_resource_request",
    ),
    *doors(
        "ray", "2.60.0", "ray/train/v2/_internal/execution/worker_group/worker_group.py", "jobs/lean_trainer.py", LEAN,
        "_init_train_context_on_workers", "_decorate_worker_log_file_paths", "_train_run_context", "_storage_context",
        "_worker_callbacks_to_propagate",
    ),
    *doors(
        "ray", "2.60.0", "ray/_private/state.py", "cluster/leaving.py", "a run does not save before its node goes: Ray lists those here alone",
        "_private", "get_draining_nodes",
    ),
    *doors(
        "ray", "2.60.0", "ray/train/v2/api/data_parallel_trainer.py", "jobs/elastic.py",
        "a lost node costs Ray's minute of waiting, and workers end without a checkpoint where others join: Ray Train takes no policy",
        "_internal", "_initialize_and_run_controller",
    ),
    *doors(
        "ray", "2.60.0", "ray/train/v2/_internal/exceptions.py", "jobs/worker.py",
        "errors that no retry would cure are retried: what a worker raised comes wrapped, and Ray exports no way to unwrap it", "_base_exc",
    ),
    *doors(
        "datasets", "5.2.0", "datasets/arrow_dataset.py", "genlib/data/importers/huggingface.py",
        "an interrupted conversion goes on with another set of the same length; a data set has no other name for what it holds", "_fingerprint",
    ),
    *doors("tyro", "1.0.17", "tyro/_errors.py", "jobs/option_errors.py", "wrong words come back in tyro's box", "_errors", "on_parse_error"),
)  # fmt: skip


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__") and name not in DOCUMENTED


def owner_of(node: ast.Attribute) -> str:
    """The name that an attribute is of; empty where it is of more than a name."""
    owner = node.value.func if isinstance(node.value, ast.Call) else node.value
    return owner.id if isinstance(owner, ast.Name) else ""


def private_names(path: Path) -> Iterator[str]:
    """Private names that a file uses of what is not its own; its own are those that it has of `self`."""
    nodes = list(ast.walk(ast.parse(path.read_text())))
    attributes = [node for node in nodes if isinstance(node, ast.Attribute) and is_private(node.attr)]
    own = {node.attr for node in attributes if owner_of(node) in ("self", "cls", "super")}
    yield from (node.attr for node in attributes if node.attr not in own)
    for node in nodes:
        if isinstance(node, ast.ImportFrom):
            yield from filter(is_private, (node.module or "").split("."))
            yield from filter(is_private, (alias.name for alias in node.names))
        elif isinstance(node, ast.Import):
            yield from filter(is_private, (part for alias in node.names for part in alias.name.split(".")))
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("getattr", "setattr", "hasattr"):
            name = node.args[1]
            if isinstance(name, ast.Constant) and is_private(str(name.value)):
                yield name.value


def test_no_file_uses_a_private_name_that_is_not_listed() -> None:
    listed = {(door.used, door.name) for door in DOORS}
    paths = [path for folder in SCANNED for path in sorted((ROOT / folder).rglob("*.py"))]
    found = {(path.relative_to(ROOT).as_posix(), name) for path in paths for name in private_names(path)}
    assert sorted(found - listed) == [], "list it here, with what breaks, or use a public name"


@pytest.mark.parametrize("door", DOORS, ids=lambda door: f"{door.library} {door.name}")
def test_the_name_is_used_and_the_library_still_has_it(door: PrivateDoor) -> None:
    assert re.search(rf"\b{door.name}\b", (ROOT / door.used).read_text()), "nobody uses it any more: take it off the list"
    source = Path(get_path("purelib"), door.source)
    installed = version(door.library)
    known = installed == door.version or installed.startswith(f"{door.version}.")
    assert known, f"{door.library} is {installed} and was looked at as {door.version}; without {door.name} this breaks: {door.breaks}"
    inside = source.exists() and (door.name in door.source or door.name.encode() in source.read_bytes())
    assert inside, f"{door.library} {installed} has no {door.name} in {door.source}; this breaks: {door.breaks}"
