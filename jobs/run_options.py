"""Where and how a run runs."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal

from cluster.screen import LogFormat
from cluster.signals import GRACE_SECONDS, check_grace
from genlib.config import to_json

_ABOVE_ZERO = (
    "gpu_memory_gb", "gpu_tflops", "mfu", "gpus_per_node", "interconnect_gb_per_second", "node_gb_per_second", "host_gb_per_second",
    "store_gb_per_second", "node_failure_hours",
)  # fmt: skip
_FROM_ZERO = (
    "overlap", "straggler_spread", "preemptions_per_hour", "restart_seconds", "replacement_minutes", "node_price_per_hour", "head_price_per_hour",
)  # fmt: skip
_OF_THE_PLAN = ("gpus", *_ABOVE_ZERO, *_FROM_ZERO, "picture")


@dataclass(frozen=True, kw_only=True, slots=True)
class RunOptions:
    """Where and how a run runs; none of it changes what is learnt."""

    workers: str = "1"
    """Worker processes: a number, or MIN:MAX to use what the cluster has and to go on with fewer."""
    cpus_per_worker: float = 1.0
    """CPUs a worker reserves; on a machine without GPUs also its threads."""
    gpus_per_worker: float | None = None
    """GPUs a worker reserves; by default one where the cluster has any, else none."""
    run: str = ""
    """Name of the run: it lives in runs/NAME, or in $GENLIB_RUNS/NAME. Empty is the recipe's name."""
    run_dir: str = ""
    """Folder of the run itself, in place of a name: on a disk that every worker sees under this path, or in an object store that needs none,
    s3://BUCKET/runs/NAME, gs:// or az://."""
    config: str = ""
    """run.json of another run, whose recipe and values are taken for what is not given here."""
    retries: int = 3
    """Times a run whose workers were lost goes on from its newest checkpoint before it gives up; -1 is always."""
    stall_seconds: float = 300.0
    """A step that takes longer, and twenty times as long as others, hangs: the worker that it waits for is named, the stacks of all are kept, and the
    run goes on from its newest checkpoint. So it does where a worker is not heard of for half a minute. 0 waits for ever."""
    grace_seconds: float = GRACE_SECONDS
    """In which a run that is stopped (SIGTERM, Ctrl-C) saves a checkpoint; a second signal ends it at once."""
    log_format: LogFormat = "auto"
    """How a run tells of itself: lines, on a terminal with a bar (auto), lines everywhere (text), or an object a line (json)."""
    score_features: tuple[str, ...] = ()
    """Feature networks, runs of a classifier or CLIP or Inception's weights, by which pictures of checkpoints are scored while the run goes on:
    FID, KID, precision and recall. The checkpoint with the lowest FID by the first is kept in the folder `best`."""
    score_every_images: int = 10_000
    """Training images from one scored checkpoint to the next, at least."""
    score_samples: int = 1000
    """Pictures that each of them makes."""
    score_against: Literal["auto", "train", "validation"] = "auto"
    """Real pictures that they are compared with; auto takes the held-out ones where there are any."""
    smoke: bool = False
    """The recipe's smallest size, which trains in seconds."""
    dry_run: bool = False
    """Print what would run, and stop."""
    plan: bool = False
    """Print what the run needs on the GPUs that `gpus` and what follows it tell of, and stop: memory by part and strategy, hours, saves."""
    gpus: str = "1"
    """GPUs to plan for: a number, or several like 8,64,512, for each of which a whole run is simulated, with stragglers, failures and restarts."""
    gpu_memory_gb: float = 80.0
    """Memory of each."""
    gpu_tflops: float = 790.0
    """Peak of each, in 10^12 operations a second, in the precision of the run: 790 is what bf16 matrix products reach on an H100."""
    mfu: float = 0.4
    """Share of the peak that the plan takes training to reach while it computes."""
    gpus_per_node: int = 8
    """GPUs of a node, which are lost together."""
    interconnect_gb_per_second: float = 25.0
    """What a GPU sends to others while it gets as much, where they are on several nodes."""
    node_gb_per_second: float = 450.0
    """The same inside of a node: 450 is NVLink of an H100 (NVIDIA's data sheet: 900 GB/s, in both directions together)."""
    overlap: float = 1.0
    """Share of what is sent that goes beside computing, as far as there is as much of that; 0 is one after the other."""
    host_gb_per_second: float = 20.0
    """What a GPU copies to its host's memory, for the plan's saves."""
    store_gb_per_second: float = 2.0
    """What all workers together write to where checkpoints lie, and read from there."""
    node_failure_hours: float = 6300.0
    """From one failure of a node to its next, on average: 6300 is what 419 unexpected interruptions in 54 days of 16,384 GPUs, 8 a node, come to
    (Llama 3, Grattafiori et al. 2024, arXiv:2407.21783, section 3.3.4)."""
    preemptions_per_hour: float = 0.0
    """How often a node is taken away by the cloud; 0 where nodes are not spot."""
    restart_seconds: float = 300.0
    """From the loss of a node to the first step with others, without reading the checkpoint; an assumption: 150 were reached on 4,800 devices
    (FlashRecovery, Zhang et al. 2025, arXiv:2509.03047)."""
    replacement_minutes: float = 0.0
    """Until a lost node is there again, for which a run waits, or goes on with fewer where `workers` is MIN:MAX; 0 is with spare nodes."""
    straggler_spread: float = 0.0
    """Spread of a step's time over GPUs, as standard deviation over mean, which changes from step to step; every step waits for the slowest."""
    node_price_per_hour: float = 0.0
    """What a node costs, in the currency that you think in: for spot nodes their price. 0 leaves the cost out."""
    head_price_per_hour: float = 0.0
    """What the head costs, which is never spot."""
    picture: str = ""
    """PNG file to draw the simulated runs of several numbers of GPUs into."""

    def __post_init__(self) -> None:
        low, high = self.worker_range
        if not 1 <= low <= high:
            raise ValueError(f"workers is {self.workers!r}; use a number from 1, or MIN:MAX like 1:4")
        if not 0 < self.cpus_per_worker < float("inf"):
            raise ValueError(f"cpus_per_worker is {self.cpus_per_worker:g}; it must be above 0, for example 0.5")
        if self.gpus_per_worker is not None and not 0 <= self.gpus_per_worker < float("inf"):
            raise ValueError(f"gpus_per_worker is {self.gpus_per_worker:g}; it must be at least 0")
        if not 0 <= self.stall_seconds < float("inf"):
            raise ValueError(f"stall_seconds is {self.stall_seconds:g}; it must be at least 0, which waits for ever")
        check_grace(self.grace_seconds)
        for name in ("score_every_images", "score_samples"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        self._check_plan()

    def _check_plan(self) -> None:
        """ValueError where what the plan is told cannot be."""
        for name in _ABOVE_ZERO:
            if not 0 < getattr(self, name) < float("inf"):
                raise ValueError(f"{name} is {getattr(self, name):g}; it must be above 0")
        for name in _FROM_ZERO:
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name} is {getattr(self, name):g}; it must be at least 0")
        if self.mfu > 1:
            raise ValueError(f"mfu is {self.mfu:g}; it is a share of the peak, for example 0.4")
        if self.overlap > 1:
            raise ValueError(f"overlap is {self.overlap:g}; it is a share of what is sent, for example 0.7")
        if self.picture and not self.picture.endswith(".png"):
            raise ValueError(f"picture is {self.picture!r}; name a PNG file, like scale.png")
        if len(self.gpu_counts) == 1 and self.picture:
            raise ValueError(f"picture is of several numbers of GPUs, and gpus is {self.gpus}; give some, like 8,64,512")

    def to_keep(self) -> dict[str, Any]:
        """What another run takes over by --config."""
        own = ("run", "run_dir", "config", "dry_run", "plan", *_OF_THE_PLAN)
        return {name: value for name, value in to_json(self).items() if name not in own}

    @property
    def worker_range(self) -> tuple[int, int]:
        """Fewest and most workers."""
        if not re.fullmatch(r"\d+(:\d+)?", self.workers):
            raise ValueError(f"workers is {self.workers!r}; use a number from 1, or MIN:MAX like 1:4")
        numbers = [int(part) for part in self.workers.split(":")]
        return numbers[0], numbers[-1]

    @property
    def gpu_counts(self) -> tuple[int, ...]:
        """The numbers of GPUs to plan for, from the least."""
        if not re.fullmatch(r"0*[1-9]\d*(,0*[1-9]\d*)*", self.gpus):
            raise ValueError(f"gpus is {self.gpus!r}; use a number from 1, or several like 8,64,512")
        return tuple(sorted({int(part) for part in self.gpus.split(",")}))
