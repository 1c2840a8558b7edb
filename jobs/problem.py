"""What stopped a run, read out of Ray Train's errors: one sentence and a traceback."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs.command_line import RunStopped
from jobs.worker import Refusal


@dataclass(frozen=True, slots=True)
class Problem:
    """The error of one worker, or of Ray."""

    kind: str
    message: str
    traceback: str

    def error(self, run: Path) -> Exception:
        """What the driver raises: the worker's own sentence for a ValueError, else what happened and where the traceback is."""
        if self.kind == "ValueError":
            return ValueError(self.message)
        first = self.message.strip().splitlines()[0] if self.message.strip() else ""
        return RunStopped(f"the run stopped: {self.kind}: {first} (traceback in {run / 'error.log'}); the same command resumes it")


def problem_of(error: Any) -> Problem:
    """Reads ray.train's TrainingFailedError."""
    inner = getattr(error, "controller_failure", None)
    if isinstance(inner, Refusal):
        return Problem(inner.kind, inner.message, inner.traceback)
    failures = getattr(error, "worker_failures", None)
    if not failures:
        return Problem(type(inner or error).__name__, str(inner or error), str(error))
    rank, worst = sorted(failures.items())[0]
    cause = getattr(worst, "_base_exc", worst)
    return Problem(type(cause).__name__, f"worker {rank}: {cause}", str(error))
