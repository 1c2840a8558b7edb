"""Files of Ray's cluster launcher (`ray up`), for AWS and Google Cloud: Ray's own schema, then what it does not look at.

The schema is the file in Ray's package that Ray's own check reads; the function around it, and what it checks further, are private. What Ray
hands on to a cloud unread, `node_config`, is held against boto3's description of EC2, and against the fields of Google's compute API.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.resources import files
from typing import Any

from genlib.config import nearest
from infra.checks import schema
from infra.checks.commands import ray_start, wrong_start_option
from infra.checks.documents import At, Fault, entries, inside, instead
from infra.checks.facts import PORTS, wrong_image, wrong_resource, wrong_variable

OF = "Ray's launcher"
PROVIDER = {
    "aws": ("type", "region", "availability_zone", "cache_stopped_nodes", "key_pair", "security_group", "use_internal_ips", "cloudwatch"),
    "gcp": ("type", "region", "availability_zone", "project_id", "cache_stopped_nodes", "use_internal_ips"),
}
"""Keys that Ray reads of a provider, but for those that hold credentials: its schema lets any through."""
CREDENTIALS = ("aws_credentials", "gcp_credentials")
OF_RAY = {"aws": ("SubnetIds",), "gcp": ()}
"""Keys of `node_config` that Ray itself reads."""
_TEXT = {"type": "string"}
_STRICTER = {
    "properties": {
        "docker": {"properties": {name: {"items": _TEXT} for name in ("run_options", "head_run_options", "worker_run_options")}},
        "file_mounts": {"additionalProperties": _TEXT},
        "head_node_type": _TEXT,
    }
}
"""Types that Ray's schema leaves open."""
RUNS = "/runs"
"""Where the image keeps runs."""
TOKEN = ".ray/auth_token"
"""Where Ray looks for its token, below the home of the user."""


def faults(file: Any) -> Iterator[Fault]:
    """What is wrong with a launcher's file: what Ray's schema refuses; where that is nothing, what does not agree."""
    if refused := schema.faults({"allOf": [_schema(), _STRICTER]}, file, OF):
        yield from refused
        return
    provider = file["provider"]["type"]
    if provider not in PROVIDER:
        yield Fault(("provider", "type"), f"is {provider!r}; files are checked for {' and '.join(PROVIDER)}.{nearest(provider, list(PROVIDER))}")
        return
    yield from _provider(file["provider"], provider)
    yield from _nodes(file, provider)
    yield from _docker(file)
    yield from _starts(file)
    if "setup_commands" not in file:
        yield Fault((), "lacks setup_commands, without which Ray installs a nightly of another version on nodes; write `setup_commands: []`")


@cache
def _schema() -> dict[str, Any]:
    return json.loads(files("ray.autoscaler").joinpath("ray-schema.json").read_text())


def _provider(values: Mapping[str, Any], kind: str) -> Iterator[Fault]:
    for name in values:
        if name in CREDENTIALS:
            yield Fault(("provider", name), "puts credentials into the file; leave it out, and let the cloud's own tools find them")
        elif name not in PROVIDER[kind]:
            yield Fault(("provider", name), f"is no key of {OF} for {kind}.{instead(name, PROVIDER[kind])}")
    region, zones = values.get("region"), values.get("availability_zone")
    if not isinstance(region, str):
        yield Fault(("provider",), "lacks region, where the nodes are")
        return
    if kind == "aws" and region not in (known := _regions()):
        yield Fault(("provider", "region"), f"is {region!r}, which is no region of AWS.{instead(region, known)}")
    for zone in zones.split(",") if isinstance(zones, str) else ():
        if not zone.strip().startswith(region):
            yield Fault(("provider", "availability_zone"), f"is {zone.strip()!r}, which does not lie in region {region}")


