"""What stopped a run, read out of Ray Train's errors: one sentence for the user."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from genlib.storage import StorageError
from jobs.exit_codes import RunStopped
from jobs.out_of_memory import OutOfMemory
from jobs.watchdog import Hung
from jobs.worker import Refusal, original


def sentence_of(error: Exception, run: Path) -> Exception:
    """What the driver raises: a worker's ValueError as it is, else what happened, where its traceback is, and what to do.

    Where nothing can be written there, no traceback is.
    """
    kind, message = cause_of(error)
    if kind == "ValueError":
        return ValueError(message)
    if kind == "StorageError":
        return StorageError(f"the run stopped: {message}")
    if kind in (OutOfMemory.__name__, Hung.__name__):
        return RunStopped(f"the run stopped: {message}; the same command resumes it")
    log = run / "error.log"
    with suppress(OSError):
        if not log.exists():  # no worker lived to write it
            log.write_text(f"{error}\n")
    more = f" (more in {log})" if log.exists() and log.stat().st_size else ""
    first = next((line.strip() for line in message.splitlines() if line.strip()), "")
    return RunStopped(f"the run stopped: {kind}: {first}{more}; the same command resumes it")


def cause_of(error: Exception) -> tuple[str, str]:
    """Type and message of the error behind ray.train's TrainingFailedError."""
    inner = getattr(error, "controller_failure", None)
    if isinstance(inner, Refusal):
        return inner.kind, inner.message
    failures: dict[int, Exception] = getattr(error, "worker_failures", None) or {}
    if not failures:
        return type(inner or error).__name__, str(inner or error)
    rank, first = sorted(failures.items())[0]
    cause = original(first)
    return type(cause).__name__, f"worker {rank}: {cause}"
