"""Pictures drawn, varied, translated, reconstructed. The shapes of OpenAI's API, with the fields of diffusion beside them."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import Field

from serve.backend import ModelCard
from serve.bodies import WHOLE, Asked, Picture, body_of
from serve.front import Front, of, respond
from serve.problem import Problem
from serve.routes.describing import route
from serve.routes.drawing import Drawn, Share, Text, sized, words_of
from serve.routes.pictures import fitted_batch, options_of, picture_work, sides_of, steps_of
from serve.work import Call, seeds_from

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


class Reconstruction(Asked):
    """POST /v1/images/reconstructions."""

    image: Picture | Annotated[list[Picture], Field(min_length=1, max_length=256)]


@route(ROUTER, "/v1/images/generations", Generation, actions=("generate",), answer="Pictures", stream=True)
async def generations(request: Request) -> Response:
    """Draws pictures."""
    body, front = await body_of(request, Generation), of(request)
    card = front.card(body.model, ("generate",), "generations", pictures=True, best=lambda card: _unlike(card, body))
    known, count = card.actions["generate"]["properties"], body.n or 1
    sides = sides_of(card, body.size, front.options.limits)
    steps = steps_of(card, "generate", body.num_inference_steps)
    values = {**body.sampling(), **_condition(card, body, count), **sized(known, sides)}
    arguments = options_of(card, "generate", {name: value for name, value in values.items() if value[1] is not None}, front.options.limits)
    seeds = seeds_from(body.seed, count)
    work = picture_work(
        card, "generate", {**arguments, "seed": seeds}, body, front.options,
        endpoint="images.generations", event="image_generation", seeds=seeds, steps=steps, sides=sides, request=body.shown(),
    )  # fmt: skip
    return await respond(request, work, stream=bool(body.stream), as_job=bool(body.as_job))


def _unlike(card: ModelCard, body: Generation) -> int:
    """How far what a model draws after is from what is given: 0 is the same."""
    known = card.actions["generate"]["properties"]
    wanted = "label" if body.label is not None else "prompt" if body.prompt else ""
    fits = wanted in known if wanted else not {"prompt", "label"} & set(known)
    close = wanted == "prompt" and "label" in known
    lacking = sum(value is not None and argument not in known for argument, (_, value) in body.sampling().items())
    return lacking + (0 if fits else 100 if close else 1000)


def _condition(card: ModelCard, body: Generation, count: int) -> dict[str, tuple[str, Any]]:
    """What the model draws after: words, a class, or nothing."""
    known = card.actions["generate"]["properties"]
    if "prompt" in known:
        if body.label is not None:
            raise Problem(400, "this model draws after words; give a prompt in place of the label", param="label", code="unsupported_parameter")
        return {"prompt": ("prompt", [body.prompt or ""] * count)}
    if "label" in known:
        return {"label": ("label", [_class_of(card, body)] * count)}
    if body.prompt or body.label is not None:
        given = "prompt" if body.prompt else "label"
        raise Problem(400, f"this model draws without a {given}; leave it out", param=given, code="unsupported_parameter")
    return {}


def _class_of(card: ModelCard, body: Generation) -> int:
    """The number of the class that a label or prompt names. Problem names some that there are."""
    asked, param = (body.label, "label") if body.label is not None else (body.prompt or "", "prompt")
    some = ", ".join(card.classes[:20]) + (", ..." if len(card.classes) > 20 else "") or "numbers"
    if asked == "":
        raise Problem(400, f"this model draws one of its classes; name one as the prompt: {some}", param="prompt", code="missing_class")
    text, names = str(asked).strip().lower(), [name.lower() for name in card.classes]
    if text in names:
        return names.index(text)
    if text.isascii() and text.isdecimal() and len(text) < 10 and int(text) < (len(names) or 2**31):
        return int(text)
    raise Problem(404, f"this model draws classes, and there is none of that name; it knows {some}", param=param, code="unknown_class")


@route(ROUTER, "/v1/images/variations", Variation, actions=("image_to_image",), answer="Pictures", stream=True, forms=True)
async def variations(request: Request) -> Response:
    """Draws pictures that are like a given one."""
    body, front = await body_of(request, Variation), of(request)
    return await _changed(request, front, body, "image_to_image", "images.variations", [body.image])


@route(ROUTER, "/v1/images/translations", Translation, actions=("translate",), answer="Pictures", stream=True, forms=True)
async def translations(request: Request) -> Response:
    """Turns pictures of one kind into another."""
    body, front = await body_of(request, Translation), of(request)
    return await _changed(request, front, body, "translate", "images.translations", body.image if isinstance(body.image, list) else [body.image])


async def _changed(request: Request, front: Front, body: Variation | Translation, action: str, endpoint: str, images: list[str]) -> Response:
    card = front.card(body.model, (action,), endpoint.partition(".")[2], pictures=True)
    image, sides = await fitted_batch(card, images, front.options.limits, "image", size=body.size, count=body.n or 1)
    count = len(image)
    seeds, known = seeds_from(body.seed, count), card.actions[action]["properties"]
    strength = ("strength", getattr(body, "strength", None))
    arguments = options_of(card, action, {**body.sampling(), **words_of(body, card, action, count), "strength": strength}, front.options.limits)
    arguments = {**arguments, "image": image, **({"seed": seeds} if "seed" in known else {})}
    work = picture_work(
        card, action, arguments, body, front.options,
        endpoint=endpoint, event="image_edit", seeds=seeds, steps=steps_of(card, action, body.num_inference_steps), sides=sides, request=body.shown(),
    )  # fmt: skip
    return await respond(request, work, stream=bool(body.stream), as_job=bool(body.as_job))


@route(ROUTER, "/v1/images/reconstructions", Reconstruction, actions=("reconstruct",), answer="Reconstructions", stream=True, forms=True)
async def reconstructions(request: Request) -> Response:
    """Passes pictures through an autoencoder and back; what comes back badly is strange to it."""
    body, front = await body_of(request, Reconstruction), of(request)
    card = front.card(body.model, ("reconstruct",), "reconstructions", pictures=True)
    image, sides = await fitted_batch(card, body.image if isinstance(body.image, list) else [body.image], front.options.limits, "image")
    arguments = {"image": image}
    more = [Call(action="anomaly", arguments=arguments)] if "anomaly" in card.actions else []
    work = picture_work(
        card, "reconstruct", arguments, body, front.options,
        endpoint="images.reconstructions", event="image_reconstruction", seeds=(), steps=0, sides=sides, request={}, more=more,
    )  # fmt: skip
    return await respond(request, work, stream=bool(body.stream), as_job=bool(body.as_job))