def _nodes(file: Mapping[str, Any], provider: str) -> Iterator[Fault]:
    kinds, head, most = inside(file, "available_node_types"), file.get("head_node_type"), file.get("max_workers")
    if not isinstance(kinds, dict):
        yield Fault((), "lacks available_node_types, the kinds of nodes")
        return
    if head not in kinds:
        yield Fault(("head_node_type",), f"is {schema.shown(head)}, which is none of available_node_types: {', '.join(map(str, kinds))}")
    least = sum(number for _, kind in entries(kinds) if isinstance(number := inside(kind, "min_workers"), int))
    if isinstance(most, int) and least > most:
        yield Fault(("max_workers",), f"is {most}, below the {least} that min_workers of the node types come to; raise it, or lower them")
    for name, kind in entries(kinds):
        at: At = ("available_node_types", name)
        low, high = inside(kind, "min_workers"), inside(kind, "max_workers")
        if isinstance(low, int) and isinstance(high, int) and low > high:
            yield Fault((*at, "min_workers"), f"is {low}, above its max_workers {high}; lower it, or raise max_workers")
        if isinstance(high, int) and isinstance(most, int) and high > most:
            yield Fault((*at, "max_workers"), f"is {high}, above max_workers of the cluster, {most}, and never reached; lower it, or raise that one")
        for resource, _ in entries(inside(kind, "resources")):
            if wrong := wrong_resource(resource):
                yield Fault((*at, "resources", resource), wrong)
        config = inside(kind, "node_config")
        if isinstance(config, dict):
            if name == head and (spot := _spot(config)):
                yield Fault(
                    (*at, "node_config", *spot), "puts the head on a spot node, and who loses the head loses all jobs; leave it out of the head's"
                )
            yield from _of_cloud[provider](config, (*at, "node_config"))


def _spot(config: Mapping[str, Any]) -> At:
    """Where a node is asked for that the cloud may take away; empty where none is."""
    scheduling = inside(config, "scheduling")
    if inside(config, "InstanceMarketOptions", "MarketType") == "spot":
        return ("InstanceMarketOptions", "MarketType")
    if inside(scheduling, "preemptible") is True:
        return ("scheduling", "preemptible")
    return ("scheduling", "provisioningModel") if inside(scheduling, "provisioningModel") == "SPOT" else ()


def _aws(config: Mapping[str, Any], at: At) -> Iterator[Fault]:
    yield from _of_shape(_run_instances(), {name: value for name, value in config.items() if name not in OF_RAY["aws"]}, at)
    if "InstanceType" not in config:
        yield Fault(at, "lacks InstanceType, which says what machine it is")


@cache
def _boto() -> Any:
    """What boto3 knows of AWS. NotInstalled without boto3, which Ray's launcher needs there as well."""
    try:
        import botocore.session
    except ModuleNotFoundError:
        raise schema.not_installed("boto3", "nodes of AWS are checked") from None
    return botocore.session.get_session()


@cache
def _regions() -> list[str]:
    return [region for partition in _boto().get_available_partitions() for region in _boto().get_available_regions("ec2", partition)]


@cache
def _run_instances() -> Any:
    """The shape of what EC2 takes to start nodes."""
    return _boto().get_service_model("ec2").operation_model("RunInstances").input_shape


_KINDS = {
    "string": (str, "a string"),
    "integer": (int, "a whole number"),
    "boolean": (bool, "true or false"),
    "list": (list, "a list"),
    "structure": (dict, "a mapping"),
}


def _of_shape(shape: Any, value: Any, at: At) -> Iterator[Fault]:
    """What a value has that boto3's description of its shape does not."""
    kind, name = _KINDS.get(shape.type_name, (object, ""))
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        yield Fault(at, f"is {schema.shown(value)}; it must be {name}")
    elif shape.type_name == "structure":
        for key, inner in value.items():
            if key in shape.members:
                yield from _of_shape(shape.members[key], inner, (*at, key))
            else:
                yield Fault((*at, key), f"is no key of EC2's {shape.name}.{instead(str(key), shape.members)}")
    elif shape.type_name == "list":
        for number, inner in enumerate(value):
            yield from _of_shape(shape.member, inner, (*at, number))
    elif shape.type_name == "string" and shape.enum and value not in shape.enum:
        yield Fault(at, f"is {value!r}, which EC2 does not know.{instead(value, shape.enum)}")


