"""Manifests for Kubernetes: of KubeRay, of Kueue, and Kubernetes' own.

The schemas: KubeRay's from its API reference (infra/schemas/kuberay.json), since no package has its definitions; Kueue's in the same way, as
far as a queue needs them; pods and all else from Kubernetes' own, which kubernetes-validate brings.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

from cluster.preflight import fit_on, words
from infra.checks import schema, serve_config
from infra.checks.commands import Node, of_command, wrong_start_option
from infra.checks.documents import At, Fault, entries, inside, instead, mappings, parsed
from infra.checks.facts import (
    ACCELERATORS,
    POD_RESOURCES,
    PORTS,
    RESOURCES,
    SECRET,
    ray_release,
    serve_port,
    wrong_image,
    wrong_resource,
    wrong_variable,
)

QUEUE, ELASTIC = "kueue.x-k8s.io/queue-name", "kueue.x-k8s.io/elastic-job"
LABELS = (QUEUE, "kueue.x-k8s.io/priority-class", "kueue.x-k8s.io/max-exec-time-seconds", "kueue.x-k8s.io/multikueue-origin")
"""That Kueue reads of a job."""
NAME_CHARACTERS = {"RayCluster": 50}
"""Of a cluster's name; of what makes clusters of its own 47."""
_NAME = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
MOST_GROUPS = 7
"""Of workers, in a job that Kueue admits."""
CLUSTER = {"RayCluster": ("spec",), "RayJob": ("spec", "rayClusterSpec"), "RayService": ("spec", "rayClusterConfig"),
           "RayCronJob": ("spec", "jobTemplate", "rayClusterSpec")}  # fmt: skip
"""Where a kind has its cluster."""
OF_KUBERAY, OF_KUEUE = "KubeRay 1.6.2", "Kueue's v1beta2"
QUEUES = ("ResourceFlavor", "ClusterQueue", "LocalQueue")
SPOT = {"cloud.google.com/gke-spot": "true", "cloud.google.com/gke-preemptible": "true", "eks.amazonaws.com/capacityType": "SPOT",
        "karpenter.sh/capacity-type": "spot", "kubernetes.azure.com/scalesetpriority": "spot"}  # fmt: skip
"""Labels of nodes that the cloud may take away."""
_FACTOR = {"n": 1e-9, "u": 1e-6, "m": 1e-3}
_FACTOR |= {unit: 1000.0**power for power, unit in enumerate(("k", "M", "G", "T", "P", "E"), 1)}
_FACTOR |= {f"{unit}i": 1024.0**power for power, unit in enumerate("KMGTPE", 1)}


def faults(file: Any) -> Iterator[Fault]:
    """What is wrong with one document of a manifest: what its schema refuses; where that is nothing, what does not agree."""
    kind, group = file.get("kind"), str(file.get("apiVersion")).partition("/")[0]
    if not isinstance(kind, str):
        yield Fault(("kind",), f"is {schema.shown(kind)}; it must say what the file is, such as RayJob")
    elif kind in CLUSTER or group == "ray.io":
        refused = _own("kuberay", file, tuple(CLUSTER), OF_KUBERAY)
        yield from refused or _ray(file, kind)
    elif kind in QUEUES or group == "kueue.x-k8s.io":
        yield from _own("kueue", file, QUEUES, OF_KUEUE)
    else:
        yield from _plain(file)
        if kind == "PersistentVolumeClaim" and inside(file, "spec", "resources", "requests", "storage") is None:
            yield Fault(("spec", "resources", "requests"), "lacks storage, the size that is asked for")


def _own(name: str, file: Mapping[str, Any], kinds: tuple[str, ...], of: str) -> list[Fault]:
    """By a schema of ours."""
    kind = str(file["kind"])
    if kind not in kinds:
        return [Fault(("kind",), f"is {kind!r}, which {of} does not have.{instead(kind, kinds)}")]
    registry, _ = schema.kubernetes()
    return schema.faults({**schema.own(name), "$ref": f"#/$defs/{kind}"}, file, of, registry=registry)


