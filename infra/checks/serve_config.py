"""What `serve deploy` and KubeRay's RayService take. Ray passes over keys that it does not know without a word; here they are faults."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from typing import Any, get_type_hints

from infra.checks.documents import At, Fault, instead, mappings
from infra.checks.facts import serve_port

_SOME_KEY = ("-" * 24,)
"""In place of the clients' keys, which come from the environment of the cluster and are in no file."""

_OWN_FORM = ("jobs_folder", "limits")
"""Options that are written otherwise than they are kept."""


def faults(config: Any, at: At = (), port: int | None = None) -> Iterator[Fault]:
    """What is wrong with a configuration of Ray Serve; `port` is what clients are led to, by default that of the code."""
    from pydantic import ValidationError
    from ray.serve.schema import ServeDeploySchema

    if not isinstance(config, dict):
        yield Fault(at, "is no mapping; write applications, and http_options, as `python -m serve --write-config FILE` does")
        return
    unknown = list(_unknown(ServeDeploySchema, config, at))
    yield from unknown
    try:
        ServeDeploySchema.model_validate(config)
    except ValidationError as error:
        places = {fault.at for fault in unknown}
        for one in error.errors():
            place = (*at, *(part for part in one["loc"] if isinstance(part, str | int)))
            if place not in places:
                yield Fault(place, f"is refused by Ray Serve: {one['msg'].removeprefix('Value error, ')}")
    options = config.get("http_options")
    listens = options.get("port", 8000) if isinstance(options, dict) else 8000
    if listens != (wanted := port or serve_port()):
        yield Fault((*at, "http_options", "port"), f"is {listens}, and the service leads to port {wanted}; give both the same")
    for number, application in mappings(config.get("applications")):
        yield from _application(application, (*at, "applications", number))


def _unknown(model: Any, values: dict[str, Any], at: At) -> Iterator[Fault]:
    """Keys, at any depth, that are no fields of Ray's models."""
    for key, value in values.items():
        field = model.model_fields.get(key)
        if field is None:
            yield Fault((*at, key), f"is no key of Ray Serve's {model.__name__}, which passes over it.{instead(str(key), model.model_fields)}")
            continue
        inner = next((kind for kind in _kinds(field.annotation) if hasattr(kind, "model_fields")), None)
        if inner is None:
            continue
        if isinstance(value, dict):
            yield from _unknown(inner, value, (*at, key))
        for number, one in mappings(value):
            yield from _unknown(inner, one, (*at, key, number))


def _kinds(annotation: Any) -> Iterator[Any]:
    """The classes in an annotation such as `list[X] | None`."""
    yield annotation
    for inner in getattr(annotation, "__args__", ()):
        yield from _kinds(inner)


def _application(application: dict[str, Any], at: At) -> Iterator[Fault]:
    from serve import deployment

    path = application.get("import_path")
    if isinstance(path, str):
        module, _, name = path.replace(":", ".").rpartition(".")
        if not _exists(module, name):
            ours = f"{deployment.__name__}:{deployment.application.__name__}"
            yield Fault((*at, "import_path"), f"is {path!r}, which does not exist; the server is {ours}")
            return
    yield from _arguments(application.get("args", {}), (*at, "args"))


def _arguments(arguments: Any, at: At) -> Iterator[Fault]:
    """Of our application: names as it checks them itself, then types, then what does not go together."""
    from serve import deployment
    from serve.options import ServeOptions
    from serve.servers.replicas import Replicas

    if not isinstance(arguments, dict):
        yield Fault(at, "is no mapping; write checkpoints, replicas and options")
        return
    try:
        sized, _ = deployment.settings(arguments, _SOME_KEY)
    except (ValueError, TypeError, AttributeError) as error:
        yield Fault(at, f"are refused by the server: {error}")
        return
    wrong = [
        *_mistyped(Replicas, arguments.get("replicas", {}), (*at, "replicas")),
        *_mistyped(ServeOptions, arguments.get("options", {}), (*at, "options")),
    ]
    yield from wrong
    if wrong:
        return
    if not 1 <= sized.least <= sized.most:
        yield Fault((*at, "replicas", "least"), f"is {sized.least}, and most is {sized.most}; it must be from 1 to that")
    checkpoints = arguments.get("checkpoints")
    if not isinstance(checkpoints, list) or not checkpoints:
        yield Fault((*at, "checkpoints"), "names no checkpoint; write NAME=FOLDER, such as clip=/runs/clip")


def _mistyped(kind: type, values: dict[str, Any], at: At) -> Iterator[Fault]:
    """Values that are not of the type of their field, which a dataclass takes as they are."""
    from pydantic import TypeAdapter, ValidationError

    hints = get_type_hints(kind)
    for name, value in values.items():
        if name in _OWN_FORM:
            continue
        try:
            TypeAdapter(hints[name]).validate_python(tuple(value) if isinstance(value, list) else value, strict=True)
        except ValidationError as error:
            yield Fault((*at, name), f"is {value!r}: {error.errors()[0]['msg'].replace('Input should be', 'it must be')}")


def _exists(module: str, name: str) -> bool:
    try:
        return hasattr(import_module(module), name)
    except (ImportError, ValueError):
        return False
