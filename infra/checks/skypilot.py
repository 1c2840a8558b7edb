"""Tasks of SkyPilot, by a schema of ours: SkyPilot itself is no dependency."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from genlib.config import nearest
from infra.checks import schema
from infra.checks.commands import Node, of_command, ray_start, wrong_start_option
from infra.checks.documents import Fault, entries, inside
from infra.checks.facts import ROOT, SECRET, wrong_image, wrong_variable

OF = "SkyPilot 0.14.1"
_SHELL = ("HOME", "PATH", "USER", "PWD", "HOSTNAME", "SHELL", "RANDOM")
_ENOUGH = 1e6
"""CPUs of a node, where the file does not say how many there are."""


def faults(file: Any) -> Iterator[Fault]:
    """What is wrong with a task: what its schema refuses; where that is nothing, what does not agree."""
    if refused := schema.faults({**schema.own("skypilot"), "$ref": "#/$defs/Task"}, file, OF):
        yield from refused
        return
    for name, _ in entries(file.get("envs")):
        if wrong := wrong_variable(name):
            yield Fault(("envs", name), wrong)
        if SECRET.search(name):
            yield Fault(("envs", name), "is in envs, whose values SkyPilot shows; move it to secrets")
    if "GENLIB_RUNS" not in (file.get("envs") or ()):
        yield Fault(("envs",), "lacks GENLIB_RUNS, the folder of runs, which has to be on a file system that outlives the nodes")
    for name, value in entries(file.get("secrets")):
        if value:
            yield Fault(("secrets", name), "is written into the file; write null, and give it with --secret")
    run = file.get("run")
    if isinstance(run, str):
        yield from _run(file, run)
    yield from _unset(file)
    setup = file.get("setup")
    for name in re.findall(r"(?:-r|--requirement)[ =](\S+)", setup) if isinstance(setup, str) else ():
        if not (ROOT / name).is_file():
            yield Fault(("setup",), f"installs what {name} names, and there is no such file")
    image = inside(file, "resources", "image_id")
    if isinstance(image, str) and image.startswith("docker:") and (wrong := wrong_image(image.removeprefix("docker:"))):
        yield Fault(("resources", "image_id"), wrong)


def _unset(file: dict[str, Any]) -> Iterator[Fault]:
    """Variables that a script uses and nothing sets."""
    for where in ("setup", "run"):
        text = file.get(where) or ""
        known = {*(file.get("envs") or ()), *(file.get("secrets") or ()), *re.findall(r"\b([A-Z][A-Z0-9_]*)=", text), *_SHELL}
        for name in dict.fromkeys(re.findall(r"\$\{?([A-Z][A-Z0-9_]*)", text)):
            if name not in known and not name.startswith("SKYPILOT_"):
                yield Fault((where,), f"uses ${name}, which neither envs nor secrets nor the script sets.{nearest(name, sorted(known))}")


def _run(file: dict[str, Any], run: str) -> Iterator[Fault]:
    count, accelerators = file.get("num_nodes", 1), inside(file, "resources", "accelerators")
    gpus = re.fullmatch(r"[\w-]+(?::(\d+))?", accelerators) if isinstance(accelerators, str) else None
    nodes = [Node(count, {"CPU": _ENOUGH, "GPU": float(gpus[1] or 1)})] if gpus and isinstance(count, int) else []
    heads = 0
    for line in run.splitlines():
        command = line.strip()
        if re.match(r"(?:[A-Z_]+=\S+ )*(python3? (?:\S*jobs/|-m )|genlib )", command):
            yield from of_command(command, ("run",), nodes, installed="")
        options = ray_start(line)
        for option in options or ():
            if wrong := wrong_start_option(option.partition("=")[0]):
                yield Fault(("run",), f"calls `ray start` with {wrong}")
        heads += bool(options and "--head" in options)
    if heads and (inside(file, "envs", "RAY_AUTH_MODE") != "token" or "RAY_AUTH_TOKEN" not in (file.get("secrets") or ())):
        yield Fault(
            (),
            "starts Ray without a token, and whoever reaches a node runs code on it; write RAY_AUTH_MODE: token in envs, RAY_AUTH_TOKEN in secrets",
        )
