"""How a search looks and where its trials run, as `jobs/tune.py` reads it from the command line."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from cluster.screen import LogFormat
from cluster.signals import GRACE_SECONDS
from jobs.run_options import RunOptions


@dataclass(frozen=True, kw_only=True, slots=True)
class TuneOptions:
    """How a search looks and where its trials run."""

    trials: int = 16
    """Trials in all; of a grid as many as it has points, of pbt the population. A search that is there goes on to more where this grows."""
    scheduler: Literal["asha", "pbt", "none"] = "asha"
    """asha stops what falls behind early, pbt lets the worst take over the best's weights with changed values, none trains all to the end.

    A metric that is NaN or infinite is the worst of all: asha stops such a trial, pbt replaces it, and one that ends so has failed."""
    search: Literal["optuna", "random", "grid"] = "optuna"
    """How values are chosen: by Optuna's TPE from what trials reached so far, at random, or all points of a grid."""
    grid_points: int = 3
    """Values that a grid tries of each range that is no choice."""
    space: tuple[str, ...] = ()
    """Ranges in place of the recipe's own: task.beta=0.5:8:log task.latent_dim=2:64 train.global_batch=64,128."""
    metric: str = ""
    """What trials are ranked by, a held-out score; by default the recipe's own objective."""
    mode: Literal["", "min", "max"] = ""
    """Whether less or more of the metric is better; known for the recipe's own."""
    evaluations: int = 9
    """Times that a whole trial scores the held-out samples; ASHA may stop it at the first, the 4th, the 16th and so on."""
    time_budget: str = ""
    """Time after which no trial goes on, like 90s, 30m or 2h; empty is none."""
    concurrent: int = 0
    """Trials at the same time; 0 is as many as the cluster holds."""
    workers: int = 1
    """Worker processes of a trial; more than one train through Ray Train."""
    cpus_per_worker: float = 1.0
    """CPUs a worker reserves; on a machine without GPUs also its threads."""
    gpus_per_worker: float | None = None
    """GPUs a worker reserves, such as 0.25; by default one where the cluster has any, else none."""
    retries: int = 2
    """Times a trial whose process was lost goes on from its newest checkpoint."""
    grace_seconds: float = GRACE_SECONDS
    """In which trials of a search that is stopped (SIGTERM, Ctrl-C) save checkpoints; a second signal ends it at once."""
    log_format: LogFormat = "auto"
    """How a search tells of itself: lines, on a terminal with a bar (auto), lines everywhere (text), or an object a line (json)."""
    seed: int = 0
    """Of the search; trials train with train.seed."""
    stage: str = ""
    """Of a recipe with several stages the one to search, by default the last; those it needs are trained once, before."""
    run: str = ""
    """Name of the search: it lives in runs/NAME, or in $GENLIB_RUNS/NAME. Empty is tune-RECIPE."""
    run_dir: str = ""
    """Folder of the search itself, in place of a name; every worker must see it under this path."""
    config: str = ""
    """run.json of a run, around whose recipe and values is searched."""
    smoke: bool = False
    """The recipe's smallest size, which trains in seconds."""

    def __post_init__(self) -> None:
        for name, least in (("trials", 1), ("evaluations", 1), ("grid_points", 1), ("concurrent", 0), ("workers", 1), ("retries", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least {least}")
        RunOptions(cpus_per_worker=self.cpus_per_worker, gpus_per_worker=self.gpus_per_worker, grace_seconds=self.grace_seconds)
        seconds(self.time_budget)
        if self.scheduler == "pbt" and self.search != "random":
            raise ValueError("scheduler pbt changes values by itself and starts at random ones; give --search random with it")
        if self.scheduler == "pbt" and self.workers > 1:
            raise ValueError("scheduler pbt runs trials of one worker; give --workers 1, or another scheduler")
        if self.metric and not self.mode:
            raise ValueError(f"metric is {self.metric}; say with --mode min or --mode max which way it gets better")


def seconds(text: str) -> float | None:
    """A time like 90s, 30m or 2h in seconds; None where it is empty."""
    if not text:
        return None
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", text)
    if found is None or not float(found[1]):
        raise ValueError(f"time_budget is {text!r}; write a time like 90s, 30m or 2h")
    return float(found[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[found[2]]
