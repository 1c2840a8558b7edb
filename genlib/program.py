"""The program's commands, and how the user calls them: a sentence that names a command names it so."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

PROGRAM = "genlib"


@dataclass(frozen=True, slots=True)
class Verb:
    """One word behind `genlib`."""

    target: str
    """`"module:function"` that takes the other words and returns the exit code."""
    about: str
    """A line for `genlib --help`."""
    script: str = ""
    """How it is called without `genlib`; empty where there is no other way."""
    trains: bool = False
    """Whether it trains a run, as jobs/train.py does."""


VERBS: dict[str, Verb] = {
    "train": Verb("jobs.train:main", "train any recipe, or go on with a run that was cut off", "python jobs/train.py", trains=True),
    "clip": Verb("jobs.clip_pretrain:main", "pretrain CLIP", "python jobs/clip_pretrain.py", trains=True),
    "sdxl": Verb("jobs.sdxl_pretrain:main", "pretrain SDXL-style latent diffusion", "python jobs/sdxl_pretrain.py", trains=True),
    "stylegan": Verb("jobs.stylegan_train:main", "train a StyleGAN", "python jobs/stylegan_train.py", trains=True),
    "tune": Verb("jobs.tune:main", "search a recipe's hyperparameters", "python jobs/tune.py"),
    "evaluate": Verb("jobs.evaluate:main", "score a run again, or its pictures", "python jobs/evaluate.py"),
    "generate": Verb("jobs.generate:main", "make many pictures from a checkpoint", "python jobs/generate.py"),
    "compare": Verb("jobs.compare:main", "ask people which of two runs they prefer", "python jobs/compare.py"),
    "export": Verb("jobs.export:main", "write what other libraries load, ONNX files, or a repository on a hub", "python jobs/export.py"),
    "report": Verb("jobs.report:main", "show a run, or two beside each other, on one page", "python jobs/report.py"),
    "serve": Verb("serve.__main__:main", "serve runs over HTTP, with a page", "python -m serve"),
    "data": Verb("jobs.prepare_data:main", "make, check and show data sets", "python jobs/prepare_data.py"),
    "encode": Verb("jobs.encode:main", "encode a recipe's samples by frozen networks before training", "python jobs/encode.py"),
    "plan": Verb("jobs.plan:main", "what a recipe needs on GPUs: memory, hours; its run on many, simulated"),
    "cluster": Verb("cluster.command:main", "submit a job to a cluster, start a head of one's own, show nodes, check files for one"),
    "completion": Verb("jobs.completion:main", "what makes a shell complete commands, recipes and options"),
}


def is_called_by_name() -> bool:
    """Whether the user typed `genlib`."""
    return Path(sys.argv[0]).name == PROGRAM


def command(verb: str) -> str:
    """`genlib train` where the program was called by that name, else `python jobs/train.py`."""
    script = VERBS[verb].script
    return f"{PROGRAM} {verb}" if not script or is_called_by_name() else script


def as_called(text: str) -> str:
    """A text that names scripts, `python jobs/train.py` or `train.py`, with the names that the user calls them by."""
    for verb, one in VERBS.items() if is_called_by_name() else ():
        if one.script:
            text = text.replace(one.script, command(verb)).replace(f"`{one.script.rpartition('/')[2]} ", f"`{command(verb)} ")
    return text
