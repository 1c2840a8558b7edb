"""What is served, and how the server does."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from genlib.actions import Action
from serve.api_error import ApiError
from serve.backend import ModelCard
from serve.front import json_response, of
from serve.inference import abilities
from serve.inference.schema import arguments_schema, result_schema
from serve.limits import Limits
from serve.routes.describing import document, get

ROUTER = APIRouter()
_METRICS = {"text/plain": {"schema": {"type": "string"}}}


@get(ROUTER, "/v1/models", "ModelList")
async def models(request: Request) -> Response:
    """All that is served, and what one request may ask for."""
    front = of(request)
    limits = front.options.limits
    return json_response({"object": "list", "data": [described(card, limits) for card in front.backend.models()], "limits": limits.public()})


@get(ROUTER, "/v1/models/{model}", "Model")
async def model(request: Request, model: str) -> Response:
    """One of them."""
    front = of(request)
    return json_response(described(front.named(model), front.options.limits))


def described(card: ModelCard, limits: Limits) -> dict[str, Any]:
    """A model as clients see it."""
    sizes = card.sizes
    return {
        "id": card.name, "object": "model", "created": card.created, "owned_by": "genlib", "recipe": card.recipe, "step": card.step,
        "sha256": card.sha256, "capabilities": abilities.of(card),
        "actions": {name: action_described(action, limits) for name, action in card.actions.items()},
        "image_size": sizes.side, "channels": sizes.channels, "multiple": sizes.multiple, "classes": list(sizes.classes),
        "max_batch": card.max_batch, "max_steps": sizes.max_steps,
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
    """Whether there is a model to ask, and why not; open, as probes bring no key."""
    front = of(request)
    served = len(front.backend.models())
    problems: dict[str, str] = dict(getattr(front.backend, "problems", {}))
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
