"""JSON schemas, and a sentence for each thing that one of them refuses."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.resources import files
from typing import Any

from jsonschema import Draft202012Validator, ValidationError
from jsonschema.exceptions import relevance
from referencing import Registry, Resource

from infra.checks.documents import At, Fault, instead

QUANTITY = r"^[+-]?\d+(\.\d*)?(n|u|m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei|e[+-]?\d+)?$"
"""How Kubernetes writes an amount; its own schemas let any text through."""
KUBERNETES = "1.37"
"""Whose definitions of pods, services and claims files are held against."""
_PLURAL = {
    "object": "a mapping",
    "array": "a list",
    "string": "a string",
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
}


class NotInstalled(ValueError):
    """A library that only this checking needs is not there; the message is for the user."""


def not_installed(package: str, what: str) -> NotInstalled:
    """What to say, and how to come by it."""
    return NotInstalled(f"{what} with {package}, which is not installed; `pip install 'genlib[infra]'` brings it")


def faults(schema: Mapping[str, Any], value: Any, of: str, at: At = (), registry: Registry | None = None) -> list[Fault]:
    """What the schema refuses, by place. `of` is whose schema it is, in the user's words, and `at` where the value stands."""
    validator = Draft202012Validator(schema, registry=registry or Registry())
    found = sorted(validator.iter_errors(value), key=lambda error: [str(part) for part in error.absolute_path])
    return list(dict.fromkeys(fault for error in found for fault in _sentences(error, of, at)))


def _sentences(error: ValidationError, of: str, before: At) -> Iterator[Fault]:
    at: At = (*before, *error.absolute_path)
    value: Any = error.instance
    wanted: Any = error.validator_value
    schema: Mapping[str, Any] = error.schema if isinstance(error.schema, dict) else {}
    match error.validator:
        case "additionalProperties":
            known = list(schema.get("properties", {}))
            for key in value if wanted is False else ():
                if key not in known:
                    yield Fault((*at, key), f"is no key of {of}.{instead(str(key), known)}")
        case "required":
            yield from (Fault(at, f"lacks {name}, which {of} needs") for name in wanted if name not in value)
        case "type":
            kinds = _kinds(wanted)
            text = str(value).lower() if isinstance(value, bool) else str(value)
            quoted = f'; write "{text}"' if "string" in kinds and isinstance(value, bool | int | float) else ""
            yield Fault(at, f"is {shown(value)}; it must be {' or '.join(_PLURAL.get(kind, kind) for kind in kinds)}{quoted}")
        case "enum":
            yield Fault(at, f"is {shown(value)}; it must be {' or '.join(str(one) for one in wanted)}")
        case "const":
            yield Fault(at, f"is {shown(value)}; it must be {wanted}")
        case "minimum":
            yield Fault(at, f"is {shown(value)}; it must be at least {wanted}")
        case "maximum":
            yield Fault(at, f"is {shown(value)}; it must be at most {wanted}")
        case "minItems":
            yield Fault(at, f"has {len(value)} entries; it must have at least {wanted}")
        case "pattern":
            yield Fault(at, f"is {shown(value)}; it must look like {schema.get('examples', [wanted])[0]}")
        case "anyOf" | "oneOf" if error.context:
            if all(inner.validator == "type" and not inner.path for inner in error.context):
                kinds = [kind for inner in error.context for kind in _kinds(inner.validator_value)]
                yield Fault(at, f"is {shown(value)}; it must be {' or '.join(_PLURAL.get(kind, kind) for kind in dict.fromkeys(kinds))}")
            else:
                yield from _sentences(max(error.context, key=relevance), of, before)
        case _:
            yield Fault(at, f"is {shown(value)}, which {of} refuses: {error.message[:200]}")


def _kinds(types: Any) -> list[str]:
    """The types that a schema names, without that of nothing."""
    return [kind for kind in ([types] if isinstance(types, str) else types) if kind != "null"]


def shown(value: Any) -> str:
    """A value in a sentence, cut where it is long."""
    text = "nothing" if value is None else str(value).lower() if isinstance(value, bool) else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


@cache
def own(name: str) -> dict[str, Any]:
    """A schema of infra/schemas."""
    return json.loads(files("infra").joinpath("schemas", f"{name}.json").read_text())


@cache
def kubernetes() -> tuple[Registry, Mapping[str, Any]]:
    """Definitions of Kubernetes' objects by name, and a registry in which schemas refer to them. NotInstalled without kubernetes-validate."""
    try:
        package = files("kubernetes_validate")
    except ModuleNotFoundError:
        raise not_installed("kubernetes-validate", "files for Kubernetes are checked") from None
    text = package.joinpath("kubernetes-json-schema", f"v{KUBERNETES}.0-local-strict", "_definitions.json").read_text()
    definitions = json.loads(text)
    definitions["$defs"]["io.k8s.apimachinery.pkg.api.resource.Quantity"] = {
        "type": ["string", "number", "null"],
        "pattern": QUANTITY,
        "examples": ["16Gi"],
    }
    return Resource.from_contents(definitions) @ Registry(), definitions["$defs"]
