"""Pictures changed: a part filled, continued beyond their edges, or drawn anew after words."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import numpy as np
from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import Field

from genlib.actions import Action
from serve.api_error import ApiError
from serve.backend import ModelCard
from serve.front import of, respond
from serve.inference.abilities import action_for
from serve.inference.request import seeds_from
from serve.parsing.image_decoding import batch_of, fitted, fitted_with, mask_of, opaque, transparent, with_channels
from serve.routes.beside import beside
from serve.routes.bodies import Picture, body_of
from serve.routes.describing import route
from serve.routes.drawing import Drawn, Share, Text, sized, words_of
from serve.routes.pictures import check_scaled, decoded, options_of, picture_work, pictured, seeded, sides_of, steps_of

ROUTER = APIRouter()
MODES = ("inpaint", "outpaint", "image_to_image", "edit")


class Edit(Drawn):
    """POST /v1/images/edits."""

    image: Picture | Annotated[list[Picture], Field(min_length=1, max_length=1)]
    mask: Picture | None = Field(
        None, description="Filled is what is fully transparent, or, if nothing is, what is white; of a palette with colours, all but its first."
    )
    prompt: Text | None = None
    mode: Literal["auto", "inpaint", "outpaint", "image_to_image", "edit"] | None = None
    strength: Share | None = Field(None, description="How far from the picture: 0 keeps it, 1 forgets it.")
    source_prompt: Text | None = Field(None, description="What is true of the picture as it is; then it is edited by inversion.")
    left: Share | None = Field(None, description="Of an outpainting: share of the new room that lies to the left.")
    top: Share | None = Field(None, description="Of an outpainting: share of the new room that lies above.")


@route(ROUTER, "/v1/images/edits", Edit, uses=tuple(f"images.edits.{mode}" for mode in MODES), answer="Pictures", stream=True, forms=True)
async def edits(request: Request) -> Response:
    """Changes a picture: fills a part of it, continues it, or draws it anew after words."""
    body, front = await body_of(request, Edit), of(request)
    limits = front.options.limits
    given = await decoded([body.mask], limits, "mask", lambda pixels: pixels[:, :, 0] >= 128, mask_of) if body.mask else []
    ((pixels, empty),) = await decoded([_single(body.image)], limits, "image", lambda pixels: (pixels, transparent(pixels)))
    mask = given[0] if given else empty
    wanted = _modes(body, mask is not None)
    uses = tuple(f"images.edits.{mode}" for mode in wanted)
    card = front.card(body.model, uses, f"edits of this kind ({' or '.join(wanted)})")
    action = card.actions[action_for(card, *uses)]
    picture = await beside(opaque, pixels, card.background)
    del pixels
    count = body.n or 1
    seeds = seeds_from(body.seed, count)
    sides = sides_of(card, body.size, limits, None if action.name == "outpaint" else (picture.shape[1], picture.shape[0]))
    check_scaled(limits, count, sides)
    arrays = await beside(_arrays, card, action, picture, mask, sides, count)
    values = {**body.sampling(), **words_of(body, action, count, body.source_prompt), **_placed(body, action, sides)}
    arguments = {**options_of(card, action, values, limits), **arrays, **seeded(action, seeds)}
    work = picture_work(
        card, action, arguments, body, front.options,
        endpoint="images.edits", event="image_edit", seeds=seeds, steps=steps_of(card, action, body.num_inference_steps), sides=sides,
        request=body.shown,
    )  # fmt: skip
    return await respond(request, work, stream=bool(body.stream), as_job=bool(body.as_job))


def _single(image: str | list[str]) -> str:
    return image if isinstance(image, str) else image[0]


def _modes(body: Edit, masked: bool) -> tuple[str, ...]:
    """The actions that would do, the best first."""
    if body.mode not in (None, "auto"):
        if body.mode == "inpaint" and not masked:
            raise ApiError(
                400, "inpainting needs a mask, or a picture with transparent places; give one of them", param="mask", code="missing_parameter"
            )
        return (body.mode,)  # type: ignore[return-value]
    if masked:
        return ("inpaint",)
    if body.source_prompt is not None:
        return ("edit",)
    if body.left is not None or body.top is not None:
        return ("outpaint",)
    return ("image_to_image", "outpaint")


def _arrays(
    card: ModelCard, action: Action, picture: np.ndarray, mask: np.ndarray | None, sides: tuple[int, int], count: int
) -> dict[str, np.ndarray]:
    """The picture, and the mask where there is one, once for each seed, in the size that the model takes."""
    if action.name == "outpaint":
        if picture.shape[1] > sides[0] or picture.shape[0] > sides[1]:
            has = f"the picture has {picture.shape[1]}x{picture.shape[0]} pixels"
            message = f"{has}, more than the {sides[0]}x{sides[1]} it would be continued to; send a smaller one, or ask for a larger size"
            raise ApiError(400, message, param="image", code="invalid_image")
        return pictured(action, np.repeat(batch_of([with_channels(picture, card.sizes.channels)]), count, axis=0))
    image = np.repeat(batch_of([fitted_with(picture, *sides, card.sizes.channels)]), count, axis=0)
    if (masked := action.named("mask")) is None:
        return pictured(action, image)
    assert mask is not None
    if mask.shape != picture.shape[:2]:
        has, other = (f"{one.shape[1]}x{one.shape[0]}" for one in (mask, picture))
        raise ApiError(400, f"the mask has {has} pixels and the picture {other}; make both the same", param="mask", code="invalid_image")
    scaled = fitted(mask[:, :, None] * np.uint8(255), *sides, smooth=False)
    return {**pictured(action, image), masked: np.repeat(batch_of([scaled]), count, axis=0)}


def _placed(body: Edit, action: Action, sides: tuple[int, int]) -> dict[str, tuple[str, Any]]:
    """Where an outpainting puts the picture, and how strong a change is."""
    room = sized(action, sides) if action.name == "outpaint" else {}
    return {"left": ("left", body.left), "top": ("top", body.top), "strength": ("strength", body.strength), **room}
