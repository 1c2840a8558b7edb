"""Checkpoints: a folder is whole or does not exist.

    step_00012000/
      manifest.json          what it is of, and sha256 of every other file
      manifest.sha256        that of the manifest; written last
      weights.safetensors    full fp32 state of the task, the same from any strategy; above 5 GB in several files with an index
      ema.safetensors        its average, where the run or its optimizer keeps one
      state/                 what only resume reads: optimizer shards

Written beside its name, fsynced, renamed. A folder that does not verify is passed over for the newest one that does. In an object store the same
files lie under the same names (`stored`).
"""

from genlib.checkpoint.bringing import bring
from genlib.checkpoint.fetched import bring_newest, copy_folder, fetched, names_in
from genlib.checkpoint.history import History, checkpoints, find, newest, set_aside
from genlib.checkpoint.loading import fill, fill_shards, is_export, load_into, load_task, load_weights, task_of
from genlib.checkpoint.manifest import (
    FORMAT,
    Blueprint,
    DataState,
    Manifest,
    git_commit,
    read_manifest,
    sha256,
    step_name,
    step_of,
    verify,
    versions,
    write_manifest,
)
from genlib.checkpoint.saving import Snapshot, inherit, save, seal_export
from genlib.checkpoint.stored import Mirror, StoredHistory, note_newest, sealed
from genlib.checkpoint.tensor_files import Shard

__all__ = [
    "FORMAT",
    "Blueprint",
    "DataState",
    "History",
    "Manifest",
    "Mirror",
    "Shard",
    "Snapshot",
    "StoredHistory",
    "bring",
    "bring_newest",
    "checkpoints",
    "copy_folder",
    "fetched",
    "fill",
    "fill_shards",
    "find",
    "git_commit",
    "inherit",
    "is_export",
    "load_into",
    "load_task",
    "load_weights",
    "names_in",
    "newest",
    "note_newest",
    "read_manifest",
    "save",
    "seal_export",
    "sealed",
    "set_aside",
    "sha256",
    "step_name",
    "step_of",
    "task_of",
    "verify",
    "versions",
    "write_manifest",
]
