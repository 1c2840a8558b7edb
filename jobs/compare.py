"""Which of two runs people prefer, without knowing whose is whose: `python jobs/compare.py runs/a runs/b --out comparison`.

    comparison/page.html      one file to send to judges, which opens without a server: pairs of pictures of the same seed, and of the same caption
                              or class where both runs take one; sides are drawn, and nothing in it tells which run drew which
    comparison/key.json       whose is whose: not for judges

Judges choose left, right or neither, can go back and go on another day, and save their answers as a file. Then

    python jobs/compare.py --answers answers-*.json --out comparison

says how often each run was preferred, with an interval over pairs and the sign test's p, and writes comparison/result.json.
"""

from __future__ import annotations

if __name__ == "__main__":  # before imports that take a second
    from cluster.quiet import ends_quietly

    ends_quietly()

import argparse
import base64
import hashlib
import html
import json
import math
import random
import secrets
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cluster.signals import keeps
from genlib import checkpoint
from genlib.config import DataConfig, from_json
from genlib.data.shards.writer import png
from genlib.data.source import open_source
from genlib.files import write_atomically
from genlib.json_text import json_text
from genlib.metrics.conditions import Conditions, conditions, drawing
from genlib.metrics.generative import Measurement, generated
from genlib.plurals import counted
from genlib.program import as_called, command
from genlib.task import Task
from jobs.evaluate import located, whole_number
from jobs.exit_codes import exit_code
from jobs.option_errors import Arguments
from jobs.picture_scores import fitting_split, generator_name
from jobs.run_copy import Named, at_hand, run_argument
from jobs.run_folder import read_json, write_json

PAGE, KEY, RESULT = "page.html", "key.json", "result.json"
TEMPLATE, MARK = Path(__file__).with_name("compare.html"), "/* pairs */"
CHOICES = ("left", "right", "same")
QUESTION = "Which of the two looks better?"
_BATCH, _BOOTSTRAPS = 64, 2000


def asked_of(task: Task, final: Path, count: int) -> Conditions:
    """What the task draws in each pair: captions or classes of its run's own data, or nothing."""
    draw = drawing(task)
    if not (draw.named("texts") or draw.named("label")):
        return Conditions({}, [""] * count)
    manifest = checkpoint.read_manifest(final)
    source = open_source(from_json(DataConfig, manifest.data), needs=manifest.blueprint.config_class().fields)
    return conditions(task, source, fitting_split(source), count)


def drawn(task: Task, name: str, asked: Conditions, seed: int) -> list[bytes]:
    """PNGs without a word of how they came to be, a pair each."""
    pictures = generated(task, Measurement(generator=name, conditions=asked, batch=_BATCH, seed=seed))
    return [png(picture.permute(1, 2, 0).numpy()) for _, pixels in pictures for picture in pixels]


def both_asked(tasks: Sequence[Task], finals: Sequence[Path], count: int) -> list[Conditions]:
    """The same conditions for both. ValueError where they are of unlike kinds."""
    first, second = (drawing(task) for task in tasks)
    for port in ("texts", "label"):
        if bool(first.named(port)) != bool(second.named(port)):
            kinds = [", ".join(one for one in ("texts", "label") if draw.named(one)) or "nothing in particular" for draw in (first, second)]
            raise ValueError(f"the runs draw by unlike things, {kinds[0]} and {kinds[1]}, so their pictures are no pairs; compare runs of like tasks")
    classes = [checkpoint.read_manifest(final).blueprint.spec.class_names for final in finals]
    if first.named("label") and classes[0] != classes[1]:
        raise ValueError("the runs draw by classes of other names, so one word means two things to them; compare runs of one set of classes")
    asked, arguments = asked_of(tasks[0], finals[0], count), {}
    for port in ("texts", "label"):
        mine, other = first.named(port), second.named(port)
        if mine in asked.arguments and other:
            arguments[other] = asked.arguments[mine]
    return [asked, Conditions(arguments, asked.captions)]


def make(runs: Sequence[Named], out: Path, pairs: int, seed: int, question: str) -> dict[str, Any]:
    """Draws both runs' pictures and writes page and key; the key. ValueError where there is a comparison, or none can be made."""
    if (out / KEY).exists():
        raise ValueError(f"{out} holds a comparison, of which judges may have the page; give another --out")
    finals = [located(at_hand(run))[0] for run in runs]
    device = "cuda" if torch.cuda.is_available() else "cpu"
    tasks = [checkpoint.load_task(final, ema=True, device=device) for final in finals]
    names = [generator_name(final) for final in finals]
    asked = both_asked(tasks, finals, pairs)
    pictures = [drawn(task, name, one, seed) for task, name, one in zip(tasks, names, asked, strict=True)]
    sides = random.Random(secrets.randbits(64))
    order = sides.sample(range(pairs), pairs)
    lefts = [sides.randrange(2) for _ in order]
    shown = [
        {"left": _uri(pictures[left][number]), "right": _uri(pictures[1 - left][number]), "caption": asked[0].captions[number]}
        for number, left in zip(order, lefts, strict=True)
    ]
    page = hashlib.sha256(json_text(shown).encode()).hexdigest()[:16]
    content = json_text({"page": page, "question": question, "pairs": shown}).replace("<", "\\u003c")
    key = {
        "page": page, "a": {"run": str(runs[0]), "checkpoint": names[0]}, "b": {"run": str(runs[1]), "checkpoint": names[1]},
        "left": ["ab"[left] for left in lefts], "seed": [seed + number for number in order],
    }  # fmt: skip
    out.mkdir(parents=True, exist_ok=True)
    write_atomically(out / PAGE, TEMPLATE.read_text().replace("QUESTION", html.escape(question)).replace(MARK, f"const SET = {content};").encode())
    write_json(out / KEY, key)
    return key


