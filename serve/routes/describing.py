"""Routes with what OpenAPI says of them, which is exact: bodies from their models, answers from `shapes`, actions from what is served."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.responses import Response
from fastapi.routing import APIRoute
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from serve.backend import ModelCard
from serve.inference.abilities import ABILITIES
from serve.inference.schema import arguments_schema
from serve.limits import Limits
from serve.routes import shapes
from serve.routes.bodies import ASKED, Asked, described

_EVENT = {"type": "object", "properties": {name: {"type": "string"} for name in ("data", "event", "id")}, "additionalProperties": False}
PNG = {"image/png": {"schema": {"type": "string", "format": "binary"}}}
EVENTS = {"text/event-stream": {"schema": _EVENT}}
_PROBLEMS = {"4XX": "What is wrong with the request", "5XX": "What went wrong"}
_HEADER = {
    "name": "Idempotency-Key", "in": "header", "required": False, "schema": {"type": "string", "minLength": 1, "maxLength": 255},
    "description": "The same key and body get the same answer again.",
}  # fmt: skip


def _json(name: str) -> dict[str, Any]:
    return {"application/json": {"schema": {"$ref": f"#/components/schemas/{name}"}}}


def answers(name: str, *, kinds: dict[str, Any] | None = None, job: bool = False) -> dict[str, Any]:
    """OpenAPI's `responses`: this shape, perhaps other media types or a job, or a problem."""
    found = {"200": {"description": "Done", "content": {**(_json(name) if name else {}), **(kinds or {})}}}
    if job:
        location = {"Location": {"schema": {"type": "string"}, "description": "The job's address"}}
        found["202"] = {"description": "A job that goes on", "content": _json("Job"), "headers": location}
    return {"responses": {**found, **{status: {"description": said, "content": _json("Problem")} for status, said in _PROBLEMS.items()}}}


def route(
    router: APIRouter, path: str, body: type[Asked], *, uses: Sequence[str], answer: str, stream: bool = False, forms: bool = False
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """A POST route that does work with a model that has one of these uses (`serve.inference.abilities`)."""
    kinds = {**(PNG if answer in ("Pictures", "Reconstructions") else {}), **(EVENTS if stream else {})}
    extra = {**described(body, forms=forms), **answers(answer, kinds=kinds, job=True), "parameters": [_HEADER], "x-uses": list(uses)}
    return router.post(path, response_class=Response, openapi_extra=extra)


def parameter_of(app: FastAPI, path: str, name: str) -> dict[str, Any]:
    """What OpenAPI says of a parameter in a path or its query."""
    routes = [route for route in app.routes if isinstance(route, APIRoute) and route.path == path]
    (operations,) = get_openapi(title="", version="", routes=routes)["paths"].values()
    return next(one for operation in operations.values() for one in operation["parameters"] if one["name"] == name)


def get(
    router: APIRouter, path: str, answer: str, *, kinds: dict[str, Any] | None = None, method: str = "GET"
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """A route without a body. What answers GET in one piece answers HEAD too, as probes ask."""

    def added(function: Callable[..., Any]) -> Callable[..., Any]:
        router.add_api_route(path, function, methods=[method], response_class=Response, openapi_extra=answers(answer, kinds=kinds))
        if method == "GET" and kinds is not EVENTS:
            router.add_api_route(path, function, methods=["HEAD"], response_class=Response, include_in_schema=False)
        return function

    return added


def document(app: FastAPI, cards: Sequence[ModelCard], limits: Limits, *, keys: bool) -> dict[str, Any]:
    """The OpenAPI document of what is served now: models by name, and a path for each of their actions."""
    found = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
    components = found.setdefault("components", {})
    components["schemas"] = _schemas()
    paths = found["paths"]
    template = paths.pop("/v1/models/{model}/actions/{action}")["post"]
    for card in cards:
        for action in card.actions:
            paths[f"/v1/models/{card.name}/actions/{action}"] = {"post": _action(template, card, action, limits)}
    for operations in paths.values():
        for operation in operations.values():
            operation["responses"].pop("422", None)
            _name_models(operation, cards)
    if keys:
        components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        for path, operations in paths.items():
            for operation in operations.values():
                operation["security"] = [] if path in ("/", "/healthz", "/readyz") else [{"key": []}]
    return found


def _schemas() -> dict[str, Any]:
    models = [one for one in vars(shapes).values() if isinstance(one, type) and issubclass(one, BaseModel) and one.__module__ == shapes.__name__]
    _, found = models_json_schema([(one, "serialization") for one in models], ref_template="#/components/schemas/{model}")
    return found["$defs"]


def _name_models(operation: dict[str, Any], cards: Sequence[ModelCard]) -> None:
    """Says which models there are where one may be named."""
    uses = operation.pop("x-uses", None)
    if uses is None:
        return
    able = [card for card in cards if any(ABILITIES[use](card) for use in uses)]
    names, samplers = [card.name for card in able], _samplers(able)
    for content in operation["requestBody"]["content"].values():
        schema = copy.deepcopy(content["schema"])
        known = schema.get("properties", {})
        for field, values in (("model", names), ("scheduler", samplers)):
            if field in known and values:
                known[field] = {"anyOf": [{"type": "string", "enum": values}, {"type": "null"}]}
        content["schema"] = schema


def _samplers(cards: Sequence[ModelCard]) -> list[str]:
    """All samplers that one of the models knows."""
    found = (one.port.choices for card in cards for action in card.actions.values() for one in action.inputs.values() if one.port.kind == "sampler")
    return list(dict.fromkeys(name for choices in found for name in choices))


def _action(template: dict[str, Any], card: ModelCard, action: str, limits: Limits) -> dict[str, Any]:
    """The operation of one action of one model."""
    schema = arguments_schema(card.actions[action], limits.of_ports())
    asked = Asked.model_json_schema(by_alias=True)["properties"]
    asked = {name: asked[name] for name in ASKED if name != "model" and name not in schema["properties"]}
    whole = {**schema, "properties": {**schema["properties"], **asked}}
    operation = copy.deepcopy(template)
    operation["parameters"] = [_HEADER]
    return {
        **operation,
        "operationId": f"{card.name}_{action}",
        "summary": f"{action} of {card.name}",
        "description": card.actions[action].summary,
        "requestBody": {"required": True, "content": {"application/json": {"schema": whole}}},
    }