def _plain(file: Mapping[str, Any]) -> list[Fault]:
    """An object of Kubernetes itself."""
    registry, definitions = schema.kubernetes()
    kind, version = str(file["kind"]), str(file.get("apiVersion"))
    group, _, number = version.rpartition("/")
    known = {
        one["kind"]: name for name, definition in definitions.items() for one in definition.get("x-kubernetes-group-version-kind", ())
        if (one["group"], one["version"]) == (group, number)
    }  # fmt: skip
    if kind not in known:
        near = instead(kind, [*known, *CLUSTER])
        return [Fault(("kind",), f"is {kind!r}, which Kubernetes {schema.KUBERNETES} does not have in {version}.{near}")]
    reference = {"$ref": f"https://kubernetes.io/api/_definitions.json#/$defs/{known[kind]}"}
    return schema.faults(reference, file, f"Kubernetes {schema.KUBERNETES}", registry=registry)


def _ray(file: Mapping[str, Any], kind: str) -> Iterator[Fault]:
    """What holds a file of KubeRay against the code, and against itself."""
    at = CLUSTER[kind]
    cluster = inside(file, *at)
    if not isinstance(cluster, dict):
        if kind == "RayJob" and inside(file, "spec", "clusterSelector"):
            return
        yield Fault(at, "is not there: there is no cluster to run on")
        return
    if (version := cluster.get("rayVersion")) != ray_release():
        yield Fault((*at, "rayVersion"), f"is {schema.shown(version)}; the image has Ray {ray_release()}")
    if inside(cluster, "authOptions", "mode") != "token":
        yield Fault(
            (*at, "authOptions", "mode"),
            f"is {schema.shown(inside(cluster, 'authOptions', 'mode'))}, so that whoever reaches the cluster runs code on it; write token",
        )
    yield from _named(file, kind)
    nodes = [*_groups(cluster, at)]
    if kind == "RayService":
        yield from _service(file, cluster, at, [node for node in nodes if isinstance(node, Node)])
    if kind in ("RayJob", "RayCronJob"):
        job = inside(file, *at[:-1])
        yield from _job(job, at[:-1], [node for node in nodes if isinstance(node, Node)])
        yield from _queued_job(job, at[:-1]) if inside(file, "metadata", "labels", QUEUE) else ()
    for label, _ in entries(inside(file, "metadata", "labels")):
        if label.partition("/")[0] == QUEUE.partition("/")[0] and label not in LABELS:
            yield Fault(("metadata", "labels", label), f"is no label of Kueue.{instead(label, LABELS)}")
    if inside(file, "metadata", "labels", QUEUE):
        elastic = inside(file, "metadata", "annotations", ELASTIC) == "true"
        yield from _queued_cluster(cluster, at, elastic)
    yield from (one for one in nodes if isinstance(one, Fault))


def _named(file: Mapping[str, Any], kind: str) -> Iterator[Fault]:
    """That KubeRay can name pods and services after the file."""
    name, most = inside(file, "metadata", "name"), NAME_CHARACTERS.get(kind, 47)
    if not isinstance(name, str) or not _NAME.fullmatch(name) or len(name) > most:
        yield Fault(
            ("metadata", "name"), f"is {schema.shown(name)}; it must be small letters, digits and dashes, {most} at most, and begin with a letter"
        )


def _groups(cluster: Mapping[str, Any], at: At) -> Iterator[Fault | Node]:
    """The nodes of the head and of each group, and what is wrong with them."""
    head, names = cluster.get("headGroupSpec"), []
    autoscaled = cluster.get("enableInTreeAutoscaling") is True
    if isinstance(head, dict):
        place = (*at, "headGroupSpec")
        yield from _group(head, place, 1)
        yield from _head_on_spot(inside(head, "template", "spec"), (*place, "template", "spec"))
        yield from _ports(head, place)
    for number, group in mappings(cluster.get("workerGroupSpecs")):
        place = (*at, "workerGroupSpecs", number)
        low, now, high = (group.get(name) for name in ("minReplicas", "replicas", "maxReplicas"))
        if isinstance(low, int) and isinstance(high, int) and low > high:
            yield Fault((*place, "minReplicas"), f"is {low}, above maxReplicas {high}; lower it, or raise maxReplicas")
        elif isinstance(now, int) and isinstance(high, int) and isinstance(low, int) and not low <= now <= high:
            yield Fault((*place, "replicas"), f"is {now}; it must be from minReplicas {low} to maxReplicas {high}")
        if group.get("groupName") in names:
            yield Fault((*place, "groupName"), f"is {group['groupName']!r} a second time; give each group its own")
        names.append(group.get("groupName"))
        most = high if autoscaled else now
        yield from _group(group, place, most if isinstance(most, int) else 0)


