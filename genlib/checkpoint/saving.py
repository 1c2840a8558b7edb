"""Writing a checkpoint: beside its name, fsynced, renamed."""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from torch import Tensor

from genlib import distributed
from genlib.checkpoint.history import checkpoints, clear, remove, set_aside
from genlib.checkpoint.manifest import DIGEST, EMA, FORMAT, MANIFEST, WEIGHTS, Manifest, sha256, step_name, verify, write_manifest
from genlib.checkpoint.tensor_files import write_tensors
from genlib.config import TaskConfig, TrainConfig, to_json
from genlib.storage import share


def save(
    folder: Path, manifest: Manifest, weights: Mapping[str, Tensor], ema: Mapping[str, Tensor] | None, save_rank_state: Callable[[Path], None]
) -> Path:
    """Writes checkpoint `step_XXXXXXXX` into `folder`, which all ranks see; all ranks call it, weights and ema are rank 0's.

    OSError on every rank if any rank could not write; what was written is removed. ValueError where weights are not finite.
    """
    final = folder / step_name(manifest.step)
    partial = folder / f".{final.name}.partial"
    if distributed.rank() == 0:
        clear(partial)
    if refusal := distributed.broadcast_object(not_finite(weights)):  # also keeps other ranks from writing before the folder is clean
        raise ValueError(refusal)
    problem = _attempt(lambda: _write(partial, weights, ema, save_rank_state))
    problems = distributed.all_gather_object(problem)
    if not any(problems) and distributed.rank() == 0:
        problems = [_attempt(lambda: _seal(partial, final, manifest))]
    problems = distributed.broadcast_object(problems)
    if any(problems):
        if distributed.rank() == 0:
            clear(partial)
        raise OSError(f"checkpoint {final.name} could not be written to {folder}: {next(filter(None, problems))}")
    return final


def inherit(donor: Path, folder: Path, task: TaskConfig, train: TrainConfig) -> Path:
    """Makes a verified checkpoint of another run with other settings the newest of `folder`, as if it had been trained there with these.

    Weights, moving average, optimizer state and position stay; what was in `folder` goes. One process alone.
    """
    verify(donor)
    final, partial = folder / donor.name, folder / f".{donor.name}.partial"
    clear(partial)
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copytree(donor, partial)
    manifest = verify(partial)  # before the files are hashed anew: the donor's run goes on meanwhile, and a copy may go wrong
    blueprint = dataclasses.replace(manifest.blueprint, task=to_json(task))
    for name in (MANIFEST, DIGEST):
        (partial / name).unlink(missing_ok=True)
    for path in checkpoints(folder):
        remove(path)
    _seal(partial, final, dataclasses.replace(manifest, blueprint=blueprint, train=to_json(train), format=FORMAT))
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
    for folder in (partial, partial / "state"):
        folder.mkdir(exist_ok=True)  # without parents: the folder of a run that was removed is not made again
    path = partial / "state" / f"rank_{distributed.rank():05d}.safetensors"
    save_rank_state(path)
    _sync(path)
    if distributed.rank() == 0:
        for stem, tensors in ((WEIGHTS, weights), (EMA, ema)):
            for path in write_tensors(tensors, partial, stem) if tensors is not None else ():
                _sync(path)


def seal_export(folder: Path, manifest: Manifest) -> None:
    """Makes an export verify as a checkpoint does, whose task `load_pretrained` fills: of the files that lie in its folder."""
    for name in (MANIFEST, DIGEST):
        (folder / name).unlink(missing_ok=True)
    share(folder)
    write_manifest(folder, dataclasses.replace(manifest, files=_digests(folder), format=FORMAT))


def _digests(folder: Path) -> dict[str, str]:
    """sha256 of every file below it."""
    names = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    with ThreadPoolExecutor() as pool:
        return dict(zip(names, pool.map(lambda name: sha256(folder / name), names), strict=True))


def _seal(partial: Path, final: Path, manifest: Manifest) -> None:
    """Hashes, manifest last, rename. What stands in the place, which no run would have left there, is kept under another name."""
    files = _digests(partial)
    share(partial)
    write_manifest(partial, dataclasses.replace(manifest, files=files))
    for path in (partial / MANIFEST, partial / DIGEST, partial / "state", partial):
        _sync(path)
    if os.path.lexists(final):
        set_aside(final, "a new checkpoint takes its place")
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
