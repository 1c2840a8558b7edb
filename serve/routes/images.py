"""Pictures drawn, varied, translated, reconstructed. The shapes of OpenAI's API, with the fields of diffusion beside them."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import Field

from serve.api_error import ApiError, some_of
from serve.backend import ModelCard
from serve.front import Front, of, respond
from serve.inference.abilities import action_for
from serve.inference.request import ActionCall, seeds_from
from serve.routes.bodies import WHOLE, Asked, Picture, body_of
from serve.routes.describing import route
from serve.routes.drawing import Drawn, Share, Text, sized, words_of
from serve.routes.pictures import fitted_batch, options_of, picture_work, pictured, seeded, sides_of, steps_of

ROUTER = APIRouter()


class Generation(Drawn):
    """POST /v1/images/generations."""

    prompt: Text | None = Field(None, description="Words, or the name of a class, whichever the model knows; none for a model that draws without.")
    label: Annotated[str, Field(max_length=200)] | Annotated[int, Field(ge=0, lt=1 << 22), WHOLE] | None = Field(
        None, description="A class by its name or number."
    )


class Variation(Drawn):
    """POST /v1/images/variations."""

    image: Picture
    prompt: Text | None = None
    strength: Share | None = None


class Translation(Drawn):
    """POST /v1/images/translations."""

    image: Picture | Annotated[list[Picture], Field(min_length=1, max_length=64)]
    prompt: Text | None = None
    to: Annotated[str, Field(max_length=100)] | None = Field(None, description="Of a model between two sets the one to translate to, by its name.")


class Reconstruction(Asked):
    """POST /v1/images/reconstructions."""

    image: Picture | Annotated[list[Picture], Field(min_length=1, max_length=256)]


@route(ROUTER, "/v1/images/generations", Generation, uses=("images.generations",), answer="Pictures", stream=True)
async def generations(request: Request) -> Response:
    """Draws pictures."""
    body, front = await body_of(request, Generation), of(request)
    card = front.card(body.model, ("images.generations",), "generations", best=lambda card: _unlike(card, body))
    action, count = card.actions["generate"], body.n or 1
    sides = sides_of(card, body.size, front.options.limits)
    steps = steps_of(card, action, body.num_inference_steps)
    values = {**body.sampling(), **_condition(card, body, count), **sized(action, sides)}
    arguments = options_of(card, action, values, front.options.limits)
    seeds = seeds_from(body.seed, count)
    work = picture_work(
        card, action, {**arguments, **seeded(action, seeds)}, body, front.options,
        endpoint="images.generations", event="image_generation", seeds=seeds, steps=steps, sides=sides, request=body.shown,
    )  # fmt: skip
    return await respond(request, work, stream=bool(body.stream), as_job=bool(body.as_job))


def _unlike(card: ModelCard, body: Generation) -> int:
    """How far what a model draws after is from what is given: 0 is the same."""
    action = card.actions["generate"]
    wanted = "label" if body.label is not None else "texts" if body.prompt else ""
    fits = bool(action.named(wanted)) if wanted else not action.named("texts", "label")
    # words may name a class, so a model of classes comes next for a prompt
    close = wanted == "texts" and action.named("label")
    lacking = sum(value is not None and not action.named(kind) for kind, (_, value) in body.sampling().items())
    return lacking + (0 if fits else 100 if close else 1000)


def _condition(card: ModelCard, body: Generation, count: int) -> dict[str, tuple[str, Any]]:
    """What the model draws after: words, a class, or nothing."""
    action = card.actions["generate"]
    if action.named("texts"):
        if body.label is not None:
            message = f"{card.name} draws after words; give a prompt in place of the label"
            raise ApiError(400, message, param="label", code="unsupported_parameter")
        return {"texts": ("prompt", [body.prompt or ""] * count)}
    if action.named("label"):
        return {"label": ("label", [_class_of(card, body)] * count)}
    if body.prompt or body.label is not None:
        given = "prompt" if body.prompt else "label"
        raise ApiError(400, f"{card.name} draws without a {given}; leave it out", param=given, code="unsupported_parameter")
    return {}


def _class_of(card: ModelCard, body: Generation) -> int:
    """The number of the class that a label or prompt names. ApiError names some that there are."""
    asked, param = (body.label, "label") if body.label is not None else (body.prompt or "", "prompt")
    some = some_of(card.sizes.classes, most=20) or "numbers"
    if asked == "":
        raise ApiError(400, f"{card.name} draws one of its classes; name one as the prompt: {some}", param="prompt", code="missing_class")
    text, names = str(asked).strip().lower(), [name.lower() for name in card.sizes.classes]
    if text in names:
        return names.index(text)
    if text.isascii() and text.isdecimal() and len(text) < 10 and int(text) < (len(names) or 2**31):
        return int(text)
    raise ApiError(404, f"{card.name} draws classes, and there is none of that name; it knows {some}", param=param, code="unknown_class")


@route(ROUTER, "/v1/images/variations", Variation, uses=("images.variations",), answer="Pictures", stream=True, forms=True)
async def variations(request: Request) -> Response:
    """Draws pictures that are like a given one."""
    body, front = await body_of(request, Variation), of(request)
    return await _changed(request, front, body, "images.variations", [body.image], {"strength": ("strength", body.strength)})


@route(ROUTER, "/v1/images/translations", Translation, uses=("images.translations",), answer="Pictures", stream=True, forms=True)
async def translations(request: Request) -> Response:
    """Turns pictures of one kind into another."""
    body, front = await body_of(request, Translation), of(request)
    images = body.image if isinstance(body.image, list) else [body.image]
    return await _changed(request, front, body, "images.translations", images, {"domain": ("to", body.to)})


async def _changed(
    request: Request, front: Front, body: Variation | Translation, endpoint: str, images: list[str], own: dict[str, tuple[str, Any]]
) -> Response:
    """`own` are the fields that this endpoint alone has, by kind of port."""
    card = front.card(body.model, (endpoint,), endpoint.partition(".")[2])
    action = card.actions[action_for(card, endpoint)]
    image, sides = await fitted_batch(card, images, front.options.limits, "image", size=body.size, count=body.n or 1)
    count = len(image)
    seeds = seeds_from(body.seed, count)
    values = {**body.sampling(), **words_of(body, action, count), **own}
    arguments = {**options_of(card, action, values, front.options.limits), **pictured(action, image), **seeded(action, seeds)}
    work = picture_work(
        card, action, arguments, body, front.options,
        endpoint=endpoint, event="image_edit", seeds=seeds, steps=steps_of(card, action, body.num_inference_steps), sides=sides, request=body.shown,
    )  # fmt: skip
    return await respond(request, work, stream=bool(body.stream), as_job=bool(body.as_job))


@route(ROUTER, "/v1/images/reconstructions", Reconstruction, uses=("images.reconstructions",), answer="Reconstructions", stream=True, forms=True)
async def reconstructions(request: Request) -> Response:
    """Passes pictures through an autoencoder and back; what comes back badly is strange to it."""
    body, front = await body_of(request, Reconstruction), of(request)
    card = front.card(body.model, ("images.reconstructions",), "reconstructions")
    action = card.actions["reconstruct"]
    image, sides = await fitted_batch(card, body.image if isinstance(body.image, list) else [body.image], front.options.limits, "image")
    arguments = pictured(action, image)
    more = [ActionCall(action="anomaly", arguments=pictured(card.actions["anomaly"], image))] if "anomaly" in card.actions else []
    work = picture_work(
        card, action, arguments, body, front.options,
        endpoint="images.reconstructions", event="image_reconstruction", seeds=(), steps=0, sides=sides, request=dict, more=more,
    )  # fmt: skip
    return await respond(request, work, stream=bool(body.stream), as_job=bool(body.as_job))
