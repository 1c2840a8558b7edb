"""Jobs and their pictures: what became of work that goes on without its client."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import Response

from serve.api_error import ApiError
from serve.front import job_events, json_response, of
from serve.routes.describing import EVENTS, PNG, get
from serve.streams import event_stream

ROUTER = APIRouter()
_JOB, _SAID = r"^job_[0-9a-f]{32}$", "job_ and 32 hexadecimal digits"
JobId = Annotated[str, Path(pattern=_JOB, description=_SAID)]
FileId = Annotated[str, Path(pattern=r"^job_[0-9a-f]{32}-[0-9]{1,5}$", description=f"{_SAID}, a dash and a number")]


@get(ROUTER, "/v1/jobs", "JobList")
async def listed(
    request: Request, limit: Annotated[int, Query(ge=1, le=1000)] = 100, after: Annotated[str | None, Query(pattern=_JOB, description=_SAID)] = None
) -> Response:
    """All jobs that are kept, newest first; those after one, to go on from there."""
    jobs = of(request).jobs
    found = jobs.all()
    start = next((place + 1 for place, job in enumerate(found) if job.id == after), 0 if after is None else len(found))
    shown = []
    for job in found[start : start + limit]:
        try:
            shown.append(jobs.shown(job))
        except ApiError:  # deleted since
            continue
    return json_response({"object": "list", "data": shown, "has_more": start + limit < len(found)})


@get(ROUTER, "/v1/jobs/{id}", "Job")
async def one(request: Request, id: JobId) -> Response:
    """Where a job stands."""
    jobs = of(request).jobs
    return json_response(jobs.shown(jobs.get(id)))


@get(ROUTER, "/v1/jobs/{id}", "Job", method="DELETE")
async def deleted(request: Request, id: JobId) -> Response:
    """Stops a job that is under way; removes one that is over, with its pictures."""
    jobs = of(request).jobs
    return json_response(await jobs.delete(jobs.get(id)))


@get(ROUTER, "/v1/jobs/{id}/events", "", kinds=EVENTS)
async def events(request: Request, id: JobId) -> Response:
    """News of a job from its first, or after the header Last-Event-ID, until it is over."""
    front, last = of(request), request.headers.get("last-event-id", "").strip()
    after = int(last) if last.isascii() and last.isdecimal() and len(last) < 10 else 0
    job = front.jobs.get(id)
    return await event_stream(job_events(front, job, after, links=False), front.options.heartbeat_seconds)


@get(ROUTER, "/v1/files/{id}", "", kinds=PNG)
async def file(request: Request, id: FileId) -> Response:
    """A picture of a job."""
    return Response(of(request).jobs.file(id), media_type="image/png", headers={"Cache-Control": "private, max-age=31536000, immutable"})
