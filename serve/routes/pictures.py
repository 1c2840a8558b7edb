"""What endpoints that take or make pictures share: sizes, given pictures, and what a PNG says of how it was made."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from genlib.actions import Action
from genlib.plurals import counted
from serve.api_error import ApiError
from serve.backend import ModelCard
from serve.inference.abilities import PICTURES
from serve.inference.request import ActionCall, InferenceRequest, checked_arguments
from serve.limits import Limits, check_cost, repeats_of
from serve.options import ServeOptions
from serve.parsing.image_decoding import batch_of, check_pixels, fitted_with, pixels_of
from serve.parsing.text_files import file_of
from serve.routes.beside import beside
from serve.routes.bodies import Asked

T = TypeVar("T")
_SIZE = re.compile(r"([1-9][0-9]{0,4})x([1-9][0-9]{0,4})")
SIZE = r"^(auto|[1-9][0-9]{0,4}x[1-9][0-9]{0,4})$"
"""What a size looks like."""


def sides_of(card: ModelCard, size: str | None, limits: Limits, given: tuple[int, int] | None = None) -> tuple[int, int]:
    """Width and height in pixels that a model is to make: as asked, else those of a given picture as near as it can, else its own."""
    found = _SIZE.fullmatch(size or "")
    if found is None:
        return _near(card, given, limits) if given and card.sizes.multiple else (card.sizes.side, card.sizes.side)
    width, height = int(found[1]), int(found[2])
    side, step, asked = card.sizes.side, card.sizes.multiple, f"size is {width}x{height}"
    if not step and (width, height) != (side, side):
        raise ApiError(400, f"{asked}, and {card.name} makes {side}x{side} alone; take that, or auto", param="size", code="unsupported_size")
    if step and (width % step or height % step):
        fits = "x".join(str(max(1, round(one / step)) * step) for one in (width, height))
        message = f"{asked}, and both must be multiples of {step} with {card.name}; take {fits}, or auto"
        raise ApiError(400, message, param="size", code="unsupported_size")
    if max(width, height) > limits.side:
        raise ApiError(400, f"{asked}, and a side may have {limits.side} pixels; ask for less", param="size", code="limit_exceeded")
    return width, height


def _near(card: ModelCard, given: tuple[int, int], limits: Limits) -> tuple[int, int]:
    """Sides in a picture's proportions and of about the area that the model was trained on."""
    scale = (card.sizes.side**2 / (given[0] * given[1])) ** 0.5
    width, height = (max(1, round(side * scale / card.sizes.multiple)) * card.sizes.multiple for side in given)
    return min(width, limits.side), min(height, limits.side)


def options_of(card: ModelCard, action: Action, values: Mapping[str, tuple[str, Any]], limits: Limits) -> dict[str, Any]:
    """An action's arguments from a body's fields, {kind of port: (field, value)}; None is not given. ApiError where the model has no such thing."""
    taken, fields = {}, {}
    for kind, (field, value) in values.items():
        if value is None:
            continue
        argument = action.named(kind)
        if argument is None:
            raise ApiError(400, f"{action.name} of {card.name} takes no {field}; leave it out", param=field, code="unsupported_parameter")
        taken[argument], fields[argument] = value, field
    try:
        return checked_arguments(card, action.name, taken, limits, later=seeded(action, ()))
    except ApiError as problem:
        argument = problem.param or ""
        field = fields.get(argument, argument)
        raise ApiError(problem.status, field + problem.message.removeprefix(argument), code=problem.code, param=field or None) from None


def seeded(action: Action, seeds: Sequence[int]) -> dict[str, Any]:
    """The seeds as an argument of an action that takes any."""
    return {name: list(seeds) for name in (action.named("seeds"),) if name}


def pictured(action: Action, pictures: np.ndarray) -> dict[str, Any]:
    """Pictures as the argument of an action that takes them."""
    name = action.named(*PICTURES)
    assert name is not None
    return {name: pictures}


def steps_of(card: ModelCard, action: Action, asked: int | None) -> int:
    """Denoising steps of a call; 0 where the action has none."""
    name = action.named("steps")
    steps = 0 if name is None else (action.inputs[name].default or 1) if asked is None else asked
    most = card.sizes.max_steps
    if asked is not None and most and asked > most:
        message = f"num_inference_steps is {asked}, and the noise schedule of {card.name} has {counted(most, 'step')}; ask for no more"
        raise ApiError(400, message, param="num_inference_steps", code="limit_exceeded")
    return steps