def _group(group: Mapping[str, Any], at: At, most: int) -> Iterator[Fault | Node]:
    also = tuple(name for name, _ in entries(group.get("resources")) if name not in RESOURCES)
    for name in also:
        if wrong := wrong_resource(name):
            yield Fault((*at, "resources", name), wrong)
    parameters = group.get("rayStartParams")
    for name, value in entries(parameters):
        if wrong := wrong_start_option(f"--{name}"):
            yield Fault((*at, "rayStartParams", name), f"becomes {wrong}")
        elif name == "resources":
            yield from _named_resources(value, (*at, "rayStartParams", name))
    pod = inside(group, "template", "spec")
    place = (*at, "template", "spec")
    if restarts := inside(pod, "restartPolicy") not in (None, "Never") and inside(pod, "restartPolicy"):
        yield Fault((*place, "restartPolicy"), f"is {restarts!r}; Ray's autoscaler needs Never, as a pod that starts again is another node")
    yield from _pod(pod, place)
    limits = {**(inside(pod, "containers", 0, "resources", "requests") or {}), **(inside(pod, "containers", 0, "resources", "limits") or {})}
    ray = {"CPU": amount(inside(parameters, "num-cpus") or limits.get("cpu")), "GPU": sum(amount(limits.get(name)) for name in ACCELERATORS[:4])}
    yield Node(most, ray)


def _named_resources(value: Any, at: At) -> Iterator[Fault]:
    """Resources in JSON, as Ray takes them."""
    try:
        names = json.loads(str(value).strip("'\"").replace("\\", ""))
    except ValueError:
        yield Fault(at, f"is {schema.shown(value)}; it must be JSON, such as '{{\"GPU\": 1}}'")
        return
    for name, _ in entries(names):
        if wrong := wrong_resource(name):
            yield Fault((*at, name), wrong)


def amount(value: Any) -> float:
    """A quantity of Kubernetes as a number; 0 of what is none."""
    if not isinstance(value, str):
        return float(value) if isinstance(value, int | float) else 0.0
    found = re.match(schema.QUANTITY, value)
    if not found:
        return 0.0
    unit = found[2] or ""
    return float(value.removesuffix(unit)) * _FACTOR.get(unit, 1.0) if unit in _FACTOR else float(value)


def _pod(pod: Any, at: At) -> Iterator[Fault]:
    """Of one of our containers and its volumes."""
    volumes = [one.get("name") for _, one in mappings(inside(pod, "volumes"))]
    for number, container in mappings(inside(pod, "containers")):
        place = (*at, "containers", number)
        if number == 0 and (wrong := wrong_image(container.get("image"))):
            yield Fault((*place, "image"), wrong)
        mounts = mappings(container.get("volumeMounts"))
        for mount, one in mounts:
            if (name := str(one.get("name"))) not in volumes:
                near = instead(name, map(str, volumes))
                yield Fault((*place, "volumeMounts", mount, "name"), f"is {name!r}, and no volume of the pod has that name.{near}")
        yield from _environment(container, place, [str(one.get("mountPath")) for _, one in mounts])
        yield from _resources(container, place)


