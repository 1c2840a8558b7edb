"""Checkpoints: a folder is whole or does not exist.

    step_00012000/
      manifest.json          what it is of, and sha256 of every other file; written last
      weights.safetensors    full fp32 state of the task, the same from any strategy
      ema.safetensors        its moving average, where the run keeps one
      state/                 what only resume reads: optimizer shards

Written beside its name, fsynced, renamed. A folder whose manifest does not verify is passed over for the newest one that does.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import importlib
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from genlib import distributed
from genlib.config import Config, TaskConfig, TrainConfig, from_json, to_json
from genlib.task import Task, freeze
from genlib.types import DataSpec

FORMAT = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Blueprint(Config):
    """How a task is built: its configuration, the data it was built for, and the same for each upstream task by role."""

    kind: str
    """`module:class` of the configuration."""
    task: dict[str, Any]
    spec: DataSpec
    upstream: dict[str, Blueprint] = field(default_factory=dict)

    @staticmethod
    def of(config: TaskConfig, spec: DataSpec, upstream: Mapping[str, Blueprint]) -> Blueprint:
        """The blueprint of such a task."""
        kind = f"{type(config).__module__}:{type(config).__qualname__}"
        return Blueprint(kind=kind, task=to_json(config), spec=spec, upstream=dict(upstream))

    def build(self) -> Task:
        """A new task with fresh weights. ValueError where the class is none of ours."""
        upstream = {role: blueprint.build() for role, blueprint in self.upstream.items()}
        freeze(upstream)
        return from_json(self.config_class(), self.task).build(self.spec, upstream)

    def config_class(self) -> type[TaskConfig]:
        """The class `kind` names; a manifest is data, so it may only name a family's configuration, never import anything else."""
        module, _, name = self.kind.partition(":")
        if module.startswith("genlib.models."):
            with contextlib.suppress(ModuleNotFoundError):
                importlib.import_module(module)
        found = getattr(sys.modules.get(module), name, None)
        if not (isinstance(found, type) and issubclass(found, TaskConfig)):
            raise ValueError(f"the checkpoint is of {self.kind!r}, which this version of genlib does not have; use the version that wrote it")
        return found


@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest(Config):
    """What a checkpoint is of."""

    format: int = FORMAT
    recipe: str
    stage: str
    blueprint: Blueprint
    train: dict[str, Any]
    data: dict[str, Any]
    data_state: dict[str, Any]
    """digest, seed, global_batch, micro_batch, position: where the order stands."""
    step: int
    """Steps done."""
    steps: int
    """Steps of the whole run."""
    samples_seen: int
    updates: dict[str, int]
    """Updates applied, by player."""
    skipped: int = 0
    """Updates skipped because a loss or gradient was not finite."""
    seconds: float = 0.0
    """Training time until here, over all restarts."""
    strategy: str = ""
    world: int = 1
    versions: dict[str, str] = field(default_factory=dict)
    git_commit: str = ""
    files: dict[str, str] = field(default_factory=dict)
    """sha256 of every other file, by path in the folder."""

    @property
    def finished(self) -> bool:
        """Whether the run reached its end here."""
        return self.step >= self.steps


def versions() -> dict[str, str]:
    """Versions of what produced the numbers."""
    from importlib.metadata import version

    return {"python": platform.python_version(), **{name: version(name) for name in ("torch", "genlib", "safetensors", "numpy")}}


