"""Why a body is refused, in a sentence: the field and the place in it, which form was meant, and what the field takes. Never what stood there."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError

from serve.api_error import ApiError

_LONGEST_NAME = 64
_KINDS = ((bool, "true or false"), (int | float, "a number"), (str, "a text"), (list, "a list"), (dict, "an object"), (type(None), "null"))


def unknown(name: str | None, names: Collection[str], *, by: str = "this", what: str = "field") -> ApiError:
    """Of a field that is not among `names`. Its own name is said where it is near one of them, and so no secret."""
    short = name is not None and len(name) <= _LONGEST_NAME and name.isascii() and name.isprintable()
    near = difflib.get_close_matches(name.lower(), names, n=1, cutoff=0.7) if name is not None and short else []
    takes = f"it takes {', '.join(names)}"
    if near:
        return ApiError(400, f"{by} takes no {what} {name}, did you mean {near[0]}? {takes}", param=name, code="unknown_parameter")
    return ApiError(400, f"there is {'an' if what[0] in 'aeiou' else 'a'} {what} that {by} does not take; {takes}", code="unknown_parameter")


def refused(error: ValidationError, model: type[BaseModel], hints: Mapping[tuple[str, str], str]) -> ApiError:
    """The first finding in a sentence; of a field with several forms, that of the form that was meant. `hints` adds to a field's wrong kind."""
    errors = error.errors(include_url=False, include_context=False)
    properties = model.model_json_schema(by_alias=True)["properties"]
    name = str(errors[0]["loc"][0]) if errors[0]["loc"] else ""
    if errors[0]["type"] == "extra_forbidden" or (name and name not in properties):
        return unknown(name, properties)
    if errors[0]["type"] == "json_invalid":
        return ApiError(400, f"the body is not JSON: {errors[0]['msg'].removeprefix('Invalid JSON: ')}", code="invalid_json")
    if not name:
        return ApiError(400, "the body must be a JSON object")
    mine = [one for one in errors if one["loc"][0] == name]
    meant = next((one for one in mine if not _of_another_kind(one)), mine[0])
    takes, where = form_of(properties[name]), name + "".join(f"[{at}]" for at in _places(meant))
    if meant["type"] == "missing":
        return ApiError(400, f"{name} is missing; send {takes}", param=name, code="missing_parameter")
    if not meant["type"].endswith(("_type", "_parsing", "_from_float", "pattern_mismatch", "literal_error")):
        said = meant["msg"].removeprefix("Value error, ")
        return ApiError(400, f"{where}: {said[0].lower()}{said[1:]}; {name} must be {takes}", param=name)
    kind = kind_of(meant["input"])
    hint = f"; {hints[name, kind]}" if (name, kind) in hints else ""
    if meant["type"].endswith("_type") and not (kind == "a number" and meant["type"].startswith("int")):
        return ApiError(400, f"{where} is {kind}; {'it' if where == name else name} must be {takes}{hint}", param=name)
    return ApiError(400, f"{where} must be {takes}", param=name)


def _places(error: Mapping[str, Any]) -> list[int]:
    """Numbers of the entries that lead to it; the names between them are of forms."""
    return [part for part in error["loc"][1:] if isinstance(part, int)]


def _of_another_kind(error: Mapping[str, Any]) -> bool:
    """Whether it says that a value is not of a form at all, where the field has others."""
    return not _places(error) and error["type"].endswith(("_type", "_parsing", "literal_error"))


def kind_of(value: Any) -> str:
    """What JSON calls it."""
    return next((words for kind, words in _KINDS if isinstance(value, kind)), "of another kind")


def form_of(schema: Mapping[str, Any]) -> str:
    """What a field takes, in words, from its JSON schema."""
    choices = [one for one in schema.get("anyOf", [schema]) if one.get("type") != "null"]
    return ", or ".join(_form({"description": schema.get("description", ""), **one}) for one in choices)


def _form(schema: Mapping[str, Any]) -> str:
    if "const" in schema or "enum" in schema:
        return " or ".join(map(str, schema.get("enum", [schema.get("const")])))
    match schema.get("type"):
        case "array":
            return f"a list{_between(schema, 'minItems', 'maxItems', ' of ')} {_many(schema['items'])}"
        case "string" if schema.get("contentEncoding") == "base64":
            return "a picture as base64 or a data URI"
        case "string" if "pattern" in schema:
            return str(schema["description"]).rstrip(".")
        case "string":
            return "a text"
        case "integer":
            return f"a whole number{_between(schema, 'minimum', 'maximum')}"
        case "number":
            return f"a number{_between(schema, 'minimum', 'maximum')}"
        case "boolean":
            return "true or false"
        case kind:
            raise ValueError(f"the schema of a field has the type {kind!r}, which has no words here")


def _many(schema: Mapping[str, Any]) -> str:
    words = _form(schema).partition(" ")[2]
    first, space, rest = words.partition(" ")
    return f"{first}s{space}{rest.replace('a data URI', 'data URIs')}"


def _between(schema: Mapping[str, Any], least: str, most: str, word: str = " from ") -> str:
    low, high = schema.get(least), schema.get(most, schema["exclusiveMaximum"] - 1 if "exclusiveMaximum" in schema else None)
    ends: Sequence[Any] = [end for end in (low, high) if end is not None]
    if low is not None and low == high:
        return f"{word}{low}"
    return f"{word}{' to '.join(map(str, ends))}" if len(ends) == 2 else f", at least {low}" if low is not None else ""
