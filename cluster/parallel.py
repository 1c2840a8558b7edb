"""Mapping a function over many items: in this process where they are few, else in Ray tasks, with progress on stderr."""

from __future__ import annotations

import contextlib
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sized
from dataclasses import dataclass
from itertools import chain, count, islice
from typing import Any, Generic, TypeVar, cast

from cluster.connect import connected

T = TypeVar("T")
R = TypeVar("R")
LOCAL_BELOW = 16
"""Items that are done in the process itself, as Ray's start takes some seconds."""
_PER_CPU = 2  # tasks in flight for each CPU: one runs, one is ready
_LEAST_IN_FLIGHT = 8  # so that an autoscaler sees work waiting
_LOOK_SECONDS = 0.5  # between two looks at a cluster on which nothing ended
_LINE_SECONDS = 10.0  # between two lines of progress where no person looks on


def parallel_map(
    function: Callable[[T], R],
    items: Iterable[T],
    *,
    label: str,
    total: int | None = None,
    local_below: int = LOCAL_BELOW,
    name: Callable[[T], str] = str,
    gpus: float = 0.0,
) -> Iterator[R]:
    """`map(function, items)` with the results in the order of the items, however they are spread.

    Fewer than `local_below` items are done here, one after the other. More become Ray tasks of one CPU, and so many GPUs, on the cluster that this
    process is connected to, else on the one that `connected` finds or starts; a task whose process or node is lost is done again.
    Items are taken as tasks end, so a long iterator costs no memory; results that wait for a slow item before them do. `function`
    must be picklable and may run twice for an item; paths in items must be the same on every node.

    `label` says what is done ("indexing"), `total` how many items there are where `items` cannot say it, `name` what an item is
    called. What the function raises comes out naming the item: a ValueError or OSError as such, anything else as RuntimeError.
    When the loop is left, by Ctrl-C too, no task goes on.
    """
    total = len(items) if total is None and isinstance(items, Sized) else total
    rest = iter(items)
    head = list(islice(rest, local_below))
    spread = len(head) == local_below
    with ProgressLine(label, total) as progress:
        run = _over_ray if spread else _here
        yield from run(_Job(function, label, name, progress, gpus), chain(head, rest))


@dataclass(frozen=True, slots=True)
class _Job(Generic[T, R]):
    function: Callable[[T], R]
    label: str
    name: Callable[[T], str]
    progress: ProgressLine
    gpus: float = 0.0

    def error(self, item: str, kind: str, message: str) -> Exception:
        """What to raise for an item that failed."""
        if known := _KINDS.get(kind):
            return known(f"{self.label} {item}: {message}")
        return RuntimeError(f"{self.label} {item}: {kind}: {message}")


_KINDS: dict[str, type[Exception]] = {"ValueError": ValueError, "OSError": OSError}


def _kind(error: Exception) -> str:
    """Name of its type; of one of ours where it is of that kind."""
    return next((name for name, kind in _KINDS.items() if isinstance(error, kind)), type(error).__name__)


def _here(job: _Job[T, R], items: Iterator[T]) -> Iterator[R]:
    for item in items:
        try:
            result = job.function(item)
        except Exception as error:
            raise job.error(job.name(item), _kind(error), str(error)) from error
        job.progress.advance()
        yield result


@dataclass(frozen=True, slots=True)
class _Outcome:
    """What a task sends back: a result, or what its function raised."""

    result: Any = None
    kind: str = ""
    message: str = ""
    details: str = ""


def _outcome(function: Callable[[T], R], item: T) -> _Outcome:
    try:
        return _Outcome(function(item))
    except Exception as error:  # as text: not every exception can be pickled
        return _Outcome(None, _kind(error), str(error), traceback.format_exc())


@contextlib.contextmanager
def once_connected() -> Iterator[None]:
    """Inside, this process is connected: as it is already, else for as long as this lasts; several loops then start one cluster."""
    import ray

    with contextlib.nullcontext() if ray.is_initialized() else connected():
        yield