def git_commit() -> str:
    """The commit of the code that runs, with `+` where the working tree differs; empty where there is no git."""
    root = Path(__file__).resolve().parent
    try:
        commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
        dirty = subprocess.run(["git", "status", "--porcelain"], cwd=root, capture_output=True, text=True, timeout=30, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""
    return commit + ("+" if dirty else "")


def sha256(path: Path) -> str:
    """Of the file's bytes, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def step_name(step: int) -> str:
    """Folder name of the checkpoint after so many steps."""
    return f"step_{step:08d}"


def save(
    folder: Path, manifest: Manifest, weights: Mapping[str, Tensor], ema: Mapping[str, Tensor] | None, save_rank_state: Callable[[Path], None]
) -> Path:
    """Writes checkpoint `step_XXXXXXXX` into `folder`, which all ranks see; all ranks call it, weights and ema are rank 0's.

    OSError on every rank if any rank could not write; what was written is removed. ValueError where weights are not finite.
    """
    final = folder / step_name(manifest.step)
    partial = folder / f".{final.name}.partial"
    if distributed.rank() == 0:
        shutil.rmtree(partial, ignore_errors=True)
    if refusal := distributed.broadcast_object(not_finite(weights)):  # also keeps other ranks from writing before the folder is clean
        raise ValueError(refusal)
    problem = _attempt(lambda: _write(partial, weights, ema, save_rank_state))
    problems = distributed.all_gather_object(problem)
    if not any(problems) and distributed.rank() == 0:
        problems = [_attempt(lambda: _seal(partial, final, manifest))]
    problems = distributed.broadcast_object(problems)
    if any(problems):
        if distributed.rank() == 0:
            shutil.rmtree(partial, ignore_errors=True)
        raise OSError(f"checkpoint {final.name} could not be written to {folder}: {next(filter(None, problems))}")
    return final


def inherit(donor: Path, folder: Path, task: TaskConfig, train: TrainConfig) -> Path:
    """Makes a verified checkpoint of another run with other settings the newest of `folder`, as if it had been trained there with these.

    Weights, moving average, optimizer state and position stay; what was in `folder` goes. One process alone.
    """
    manifest = verify(donor)
    blueprint = dataclasses.replace(manifest.blueprint, task=to_json(task))
    final, partial = folder / donor.name, folder / f".{donor.name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copytree(donor, partial)
    (partial / "manifest.json").unlink()
    for path in checkpoints(folder):
        shutil.rmtree(path)
    _seal(partial, final, dataclasses.replace(manifest, blueprint=blueprint, train=to_json(train)))
    return final


def _attempt(work: Callable[[], None]) -> str:
    """Empty, or what the file system or safetensors said."""
    try:
        work()
    except (OSError, RuntimeError) as error:
        return str(error) or type(error).__name__
    except Exception as error:
        if type(error).__name__ == "SafetensorError":  # raised for a full disk too
            return str(error)
        raise
    return ""


def _write(partial: Path, weights: Mapping[str, Tensor], ema: Mapping[str, Tensor] | None, save_rank_state: Callable[[Path], None]) -> None:
    (partial / "state").mkdir(parents=True, exist_ok=True)
    path = partial / "state" / f"rank_{distributed.rank():05d}.safetensors"
    save_rank_state(path)
    _sync(path)
    if distributed.rank() == 0:
        for name, tensors in (("weights", weights), ("ema", ema)):
            if tensors is not None:
                save_file(dict(tensors), partial / f"{name}.safetensors")
                _sync(partial / f"{name}.safetensors")


def _seal(partial: Path, final: Path, manifest: Manifest) -> None:
    """Hashes, manifest last, rename."""
    names = sorted(str(path.relative_to(partial)) for path in partial.rglob("*") if path.is_file())
    with ThreadPoolExecutor() as pool:
        files = dict(zip(names, pool.map(lambda name: sha256(partial / name), names), strict=True))
    text = json.dumps({**to_json(manifest), "files": files}, indent=1)
    (partial / "manifest.json").write_text(text)
    _sync(partial / "manifest.json")
    for directory in (partial / "state", partial):
        _sync(directory)
    shutil.rmtree(final, ignore_errors=True)  # only a folder that does not verify can stand there
    os.rename(partial, final)
    _sync(final.parent)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def not_finite(weights: Mapping[str, Tensor]) -> str:
    """A sentence naming the first weight with a value that is not finite; empty where all are finite."""
    for name, value in weights.items():
        if value.is_floating_point() and not value.isfinite().all():
            return f"weight {name} has values that are not finite, so the checkpoint is not saved; lower the learning rate or clip gradients"
    return ""


def read_manifest(checkpoint: Path) -> Manifest:
    """The manifest, not yet verified. ValueError in one sentence where there is none or it is of another format."""
    try:
        values = json.loads((checkpoint / "manifest.json").read_text())
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{checkpoint} is no checkpoint: its manifest.json cannot be read ({type(error).__name__})") from None
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        raise ValueError(f"{checkpoint} is of another checkpoint format; this version of genlib reads format {FORMAT}")
    return from_json(Manifest, values)


def verify(checkpoint: Path) -> Manifest:
    """The manifest of a checkpoint whose every file has its sha256. ValueError names what is wrong otherwise."""
    manifest = read_manifest(checkpoint)
    present = {str(path.relative_to(checkpoint)) for path in checkpoint.rglob("*") if path.is_file() and path.name != "manifest.json"}
    if present != set(manifest.files):
        odd = sorted(present ^ set(manifest.files))[0]
        raise ValueError(f"{checkpoint}: {odd} is {'not in the manifest' if odd in present else 'missing'}")
    with ThreadPoolExecutor() as pool:
        sums = pool.map(lambda name: sha256(checkpoint / name), manifest.files)
        for (name, expected), found in zip(manifest.files.items(), sums, strict=True):
            if found != expected:
                raise ValueError(f"{checkpoint}: {name} is damaged (its sha256 is not the manifest's)")
    return manifest


def checkpoints(folder: Path) -> list[Path]:
    """Checkpoint folders in `folder`, newest first, not verified."""
    return sorted((path for path in folder.glob("step_*") if path.is_dir()), reverse=True)


def newest(folder: Path, say: Callable[[str], None] = lambda text: print(text, file=sys.stderr)) -> tuple[Path, Manifest] | None:
    """The newest checkpoint that verifies, or None; says which newer ones do not and why."""
    for path in checkpoints(folder):
        try:
            return path, verify(path)
        except ValueError as error:
            say(f"passing over a checkpoint that does not verify: {error}")
    return None


def prune(folder: Path, keep: int) -> None:
    """Deletes all but the newest `keep` checkpoints, and what killed saves left."""
    for path in [*checkpoints(folder)[keep:], *folder.glob(".step_*.partial")]:
        shutil.rmtree(path, ignore_errors=True)


def find(folder: Path) -> Path | None:
    """The checkpoint that a user means by a checkpoint's own folder or by that of a run or stage; None where it is neither."""
    if (folder / "manifest.json").is_file():
        return folder
    found = newest(folder / "checkpoints")
    return found[0] if found else None


def load_into(task: Task, checkpoint: Path) -> None:
    """Fills the task with a verified checkpoint's weights, the moving average where there is one. ValueError names the first that does not fit."""
    verify(checkpoint)
    here, there = task.state_dict(), load_weights(checkpoint, ema=True)
    for name in sorted({*here, *there}):
        if name not in here or name not in there:
            odd = f"{name} is {'not in it' if name in here else 'in it alone'}"
            raise ValueError(f"{checkpoint} is of another task: {odd}; name a run of the same kind")
        if here[name].shape != there[name].shape and not name.endswith("_extra_state"):
            raise ValueError(
                f"{checkpoint} is of another size: {name} is {tuple(there[name].shape)} there and {tuple(here[name].shape)} here; "
                "give the task the options it was trained with"
            )
    task.load_state_dict(there)


def load_weights(checkpoint: Path, *, ema: bool = False) -> dict[str, Tensor]:
    """The full state dict, on the CPU; `ema` takes the moving average where there is one."""
    path = checkpoint / "ema.safetensors"
    return load_file(path if ema and path.exists() else checkpoint / "weights.safetensors")


def load_task(checkpoint: Path, *, ema: bool = True, device: torch.device | str = "cpu") -> Task:
    """The trained task in eval mode, from a checkpoint that is verified first."""
    task = verify(checkpoint).blueprint.build()
    task.load_state_dict(load_weights(checkpoint, ema=ema))
    return task.to(device).eval()
