"""What is served, and how the server does."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from serve.backend import ModelCard
from serve.front import json_response, of
from serve.problem import Problem
from serve.routes.describing import document, get
from serve.work import public_schema

ROUTER = APIRouter()
_METRICS = {"text/plain": {"schema": {"type": "string"}}}
_ENDPOINTS = {
    "generate": "images.generations", "inpaint": "images.edits.inpaint", "outpaint": "images.edits.outpaint",
    "image_to_image": "images.edits.image_to_image", "edit": "images.edits.edit", "translate": "images.translations",
    "reconstruct": "images.reconstructions", "embed": "embeddings.images", "embed_image": "embeddings.images", "embed_text": "embeddings.texts",
    "classify": "classifications",
}  # fmt: skip
"""What each action is for."""


@get(ROUTER, "/v1/models", "ModelList")
async def models(request: Request) -> Response:
    """All that is served, and what one request may ask for."""
    front = of(request)
    return json_response({"object": "list", "data": [described(card) for card in front.backend.models()], "limits": front.options.limits.public()})


@get(ROUTER, "/v1/models/{model}", "Model")
async def model(request: Request, model: str) -> Response:
    """One of them."""
    return json_response(described(of(request).named(model)))


def described(card: ModelCard) -> dict[str, Any]:
    """A model as clients see it."""
    drawn = ["images.variations"] if "image_to_image" in card.actions else []
    able = [what for action, what in _ENDPOINTS.items() if action in card.actions and (card.image_size or not what.startswith("images"))]
    return {
        "id": card.name, "object": "model", "created": card.created, "owned_by": "genlib", "recipe": card.recipe, "step": card.step,
        "sha256": card.sha256, "capabilities": sorted({*able, *drawn}),
        "actions": {name: {"description": card.docs.get(name, ""), "parameters": public_schema(schema)} for name, schema in card.actions.items()},
        "image_size": card.image_size, "channels": card.channels, "multiple": card.multiple, "classes": list(card.classes),
        "max_batch": card.max_batch, "max_steps": card.max_steps,
    }  # fmt: skip


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
        raise Problem(503, why, code="not_ready", headers={"Retry-After": "5"})
    return json_response({"status": "ready", "models": served, **({"problems": problems} if problems else {})})


@get(ROUTER, "/metrics", "", kinds=_METRICS)
async def metrics(request: Request) -> Response:
    """Prometheus' text format."""
    return Response(generate_latest(of(request).metrics.registry), headers={"Content-Type": CONTENT_TYPE_LATEST})


@get(ROUTER, "/openapi.json", "", kinds={"application/json": {"schema": {"type": "object"}}})
async def openapi(request: Request) -> Response:
    """This API, as it is now."""
    front = of(request)
    return json_response(document(request.app, front.backend.models(), keys=bool(front.options.keys)))
