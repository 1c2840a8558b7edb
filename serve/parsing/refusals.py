"""Why a body is refused, in a sentence: the field and the place in it, which form was meant, and what the field takes.

Of what stood there numbers and lengths are said; texts never.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError

from genlib.plurals import counted
from serve.api_error import ApiError

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.\[\]-]{0,39}")
"""What a field may be called, and so be named in an answer."""
_LARGEST = 10**15
MOST_WORDS = 1 << 16
"""Characters that no words have, but a file as base64."""
_KINDS = ((bool, "true or false"), (int | float, "a number"), (str, "a text"), (list, "a list"), (dict, "an object"), (type(None), "null"))


def unknown(name: str | None, names: Collection[str], *, by: str = "this", what: str = "field") -> ApiError:
    """Of a field that is not among `names`. Its own name is said where it looks like one."""
    takes = f"it takes {', '.join(names) or 'none'}"
    if name is None or not _NAME.fullmatch(name):
        return ApiError(400, f"there is {'an' if what[0] in 'aeiou' else 'a'} {what} that {by} does not take; {takes}", code="unknown_parameter")
    near = difflib.get_close_matches(name.lower(), names, n=1, cutoff=0.7)
    asked = f", did you mean {near[0]}?" if near else ";"
    return ApiError(400, f"{by} takes no {what} {name}{asked} {takes}", param=name, code="unknown_parameter")


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
        what = _amount(meant["input"]) or f"refused ({said[0].lower()}{said[1:]})"
        return ApiError(400, f"{where} {what}; {'it' if where == name else name} must be {takes}", param=name)
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


def _amount(value: Any) -> str:
    """A number, or how long a text or list is; empty for anything else."""
    if isinstance(value, str):
        return f"has {counted(len(value), 'character')}"
    if isinstance(value, list):
        return f"has {counted(len(value), 'entry', 'entries')}"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return ""
    return f"is {value}" if abs(value) < _LARGEST else f"is {'below' if value < 0 else 'above'} all that it may be"


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
            entry, most = _form(schema["items"]).partition(" ")[2], schema.get("maxItems")
            return f"a list of {_amount_of(schema.get('minItems', 0), most)}{entry if most == 1 else _plural(entry)}"
        case "string" if schema.get("contentEncoding") == "base64":
            return "a picture as base64 or a data URI"
        case "string" if "pattern" in schema:
            return str(schema["description"]).rstrip(".")
        case "string":
            return f"a text{_length(schema)}"
        case "integer":
            return f"a whole number{_between(schema, 'minimum', 'maximum')}"
        case "number":
            return f"a number{_between(schema, 'minimum', 'maximum')}"
        case "boolean":
            return "true or false"
        case kind:
            raise ValueError(f"the schema of a field has the type {kind!r}, which has no words here")


def _amount_of(least: int, most: int | None) -> str:
    if most is None:
        return f"{least} or more " if least else ""
    return f"{most} " if least == most else f"{least} to {most} "


def _plural(words: str) -> str:
    return re.sub(r"^(whole )?\w+", lambda noun: f"{noun[0]}s", words).replace("a data URI", "data URIs")


def _length(schema: Mapping[str, Any]) -> str:
    """How many characters a text may have; of one that may be a file nothing is said."""
    least, most = schema.get("minLength", 0), schema.get("maxLength", 0)
    if not 0 < most < MOST_WORDS:
        return ""
    return f" of {f'{least} to' if least else 'at most'} {most} characters"


def _between(schema: Mapping[str, Any], least: str, most: str) -> str:
    low, high = schema.get(least), schema.get(most, schema["exclusiveMaximum"] - 1 if "exclusiveMaximum" in schema else None)
    ends: Sequence[Any] = [end for end in (low, high) if end is not None]
    return f" from {' to '.join(map(str, ends))}" if len(ends) == 2 else f", at least {low}" if low is not None else ""
