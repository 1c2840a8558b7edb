"""A refusal says what is wanted: the limit and what was passed, the form, the field that is unknown, the models there are."""

from __future__ import annotations

import asyncio
import base64
import io
from dataclasses import replace
from typing import Any

import httpx2
import numpy as np
import pytest

from genlib.models.diffusion.ddpm import ClassDDPM
from genlib.models.representation.clip import CLIP
from genlib.ports import Image, Mask, Seeds, Steps, Texts
from genlib.task import Task, action
from serve.limits import Limits
from serve.routes.bodies import taken_by
from serve.routes.edits import Edit
from tests.serve.models import KEY, Walker, ask, card_of, picture, png, uri


class Words(Task):
    """Draws after words, in sides that are multiples of 8."""

    @action
    def generate(self, *, prompt: Texts, seed: Seeds, steps: Steps = 50) -> Image:
        """Pictures."""
        raise NotImplementedError

    @action
    def inpaint(self, *, image: Image, mask: Mask, prompt: Texts, seed: Seeds) -> Image:
        """Fills."""
        raise NotImplementedError


class Several(Walker):
    """Models of several kinds, of which none is ever asked."""

    def models(self) -> list[Any]:
        few = card_of("classes", ClassDDPM, classes=("cat", "dog"), max_steps=100)
        return [*super().models(), few, card_of("words", Words, multiple=8), card_of("clip", CLIP)]


SMALL, BATCH = uri(png(picture())), uri(png(picture(40)))
LIMITS = Limits(cost=10**6, pictures=8, inputs=4, labels=6, steps=200, side=64, text_characters=100, input_pixels=1000, numbers=6)
GENERATE, EDIT, EMBED, CLASSIFY = "/v1/images/generations", "/v1/images/edits", "/v1/embeddings", "/v1/classifications"
DRAW, SEE = "/v1/models/classes/actions/generate", "/v1/models/clip/actions/embed_image"


def npy(array: np.ndarray) -> str:
    file = io.BytesIO()
    np.save(file, array)
    return base64.b64encode(file.getvalue()).decode()


