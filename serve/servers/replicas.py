"""How many processes hold the models, of what size, and how they compute."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from genlib.inference import Inference, Precision
from serve.models.pool import ModelPool
from serve.models.sources import ModelSource


@dataclass(frozen=True, kw_only=True, slots=True)
class Replicas:
    """Processes that hold the models and answer HTTP."""

    least: int = 1
    most: int = 1
    cpus: float = 1.0
    gpus: float = 0.0
    memory_gb: float = 0.0
    """Weights that a replica keeps loaded, the least recently used go first; 0 keeps all."""
    reload_seconds: float = 10.0
    """Between looks for a newer checkpoint; 0 never looks."""
    precision: Precision = "fp32"
    compile: bool = False
    """See `genlib.inference.Inference`."""
    queue: int = 256
    """Requests that may wait for one model of a replica; more are refused."""

    def pool(self, sources: tuple[ModelSource, ...]) -> ModelPool:
        """The models of one of them, not yet opened. ValueError where it should compute on a GPU and there is none."""
        if self.gpus and not torch.cuda.is_available():
            raise ValueError("there is no GPU here for --gpus-per-replica; leave it out to compute on CPUs")
        inference = Inference(self.precision, self.compile)
        return ModelPool(
            sources, device="cuda" if self.gpus else "cpu", threads=max(1, int(self.cpus)), memory_gb=self.memory_gb, inference=inference,
            max_queued=self.queue,
        )  # fmt: skip
