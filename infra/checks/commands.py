"""Commands inside files: that their program exists, takes their options, and that what they ask for has a place."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module

from cluster.preflight import fit_on, words
from genlib.program import PROGRAM, VERBS
from infra.checks.documents import At, Fault, instead

INSTALLED = "/opt/genlib"
"""Where the image has the code."""
SCRIPTS = {verb.script.removeprefix("python "): name for name, verb in VERBS.items() if verb.script}
TRAINING = ("train", "clip", "sdxl", "stylegan")


@dataclass(frozen=True, slots=True)
class Node:
    """Nodes of one kind."""

    most: int
    resources: Mapping[str, float]


def of_command(text: str, at: At, nodes: Sequence[Node], installed: str = INSTALLED) -> Iterator[Fault]:
    """What is wrong with a command of ours that runs where the code is in `installed`."""
    try:
        typed = [word for word in shlex.split(text) if not re.fullmatch(r"[A-Z_]+=.*", word)]
    except ValueError as error:
        yield Fault(at, f"is no command: {error}")
        return
    verb, rest, wrong = _program(typed, installed)
    if wrong:
        yield Fault(at, wrong)
        return
    try:
        command = _parsed(verb, rest)
    except ValueError as error:
        yield Fault(at, f"says {' '.join(typed[:2])} with words that it refuses: {error}")
        return
    if command is None:
        return
    gpus = command.options.gpus_per_worker
    each = {"CPU": command.options.cpus_per_worker, "GPU": float(any(node.resources.get("GPU") for node in nodes)) if gpus is None else gpus}
    least, room = command.options.worker_range[0], fit_on([node.resources for node in nodes for _ in range(node.most)], each)
    if nodes and room < least:
        yield Fault(
            at, f"asks for {least} workers of {words(each)} each, and the nodes of this file hold {room}; ask for fewer, or raise their number"
        )


def _program(typed: Sequence[str], installed: str) -> tuple[str, Sequence[str], str]:
    """The verb, its words, and what is wrong where there is none."""
    prefix = f"{installed}/" if installed else ""
    if typed[:1] == [PROGRAM]:
        verb = typed[1] if len(typed) > 1 else ""
        return verb, typed[2:], "" if verb in VERBS else f"runs `{PROGRAM} {verb}`, which does not exist.{instead(verb, VERBS)}"
    if typed[:1] not in (["python"], ["python3"]) or len(typed) < 2:
        return "", (), f"runs {' '.join(typed[:1]) or 'nothing'!r}; begin with `python {prefix}jobs/...` or `{PROGRAM}`"
    if typed[1] == "-m":
        module = typed[2] if len(typed) > 2 else ""
        verb = SCRIPTS.get(f"-m {module}", "")
        return verb, typed[3:], "" if verb else f"runs the module {module!r}, which is no command.{instead(f'-m {module}', SCRIPTS)}"
    script = typed[1].removeprefix(prefix)
    if script in SCRIPTS and typed[1] == f"{prefix}{script}":
        return SCRIPTS[script], typed[2:], ""
    near = instead(script, [name for name in SCRIPTS if name.startswith("jobs/")])
    return "", (), f"runs {typed[1]}, which does not exist{f': the image has the code in {installed}' if prefix else ''}.{near}"


def _parsed(verb: str, rest: Sequence[str]):
    """The command, where it is a training; None of another one, whose options are known by name alone. ValueError where it is refused."""
    from jobs import command_line

    if verb in TRAINING:
        words_of: Callable[[Sequence[str]], list[str]] = (
            _plain if verb == "train" else import_module(VERBS[verb].target.partition(":")[0]).train_words
        )
        if shows := next((word for word in rest if word in ("-h", "--help", "--list")), ""):
            raise ValueError(f"with {shows} it trains nothing")
        return command_line.parse(words_of(rest))
    for word in rest:
        name = word.partition("=")[0].replace("_", "-")
        if name.startswith("--") and name != "--" and (known := _options(verb)) and name not in known:
            raise ValueError(f"there is no option {word.partition('=')[0]}.{instead(name, known)}")
    return None


def _plain(rest: Sequence[str]) -> list[str]:
    return list(rest)


@cache
def _options(verb: str) -> tuple[str, ...]:
    """In the verb's help; of a verb with several forms, whose first help says none, nothing."""
    from jobs.completion import said_by

    return said_by(verb)


@cache
def _start_options() -> tuple[str, ...]:
    from ray.scripts.scripts import start

    return tuple(name for parameter in start.params for name in (*parameter.opts, *parameter.secondary_opts) if name.startswith("--"))


def wrong_start_option(name: str) -> str:
    """What is wrong with an option of `ray start`; empty where it is one."""
    return "" if name in _start_options() else f"{name}, an option that `ray start` does not have.{instead(name, _start_options())}"


def ray_start(text: str) -> list[str] | None:
    """The options of the last `ray start` in a line of shell; None where there is none."""
    found = re.findall(r"\bray start\b([^;&|\n]*)", text)
    return re.findall(r"--[\w-]+(?:=(?:\"[^\"]*\"|\S+))?", found[-1]) if found else None