def _over_ray(job: _Job[T, R], items: Iterator[T]) -> Iterator[R]:
    import ray

    with once_connected():
        owner = _owner(job)
        running: dict[Any, tuple[int, str]] = {}
        done: dict[int, Any] = {}
        numbered, due = enumerate(items), count()
        number = next(due)
        try:
            while True:
                if more := list(islice(numbered, max(0, _in_flight() - len(running)))):
                    references = ray.get(owner.submit.remote([item for _, item in more]))
                    running.update((reference, (at, job.name(item))) for reference, (at, item) in zip(references, more, strict=True))
                if not running:
                    return
                ended, _ = ray.wait(list(running), timeout=_LOOK_SECONDS)
                for reference in ended:
                    at, item = running.pop(reference)
                    done[at] = _result(job, reference, item)
                    job.progress.advance()
                job.progress.look()
                while number in done:
                    yield done.pop(number)
                    number = next(due)
        finally:
            ray.kill(owner)


class _Owner:
    """Owns a loop's tasks: Ray ends what they run on, and what waits, once it is killed.

    `ray.cancel` would do that from the driver itself, but one that meets a task as it ends takes the driver down in Ray 2.60.
    """

    def __init__(self, function: Callable[[Any], Any], gpus: float):
        import ray

        def task(item):
            return _outcome(function, item)

        self._remote = ray.remote(num_cpus=1, num_gpus=gpus)(task)

    def submit(self, items: list[Any]) -> list[Any]:
        """References to the outcomes of the items."""
        return [self._remote.remote(item) for item in items]


def _owner(job: _Job) -> Any:
    """It takes no CPU and lives where the driver does, so that it is lost with it alone."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
    return ray.remote(num_cpus=0)(_Owner).options(scheduling_strategy=here).remote(job.function, job.gpus)


def _in_flight() -> int:
    """Tasks to have under way on the cluster as it is now."""
    import ray

    return max(_LEAST_IN_FLIGHT, round(_PER_CPU * ray.cluster_resources().get("CPU", 1)))


def _result(job: _Job, reference: Any, item: str) -> Any:
    import ray
    from ray.exceptions import RayError

    try:
        outcome = cast(_Outcome, ray.get(reference))
    except RayError as error:  # its process ended again and again, or its result cannot be sent
        first = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
        raise RuntimeError(f"{job.label} {item}: {type(error).__name__}: {first}") from error
    if not outcome.kind:
        return outcome.result
    error = job.error(item, outcome.kind, outcome.message)
    error.add_note(outcome.details)
    raise error


class ProgressLine:
    """How far a loop is, on stderr: a bar on a terminal, elsewhere a line now and then."""

    def __init__(self, label: str, total: int | None):
        self.label, self.total, self.done = label, total, 0
        self._start = self._last = time.monotonic()
        self._first = 0.0  # when the first item was done: what came before it is mostly Ray's start
        self._bar = self._task = None

    def __enter__(self) -> ProgressLine:
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            self._bar = Progress(*columns, console=Console(stderr=True), transient=True)
            self._task = self._bar.add_task(self.label, total=self.total)
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def advance(self, items: int = 1) -> None:
        """So many items more are done."""
        self.done += items
        self._first = self._first or time.monotonic()
        if self._bar is not None and self._task is not None:
            self._bar.advance(self._task, items)
        self.look()

    def look(self) -> None:
        """Prints a line where it is time for one."""
        now = time.monotonic()
        if self._bar is None and now - self._last >= _LINE_SECONDS:
            self._last = now
            print(f"{self.label}: {self.words(now - self._start)}", file=sys.stderr, flush=True)

    def words(self, seconds: float) -> str:
        """`12 of 100 in 30 s, about 220 s to go`."""
        if self.total is None:
            return f"{self.done:,} in {seconds:,.0f} s"
        text = f"{self.done:,} of {self.total:,} in {seconds:,.0f} s"
        working = self._start + seconds - self._first
        if self.done < 2 or working < _LINE_SECONDS / 2:
            return text
        return f"{text}, about {(self.total - self.done) * working / (self.done - 1):,.0f} s to go"
