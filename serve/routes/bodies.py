"""Bodies of requests: JSON taken strictly, forms as far as their texts say, both into a model of fields; and how OpenAPI describes them."""

from __future__ import annotations

import base64
import functools
import typing
from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

from fastapi import Request
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException

from serve.api_error import ApiError
from serve.front import of
from serve.inference.schema import EXAMPLE
from serve.limits import Limits
from serve.parsing.json_fields import Taken, fields
from serve.parsing.refusals import MOST_WORDS, refused, unknown
from serve.routes.beside import if_large

T = TypeVar("T", bound="Body")


def _whole(value: Any) -> Any:
    """JSON has one kind of number: 2.0 is whole."""
    return int(value) if isinstance(value, float) and value.is_integer() and abs(value) < 2**63 else value


WHOLE = BeforeValidator(_whole)
"""Comes after the limits in a field's type, so that it is asked before them."""
_ENCODED = Field(
    min_length=1, examples=[EXAMPLE], json_schema_extra={"contentEncoding": "base64"}, description="PNG, JPEG or WebP as base64 or a data URI."
)
Picture = Annotated[str, _ENCODED]
"""A file in a form, text in JSON."""


class Body(BaseModel):
    """What every body has: unknown fields are refused, and numbers are finite."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, populate_by_name=False, hide_input_in_errors=True)
    hints: typing.ClassVar[Mapping[tuple[str, str], str]] = {}
    """What is added to the refusal of a field that is of a kind such as "a number"."""


_AS_JOB = (
    "Answers at once with a job, which goes on without its client. Sent again, as after a connection that broke, it is another job, unless both "
    "have the same Idempotency-Key."
)


class Asked(Body):
    """How work is to be done and answered, the same for every endpoint that does some."""

    model: Annotated[str, Field(max_length=200)] | None = Field(None, description="A name of /v1/models; the first that can do this, if none.")
    stream: bool | None = Field(None, description="Server-sent events: progress, partial pictures, the result.")
    partial_images: Annotated[int, Field(ge=0, le=10), WHOLE] | None = Field(None, description="Pictures on the way, of a stream or a job.")
    as_job: bool | None = Field(None, alias="async", description=_AS_JOB)
    response_format: typing.Literal["b64_json", "url"] | None = Field(None, description="Pictures as base64, or where to get them.")
    png_parameters: bool | None = Field(None, description="Whether pictures carry what they were made of.")
    user: Annotated[str, Field(max_length=500)] | None = Field(None, description="Accepted for other clients' sake; has no effect.")


_FILES, _FIELDS, _FIELD_BYTES = 64, 256, 1 << 20
_FORM = (
    "the form cannot be read; send multipart/form-data with a boundary, "
    f"of at most {_FILES} files, {_FIELDS} fields and {_FIELD_BYTES:,} bytes a field"
)
ASKED = tuple(field.alias or name for name, field in Asked.model_fields.items())
"""Names of those fields in a body."""


async def body_of(request: Request, model: type[T]) -> T:
    """The request's body as `model`, from JSON or a form. ApiError names the field that is wrong, never a text that stood there."""
    if kind_of(request, forms=True) == "application/json":
        content = await request.body()
        return await if_large(len(content), checked, model, content, of(request).options.limits)
    given = await _fields(await _form(request), model)
    try:
        return model.model_validate(given)
    except ValidationError as error:
        raise refused(error, model, model.hints) from None


def checked(model: type[T], content: bytes, limits: Limits) -> T:
    """JSON as `model`. ApiError names the field that is wrong."""
    fields(content, taken_by(model), limits)
    return validated(model, content)


def validated(model: type[T], content: bytes) -> T:
    """The same of a body whose size is known to be right."""
    try:
        return model.model_validate_json(content, strict=True)
    except ValidationError as error:
        raise refused(error, model, model.hints) from None


