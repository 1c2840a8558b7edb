"""`genlib cluster validate [FILE...]`: holds files for clusters against their schemas and the code, and says each fault in a sentence.

A file is one of Ray's launcher, a task of SkyPilot, a manifest of Kubernetes, a configuration of Ray Serve, a Dockerfile or its lock of packages;
which one, its content says. A folder stands for those in it; without a name it is infra/. Nothing is started and no cloud is asked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from genlib.plurals import counted
from infra.checks import images, kubernetes, launcher, serve_config, skypilot
from infra.checks.documents import Fault, Unreadable, documents

FOLDER = Path(__file__).parent
PATTERNS = ("*.yaml", "Dockerfile", "*.lock")
USAGE = "usage: genlib cluster validate [FILE...]\n\n" + (__doc__ or "").partition("\n\n")[2].rstrip()
KINDS: dict[str, tuple[Callable[[Any], Iterator[Fault]], frozenset[str]]] = {
    "a manifest of Kubernetes": (kubernetes.faults, frozenset({"apiVersion", "kind", "metadata", "spec"})),
    "a file of Ray's launcher": (
        launcher.faults,
        frozenset({"cluster_name", "provider", "available_node_types", "head_node_type", "max_workers", "auth", "setup_commands", "docker"}),
    ),
    "a task of SkyPilot": (skypilot.faults, frozenset({"resources", "run", "setup", "num_nodes", "envs", "workdir", "secrets", "file_mounts"})),
    "a configuration of Ray Serve": (serve_config.faults, frozenset({"applications", "http_options"})),
}
"""By what they hold, each with keys of which it has several where another has none."""


def main(words: Sequence[str]) -> int:
    """Prints what is wrong, a line a fault; the exit code: 0 where nothing is, else 1."""
    if words and words[0] in ("-h", "--help"):
        print(USAGE)
        return 0
    if option := next((word for word in words if word.startswith("-")), ""):
        raise ValueError(f"there is no option {option}; `genlib cluster validate` takes files")
    paths = [path for word in words or [FOLDER] for path in files_of(Path(word))]
    wrong = 0
    for path in paths:
        for fault in faults(path):
            print(f"{path}: {fault}")
            wrong += 1
    print(f"{counted(wrong, 'fault')} in {counted(len(paths), 'file')}" if wrong else f"{counted(len(paths), 'file')} valid")
    return 1 if wrong else 0


def files_of(path: Path) -> list[Path]:
    """The file itself, or those in a folder that are of a kind."""
    return sorted(one for pattern in PATTERNS for one in path.glob(pattern)) or [path] if path.is_dir() else [path]


def faults(path: Path) -> list[Fault]:
    """What is wrong with a file."""
    if not path.is_file():
        return [Fault((), f"has no file that is checked: {', '.join(PATTERNS)}" if path.is_dir() else "is no file")]
    if path.name.startswith("Dockerfile") or path.suffix == ".Dockerfile":
        return list(images.dockerfile(path))
    if path.suffix == ".lock":
        return list(images.lock(path))
    try:
        found = documents(path)
    except Unreadable as error:
        return [Fault((), str(error))]
    if not found:
        return [Fault((), "is empty")]
    several = len(found) > 1
    return [_of(number, fault) if several else fault for number, one in enumerate(found, 1) for fault in of_document(one)]


def of_document(value: Any) -> Iterator[Fault]:
    """What is wrong with a document, by what its keys say that it is."""
    if not isinstance(value, dict):
        yield Fault((), "holds no mapping, and is none of: " + ", ".join(KINDS))
        return
    score = {name: len(keys & value.keys()) for name, (_, keys) in KINDS.items()}
    best = max(score, key=lambda name: score[name])
    if not score[best]:
        yield Fault((), f"is none of what is checked: {', '.join(KINDS)}; its keys are {', '.join(map(str, value))[:100]}")
        return
    yield from KINDS[best][0](value)


def _of(number: int, fault: Fault) -> Fault:
    return Fault((), f"document {number}: {fault}")