REFUSED: list[tuple[str, dict[str, Any], int, str]] = [
    # models, and what they do
    (GENERATE, {"model": "nothing"}, 404, "there is no model of that name; /v1/models lists all: walker, classes, words, clip"),
    (EMBED, {"model": "walker", "input": "a"}, 404, "walker does no embeddings of texts; it does images.generations; clip can"),
    ("/v1/images/translations", {"image": SMALL}, 404, "no model that is served does translations; there are walker (images.generations), classes ("),
    ("/v1/models/walker/actions/fly", {}, 404, "walker has no such action; it has generate"),
    (DRAW, {"model": "walker", "seed": [1], "label": [1]}, 400, "the body names another model than the path; leave model out of it"),
    # fields
    (GENERATE, {"promt": "a"}, 400, "this takes no field promt, did you mean prompt? it takes model, stream,"),
    (GENERATE, {"colour": 1}, 400, "this takes no field colour; it takes model, stream,"),
    (GENERATE, {"not a name": 1}, 400, "there is a field that this does not take; it takes model, stream,"),
    (DRAW, {"seed": [1], "lable": [1]}, 400, "generate takes no argument lable, did you mean label? it takes seed, label,"),
    (GENERATE, {"model": "words", "label": 1}, 400, "words draws after words; give a prompt in place of the label"),
    (GENERATE, {"model": "walker", "prompt": "a"}, 400, "walker draws without a prompt; leave it out"),
    (GENERATE, {"model": "words", "prompt": "a", "guidance_scale": 2}, 400, "generate of words takes no guidance_scale; leave it out"),
    (EMBED, {"input": "a", "dimensions": 4}, 400, "leave dimensions out"),
    # forms
    (GENERATE, {"n": "two"}, 400, "n is a text; it must be a whole number from 1 to 64"),
    (GENERATE, {"size": "large"}, 400, "size must be WIDTHxHEIGHT in pixels, or auto"),
    (GENERATE, {"output_format": "webp"}, 400, "output_format must be png"),
    (EDIT, {"prompt": "a"}, 400, "image is missing; send a picture as base64 or a data URI, or a list of 1 picture as base64"),
    (EMBED, {"input": [1]}, 400, "input[0] is a number; input must be a text, or a list of 1 to 256 texts; token numbers"),
    (EMBED, {"input": "data:image/png;base64,AAAA"}, 400, "(undecodable header); send a PNG, JPEG or WebP file of one frame and at most 1,000"),
    (DRAW, {"label": [1]}, 400, "generate needs seed; give a list of 1 to 8 whole numbers from 0 to 9223372036854775807"),
    (DRAW, {"seed": 1, "label": [1]}, 400, "seed must be a list of integers"),
    (DRAW, {"seed": [1], "label": [1], "sampler": "fast"}, 400, "sampler must be one of ddim, ancestral,"),
    (SEE, {}, 400, "embed_image needs image; give a picture (PNG, JPEG, WebP) or .npy file as base64 or a data URI, a list of pictures, or lists of"),
    (SEE, {"image": 1}, 400, "image must be a picture, a .npy file or lists of numbers"),
    (SEE, {"image": [[1, 2], [3]]}, 400, "image is no rectangular list of numbers; give rows of one length, such as [[1, 2], [3, 4]]"),
    (SEE, {"image": npy(np.array([1.0, np.inf]))}, 400, "image holds a number that is not finite; take out NaN and infinity"),
    (SEE, {"image": [SMALL, uri(png(picture(16)))]}, 400, "image[1] has 16x16 pixels, and image[0] has 8x8; scale them to one size"),
    (EDIT, {"image": SMALL, "mask": BATCH[:50]}, 400, "mask "),
    (EDIT, {"image": SMALL, "mode": "inpaint"}, 400, "inpainting needs a mask, or a picture with transparent places; give one of them"),
    (EDIT, {"image": SMALL, "mask": uri(png(picture(16))), "prompt": "a"}, 400, "the mask has 16x16 pixels and the picture 8x8; make both the same"),
    (GENERATE, {"model": "classes", "label": "fish"}, 404, "classes draws classes, and there is none of that name; it knows cat, dog"),
    (GENERATE, {"model": "classes"}, 400, "classes draws one of its classes; name one as the prompt: cat, dog"),
    (CLASSIFY, {"image": SMALL}, 400, "clip knows no classes of its own; give labels, a list of words"),
    # limits, each with what was passed
    (GENERATE, {"n": 65}, 400, "n is 65; it must be a whole number from 1 to 64"),
    (GENERATE, {"n": 10**30}, 400, "n is above all that it may be; it must be a whole number from 1 to 64"),
    (GENERATE, {"guidance_scale": -1}, 400, "guidance_scale is -1; it must be a number from 0 to 100"),
    (GENERATE, {"label": "x" * 300}, 400, "label "),
    (GENERATE, {"n": 9}, 400, "this asks for 9 pictures, and one request may ask for 8; ask for less"),
    (GENERATE, {"num_inference_steps": 300}, 400, "num_inference_steps is 300; it must be at most 200"),
    (GENERATE, {"model": "classes", "label": 1, "num_inference_steps": 150}, 400, "is 150, and the noise schedule of classes has 100 steps"),
    (GENERATE, {"seed": 2**63 - 1, "n": 2}, 400, ", and the largest seed of 2 pictures is 9223372036854775806; take that or a smaller one"),
    (GENERATE, {"model": "walker", "size": "16x16"}, 400, "size is 16x16, and walker makes 8x8 alone; take that, or auto"),
    (GENERATE, {"model": "words", "prompt": "a", "size": "20x30"}, 400, "20x30, and both must be multiples of 8 with words; take 16x32, or auto"),
    (GENERATE, {"model": "words", "prompt": "a", "size": "128x64"}, 400, "size is 128x64, and a side may have 64 pixels; ask for less"),
    (
        GENERATE, {"model": "words", "prompt": "a", "size": "64x64", "n": 6}, 400,
        "6 pictures x 50 steps x 4,096 pixels is 1,228,800, above the limit of 1,000,000; ask for less of one of them",
    ),
    (GENERATE, {"model": "words", "prompt": "x" * 101}, 400, "prompt is longer than 100 characters; shorten it"),
    (DRAW, {"seed": [1], "label": [1], "steps": 500}, 400, "steps is 500; it must be at most 200"),
    (DRAW, {"seed": [1], "label": [1], "steps": 10**40}, 400, "steps is beyond all numbers here; it must be at most 200"),
    (DRAW, {"seed": [1] * 7, "label": [1] * 7}, 400, "seed has 7 entries, and may have 6; send fewer"),
    (EMBED, {"input": [SMALL, BATCH]}, 400, "input[1] has 40x40 = 1,600 pixels, and may have 1,000; scale it"),
    (SEE, {"image": [SMALL] * 5}, 400, "image has more than 4 pictures, which are the limit; send fewer"),
    (SEE, {"image": [1, 2, 3, 4, 5, 6, 7, 8]}, 400, "image holds 8 numbers, and may hold 1 to 6"),
    (CLASSIFY, {"image": SMALL, "labels": []}, 400, "labels has 0 entries; it must be a list of 1 to 1000 texts of 1 to 500 characters"),
]  # fmt: skip


