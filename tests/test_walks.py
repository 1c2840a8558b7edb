"""The drawing and the walks in CONTRIBUTING.md: what they name is there, and what is there is drawn."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "CONTRIBUTING.md").read_text()
WALKS = ("A batch, from tar to gradient", "A request, from JSON to pixels")
HOP = re.compile(r"\d+\. `(?P<path>[\w/]+\.py)::(?P<name>[\w.]+)` — (?P<what>\S.*)")


def hops(title: str) -> list[re.Match[str]]:
    """The numbered lines under a heading, each a hop."""
    section = re.split(r"\n#+ ", TEXT.split(f"### {title}\n")[1])[0]
    lines = [line for line in section.splitlines() if re.match(r"\d+\.", line)]
    found = [HOP.fullmatch(line) for line in lines]
    assert all(found), f"each line is `path::name` — what happens there: {lines[found.index(None)]}"
    return [hop for hop in found if hop]


def defined(path: Path, name: str) -> bool:
    """Whether a file defines a function or class of that dotted name."""
    body: list[ast.stmt] = ast.parse(path.read_text()).body
    for part in name.split("."):
        kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
        node = next((node for node in body if isinstance(node, kinds) and node.name == part), None)
        if node is None:
            return False
        body = node.body
    return True


@pytest.mark.parametrize("title", WALKS)
def test_a_walk_has_at_most_ten_hops_and_each_is_there(title: str) -> None:
    walk = hops(title)
    assert 1 < len(walk) <= 10
    for hop in walk:
        path = ROOT / hop["path"]
        assert path.is_file(), hop["path"]
        assert defined(path, hop["name"]), f"{hop['path']} has no {hop['name']}"


def packages(folder: str) -> set[str]:
    """Names of the folders in a folder that hold files of the product."""
    return {path.name for path in (ROOT / folder).glob("[!_.]*/") if any(file.is_file() for file in path.glob("[!_.]*.*"))}


def test_the_drawing_shows_every_package() -> None:
    drawing = TEXT.split("## The house\n")[1].split("```\n")[1]
    lines = drawing.splitlines()
    assert len(lines) <= 40
    assert max(map(len, lines)) <= 100
    drawn = set(re.findall(r"(\w+)/", drawing))
    folders = {"genlib", "jobs", "serve", "cluster", "tune_spaces", "tests", "infra"}
    assert folders | packages("genlib") | packages("genlib/data") | packages("serve") <= drawn
    files = set(re.findall(r"\b(\w+\.py)\b", drawing))
    known = {path.name for folder in ("genlib", "genlib/data", "serve") for path in (ROOT / folder).glob("*.py")}
    assert files <= known
