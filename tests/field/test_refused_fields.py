"""What a request's field may be: a picture never passes for words, and what is refused says which form was meant, where, and what to send.

jina-ai/clip-as-service#1019: embeddings of `data:;base64,...`, and of base64 alone. langchain-ai/langchain#6793,
huggingface/text-embeddings-inference#273: embeddings of token numbers.
"""

from __future__ import annotations

import base64
import importlib
import io
import json
import pkgutil
from collections.abc import Iterator
from typing import Any

import pytest
from PIL import Image

import serve.routes
from serve.api_error import ApiError
from serve.limits import Limits
from serve.parsing.image_decoding import pixels_of
from serve.parsing.json_fields import Taken, fields
from serve.parsing.refusals import form_of
from serve.parsing.text_files import file_of, is_file
from serve.routes.bodies import Asked, Body, checked
from serve.routes.images import Generation
from serve.routes.vectors import Embedding

LIMITS = Limits()


def encoded(kind: str) -> str:
    buffer = io.BytesIO()
    Image.new("RGB", (9, 7), (200, 30, 90)).save(buffer, kind)
    return base64.b64encode(buffer.getvalue()).decode()


PNG, JPEG = encoded("PNG"), encoded("JPEG")
READ = {
    "data URI": f"data:image/png;base64,{PNG}", "no media type": f"data:;base64,{PNG}", "upper case": f"DATA:IMAGE/PNG;BASE64,{PNG}",
    "other media type": f"data:application/octet-stream;base64,{PNG}", "text, it says": f"data:text/plain;charset=utf-8;base64,{PNG}",
    "space before": f"\n  data:image/png;base64,{PNG}", "base64 alone": PNG, "JPEG alone": JPEG, "WebP alone": encoded("WEBP"),
}  # fmt: skip
REFUSED = {
    "spaces inside": (f"data:image/png;base64,{PNG[:20]} {PNG[20:]}", "is base64 with white space in it; take the white space out"),
    "lines": ("\n".join(JPEG[at : at + 76] for at in range(0, len(JPEG), 76)) + "\n", "is base64 with white space in it"),
    "space in its head": (f"data: image/png; base64, {PNG}", "without ;base64 before its comma; send the file as data:image/png;base64,..."),
    "not base64": ("data:image/svg+xml,%3Csvg%3E%3C/svg%3E", "is a data URI without ;base64"),
    "plain": ("data:,hello", "is a data URI without ;base64"),
    "base64url": (JPEG.replace("+", "-").replace("/", "_"), "is base64url; write"),
    "cut": (PNG[:-2].rstrip("="), "is base64 without the = at its end, or one that was cut; send it whole"),
    "cut to no whole byte": (PNG[: 4 * (len(PNG) // 4) - 3], "is neither base64 nor a data URI"),
    "address": ("https://example.org/cat.jpg?size=2", "is an address, and this server fetches nothing; send the file as"),
    "file": (" file:///etc/cat.png", "is an address"),
    "GIF": (encoded("GIF"), "cannot be used as a picture"), "BMP": (encoded("BMP"), "cannot be used as a picture"),
    "TIFF": (encoded("TIFF"), "cannot be used as a picture"), "AVIF": (encoded("AVIF"), "cannot be used as a picture"),
    "HEIC": (base64.b64encode(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic").decode(), "cannot be used as a picture"),
    "SVG": (base64.b64encode(b'<svg xmlns="http://www.w3.org/2000/svg"/>').decode(), "cannot be used as a picture"),
    "XML": (base64.b64encode(b'<?xml version="1.0"?><svg/>').decode(), "cannot be used as a picture"),
    "no picture": (f"data:text/plain;base64,{base64.b64encode(b'hello').decode()}", "cannot be used as a picture"),
}  # fmt: skip
WORDS = (
    "a cat", "", "data: a word", "Data: sales, costs and a chart", "database", "data", "iVBORw0KGgo", "/9j/ is how a JPEG begins", "UklGR",
    "https://example.org/a-page is where it stands", "a picture of https://example.org/cat.jpg on a wall", "Qk0 and more words than that",
)  # fmt: skip


@pytest.mark.parametrize("form", READ)
def test_a_picture_is_read_however_it_is_written(form: str) -> None:
    assert is_file(READ[form])
    assert pixels_of(file_of(READ[form], "image"), LIMITS, "image").shape == (7, 9, 3)


@pytest.mark.parametrize("form", REFUSED)
def test_what_stands_for_a_picture_and_cannot_be_read_is_refused(form: str) -> None:
    text, said = REFUSED[form]
    assert is_file(text), "never words"
    with pytest.raises(ApiError, match=r"^input\[3\] ") as refusal:
        pixels_of(file_of(text, "input[3]"), LIMITS, "input[3]")
    assert said in refusal.value.message
    assert (refusal.value.param, refusal.value.status) == ("input", 400)


@pytest.mark.parametrize("text", WORDS)
def test_words_stay_words(text: str) -> None:
    assert not is_file(text)


def refusal(model: type[Body], body: Any) -> ApiError:
    with pytest.raises(ApiError) as found:
        checked(model, json.dumps(body).encode(), LIMITS)
    return found.value


@pytest.mark.parametrize(
    ("given", "where"),
    [([1, 2, 3], "input[0] is a number"), ([[1, 2], [3]], "input[0] is a list"), (["a", 5], "input[1] is a number"), (7, "input is a number")],
)
def test_token_numbers_are_refused_with_the_way_out(given: Any, where: str) -> None:
    problem = refusal(Embedding, {"input": given})
    assert problem.message.startswith(where)
    assert problem.message.endswith(" must be a text, or a list of 1 to 256 texts; token numbers are of one model's vocabulary, so send the words")
    assert problem.param == "input"


def models() -> list[type[Asked]]:
    """Every body that a route reads."""
    for module in pkgutil.iter_modules(serve.routes.__path__):
        importlib.import_module(f"serve.routes.{module.name}")

    def below(model: type[Asked]) -> Iterator[type[Asked]]:
        yield model
        for one in model.__subclasses__():
            yield from below(one)

    return list(below(Asked))


FIELDS = [(model, field.alias or name) for model in models() for name, field in model.model_fields.items()]
VALUES = (True, 5, -1, 1.5, "", "secret words", [], ["secret"], [5], [[5, 6]], ["", "secret"], ["secret", 5], {"secret": 1}, [{"secret": 1}], [None])


def needed(model: type[Asked]) -> dict[str, Any]:
    return {field.alias or name: READ["data URI"] for name, field in model.model_fields.items() if field.is_required()}


@pytest.mark.parametrize(("model", "name"), FIELDS, ids=lambda one: getattr(one, "__name__", one))
def test_every_field_says_where_it_is_wrong_and_what_it_takes(model: type[Asked], name: str) -> None:
    problems = [problem for value in VALUES if (problem := problem_of(model, {**needed(model), name: value}))]
    assert len(problems) >= 3
    for problem in problems:
        assert problem.param == name, problem.message
        assert problem.message.startswith(name), problem.message
        assert " must be " in problem.message, problem.message
        assert "secret" not in problem.message
        assert "\n" not in problem.message
        assert len(problem.message) < 250


def problem_of(model: type[Asked], body: dict[str, Any]) -> ApiError | None:
    try:
        checked(model, json.dumps(body).encode(), LIMITS)
    except ApiError as problem:
        return problem
    return None


@pytest.mark.parametrize(("model", "name"), FIELDS, ids=lambda one: getattr(one, "__name__", one))
def test_a_name_that_is_nearly_one_is_named_with_it(model: type[Asked], name: str) -> None:
    for wrong in {name + "s", name[:2] + name[3:], name.upper()} - {field for _, field in FIELDS} if len(name) > 3 else ():
        problem = refusal(model, {**needed(model), wrong: "secret"})
        assert problem.message.startswith(f"this takes no field {wrong}, did you mean "), problem.message
        assert (problem.param, problem.code) == (wrong, "unknown_parameter")
        assert "secret" not in problem.message
    assert "secret" not in refusal(model, {**needed(model), "a secret of mine": 1}).message  # which does not look like a name


def test_a_pattern_is_said_in_words() -> None:
    patterns = [(model, name) for model in models() for name, schema in schemas(model).items() if "pattern" in json.dumps(schema)]
    assert patterns
    for model, name in patterns:
        assert refusal(model, {**needed(model), name: "large"}).message == f"{name} must be WIDTHxHEIGHT in pixels, or auto"


def schemas(model: type[Asked]) -> dict[str, Any]:
    return model.model_json_schema(by_alias=True)["properties"]


def test_what_is_said_of_a_field_is_what_its_schema_says() -> None:
    """Words come from the schema that /openapi.json has, of every field."""
    assert all(form_of(schema) for model in models() for schema in schemas(model).values())
    assert form_of(schemas(Asked)["partial_images"]) == "a whole number from 0 to 10"
    assert form_of(schemas(Generation)["guidance_scale"]) == "a number from 0 to 100"


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"size": 512}, "size is a number; it must be WIDTHxHEIGHT in pixels, or auto"),
        ({"n": "two"}, "n is a text; it must be a whole number from 1 to 64"),
        ({"n": 2.5}, "n must be a whole number from 1 to 64"),
        ({"n": 100}, "n is 100; it must be a whole number from 1 to 64"),
        ({"label": [1]}, "label is a list; it must be a text of at most 200 characters, or a whole number from 0 to 4194303"),
        ({"label": -1}, "label is -1; it must be a text of at most 200 characters, or a whole number from 0 to 4194303"),
        ({"output_format": "webp"}, "output_format must be png"),
        ({"background": "transparent"}, "background must be auto or opaque"),
        ({"promt": "x"}, "this takes no field promt, did you mean prompt? it takes model, stream, "),
    ],
)
def test_sentences(body: dict[str, Any], said: str) -> None:
    assert refusal(Generation, body).message.startswith(said)


def test_an_actions_argument_that_is_nearly_one_is_named_with_it() -> None:
    taken = Taken(names={"seed", "steps", "model"}, said=("seed", "steps"), by="generate", what="argument")
    with pytest.raises(ApiError, match=r"^generate takes no argument step, did you mean steps\? it takes seed, steps$"):
        fields(b'{"step": 4}', taken, LIMITS)
    with pytest.raises(ApiError, match=r"^there is an argument that generate does not take; it takes seed, steps$"):
        fields(b'{"a secret": 4}', taken, LIMITS)
