"""From checked work to a response: at once, as a stream, or as a job; and the same answer for the same Idempotency-Key."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from fastapi import Request
from fastapi.responses import Response

from serve.api_error import ApiError, as_problem, busy, no_model, some_of
from serve.backend import Backend, ModelCard
from serve.background_jobs.job import ENDED, BackgroundJob, job_id
from serve.background_jobs.jobs import Jobs
from serve.http.idempotency import FOLDER, Answers, identity
from serve.inference.abilities import ABILITIES
from serve.inference.abilities import of as of_card
from serve.inference.answers import Answer, size_of
from serve.inference.execution import ProgressUpdate, execute, progress_of
from serve.inference.request import InferenceRequest, png_as_text
from serve.json_bytes import json_bytes
from serve.observability import Metrics, current_request
from serve.options import ServeOptions
from serve.streams import Event, event_stream

_SOON_SECONDS = 5
_OPEN_SECONDS = 30
"""After which a model that could not be opened may be asked for again."""


@dataclass(slots=True)
class Front:
    """What every route needs."""

    backend: Backend
    options: ServeOptions
    metrics: Metrics
    jobs: Jobs
    answers: Answers = field(init=False)

    def __post_init__(self) -> None:
        self.answers = Answers(self.jobs.folder / FOLDER, self.options.answers_bytes, self.metrics)

    def card(self, name: str | None, uses: tuple[str, ...], what: str, *, best: Callable[[ModelCard], int] = lambda card: 0) -> ModelCard:
        """The model of that name, or of those that have one of these uses (`serve.inference.abilities`) the `best`, which is the lowest, and first.

        ApiError 404 where there is none, 503 where no model is open yet.
        """
        cards = self.open() if name is None else [self.named(name)]
        able = [card for card in cards if any(ABILITIES[use](card) for use in uses)]
        if not able:
            raise self._unable(name, uses, what)
        return able[0] if len(able) == 1 else min(able, key=best)

    def _unable(self, name: str | None, uses: tuple[str, ...], what: str) -> ApiError:
        """Of a model that does not do that, or of all, with what there is in its place."""
        if name is None:
            served = some_of((f"{card.name} ({', '.join(of_card(card)) or 'its own actions'})" for card in self.open()), most=5)
            return ApiError(404, f"no model that is served does {what}; there are {served}", param="model", code="model_not_found")
        others = some_of(card.name for card in self.open() if any(ABILITIES[use](card) for use in uses))
        does = ", ".join(of_card(self.named(name))) or "its own actions alone"
        return ApiError(404, f"{name} does no {what}; it does {does}; {others or 'no other'} can", param="model", code="model_not_found")

    def open(self) -> list[ModelCard]:
        """The models there are. ApiError 503 where there is none, as before the first replica is up."""
        cards = self.backend.models()
        if not cards:
            raise busy(503, "no model is open yet; /readyz says why", _SOON_SECONDS, "unavailable")
        return cards

    def named(self, name: str) -> ModelCard:
        """The model of that name. ApiError 404 where there is none, 503 where there is one that cannot be opened now."""
        for card in self.open():
            if card.name == name:
                return card
        if name in getattr(self.backend, "problems", {}):
            raise busy(503, "this model cannot be opened now; /readyz says why", _OPEN_SECONDS, "unavailable")
        raise no_model("there is no model of that name", (card.name for card in self.open()), "model")


def of(request: Request) -> Front:
    """The front that serves this request."""
    return request.app.state.front


async def respond(request: Request, work: InferenceRequest, *, stream: bool = False, as_job: bool = False) -> Response:
    """Does the work in the way that the request asks for."""
    front, context = of(request), current_request()
    context.notes.update(model=work.model, steps=work.steps, rows=max(1, len(work.seeds)))
    context.prompt = " | ".join(work.texts()) if front.options.log_prompts else ""
    key, fingerprint = await identity(request)
    if as_job:
        job = front.jobs.start(work, job_id(key), fingerprint)
        return json_response(front.jobs.shown(job), 202, {"Location": f"/v1/jobs/{job.id}"})
    if stream:
        if key:
            message = "a stream has no Idempotency-Key; leave it out, or send async: true and read the job's events"
            raise ApiError(409, message, param="Idempotency-Key", code="unsupported")
        return await event_stream(_streamed(front, work), front.options.heartbeat_seconds, front.options.request_timeout_seconds)
    if key:
        return await front.answers.once(key, fingerprint, lambda: _whole(front, request, work))
    return await _whole(front, request, work)


async def _whole(front: Front, request: Request, work: InferenceRequest) -> Response:
    """The answer in one piece."""
    if work.link:
        return await _kept(front, work)
    answer, seconds = await execute(front.backend, front.metrics, work, front.options.request_timeout_seconds)
    timing = ", ".join(f"{phase};dur={1000 * spent:.1f}" for phase, spent in seconds.items())
    headers = {"Server-Timing": timing} if timing else {}
    if request.headers.get("accept", "").split(",")[0].split(";")[0].strip().lower() == "image/png":
        return _picture(answer, work, headers)
    return json_response(answer.with_images(), headers=headers)


def _picture(answer: Answer, work: InferenceRequest, headers: dict[str, str]) -> Response:
    """The picture itself."""
    if len(answer.images) != 1:
        message = f"Accept: image/png is for one picture, and this gives {len(answer.images)}; ask for one, or accept application/json"
        raise ApiError(406, message, code="not_acceptable")
    seed = {"X-Seed": str(work.seeds[0])} if work.seeds else {}
    return Response(answer.images[0], media_type="image/png", headers={**headers, **seed})


async def _kept(front: Front, work: InferenceRequest) -> Response:
    """The answer with addresses of pictures: those of a job, for which this waits, and which goes when the client does."""
    job = front.jobs.start(work, job_id(), "")
    try:
        async with asyncio.timeout(front.options.request_timeout_seconds):
            state = await front.jobs.ended(job)
    except BaseException as error:
        await front.jobs.delete(job)
        raise as_problem(error, timeout_seconds=front.options.request_timeout_seconds) or error from None
    if state["status"] != "completed":
        raise _failure(state)
    return json_response(state["result"])


def _failure(state: dict[str, Any]) -> ApiError:
    error = state["error"] or {"message": "the job was cancelled", "code": "cancelled", "param": None}
    return ApiError(500 if (state["error"] or {}).get("type") == "server_error" else 400, error["message"], code=error["code"], param=error["param"])


def json_response(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """JSON, written once."""
    return Response(json_bytes(value), status, {"Cache-Control": "no-store", **(headers or {})}, "application/json")


async def _streamed(front: Front, work: InferenceRequest) -> AsyncGenerator[Event, None]:
    """The events of work that goes with its client."""
    if work.link:
        job = front.jobs.start(work, job_id(), "")
        try:
            async with aclosing(job_events(front, job, 0, work.link)) as events:
                async for event in events:
                    if not event["type"].startswith("job."):
                        yield {key: value for key, value in event.items() if key != "id"}
        finally:
            if job.state()["completed_at"] is None:
                await front.jobs.delete(job)
        if (state := job.state())["status"] != "completed":
            raise _failure(state)
        return
    async with aclosing(progress_of(front.backend, front.metrics, work)) as news:
        async for one in news:
            for event in _events(work, one):
                yield event


def _events(work: InferenceRequest, news: ProgressUpdate) -> list[Event]:
    """One event, or one for each picture that is done."""
    if news.kind != "done":
        return [_event(work, news.kind, news.values, news.image)]
    assert news.answer is not None
    document = news.answer.with_images()
    if not news.answer.images:
        return [{"type": f"{work.event}.completed", **document}]
    rest = {key: value for key, value in document.items() if key not in ("data", "created")}
    return [_event(work, "completed", {**rest, **row}, b"") for row in document["data"]]


def _event(work: InferenceRequest, kind: str, values: dict[str, Any], image: bytes) -> Event:
    picture = {"b64_json": png_as_text(image)} if image else {}
    custom = {} if kind == "progress" else _custom(image)
    return {"type": f"{work.event}.{kind}", **custom, **picture, **values}


def _custom(image: bytes) -> dict[str, Any]:
    """Fields that OpenAI's events of pictures have, whatever the model."""
    size = {"size": size_of(image)} if image else {}
    return {"created_at": int(time.time()), "output_format": "png", "background": "opaque", "quality": "auto", **size}


async def job_events(front: Front, job: BackgroundJob, after: int, links: bool) -> AsyncGenerator[Event, None]:
    """A job's events from the one after number `after` on, with their pictures."""
    async with aclosing(front.jobs.follow(job, after)) as events:
        async for event in events:
            name = event.pop("picture", None)
            if event["type"].removeprefix("job.") in ENDED:
                yield {**event, "job": front.jobs.shown(job)}
            elif name and not (links and "url" in event):
                picture = job.picture(name)
                if picture is not None:
                    yield {**_custom(picture), **event, "b64_json": png_as_text(picture)}
            else:
                yield {**(_custom(b"") if name else {}), **event}
