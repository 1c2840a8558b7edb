"""What a run and a search export through Ray for Prometheus. `EXPORTED` is the whole contract; `infra/monitoring` has dashboards and alerts over it.

Ray puts `ray_` before each name, and serves them at each node's metrics port. A gauge of Ray's is gone half a minute after it was set, so the
values are set again until the run ends or its process does.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from genlib import distributed
from genlib.engine.report import Row
from genlib.engine.timeline import last_heard
from jobs.launches import LAUNCHES, lines

RUN, STAGE, WORKER = ("run",), ("run", "stage"), ("run", "stage", "rank", "node")
_AGAIN_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class RunMetric:
    """A metric: a counter ends in _total, and a unit, if it has one, stands in its name."""

    name: str
    kind: Literal["gauge", "counter"]
    labels: tuple[str, ...]
    meaning: str


EXPORTED = (
    RunMetric("genlib_train_step", "gauge", STAGE, "Steps done"),
    RunMetric("genlib_train_steps", "gauge", STAGE, "Steps that the stage is to have"),
    RunMetric("genlib_train_samples_seen", "gauge", STAGE, "Samples seen, those of all epochs"),
    RunMetric("genlib_train_samples_per_second", "gauge", STAGE, "Samples a second, of all workers"),
    RunMetric("genlib_train_samples_per_second_per_worker", "gauge", STAGE, "Samples a second of one worker"),
    RunMetric("genlib_train_workers", "gauge", STAGE, "Workers that train"),
    RunMetric("genlib_train_mfu_ratio", "gauge", STAGE, "Share of the GPUs' peak that goes into the model's operations; where the GPU is known"),
    RunMetric("genlib_train_data_wait_ratio", "gauge", STAGE, "Share of the time that steps wait for data, mean of all workers"),
    RunMetric("genlib_train_loss", "gauge", (*STAGE, "name"), "Loss of the last logged step, by its name; NaN where it was not finite"),
    RunMetric("genlib_train_grad_norm", "gauge", (*STAGE, "name"), "Norm of the gradient before clipping, by its name; NaN where it was not finite"),
    RunMetric("genlib_train_learning_rate", "gauge", STAGE, "Learning rate of the first player"),
    RunMetric("genlib_train_skipped_updates", "gauge", STAGE, "Updates left out as a loss or gradient was not finite, since the run's begin"),
    RunMetric("genlib_train_checkpoint_step", "gauge", STAGE, "Step of the newest sealed checkpoint"),
    RunMetric("genlib_train_checkpoint_timestamp_seconds", "gauge", STAGE, "When that was sealed, in seconds since 1970"),
    RunMetric("genlib_train_checkpoint_seconds", "gauge", STAGE, "From the begin of its save to its seal, beside the steps"),
    RunMetric("genlib_train_worker_step_seconds", "gauge", WORKER, "Mean time of a step since the last line"),
    RunMetric("genlib_train_worker_data_wait_seconds", "gauge", WORKER, "Of that, waiting for data"),
    RunMetric("genlib_train_worker_forward_seconds", "gauge", WORKER, "Of that, the forward pass"),
    RunMetric("genlib_train_worker_backward_seconds", "gauge", WORKER, "Of that, the backward pass, with gradients that are sent"),
    RunMetric("genlib_train_worker_optimizer_seconds", "gauge", WORKER, "Of that, clipping and the optimizer"),
    RunMetric("genlib_train_worker_gpu_memory_bytes", "gauge", WORKER, "The most that the device's allocator had at once; on GPUs"),
    RunMetric("genlib_train_worker_useful_seconds_total", "counter", WORKER, "Time in steps, without waiting for data"),
    RunMetric("genlib_train_worker_paid_seconds_total", "counter", WORKER, "Time since the launch, or since the run was last heard of"),
    RunMetric("genlib_train_worker_corrupt_samples_total", "counter", WORKER, "Samples that could not be read or decoded, each time they were met"),
    RunMetric("genlib_train_restarts_total", "counter", RUN, "Starts after lost workers"),
    RunMetric("genlib_train_preemptions_total", "counter", RUN, "Times that workers left a node which was about to be taken away"),
    RunMetric("genlib_tune_trials", "gauge", (*RUN, "name"), "Trials of a search: running, finished, stopped, failed"),
    RunMetric("genlib_tune_best_value", "gauge", RUN, "The search's objective, of its best trial so far"),
)
_BY_NAME = {one.name: one for one in EXPORTED}


class RunMetrics:
    """Sets the metrics of a run in this process, which is one of Ray's. Outside of its stage's block they are set no more."""

    def __init__(self, run: Path, stage: str = "", folder: Path | None = None) -> None:
        """folder: the stage's, which tells since when a worker is paid for what is to come."""
        self.labels = {"run": run.name, "stage": stage, "rank": str(distributed.rank()), "node": socket.gethostname()}
        self._metrics: dict[str, Any] = {}
        self._values: dict[tuple[str, str], tuple[float, dict[str, str]]] = {}
        self._lock, self._over, self._corrupt = threading.Lock(), threading.Event(), 0
        self._paid_until = paid_since(run, folder) if folder else time.time()
        self._thread = threading.Thread(target=self._again, name="run metrics", daemon=True)

    def __enter__(self) -> RunMetrics:
        if self.labels["stage"]:
            # from nothing on, else Prometheus would not see what the first line adds
            for name in ("worker_useful_seconds", "worker_paid_seconds", "worker_corrupt_samples", "preemptions"):
                self.add(f"genlib_train_{name}_total", 1e-9)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def set(self, name: str, value: float, label: str = "") -> None:
        """Sets a gauge of the contract; `label` is its own `name`, where it has one."""
        labels = {key: label if key == "name" else self.labels[key] for key in _BY_NAME[name].labels}
        with self._lock:
            self._values[name, label] = value, labels
            self._of(name).set(value, labels)

    def add(self, name: str, value: float) -> None:
        """Adds to a counter of the contract."""
        if value > 0:
            self._of(name).inc(value, {key: self.labels[key] for key in _BY_NAME[name].labels})

    def line(self, row: Row, steps: int) -> None:
        """What a live line says, on rank 0; `steps` are those of the whole stage."""
        self.set("genlib_train_steps", steps)
        self.set("genlib_train_workers", distributed.world_size())
        for key, name in _OF_ROW.items():
            if row.get(key) is not None:
                self.set(name, row[key])
        for key, value in row.items():
            plain = key.removeprefix("train/")
            kind = next((kind for kind in ("loss", "grad_norm") if key.startswith("train/") and plain.endswith(kind)), "")
            if kind:
                self.set(f"genlib_train_{kind}", float("nan") if value is None else value, plain)

    def times(self, seconds: Mapping[str, float], steps: int) -> None:
        """What this rank's steps since the last line took, in all, by the names they have in metrics.jsonl."""
        for key, name in _OF_TIMES.items():
            self.set(f"genlib_train_worker_{name}_seconds", seconds[key] / steps)
        if torch.cuda.is_available():
            self.set("genlib_train_worker_gpu_memory_bytes", torch.cuda.max_memory_allocated())
        now = time.time()
        self.add("genlib_train_worker_useful_seconds_total", seconds["batch_time"] - seconds["data_time"])
        self.add("genlib_train_worker_paid_seconds_total", now - self._paid_until)
        self._paid_until = now

    def corrupt(self, samples: int) -> None:
        """So many samples of this rank could not be read until now."""
        self.add("genlib_train_worker_corrupt_samples_total", samples - self._corrupt)
        self._corrupt = samples

    def checkpoint(self, step: int, seconds: float) -> None:
        """One is sealed; on rank 0."""
        self.set("genlib_train_checkpoint_step", step)
        self.set("genlib_train_checkpoint_timestamp_seconds", time.time())
        self.set("genlib_train_checkpoint_seconds", seconds)

    def _of(self, name: str) -> Any:
        from ray.util.metrics import Counter, Gauge

        if name not in self._metrics:
            one = _BY_NAME[name]
            kind = Gauge if one.kind == "gauge" else Counter
            self._metrics[name] = kind(name, description=one.meaning, tag_keys=one.labels)
        return self._metrics[name]

    def _again(self) -> None:
        while not self._over.wait(_AGAIN_SECONDS):
            with self._lock:
                for (name, _), (value, labels) in self._values.items():
                    self._of(name).set(value, labels)


_OF_ROW = {
    "step": "genlib_train_step",
    "samples_seen": "genlib_train_samples_seen",
    "samples_per_second": "genlib_train_samples_per_second",
    "samples_per_second_per_gpu": "genlib_train_samples_per_second_per_worker",
    "mfu": "genlib_train_mfu_ratio",
    "data_share": "genlib_train_data_wait_ratio",
    "train/lr": "genlib_train_learning_rate",
    "train/skipped": "genlib_train_skipped_updates",
}
_OF_TIMES = {"batch_time": "step", "data_time": "data_wait", "forward_time": "forward", "backward_time": "backward", "optimizer_time": "optimizer"}


def paid_since(run: Path, folder: Path) -> float:
    """Since when the workers cost and did nothing: the last launch of the run, or when the stage was last heard of after that."""
    launch = max((line["time"] for line in lines(run / LAUNCHES) if line.get("what") == "launch"), default=time.time())
    heard = [line for stage in {folder, *run.glob("*/")} if (line := last_heard(stage))]
    return max([launch, *heard])
