"""What a checkpoint is of, and whether its files are those that were written."""

from __future__ import annotations

import functools
import hashlib
import importlib
import json
import platform
import re
import stat
import subprocess
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from genlib import trusted_packages
from genlib.config import Config, TaskConfig, from_json, to_json
from genlib.json_text import json_text
from genlib.task import Task
from genlib.types import DataSpec

FORMAT = 2
_WITHOUT_DIGEST = 1
"""The format before, in which nothing tells whether the manifest itself is whole; it is still read."""
MANIFEST, DIGEST = "manifest.json", "manifest.sha256"
WEIGHTS, EMA = "weights", "ema"
"""Stems of the names of files, see `tensor_files`."""
_NOT_OURS = {MANIFEST, DIGEST, ".gitattributes"}
"""Files of a checkpoint or export that a manifest does not list; a model hub adds the last one."""
_LARGEST_MANIFEST = 64 << 20
"""Bytes; one of ten thousand files and a hundred upstream tasks has two million."""


class OtherFormat(ValueError):
    """A manifest that is whole, of a format that this version does not read: no damage."""


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
        """The blueprint of such a task. ValueError where the class is of a package whose checkpoints would not be opened."""
        kind = f"{type(config).__module__}:{type(config).__qualname__}"
        trusted_packages.check_trusted(type(config).__module__, f"the task is of {kind!r}")
        return Blueprint(kind=kind, task=to_json(config), spec=spec, upstream=dict(upstream))

    def build(self) -> Task:
        """A new task with fresh weights. ValueError where the class is of no trusted package."""
        upstream = {role: blueprint.build() for role, blueprint in self.upstream.items()}
        return from_json(self.config_class(), self.task).build(self.spec, upstream)

    def config_class(self) -> type[TaskConfig]:
        """The class `kind` names. A manifest is data: what it may name is decided by `genlib.trusted_packages`, before anything is imported."""
        module, _, name = self.kind.partition(":")
        trusted_packages.check_trusted(module, f"the checkpoint is of {self.kind!r}")
        if module.startswith("genlib."):
            try:
                found = getattr(importlib.import_module(module), name, None)
            except ModuleNotFoundError:
                found = None
        else:
            found = getattr(trusted_packages.imported(module, f"the checkpoint is of {self.kind!r}"), name, None)
        if not (isinstance(found, type) and issubclass(found, TaskConfig)):
            owner = "this version of genlib" if module.startswith("genlib.") else f"the package {module.partition('.')[0]!r} here"
            raise ValueError(f"the checkpoint is of {self.kind!r}, which {owner} does not have; use the version that wrote it")
        return found


@dataclass(frozen=True, kw_only=True, slots=True)
class DataState(Config):
    """Where the order of samples stands."""

    digest: str
    """Of the training data."""
    order_version: int
    seed: int
    global_batch: int
    """Samples a step."""
    micro_batch: int
    """Samples of one micro-batch over all ranks."""
    position: int
    """Samples used so far, over all epochs."""
    epoch: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest(Config):
    """What a checkpoint is of."""

    format: int = FORMAT
    recipe: str
    stage: str
    blueprint: Blueprint
    train: dict[str, Any]
    data: dict[str, Any]
    data_state: DataState
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
    def weights_digest(self) -> str:
        """Of the weights that are used, the moving average where there is one; of an export that of all its files."""
        for stem in (EMA, WEIGHTS):
            if digest := self.files.get(f"{stem}.safetensors"):
                return digest
            if several := {name: digest for name, digest in self.files.items() if name.startswith(f"{stem}-")}:
                return _digest_of(several)
        return _digest_of(self.files)

    @property
    def finished(self) -> bool:
        """Whether the run reached its end here."""
        return self.step >= self.steps


def _digest_of(files: Mapping[str, str]) -> str:
    return hashlib.sha256("".join(f"{digest}  {name}\n" for name, digest in sorted(files.items())).encode()).hexdigest()


@functools.cache
def versions() -> dict[str, str]:
    """Versions of what produced the numbers."""
    from importlib.metadata import version

    return {"python": platform.python_version(), **{name: version(name) for name in ("torch", "genlib", "safetensors", "numpy")}}


@functools.cache
def git_commit() -> str:
    """The commit of the code that this process loaded, with `+` where the working tree differs; empty where there is no git."""
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