async def decoded(
    texts: Sequence[str],
    limits: Limits,
    param: str,
    then: Callable[[np.ndarray], T],
    decode: Callable[[bytes, Limits, str], np.ndarray] = pixels_of,
    places: Sequence[int] = (),
) -> list[T]:
    """What `then` makes of each picture that came as text, uint8 (H, W, C). They are decoded beside the loop, and only one is there at a time.

    `places` are theirs in the list `param`, by default 0 to their number.
    """
    where = [f"{param}[{at}]" for at in places or range(len(texts))] if places or len(texts) > 1 else [param]
    files = await beside(_files, texts, limits, param, where)
    return [await beside(lambda file, at: then(decode(file, limits, at)), file, at) for file, at in zip(files, where, strict=True)]


async def fitted_batch(
    card: ModelCard, texts: Sequence[str], limits: Limits, param: str, *, size: str | None = None, count: int = 1
) -> tuple[np.ndarray, tuple[int, int]]:
    """Pictures that came as text, each `count` times, in the size that is asked for or near to that of the first.

    uint8 (B * count, C, height, width), and (width, height).
    """
    sides: tuple[int, int] | None = None

    def fit(pixels: np.ndarray) -> np.ndarray:
        nonlocal sides
        if sides is None:
            sides = sides_of(card, size, limits, (pixels.shape[1], pixels.shape[0]))
            check_scaled(limits, len(texts) * count, sides)
        return fitted_with(pixels, *sides, card.sizes.channels, card.background)

    pictures = await decoded(texts, limits, param, fit)
    assert sides is not None  # there is at least one
    return np.repeat(batch_of(pictures), count, axis=0), sides


def check_scaled(limits: Limits, pictures: int, sides: tuple[int, int]) -> None:
    """Problem where given pictures are too large together in the size that a model takes."""
    if pictures * sides[0] * sides[1] > limits.input_pixels:
        together = f"{counted(pictures, 'picture')} of {sides[0]}x{sides[1]} take {pictures * sides[0] * sides[1]:,} pixels"
        message = f"{together}, and one request may have {limits.input_pixels:,}; send fewer, or ask for less"
        raise ApiError(400, message, code="limit_exceeded")


def _files(texts: Sequence[str], limits: Limits, param: str, places: Sequence[str]) -> list[bytes]:
    """The files, of which their headers say that they can be decoded."""
    files = [file_of(text, where) for text, where in zip(texts[: limits.inputs + 1], places, strict=False)]
    check_pixels(files, limits, param, places[: len(files)])
    return files


def picture_work(
    card: ModelCard, action: Action, arguments: dict[str, Any], body: Asked, options: ServeOptions, *,
    endpoint: str, event: str, seeds: Sequence[int], steps: int, sides: tuple[int, int], request: Callable[[], dict[str, Any]],
    more: Sequence[ActionCall] = (),
) -> InferenceRequest:  # fmt: skip
    """Work that makes pictures, within the limit of what one request may cost. `request` says what was asked, for a job."""
    rows = max(len(seeds), *(len(value) for value in arguments.values() if isinstance(value, np.ndarray)), 1)
    # steps are among the repeats, and `check_cost` multiplies by them itself
    passes = max(1, repeats_of(action, arguments) // max(1, steps))
    check_cost(options.limits, pictures=rows, steps=steps, pixels=sides[0] * sides[1] * passes)
    link = body.response_format == "url"
    shown = {**request(), "size": f"{sides[0]}x{sides[1]}", **({"seed": seeds[0]} if seeds else {})} if link or body.as_job else {}
    wanted = options.png_parameters and body.png_parameters is not False
    return InferenceRequest(
        endpoint=endpoint, model=card.name, calls=(ActionCall(action=action.name, arguments=arguments), *more), event=event,
        seeds=tuple(seeds), steps=steps,
        parameters=settings(card, action, arguments, sides) if wanted else None, partial_images=body.partial_images or 0,
        link=link, request=shown,
    )  # fmt: skip


def settings(card: ModelCard, action: Action, arguments: Mapping[str, Any], sides: tuple[int, int]) -> dict[str, str]:
    """Text of a PNG as the field's tools read it: prompt, negative prompt, then a line of settings, to which the seed is added."""
    kinds = {"steps": "Steps", "sampler": "Sampler", "guidance": "CFG scale", "strength": "Denoising strength", "label": "Class"}
    given = {one.port.kind: arguments[name] for name, one in action.inputs.items() if name in arguments}
    said = [f"{title}: {_first(given[kind])}" for kind, title in kinds.items() if kind in given]
    line = ", ".join([*said, f"Size: {sides[0]}x{sides[1]}", f"Model hash: {card.sha256[:10]}", f"Model: {card.name}"])
    prompt = _first(given.get("texts", ""))
    negative = f"Negative prompt: {given['negative_text']}" if given.get("negative_text") else ""
    return {"parameters": "\n".join(part for part in (str(prompt), negative, line) if part)}


def _first(value: Any) -> Any:
    return value[0] if isinstance(value, list) and value else value
