"""The HTTP application: a gate, the routes, and one page. It knows models only through a `Backend`."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
from collections.abc import AsyncIterator, Sequence
from importlib.resources import files as files_of_package
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.asyncexitstack import AsyncExitStackMiddleware
from fastapi.responses import Response
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.exceptions import ExceptionMiddleware
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from serve.api_error import ApiError
from serve.backend import Backend
from serve.background_jobs.jobs import Jobs
from serve.front import Front, json_response
from serve.http.guard import Guard
from serve.observability import Metrics
from serve.options import ServeOptions
from serve.parsing.refusals import form_of
from serve.routes import about, actions, edits, images, jobs, vectors
from serve.routes.describing import parameter_of

PAGE = Path(__file__).parent / "page"
_KINDS = {
    ".html": "text/html; charset=utf-8", ".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml",
    ".json": "application/json", ".png": "image/png", ".webmanifest": "application/manifest+json", ".woff2": "font/woff2",
}  # fmt: skip
_OURS: Any = {"tracing": False, "metrics": False, "logs": False}
"""Of FastAPI's own telemetry nothing: `serve.observability` says what is said, and no value of a request is in it."""
PROBES = ("/health", "/healthz", "/readyz")
"""Open without a key: what a cluster asks of every process."""


def page_files() -> dict[str, Path]:
    """The files of the page and of `/docs` by path.

    They are open without a key, as a browser fetches them before anyone can type one, and they hold nothing of the server.
    """
    files = {f"/page/{path.name}": path for path in sorted(PAGE.glob("*")) if path.suffix in _KINDS and path.suffix != ".html"}
    swagger = files_of_package("fastapi_offline") / "static"
    files |= {f"/docs/{name}": Path(str(swagger / name)) for name in ("swagger-ui-bundle.js", "swagger-ui.css")}
    return {"/": PAGE / "index.html", "/docs": PAGE / "docs.html", **files}


def build_app(backend: Backend, options: ServeOptions) -> FastAPI:
    """The application over models, as `options` say."""
    metrics = Metrics()
    front = Front(backend, options, metrics, Jobs(backend, metrics, options))
    app = Application(
        title="genlib", version="1", description="Trained models: pictures, vectors, and every action they have.",
        openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False, lifespan=_lifespan, telemetry=_OURS,
    )  # fmt: skip
    app.state.front = front
    for routes in (images, edits, vectors, actions, jobs, about):
        app.router.routes.extend(routes.ROUTER.routes)  # one flat list, which is what the gate's tests go over
    pages = page_files()
    for path, file in pages.items():
        app.add_api_route(path, _page(file), methods=["GET", "HEAD"], include_in_schema=False)
    app.add_middleware(Guard, options=options, metrics=metrics, open_paths=(*PROBES, *pages))
    if options.cors_origins:
        told = ["x-request-id", "retry-after", "location", "server-timing", "x-seed"]
        app.add_middleware(CORSMiddleware, allow_origins=list(options.cors_origins), allow_methods=["*"], allow_headers=["*"], expose_headers=told)
    return app


class Application(FastAPI):
    """FastAPI without its outer layers: the gate does what they would, which is to tell of errors and to limit bodies."""

    def build_middleware_stack(self) -> ASGIApp:
        """See `Starlette`."""
        stack: ASGIApp = ExceptionMiddleware(AsyncExitStackMiddleware(self.router), {HTTPException: _told, RequestValidationError: _told})
        stack = Direct(stack, self.routes)
        for kind, arguments, options in reversed(self.user_middleware):
            stack = kind(stack, *arguments, **options)
        return stack


class Direct:
    """ASGI middleware that calls a route whose path is fixed, and whose function takes the request alone, by its path.

    All others are FastAPI's, which looks for parameters.
    """

    def __init__(self, app: ASGIApp, routes: Sequence[BaseRoute]) -> None:
        self.app = app
        known = [one for one in routes if isinstance(one, APIRoute) and [*inspect.signature(one.endpoint).parameters] == ["request"]]
        self.routes = {(method, one.path): one for one in known if not one.param_convertors for method in one.methods or ()}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        route = self.routes.get((scope["method"], scope["path"])) if scope["type"] == "http" else None
        if route is None:
            await self.app(scope, receive, send)
            return
        scope["route"] = route
        response = await route.endpoint(Request(scope, receive, send))
        await response(scope, receive, send)


@contextlib.asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Takes up what was left undone; lets go of what runs at the end."""
    front: Front = app.state.front
    keeper = asyncio.create_task(front.jobs.recover_jobs())
    yield
    keeper.cancel()
    await front.jobs.stop()


def _page(file: Path):
    """A route that answers with one file, read each time: it is small, and may be edited."""

    async def answer() -> Response:
        return Response(file.read_bytes(), media_type=_KINDS[file.suffix], headers={"Cache-Control": "no-cache"})

    return answer


async def _told(request: Request, error: Exception) -> Response:
    """FastAPI's refusals in the shape of all others."""
    if isinstance(error, RequestValidationError):
        problem = _of_parameters(error, request)
    else:
        assert isinstance(error, HTTPException)
        allowed = _allowed(request) if error.status_code == 405 else ""
        said = {404: "there is no such route; /openapi.json lists all", 405: f"this route does not take that method; it takes {allowed}"}
        message = said.get(error.status_code, "the request cannot be served")
        headers = {"Allow": allowed} if allowed else error.headers
        problem = ApiError(error.status_code, message, code="not_found" if error.status_code == 404 else "invalid_request", headers=headers)
    return json_response(problem.body(), problem.status, problem.headers)


def _allowed(request: Request) -> str:
    """The methods of all routes of a path; each route alone knows its own."""
    routes = [route for route in request.app.routes if isinstance(route, APIRoute) and route.path_regex.fullmatch(request.url.path)]
    return ", ".join(sorted({method for route in routes for method in route.methods or ()}))


def _of_parameters(error: RequestValidationError, request: Request) -> ApiError:
    """A wrong path is one that does not exist; of a wrong query its form is said."""
    place, name = (*error.errors()[0]["loc"], "")[:2]
    parameter = parameter_of(request.app, request.scope["route"].path, str(name))
    form = form_of({"description": parameter.get("description", ""), **parameter["schema"]})
    if place == "path":
        return ApiError(404, f"there is no such job or file; its name must be {form}", code="not_found")
    return ApiError(400, f"{name} must be {form}", param=str(name))