def _gcp(config: Mapping[str, Any], at: At) -> Iterator[Fault]:
    yield from schema.faults({**schema.own("gcp_node"), "$ref": "#/$defs/Node"}, config, "Google's compute API", at)


_of_cloud = {"aws": _aws, "gcp": _gcp}


def _docker(file: Mapping[str, Any]) -> Iterator[Fault]:
    """The image, and the token that every process needs."""
    docker = inside(file, "docker")
    images = [name for name in ("image", "head_image", "worker_image") if inside(docker, name)]
    if not images:
        yield Fault((), "lacks docker.image: nodes need what infra/Dockerfile installs")
        return
    for name in images:
        if wrong := wrong_image(docker[name]):
            yield Fault(("docker", name), wrong)
    options = inside(docker, "run_options")
    texts = [text for text in options if isinstance(text, str)] if isinstance(options, list) else []
    variables = dict(found for text in texts for found in re.findall(r"(?:-e|--env)[ =](\w+)=(\S*)", text))
    for name in variables:
        if wrong := wrong_variable(name):
            yield Fault(("docker", "run_options"), wrong)
    if variables.get("RAY_AUTH_MODE") != "token":
        yield Fault(("docker", "run_options"), "lacks --env RAY_AUTH_MODE=token, without which whoever reaches a node runs code on it; add it")
    runs = variables.get("GENLIB_RUNS", RUNS)
    if not any(re.search(rf"(?:-v|--volume)[ =]\S+:{runs}(?::|$)", text) for text in texts):
        yield Fault(("docker", "run_options"), f"lacks --volume {runs}:{runs}, without which runs are gone with the node; add it")
    if not any(str(target).endswith(f"/{TOKEN}") for target, _ in entries(file.get("file_mounts"))):
        yield Fault(
            ("file_mounts",),
            f"lacks the token that RAY_AUTH_MODE=token needs; add /home/ray/{TOKEN}: ~/{TOKEN}, which `ray get-auth-token --generate` makes",
        )


def _starts(file: Mapping[str, Any]) -> Iterator[Fault]:
    """What `ray start` is called with on the head and on workers."""
    found: dict[str, dict[str, str]] = {}
    for where, needs in (("head_start_ray_commands", "--head"), ("worker_start_ray_commands", "--address")):
        lines = inside(file, where)
        if not isinstance(lines, list):
            yield Fault((), f"lacks {where}: Ray's own would open the dashboard to the network")
            continue
        for number, line in enumerate(lines):
            options = ray_start(line) if isinstance(line, str) else None
            if options is None:
                continue
            found[where] = values = {name: value for name, _, value in (option.partition("=") for option in options)}
            yield from (Fault((where, number), f"calls `ray start` with {wrong}") for name in values if (wrong := wrong_start_option(name)))
            if needs not in values:
                yield Fault((where, number), f"calls `ray start` without {needs}")
            yield from _opened(values, (where, number))
        if where not in found:
            yield Fault((where,), "has no `ray start`")
    head, worker = found.get("head_start_ray_commands", {}), found.get("worker_start_ray_commands", {})
    if head and "--autoscaling-config" not in head:
        yield Fault(("head_start_ray_commands",), "lacks --autoscaling-config=~/ray_bootstrap_config.yaml, without which no worker is ever started")
    port, asked = head.get("--port", str(PORTS["gcs-server"])), worker.get("--address", "").rpartition(":")[2]
    if head and asked and asked != port:
        yield Fault(("worker_start_ray_commands",), f"reaches for port {asked}, and the head listens on {port}; give both the same")


def _opened(values: Mapping[str, str], at: At) -> Iterator[Fault]:
    host, port = values.get("--dashboard-host", "127.0.0.1"), values.get("--dashboard-port")
    if host not in ("127.0.0.1", "localhost"):
        yield Fault(at, f"opens the dashboard to {host}; write --dashboard-host=127.0.0.1, and reach it with `ray dashboard`")
    if port is not None and port != str(PORTS["dashboard"]):
        yield Fault(
            at,
            f"puts the dashboard on port {port}, and `ray dashboard` and the page of commands use {PORTS['dashboard']}; leave --dashboard-port out",
        )
