"""What models make of texts and pictures: embeddings, and classes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import Field

from genlib.actions import Action
from serve.api_error import ApiError
from serve.backend import ModelCard
from serve.front import Front, of, respond
from serve.inference.abilities import ABILITIES, action_for
from serve.inference.request import ActionCall, InferenceRequest, checked_arguments
from serve.parsing.image_decoding import batch_of, fitted_with, with_channels
from serve.parsing.text_files import is_file
from serve.routes.bodies import WHOLE, Asked, Picture, body_of
from serve.routes.describing import route
from serve.routes.pictures import check_scaled, decoded, pictured

ROUTER = APIRouter()
Words = Annotated[str, Field(min_length=1, max_length=16 << 20)]
Label = Annotated[str, Field(min_length=1, max_length=500)]
_TEXTS, _IMAGES = "embeddings.texts", "embeddings.images"


class Embedding(Asked):
    """POST /v1/embeddings. A picture is a data URI, or base64 alone, which is no part of OpenAI's API."""

    hints: ClassVar[Mapping[tuple[str, str], str]] = {
        ("input", kind): "token numbers are of one model's vocabulary, so send the words" for kind in ("a number", "a list")
    }

    input: Words | Annotated[list[Words], Field(min_length=1, max_length=256)] = Field(
        description="Words, or a picture (PNG, JPEG, WebP) as a data URI or as base64; or a list of such."
    )
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[int, Field(ge=1), WHOLE] | None = Field(
        None, description="Of models trained to be cut short, of which there are none here."
    )


class Classification(Asked):
    """POST /v1/classifications."""

    image: Picture | Annotated[list[Picture], Field(min_length=1, max_length=256)]
    labels: Annotated[list[Label], Field(min_length=1, max_length=1000)] | None = Field(None, description="Any words, of a model that reads them.")
    templates: Annotated[list[Label], Field(min_length=1, max_length=100)] | None = Field(None, description="Sentences with {} for the label.")
    top: Annotated[int, Field(ge=1, le=1000), WHOLE] | None = Field(None, description="How many labels to tell, the likeliest; all, if none.")


@route(ROUTER, "/v1/embeddings", Embedding, uses=(_TEXTS, _IMAGES), answer="Embeddings", stream=True)
async def embeddings(request: Request) -> Response:
    """Vectors of texts and pictures."""
    body, front = await body_of(request, Embedding), of(request)
    if body.dimensions is not None:
        message = "these models were not trained for vectors that are cut short; leave dimensions out"
        raise ApiError(400, message, param="dimensions", code="unsupported_parameter")
    inputs = [body.input] if isinstance(body.input, str) else body.input
    files = [is_file(one) for one in inputs]
    texts, pictures = ([at for at, file in enumerate(files) if file == wanted] for wanted in (False, True))
    card = front.card(body.model, (_TEXTS if texts else _IMAGES,), f"embeddings of {'texts' if texts else 'pictures'}")
    calls: list[tuple[list[int], ActionCall]] = []
    if texts:
        action = card.actions[action_for(card, _TEXTS)]
        arguments = checked_arguments(card, action.name, {action.required[0]: [inputs[at] for at in texts]}, front.options.limits)
        calls.append((texts, ActionCall(action=action.name, arguments=arguments)))
    if pictures:
        if ABILITIES[_IMAGES](card) is None:
            message = f"input[{pictures[0]}] is a picture, and {card.name} embeds none; send texts alone"
            raise ApiError(400, message, param="input", code="unsupported_parameter")
        action, listed = card.actions[action_for(card, _IMAGES)], not isinstance(body.input, str)
        calls += await _of_pictures(front, card, action, [inputs[at] for at in pictures], pictures, {}, "input", listed=listed)
    work = _work("embeddings", card, calls, {"base64": body.encoding_format == "base64"})
    return await respond(request, work, stream=bool(body.stream), as_job=bool(body.as_job))


@route(ROUTER, "/v1/classifications", Classification, uses=("classifications",), answer="Classifications", stream=True, forms=True)
async def classifications(request: Request) -> Response:
    """How likely each label is for pictures."""
    body, front = await body_of(request, Classification), of(request)
    card = front.card(body.model, ("classifications",), "classifications")
    action = card.actions[action_for(card, "classifications")]
    names, templates = action.named("names"), action.named("templates")
    if names and body.labels is None:
        message = f"{card.name} knows no classes of its own; give labels, a list of words"
        raise ApiError(400, message, param="labels", code="missing_parameter")
    if not names and (body.labels or body.templates):
        param = "labels" if body.labels else "templates"
        raise ApiError(400, f"{card.name} knows its own classes alone; leave {param} out", param=param, code="unsupported_parameter")
    given = {name: value for name, value in ((names, body.labels), (templates, body.templates)) if name and value}
    options = checked_arguments(card, action.name, given, front.options.limits)
    images = body.image if isinstance(body.image, list) else [body.image]
    calls = await _of_pictures(front, card, action, images, list(range(len(images))), options, "image", listed=images is body.image)
    labels = body.labels or list(card.sizes.classes)
    work = _work("classifications", card, calls, {"labels": labels, "top": body.top or 0})
    return await respond(request, work, stream=bool(body.stream), as_job=bool(body.as_job))


def _work(endpoint: str, card: ModelCard, calls: list[tuple[list[int], ActionCall]], note: dict[str, Any]) -> InferenceRequest:
    places = [places for places, _ in calls]
    return InferenceRequest(
        endpoint=endpoint, model=card.name, calls=tuple(call for _, call in calls), event=endpoint[:-1], note={**note, "places": places}
    )


async def _of_pictures(
    front: Front,
    card: ModelCard,
    action: Action,
    texts: list[str],
    places: list[int],
    options: dict[str, Any],
    param: str,
    *,
    listed: bool = True,
) -> list[tuple[list[int], ActionCall]]:
    """Calls for pictures of any sizes, those of one size together, each with the places of its rows."""
    groups: dict[tuple[int, ...], list[tuple[int, np.ndarray]]] = {}
    if card.sizes.side:
        check_scaled(front.options.limits, len(texts), (card.sizes.side, card.sizes.side))
    pictures = await decoded(texts, front.options.limits, param, lambda pixels: _shrunk(pixels, card), places=places if listed else ())
    for place, picture in zip(places, pictures, strict=True):
        groups.setdefault(picture.shape, []).append((place, picture))
    return [
        (
            [place for place, _ in group],
            ActionCall(action=action.name, arguments={**options, **pictured(action, batch_of([one for _, one in group]))}),
        )
        for group in groups.values()
    ]


def _shrunk(pixels: np.ndarray, card: ModelCard) -> np.ndarray:
    """A picture as the model was trained on: a square cut from its middle, of the model's size."""
    side, form = card.sizes.side, (card.sizes.channels, card.background)
    return fitted_with(pixels, side, side, *form) if side else with_channels(pixels, *form)