def _environment(container: Mapping[str, Any], at: At, mounted: list[str]) -> Iterator[Fault]:
    runs = False
    for number, one in mappings(container.get("env")):
        name, value = str(one.get("name")), one.get("value")
        if wrong := wrong_variable(name):
            yield Fault((*at, "env", number, "name"), wrong)
        if SECRET.search(name) and isinstance(value, str) and value:
            yield Fault((*at, "env", number, "value"), f"writes {name} into the file; take it from a Secret, with valueFrom.secretKeyRef")
        if name == "RAY_AUTH_MODE" and value != "token":
            yield Fault((*at, "env", number, "value"), f"is {schema.shown(value)}, and RAY_AUTH_MODE must be token; leave it to authOptions")
        if name == "GENLIB_RUNS" and isinstance(value, str):
            runs = True
            if not any(value == path or value.startswith(f"{path}/") for path in mounted):
                yield Fault(
                    (*at, "env", number, "value"), f"is {value}, where no volume is mounted, so that runs are gone with the pod; mount one there"
                )
    if at[-1] == 0 and not runs:
        yield Fault((*at, "env"), "lacks GENLIB_RUNS, the folder of runs, which has to be on a volume that all pods mount")


def _resources(container: Mapping[str, Any], at: At) -> Iterator[Fault]:
    limits, requests = inside(container, "resources", "limits"), inside(container, "resources", "requests")
    for where, values in (("limits", limits), ("requests", requests)):
        for name, _ in entries(values):
            place = (*at, "resources", where, name)
            if name not in POD_RESOURCES:
                yield Fault(place, f"is a resource that Ray does not count.{instead(name, POD_RESOURCES)}")
    for name, value in entries(requests):
        most = inside(limits, name)
        if most is not None and amount(value) > amount(most):
            yield Fault((*at, "resources", "requests", name), f"is {value}, above its limit {most}; lower it, or raise the limit")
        if name in ACCELERATORS and most is not None and not math.isclose(amount(value), amount(most)):
            yield Fault(
                (*at, "resources", "requests", name), f"is {value}, and its limit is {most}; Kubernetes takes devices only where both are the same"
            )


def _head_on_spot(pod: Any, at: At) -> Iterator[Fault]:
    says = "puts the head on a spot node, and who loses the head loses all jobs; leave it out of the head's"
    for name, value in entries(inside(pod, "nodeSelector")):
        if SPOT.get(name) == value:
            yield Fault((*at, "nodeSelector", name), says)
    base = ("affinity", "nodeAffinity", "requiredDuringSchedulingIgnoredDuringExecution", "nodeSelectorTerms")
    for number, term in mappings(inside(pod, *base)):
        for position, one in mappings(term.get("matchExpressions")):
            if one.get("operator") == "In" and SPOT.get(str(one.get("key"))) in (one.get("values") or ()):
                yield Fault((*at, *base, number, "matchExpressions", position), says)


def _ports(head: Mapping[str, Any], at: At) -> Iterator[Fault]:
    """That the head's ports are those on which something listens."""
    parameters = head.get("rayStartParams")
    moved = {"gcs-server": "port", "dashboard": "dashboard-port", "client": "ray-client-server-port", "metrics": "metrics-export-port"}
    listens = {name: inside(parameters, option) or PORTS[name] for name, option in moved.items()} | {"serve": serve_port()}
    for number, one in mappings(inside(head, "template", "spec", "containers", 0, "ports")):
        place, name, port = (*at, "template", "spec", "containers", 0, "ports", number), one.get("name"), one.get("containerPort")
        if name in listens and str(port) != str(listens[name]):
            yield Fault((*place, "containerPort"), f"is {port}, and {name} listens on {listens[name]}; give both the same")
        elif name not in listens:
            near = instead(str(name), listens)
            yield Fault((*place, "name"), f"is {schema.shown(name)}, of which nothing in the head knows.{near}")


def _job(job: Mapping[str, Any], at: At, nodes: list[Node]) -> Iterator[Fault]:
    entry = job.get("entrypoint")
    if isinstance(entry, str):
        yield from of_command(entry, (*at, "entrypoint"), nodes)
    elif job.get("submissionMode") != "InteractiveMode":
        yield Fault(at, "lacks entrypoint, the command of the job")
    if isinstance(job.get("entrypointResources"), str):
        yield from _named_resources(job["entrypointResources"], (*at, "entrypointResources"))
    if job.get("ttlSecondsAfterFinished") and job.get("shutdownAfterJobFinishes") is not True:
        yield Fault((*at, "ttlSecondsAfterFinished"), "does nothing without shutdownAfterJobFinishes: true; write that as well")