def step_of(name: str) -> int | None:
    """The step of a checkpoint's folder name, the inverse of `step_name`; None for every other name."""
    found = re.fullmatch(r"step_([0-9]{8,18})", name)
    return int(found[1]) if found and step_name(int(found[1])) == name else None


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Writes the manifest, and its own sha256 in a file that `sha256sum --check` reads."""
    data = json_text(to_json(manifest), indent=1).encode()
    (folder / MANIFEST).write_bytes(data)
    (folder / DIGEST).write_text(_digest_line(data))


def _digest_line(data: bytes) -> str:
    return f"{hashlib.sha256(data).hexdigest()}  {MANIFEST}\n"


def read_manifest(checkpoint: Path) -> Manifest:
    """The manifest, whole as it was written; the other files are not looked at. ValueError in one sentence otherwise, whatever is wrong."""
    return _in_one_sentence(_read_manifest, checkpoint)


def verify(checkpoint: Path) -> Manifest:
    """The manifest of a checkpoint whose every file has its sha256. ValueError in one sentence otherwise, whatever is wrong."""
    return _in_one_sentence(_verify, checkpoint)


def _in_one_sentence(read: Callable[[Path], Manifest], checkpoint: Path) -> Manifest:
    """Damage shows in many ways: a failing disk, JSON of any depth, fields of other kinds. All of them say the same."""
    try:
        return read(checkpoint)
    except ValueError:
        raise
    except Exception as error:
        said = str(error).splitlines()[0] if str(error) else ""
        raise ValueError(f"{checkpoint} cannot be read ({type(error).__name__}{said and ': '}{said})") from None


def _read_manifest(checkpoint: Path) -> Manifest:
    data = _contents(checkpoint, MANIFEST)
    if (checkpoint / DIGEST).exists() and _contents(checkpoint, DIGEST) != _digest_line(data).encode():
        raise ValueError(f"{checkpoint}: {MANIFEST} is damaged (its sha256 is not that of {DIGEST})")
    try:
        values = json.loads(data)
    except ValueError as error:
        raise ValueError(f"{checkpoint} is no checkpoint: its {MANIFEST} cannot be read ({type(error).__name__})") from None
    version = values.get("format") if isinstance(values, dict) else None
    if version != _WITHOUT_DIGEST and not (checkpoint / DIGEST).exists():
        raise ValueError(f"{checkpoint}: {DIGEST} is missing")
    if version not in (FORMAT, _WITHOUT_DIGEST):
        kind = OtherFormat if isinstance(version, int) and version > FORMAT else ValueError
        raise kind(f"{checkpoint} is of another checkpoint format; this version of genlib reads formats {_WITHOUT_DIGEST} and {FORMAT}")
    manifest = from_json(Manifest, values)
    if step_of(checkpoint.name) not in (None, manifest.step):
        raise ValueError(f"{checkpoint} is the checkpoint of step {manifest.step} under another name; call it {step_name(manifest.step)}")
    return manifest


def _contents(checkpoint: Path, name: str) -> bytes:
    """A small file's bytes; never those of a pipe, which would be waited for."""
    try:
        status = (checkpoint / name).stat()
    except OSError as error:
        raise ValueError(f"{checkpoint} is no checkpoint: its {name} cannot be read ({type(error).__name__})") from None
    if not stat.S_ISREG(status.st_mode) or status.st_size > _LARGEST_MANIFEST:
        raise ValueError(f"{checkpoint}: {name} is no file of at most {_LARGEST_MANIFEST >> 20} MB")
    return (checkpoint / name).read_bytes()


def _verify(checkpoint: Path) -> Manifest:
    manifest = read_manifest(checkpoint)
    present = {str(path.relative_to(checkpoint)) for path in checkpoint.rglob("*") if not path.is_dir()} - _NOT_OURS
    if present != set(manifest.files):
        odd = sorted(present ^ set(manifest.files))[0]
        raise ValueError(f"{checkpoint}: {odd} is {'not in the manifest' if odd in present else 'missing'}")
    if odd := next((name for name in sorted(present) if not (checkpoint / name).is_file()), None):
        raise ValueError(f"{checkpoint}: {odd} is no file")
    with ThreadPoolExecutor() as pool:
        sums = pool.map(lambda name: sha256(checkpoint / name), manifest.files)
        for (name, expected), found in zip(manifest.files.items(), sums, strict=True):
            if found != expected:
                raise ValueError(f"{checkpoint}: {name} is damaged (its sha256 is not the manifest's)")
    return manifest
