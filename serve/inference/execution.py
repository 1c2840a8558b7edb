"""Running work: at once, or with news on the way. What the models raise becomes a problem here."""

from __future__ import annotations

import asyncio
import time
import traceback
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, field
from typing import Any

from serve.api_error import as_problem, no_model
from serve.backend import Backend, Result
from serve.deadline import Deadline
from serve.inference.answers import Answer, answer_of
from serve.inference.request import InferenceRequest
from serve.observability import Metrics

_BETWEEN_SECONDS = 0.05
"""Between two news of progress."""


@dataclass(frozen=True, slots=True)
class ProgressUpdate:
    """Something that happened to work."""

    kind: str
    """`progress`, `partial_image`, or `done`."""
    values: dict[str, Any] = field(default_factory=dict)
    image: bytes = b""
    answer: Answer | None = None
    seconds: dict[str, float] = field(default_factory=dict)


async def execute(backend: Backend, metrics: Metrics, work: InferenceRequest, timeout_seconds: float) -> tuple[Answer, dict[str, float]]:
    """The answer, and the seconds that each phase took. ApiError where it fails; cancelled, the work stops within a step."""
    with problems_of(backend, work, timeout_seconds):
        loop = asyncio.get_running_loop()
        with Deadline(loop.time() + timeout_seconds, loop):
            calls = [backend.run(work.model, call.action, call.arguments, parameters=work.parameters) for call in work.calls]
            results = [await calls[0]] if len(calls) == 1 else await _together(calls)
        return finished(metrics, work, results)


@contextmanager
def problems_of(backend: Backend, work: InferenceRequest, timeout_seconds: float | None = None) -> Iterator[None]:
    """Makes problems of what a backend raises, and of the end of the time; what only a bug raises stays what it is."""
    try:
        yield
    except Exception as error:
        if isinstance(error, ValueError) and work.model not in (names := [card.name for card in backend.models()]):
            raise no_model("this model is no longer served", names) from error
        problem = as_problem(error, work.texts(), timeout_seconds=timeout_seconds)
        if problem is not None:
            traceback.clear_frames(error.__traceback__)  # they hold the error's call and it them: its arrays would stay until the next collection
        raise problem or error from error


async def _together(calls: list[Any]) -> list[Result]:
    """All results; the first failure stops the others."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(call) for call in calls]
    except ExceptionGroup as failures:
        raise failures.exceptions[0] from None
    return [task.result() for task in tasks]


def finished(metrics: Metrics, work: InferenceRequest, results: list[Result]) -> tuple[Answer, dict[str, float]]:
    """Counts the work and says its answer, and the phases of the longest of its calls."""
    metrics.worked(work.model, work.steps, results)
    seconds: dict[str, float] = {}
    for result in results:
        for phase, spent in result.seconds.items():
            seconds[phase] = max(seconds.get(phase, 0.0), spent)
    return answer_of(work, results), seconds


async def progress_of(backend: Backend, metrics: Metrics, work: InferenceRequest) -> AsyncGenerator[ProgressUpdate, None]:
    """The same, with news; the last is `done` with the answer. Closing it stops the work."""
    results: list[Result] = []
    with problems_of(backend, work):
        for call in work.calls:
            async with aclosing(_news(backend, work, call, results)) as news:
                async for one in news:
                    yield one
        answer, seconds = finished(metrics, work, results)
    yield ProgressUpdate("done", answer=answer, seconds=seconds)


async def _news(backend: Backend, work: InferenceRequest, call: Any, results: list[Result]) -> AsyncGenerator[ProgressUpdate, None]:
    """News of one call, whose result joins the others."""
    partials, told = 0, 0.0
    stream = backend.stream(work.model, call.action, call.arguments, partial_images=work.partial_images, parameters=work.parameters)
    async with aclosing(stream) as events:  # type: ignore[type-var]
        async for event in events:
            place = {"step": event.step, "steps": event.steps}
            if event.kind == "result":
                assert event.result is not None
                results.append(event.result)
                return
            if event.kind == "partial":
                for index, image in enumerate(event.images):
                    yield ProgressUpdate("partial_image", {"partial_image_index": partials, "index": index, **place}, image)
                partials += 1
            elif event.step == event.steps or time.monotonic() - told >= _BETWEEN_SECONDS:
                told = time.monotonic()
                yield ProgressUpdate("progress", place)