def _queued_job(job: Mapping[str, Any], at: At) -> Iterator[Fault]:
    if job.get("shutdownAfterJobFinishes") is not True:
        yield Fault((*at, "shutdownAfterJobFinishes"), f"is not true, and Kueue refuses a job (label {QUEUE}) that keeps its place; write true")
    if job.get("clusterSelector"):
        yield Fault((*at, "clusterSelector"), f"names a cluster that is there, and Kueue (label {QUEUE}) admits whole clusters; leave it out")


def _queued_cluster(cluster: Mapping[str, Any], at: At, elastic: bool) -> Iterator[Fault]:
    if cluster.get("enableInTreeAutoscaling") is True and not elastic:
        yield Fault(
            (*at, "enableInTreeAutoscaling"),
            f"is true, and Kueue (label {QUEUE}) refuses a cluster that changes its size; leave it out, or the label",
        )
    groups = mappings(cluster.get("workerGroupSpecs"))
    if len(groups) > MOST_GROUPS:
        yield Fault((*at, "workerGroupSpecs"), f"has {len(groups)} groups, and Kueue takes {MOST_GROUPS}")
    yield from (
        Fault((*at, "workerGroupSpecs", number, "groupName"), "is head, which Kueue keeps for the head")
        for number, one in groups
        if one.get("groupName") == "head"
    )


def _replicas_fit(config: Any, at: At, nodes: list[Node]) -> Iterator[Fault]:
    """That the nodes hold the replicas that there are at least."""
    for number, application in mappings(inside(config, "applications")):
        asked = inside(application, "args", "replicas") or {}
        each = {"CPU": asked.get("cpus", 1.0), "GPU": asked.get("gpus", 0.0)}
        if not all(isinstance(one, int | float) for one in (*each.values(), asked.get("least", 1))):
            continue  # which is said already
        room = fit_on([node.resources for node in nodes for _ in range(node.most)], each)
        if room < asked.get("least", 1):
            wanted = f"asks for {asked.get('least', 1)} of {words(each)} each"
            yield Fault(
                (*at, "applications", number, "args", "replicas"),
                f"{wanted}, and the nodes of this file hold {room}; ask for less, or give them more",
            )


def _service(file: Mapping[str, Any], cluster: Mapping[str, Any], at: At, nodes: list[Node]) -> Iterator[Fault]:
    text, place = inside(file, "spec", "serveConfigV2"), ("spec", "serveConfigV2")
    if not isinstance(text, str):
        yield Fault(("spec",), "lacks serveConfigV2, which says what is served")
        return
    try:
        (config,) = parsed(text) or [None]
    except ValueError as error:  # Unreadable, or several
        yield Fault(place, f"is no configuration: {error}")
        return
    yield from serve_config.faults(config, place)
    yield from _replicas_fit(config, place, nodes)
    if inside(config, "http_options", "host") in (None, "127.0.0.1", "localhost"):
        yield Fault((*place, "http_options", "host"), "is not there or this machine's own, where no other pod reaches it; write 0.0.0.0")
    for where in [("headGroupSpec",), *(("workerGroupSpecs", number) for number, _ in mappings(cluster.get("workerGroupSpecs")))]:
        variables = mappings(inside(cluster, *where, "template", "spec", "containers", 0, "env"))
        if not any(one.get("name") == "GENLIB_API_KEYS" for _, one in variables):
            yield Fault(
                (*at, *where, "template", "spec", "containers", 0, "env"),
                "lacks GENLIB_API_KEYS, the clients' keys, without which the server does not start; take it from a Secret",
            )
    ports = [one.get("name") for _, one in mappings(inside(cluster, "headGroupSpec", "template", "spec", "containers", 0, "ports"))]
    if ports and "serve" not in ports:
        yield Fault(
            (*at, "headGroupSpec", "template", "spec", "containers", 0, "ports"), f"lacks serve, {serve_port()}, to which KubeRay's service leads"
        )