def test_refusals_say_what_is_wanted() -> None:
    async def asked(client: httpx2.AsyncClient) -> list[httpx2.Response]:
        return [await client.post(path, json=body) for path, body, _, _ in REFUSED]

    answers = ask(Several(0), asked, limits=LIMITS)
    told = [(answer.status_code, answer.json()["error"]["message"]) for answer in answers]
    wrong = [(body, told) for (_, body, status, said), told in zip(REFUSED, told, strict=True) if told[0] != status or said not in told[1]]
    assert not wrong, "\n".join(f"{str(body)[:100]}\n    {told}" for body, told in wrong)
    assert max(len(message) for _, message in told) < 600


def test_of_many_models_the_first_are_named() -> None:
    class Many(Walker):
        def models(self) -> list[Any]:
            return [replace(card, name=f"m{number}") for card in super().models() for number in range(40)]

    response = ask(Many(0), lambda client: client.post(GENERATE, json={"model": "nothing"}))
    assert response.json()["error"]["message"].endswith(": " + ", ".join(f"m{number}" for number in range(12)) + ", ... (40 in all)")


def test_who_has_no_key_is_told_of_no_model() -> None:
    async def asked(client: httpx2.AsyncClient) -> list[httpx2.Response]:
        paths = ("/v1/models/nothing", "/v1/models", "/v1/jobs", "/openapi.json", "/nothing")
        posts = [await client.post(path, json=body) for path, body, _, _ in REFUSED]
        return [*posts, *[await client.get(path) for path in paths]]

    for response in ask(Several(0), asked, keys=(KEY,)):
        assert response.status_code == 401
        assert not any(card.name in response.text for card in Several().models())


def test_queries_paths_methods_and_headers_are_told_the_form() -> None:
    async def asked(client: httpx2.AsyncClient) -> list[tuple[int, str]]:
        async def said(method: str, path: str, **more: Any) -> tuple[int, str]:
            response = await client.request(method, path, **more)
            return response.status_code, response.json()["error"]["message"]

        form = {"files": {"mask": ("a.png", png(picture()))}, "data": {"prompt": ["a", "b"]}}
        unknown = {"files": {"image": ("a.png", png(picture()))}, "data": {"colour": "a"}}
        return await asyncio.gather(
            said("GET", "/v1/jobs?limit=0"), said("GET", "/v1/jobs?after=x"), said("GET", "/v1/jobs/x"), said("GET", "/v1/files/x"),
            said("PUT", GENERATE), said("POST", GENERATE, content=b"a"), said("POST", EDIT, **form), said("POST", EDIT, **unknown),
            said("POST", GENERATE, json={}, headers={"Idempotency-Key": "x" * 300}),
        )  # fmt: skip

    job = "job_ and 32 hexadecimal digits"
    assert ask(Walker(0), asked, limits=replace(LIMITS, body_bytes=1000)) == [
        (400, "limit must be a whole number from 1 to 1000"),
        (400, f"after must be {job}"),
        (404, f"there is no such job or file; its name must be {job}"),
        (404, f"there is no such job or file; its name must be {job}, a dash and a number"),
        (405, "this route does not take that method; it takes POST"),
        (415, "the header Content-Type must be application/json or multipart/form-data"),
        (400, "prompt comes 2 times, and takes one value"),
        (400, f"this takes no field colour; it takes {', '.join(taken_by(Edit).names)}"),
        (400, "Idempotency-Key has 300 characters, and must have 1 to 255"),
    ]


@pytest.mark.parametrize(("declared", "said"), [(True, "1,024"), (False, "more")])
def test_a_body_that_is_too_large_is_told_the_limit(declared: bool, said: str) -> None:
    async def chunks() -> Any:
        yield b"x" * 1024

    content: Any = b"x" * 1024 if declared else chunks()
    response = ask(Walker(0), lambda client: client.post(GENERATE, content=content), limits=replace(LIMITS, body_bytes=1000))
    assert (response.status_code, response.json()["error"]["message"]) == (413, f"the body may have 1,000 bytes and has {said}; send less")
