"""Every action of every model, whatever its family: its arguments are the body, beside the fields that say how to answer."""

from __future__ import annotations

import asyncio
from typing import Any

import pydantic_core
from fastapi import APIRouter, Request
from fastapi.responses import Response

from serve.backend import ModelCard
from serve.bodies import ASKED, Asked, checked, json_object
from serve.front import of, respond
from serve.limits import Limits, check_action
from serve.options import ServeOptions
from serve.problem import Problem
from serve.routes.describing import route
from serve.routes.pictures import settings
from serve.work import Call, Work, checked_arguments, tensors_of, usual_counts

ROUTER = APIRouter()


@route(ROUTER, "/v1/models/{model}/actions/{action}", Asked, actions=(), answer="ActionResult", stream=True)
async def run_action(request: Request, model: str, action: str) -> Response:
    """Runs an action."""
    values, front = await json_object(request), of(request)
    card = front.named(model)
    if action not in card.actions:
        raise Problem(404, f"{card.name} has no such action; it has {', '.join(card.actions) or 'none'}", code="action_not_found")
    arguments = {name: value for name, value in values.items() if name not in ASKED or name in card.actions[action]["properties"]}
    body = checked(Asked, pydantic_core.to_json({name: value for name, value in values.items() if name not in arguments}))
    if body.model not in (None, model):
        raise Problem(400, "the body names another model than the path", param="model")
    taken = await _taken(card, action, arguments, front.options.limits)
    check_action(front.options.limits, {**usual_counts(card, action), **taken}, card.image_size)
    work = _work(card, action, taken, body, front.options)
    return await respond(request, work, stream=bool(body.stream), as_job=bool(body.as_job))


async def _taken(card: ModelCard, action: str, arguments: dict[str, Any], limits: Limits) -> dict[str, Any]:
    """The arguments, checked; beside the loop where there is something to decode."""
    if tensors_of(card, action).isdisjoint(arguments):
        return checked_arguments(card, action, arguments, limits, decode=True)
    return await asyncio.to_thread(checked_arguments, card, action, arguments, limits, decode=True)


def _work(card: ModelCard, action: str, arguments: dict[str, Any], body: Asked, options: ServeOptions) -> Work:
    seeds = arguments.get("seed")
    sides = (arguments.get("width") or card.image_size, arguments.get("height") or card.image_size)
    schema = card.actions[action]["properties"].get("steps", {})
    wanted = options.png_parameters and body.png_parameters is not False
    return Work(
        endpoint="actions", model=card.name, calls=(Call(action=action, arguments=arguments),), event="action",
        seeds=tuple(seeds) if isinstance(seeds, list) else (), steps=arguments.get("steps", schema.get("default", 0)),
        parameters=settings(card, arguments, sides) if wanted else None, partial_images=body.partial_images or 0,
        link=body.response_format == "url",
        request={"action": action, **{name: value for name, value in arguments.items() if isinstance(value, str | int | float | list)}},
    )  # fmt: skip