def _uri(content: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(content).decode()


def read_answers(path: Path, key: Mapping[str, Any]) -> dict[int, str]:
    """A judge's choice by number of the pair. ValueError where the file is not of this page, or holds something else."""
    try:
        found = json.loads(path.read_text())
        page, answers = found["page"], {int(number): choice for number, choice in found["answers"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise ValueError(f"{path} is no file of answers; name what the page saves") from None
    if page != key["page"]:
        raise ValueError(f"{path} answers another page, {page}, and this comparison's is {key['page']}; name its own answers")
    wrong = next((number for number, choice in answers.items() if choice not in CHOICES or not 0 <= number < len(key["left"])), None)
    if wrong is not None:
        raise ValueError(f"{path}: pair {wrong} is answered {answers[wrong]!r}; pairs are 0 to {len(key['left']) - 1}, answered {', '.join(CHOICES)}")
    return answers


def result(key: Mapping[str, Any], judges: Sequence[Mapping[int, str]]) -> dict[str, Any]:
    """How often the first run was preferred, ties as a half, with a 95% bootstrap interval over pairs, and the sign test over pairs.

    Judges of one pair are no independent witnesses, so a pair counts once, as the mean of its answers.
    """
    by_pair: dict[int, list[float]] = {}
    for answers in judges:
        for number, choice in answers.items():
            by_pair.setdefault(number, []).append(0.5 if choice == "same" else float((choice == "left") == (key["left"][number] == "a")))
    if not by_pair:
        raise ValueError("nobody has answered a pair yet")
    means = np.array([np.mean(values) for values in by_pair.values()])
    draws = np.random.default_rng(0).integers(0, len(means), (_BOOTSTRAPS, len(means)))
    low, high = np.quantile(means[draws].mean(1), [0.025, 0.975])
    wins, losses = int((means > 0.5).sum()), int((means < 0.5).sum())
    return {
        "prefer_a": float(means.mean()), "interval": [float(low), float(high)], "pairs": len(means), "pairs_for_a": wins, "pairs_for_b": losses,
        "p": sign_test(wins, losses), "judges": len(judges), "a": key["a"], "b": key["b"],
    }  # fmt: skip


def sign_test(wins: int, losses: int) -> float:
    """Two-sided p of so many wins and losses where both are equally likely."""
    count = wins + losses
    tail = sum(math.comb(count, number) for number in range(min(wins, losses) + 1)) / 2**count
    return min(1.0, 2 * tail)


def parsed(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    parser = Arguments(prog=command("compare"), description=as_called(__doc__ or ""), formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=run_argument, nargs="*", help="two runs, stages of runs, or checkpoints")
    parser.add_argument("--out", type=Path, required=True, help="folder of the comparison")
    parser.add_argument("--answers", type=Path, nargs="+", help="files that judges saved")
    parser.add_argument("--pairs", type=whole_number, default=50, help="pairs to judge (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the first pair; the others follow (default %(default)s)")
    parser.add_argument("--question", default=QUESTION, help="what judges are asked (default: %(default)s)")
    options = parser.parse_args(arguments)
    if not options.answers and len(options.runs) != 2:
        parser.error(f"two runs are compared, and {len(options.runs)} are named; or name judges' files with --answers")
    if options.answers and options.runs:
        parser.error("--answers reads what judges said of the runs of --out; name no runs beside it")
    return options


def main(arguments: Sequence[str]) -> int:
    """See the module."""
    options = parsed(arguments)
    if not options.answers:
        with keeps(lambda: "stopped before the page was whole, so nothing is kept; the same command begins again"):
            key = make(options.runs, options.out, options.pairs, options.seed, options.question)
        print(f"{counted(len(key['left']), 'pair')} in {options.out / PAGE}; keep {options.out / KEY} from who judges")
        return 0
    key = read_json(options.out / KEY)
    if key is None:
        raise ValueError(f"{options.out} holds no comparison; make one of two runs first")
    found = result(key, [read_answers(path, key) for path in options.answers])
    write_json(options.out / RESULT, found)
    low, high = found["interval"]
    print(
        f"{found['a']['run']} is preferred to {found['b']['run']} in {found['prefer_a']:.1%} of {counted(found['pairs'], 'pair')} "
        f"(95% interval {low:.1%} to {high:.1%}; sign test p {found['p']:.2g}; {counted(found['judges'], 'judge')})"
    )
    return 0


if __name__ == "__main__":
    sys.exit(exit_code(lambda: main(sys.argv[1:])))
