"""The pages for users: their links lead somewhere, their commands and options exist, and the README's own data go in as they are pasted."""

from __future__ import annotations

import os
import re
import shlex
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path

import pytest

from genlib.program import VERBS
from jobs.completion import by_recipe, by_verb

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / name for name in subprocess.run(["git", "ls-files", "*.md"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()]
SCRIPTS = {verb.script: name for name, verb in VERBS.items() if verb.script}
LEAST_PAGES, LEAST_COMMANDS = 11, 40


def commands(page: Path) -> Iterator[str]:
    """Lines of a page's blocks that are commands of ours, without what a block says of them after two spaces; continued lines joined."""
    text = re.sub(r" *\\\n\s*", " ", page.read_text())
    for line in text.splitlines():
        found = re.match(r"(?: {4}|\s*)((?:[A-Z_]+=\S+ )*)((?:ray job submit .*-- )?)(genlib \S.*|python (?:jobs/\w+\.py|-m serve).*)", line)
        if found and line.startswith("    "):
            yield re.split(r"\s{2,}", found[3])[0]


@cache
def cases() -> list[tuple[str, frozenset[str]]]:
    """What follows the first words of a command, as shells complete it."""
    return [(after, frozenset(case.words)) for case in (*by_verb(), *by_recipe()) for after in case.after]


def wrong_in(command: str) -> list[str]:
    """The words of a command that are no verb, no recipe or no option."""
    words = shlex.split(re.sub(r"^python (jobs/\w+\.py|-m serve)", lambda script: f"genlib {SCRIPTS[script[0]]}", command))[1:]
    if words[0] not in VERBS:
        return words[:1]
    before = " ".join(words[:2])
    known = frozenset().union(*(following for after, following in cases() if fnmatchcase(before, after) or after == words[0]))
    if words[0] in ("clip", "sdxl", "stylegan"):  # their recipes are many
        known |= frozenset().union(*(following for after, following in cases() if after.startswith("train")))
    options = [word.partition("=")[0] for word in words[1:] if word.startswith("--") and word != "--"]
    return [one for one in options if one.replace("_", "-") not in {word.replace("_", "-") for word in known} and one not in ("--help", "--list")]


def test_pages_are_found() -> None:
    assert len(PAGES) >= LEAST_PAGES
    assert sum(1 for page in PAGES for _ in commands(page)) >= LEAST_COMMANDS


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files_and_headings(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if "://" in link or link.endswith("..."):
            continue
        name, _, heading = link.partition("#")
        target = (page.parent / name) if name else page
        assert target.exists(), link
        if heading:
            headings = [
                re.sub(r"[^\w\- ]", "", line.lstrip("#").strip().lower()).replace(" ", "-")
                for line in target.read_text().splitlines()
                if line.startswith("#")
            ]
            assert heading in headings, link


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_and_options_exist(page: Path) -> None:
    assert {command: wrong for command in commands(page) if (wrong := wrong_in(command))} == {}


def test_a_wrong_option_is_seen() -> None:
    assert wrong_in("genlib train vae --train.stesp 3") == ["--train.stesp"]
    assert wrong_in("genlib trian vae") == ["trian"]
    assert wrong_in("python jobs/prepare_data.py folder photos --out x --sice 3") == ["--sice"]


def block(name: str) -> list[str]:
    """The lines of a block of the README by the comment above it."""
    return re.findall(r"^    (.+)$", (ROOT / "README.md").read_text().partition(f"<!-- {name} -->\n")[2].partition("\n\n")[0], re.MULTILINE)


@pytest.mark.slow
@pytest.mark.ray
def test_own_data_go_in_as_the_readme_says(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    *lines, serving = block("own data: folder") + block("own data: five lines")
    assert len(lines) == 6
    for line in lines:
        done = subprocess.run(["bash", "-ec", line], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=900)
        assert done.returncode == 0, (line, done.stdout, done.stderr)
        assert "Traceback" not in done.stderr + done.stdout, line
    server = subprocess.Popen([*shlex.split(serving), "--port", str(port)], cwd=tmp_path, env=environment)
    try:
        deadline = time.monotonic() + 300
        listed = b""
        while b'"mine"' not in listed:
            assert time.monotonic() < deadline, f"the model is not served: {listed!r}"
            assert server.poll() is None
            time.sleep(1)
            with suppress(OSError):  # it does not listen yet
                listed = urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/models", timeout=5).read()
    finally:
        server.terminate()
        server.wait(60)
