"""What is served, and how the server does."""

from __future__ import annotations

import base64
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from genlib.actions import Action
from genlib.sharing.held_out import read_held_out
from serve.api_error import ApiError
from serve.backend import ModelCard
from serve.front import Front, json_response, of
from serve.http.guard import digests_of, may_ask
from serve.inference import abilities
from serve.inference.schema import arguments_schema, result_schema
from serve.limits import Limits
from serve.routes.beside import beside
from serve.routes.describing import PNG, document, get

ROUTER = APIRouter()
_METRICS = {"text/plain": {"schema": {"type": "string"}}}


@get(ROUTER, "/v1/models", "ModelList")
async def models(request: Request) -> Response:
    """All that is served, and what one request may ask for."""
    front = of(request)
    models = [described(front, card) for card in front.backend.models()]
    return json_response({"object": "list", "data": models, "limits": front.options.limits.public()})


@get(ROUTER, "/v1/models/{model}", "Model")
async def model(request: Request, model: str) -> Response:
    """One of them."""
    front = of(request)
    return json_response(described(front, front.named(model)))


@get(ROUTER, "/v1/models/{model}/held-out", "HeldOut")
async def held_out(request: Request, model: str) -> Response:
    """Some of the samples that its training did not see, as its run kept them, to try it on."""
    front = of(request)
    card = front.named(model)
    kept = await beside(read_held_out, card.run.held_out) if has_held_out(front, card) else []
    if not kept:
        why = "this server does not show held-out samples" if not front.options.held_out else "the run of this model kept no held-out samples"
        raise ApiError(404, f"{why}; GET /v1/models says by has_held_out which models have some", param="model", code="not_found")
    return json_response({"object": "list", "model": card.name, "data": [
        {"index": index, "words": one.words, "media_type": one.media_type, "b64_json": base64.b64encode(one.image).decode()}
        for index, one in enumerate(kept)
    ]})  # fmt: skip


@get(ROUTER, "/v1/models/{model}/picture", "", kinds=PNG)
async def picture(request: Request, model: str) -> Response:
    """What it can do in one picture, as its run drew it."""
    card = of(request).named(model)
    try:
        content = await beside(card.run.picture.read_bytes) if card.run.picture else b""
    except OSError:
        content = b""
    if not content:
        raise ApiError(
            404, "the run of this model left no picture; GET /v1/models says by has_picture which have one", param="model", code="not_found"
        )
    return Response(content, media_type="image/png", headers={"Cache-Control": "no-store"})


def has_held_out(front: Front, card: ModelCard) -> bool:
    """Whether there are held-out samples that may be shown."""
    return front.options.held_out and card.run.held_out is not None


def described(front: Front, card: ModelCard) -> dict[str, Any]:
    """A model as clients see it."""
    sizes, limits = card.sizes, front.options.limits
    return {
        "id": card.name, "object": "model", "created": card.created, "owned_by": "genlib", "recipe": card.recipe, "step": card.step,
        "sha256": card.sha256, "capabilities": abilities.of(card),
        "actions": {name: action_described(action, limits) for name, action in card.actions.items()},
        "image_size": sizes.side, "channels": sizes.channels, "multiple": sizes.multiple, "classes": list(sizes.classes),
        "max_batch": card.max_batch, "max_steps": sizes.max_steps,
        "data": card.run.data, "scores": dict(card.run.scores),
        "has_picture": card.run.picture is not None, "has_held_out": has_held_out(front, card),
    }  # fmt: skip


def action_described(action: Action, limits: Limits) -> dict[str, Any]:
    """An action as clients see it."""
    return {"description": action.summary, "parameters": arguments_schema(action, limits.of_ports()), "result": result_schema(action.result)}


@ROUTER.api_route("/health", methods=["GET", "HEAD"], include_in_schema=False)  # as it is called elsewhere
@get(ROUTER, "/healthz", "Status")
async def alive(request: Request) -> Response:
    """Whether the process answers; open, as probes bring no key, and it says nothing else."""
    return json_response({"status": "ok"})


@get(ROUTER, "/readyz", "Status")
async def ready(request: Request) -> Response:
    """Whether there is a model to ask, and why not; open, as probes bring no key. Where there are keys, only who has one hears of models."""
    front = of(request)
    served = len(front.backend.models())
    problems: dict[str, str] = dict(getattr(front.backend, "problems", {}))
    if not may_ask(request.headers, digests_of(front.options.keys)):
        problems = {}
    if not served:
        why = "; ".join(f"{name}: {problem}" for name, problem in problems.items()) or "no model is loaded yet"
        raise ApiError(503, why, code="not_ready", headers={"Retry-After": "5"})
    return json_response({"status": "ready", "models": served, **({"problems": problems} if problems else {})})


@get(ROUTER, "/metrics", "", kinds=_METRICS)
async def metrics(request: Request) -> Response:
    """Prometheus' text format."""
    return Response(generate_latest(of(request).metrics.registry), headers={"Content-Type": CONTENT_TYPE_LATEST})


@get(ROUTER, "/openapi.json", "", kinds={"application/json": {"schema": {"type": "object"}}})
async def openapi(request: Request) -> Response:
    """This API, as it is now."""
    front = of(request)
    return json_response(document(request.app, front.backend.models(), front.options.limits, keys=bool(front.options.keys)))