@functools.cache
def taken_by(model: type[BaseModel]) -> Taken:
    """Which fields there are, and in which a file may stand."""
    properties = model.model_json_schema(by_alias=True)["properties"]
    files = frozenset(name for name, schema in properties.items() if _takes_file(schema))
    return Taken(names=tuple(properties), files=files)


def _takes_file(schema: Any) -> bool:
    """Whether a text in it may be longer than words are."""
    if isinstance(schema, list):
        return any(map(_takes_file, schema))
    if not isinstance(schema, dict):
        return False
    return "contentEncoding" in schema or schema.get("maxLength", 0) > MOST_WORDS or any(map(_takes_file, schema.values()))


def kind_of(request: Request, *, forms: bool) -> str:
    """The body's media type, checked."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    allowed = ("application/json", "multipart/form-data") if forms else ("application/json",)
    if kind not in allowed:
        raise ApiError(415, f"the header Content-Type must be {' or '.join(allowed)}", code="unsupported_media_type")
    return kind


async def _form(request: Request) -> FormData:
    if "idempotency-key" in request.headers:
        await request.body()  # which is read as a whole again, to know the request
    try:
        return await request.form(max_files=_FILES, max_fields=_FIELDS, max_part_size=_FIELD_BYTES)
    except (HTTPException, ValueError, KeyError):  # KeyError and ValueError: python-multipart on a strange header
        raise ApiError(400, _FORM, code="invalid_form") from None


async def _fields(form: FormData, model: type[BaseModel]) -> dict[str, Any]:
    """A form's entries by field: files as base64, several of a name as a list, as `image[]` is."""
    names = taken_by(model).names
    lists = {field.alias or name for name, field in model.model_fields.items() if _takes_list(field.annotation)}
    fields: dict[str, Any] = {}
    for name in form:
        values = [await _text_of(one) for one in form.getlist(name)]
        short = name.removesuffix("[]")
        if short not in names:
            raise unknown(short, names)
        if short not in lists and len(values) > 1:
            raise ApiError(400, f"{short} comes {len(values)} times, and takes one value", param=short, code="invalid_form")
        fields[short] = values if short in lists and (name.endswith("[]") or len(values) > 1) else values[0]
    return fields


async def _text_of(entry: UploadFile | str) -> str:
    """A form's entry as it would stand in JSON."""
    if isinstance(entry, str):
        return entry
    data = await entry.read()
    return (await if_large(len(data), base64.b64encode, data)).decode("ascii")


def _takes_list(kind: Any) -> bool:
    """Whether a type has a list among its alternatives."""
    return typing.get_origin(kind) is list or any(_takes_list(one) for one in typing.get_args(kind))


def described(model: type[BaseModel], *, forms: bool = False) -> dict[str, Any]:
    """OpenAPI's `requestBody` of a route that reads `model`."""
    schema = model.model_json_schema(by_alias=True)
    kinds = {"application/json": {"schema": schema}}
    if forms:
        kinds["multipart/form-data"] = {"schema": _as_form(schema)}
    return {"requestBody": {"required": True, "content": kinds}}


def _as_form(schema: dict[str, Any]) -> dict[str, Any]:
    """The same with files in place of encoded pictures, and no null, for which a form has no word."""
    properties = {name: _in_form(one) for name, one in schema["properties"].items()}
    return {**schema, "properties": properties}


def _in_form(schema: dict[str, Any]) -> dict[str, Any]:
    choices = [one for one in schema.get("anyOf", ()) if one != {"type": "null"}]
    if any(one.get("contentEncoding") == "base64" for one in (schema, *choices)):
        return {"type": "string", "minLength": 1, "contentMediaType": "application/octet-stream"}  # as OpenAPI 3.1 says it
    rest = {key: value for key, value in schema.items() if key not in ("anyOf", "default")}
    return {**rest, **choices[0]} if len(choices) == 1 else {**rest, "anyOf": choices} if choices else rest
