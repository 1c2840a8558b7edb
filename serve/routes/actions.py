"""Every action of every model, whatever its family: its arguments are the body, beside the fields that say how to answer."""

from __future__ import annotations

from typing import Any

import pydantic_core
from fastapi import APIRouter, Request
from fastapi.responses import Response

from serve.api_error import ApiError, some_of
from serve.backend import ModelCard
from serve.front import of, respond
from serve.inference.request import ActionCall, InferenceRequest, check_given, checked_arguments, taken_by, tensors_of
from serve.limits import Limits, check_action
from serve.options import ServeOptions
from serve.parsing.image_decoding import tensor_of
from serve.parsing.json_fields import Value, fields, joined, no_json
from serve.routes.beside import if_large
from serve.routes.bodies import ASKED, Asked, kind_of, validated
from serve.routes.describing import route
from serve.routes.pictures import settings

ROUTER = APIRouter()
_PICTURE_TIMES = 64
"""Bytes of pixels that a byte of a picture's file may become, usually."""


@route(ROUTER, "/v1/models/{model}/actions/{action}", Asked, uses=(), answer="ActionResult", stream=True)
async def run_action(request: Request, model: str, action: str) -> Response:
    """Runs an action."""
    kind_of(request, forms=False)
    front = of(request)
    card = front.named(model)
    if action not in card.actions:
        raise ApiError(404, f"{card.name} has no such action; it has {some_of(card.actions, most=40) or 'none'}", code="action_not_found")
    content = await request.body()
    body, arguments = await if_large(_decoded_bytes(card, action, content), _taken, card, action, content, front.options.limits)
    if body.model not in (None, model):
        raise ApiError(400, "the body names another model than the path; leave model out of it", param="model")
    work = _work(card, action, arguments, body, front.options)
    return await respond(request, work, stream=bool(body.stream), as_job=bool(body.as_job))


def _decoded_bytes(card: ModelCard, action: str, content: bytes) -> int:
    """How much there may be to do: a small picture file may hold a large picture."""
    return len(content) * (_PICTURE_TIMES if tensors_of(card, action) else 1)


def _taken(card: ModelCard, action: str, content: bytes, limits: Limits) -> tuple[Asked, dict[str, Any]]:
    """A body: how to answer, and the arguments, checked."""
    given = fields(content, taken_by(card, action, ASKED), limits)
    own = {name: value for name, value in given.items() if name in card.actions[action].inputs}
    body = validated(Asked, joined({name: value for name, value in given.items() if name not in own}))
    tensors = {name: value for name, value in own.items() if name in tensors_of(card, action)}
    plain = checked_arguments(card, action, _parsed({name: value for name, value in own.items() if name not in tensors}), limits, later=own)
    known = card.actions[action]
    arrays = {name: tensor_of(value, name, known.inputs[name].port, card.sizes.channels, limits, card.background) for name, value in tensors.items()}
    arguments = {**plain, **arrays}
    check_given(card, action, arguments, limits)
    check_action(limits, known, arguments, card.sizes)
    return body, arguments


def _parsed(given: dict[str, Value]) -> dict[str, Any]:
    try:
        return pydantic_core.from_json(joined(given), allow_inf_nan=False, cache_strings="none")
    except ValueError as error:
        raise no_json(str(error)) from None


def _work(card: ModelCard, action: str, arguments: dict[str, Any], body: Asked, options: ServeOptions) -> InferenceRequest:
    known, side = card.actions[action], card.sizes.side
    seeds = arguments.get(known.named("seeds") or "")
    width, height = (arguments.get(known.named(kind) or "") or side for kind in ("width", "height"))
    steps = known.named("steps")
    wanted = options.png_parameters and body.png_parameters is not False
    return InferenceRequest(
        endpoint="actions", model=card.name, calls=(ActionCall(action=action, arguments=arguments),), event="action",
        seeds=tuple(seeds) if isinstance(seeds, list) else (), steps=arguments.get(steps, known.inputs[steps].default) if steps else 0,
        parameters=settings(card, known, arguments, (width, height)) if wanted else None, partial_images=body.partial_images or 0,
        link=body.response_format == "url",
        request={"action": action, **{name: value for name, value in arguments.items() if _shown(value, options.limits)}},
    )  # fmt: skip


def _shown(value: Any, limits: Limits) -> bool:
    """Whether a job shows an argument: no arrays, and no long lists."""
    return isinstance(value, str | int | float) or (isinstance(value, list) and len(value) <= limits.pictures)
