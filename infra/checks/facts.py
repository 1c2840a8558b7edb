"""What the code says, and files have to agree with: versions, ports, variables, resources, where the image has things."""

from __future__ import annotations

import re
from dataclasses import fields
from difflib import get_close_matches
from functools import cache
from importlib.metadata import version
from pathlib import Path

from infra.checks.documents import instead

ROOT = Path(__file__).parents[2]
IMAGE = "genlib"
"""Its name in whatever registry."""
BUILDS = ("cpu", "cuda")
PORTS = {"gcs-server": 6379, "dashboard": 8265, "client": 10001, "metrics": 8080}
"""On which Ray's own processes listen where nothing else is said: of a head in KubeRay, by the names that KubeRay gives them."""
VARIABLES = (
    "GENLIB_API_KEYS", "GENLIB_CACHE", "GENLIB_EMOJI_FONT", "GENLIB_FAMILIES", "GENLIB_FASHION_MNIST", "GENLIB_RENDEZVOUS", "GENLIB_RUNS",
)  # fmt: skip
"""Of the environment, which the code reads."""
OF_OTHERS = (
    "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_JOB_STOP_WAIT_TIME_S", "OMP_NUM_THREADS", "RAY_SERVE_ENABLE_HA_PROXY", "RAY_SERVE_HAPROXY_RETRY_ON",
    "RAY_SERVE_HAPROXY_TUNE_BUFSIZE", "RAY_SERVE_HAPROXY_TIMEOUT_CLIENT_S", "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD",
)  # fmt: skip
"""Of the environment, which Ray and PyTorch read and files set; what is nearly one of these is misspelt."""
RESOURCES = ("CPU", "GPU", "memory", "object_store_memory")
"""That a task or an actor of ours asks for, and what Ray counts by itself."""
ACCELERATORS = (
    "nvidia.com/gpu",
    "amd.com/gpu",
    "intel.com/gpu",
    "gpu.intel.com/xe",
    "google.com/tpu",
    "aws.amazon.com/neuroncore",
    "huawei.com/Ascend910",
)
"""Kubernetes' names of what Ray counts as GPUs and their like."""
POD_RESOURCES = ("cpu", "memory", "ephemeral-storage", "hugepages-2Mi", "hugepages-1Gi", *ACCELERATORS)
SECRET = re.compile(r"(?i)(^|_)(key|keys|token|secret|password|passwd|credentials)$")
"""Names of variables whose values are nobody else's business."""


def release() -> str:
    """Of this project."""
    return version("genlib")


def ray_release() -> str:
    """Of Ray that this project pins."""
    return version("ray")


@cache
def serve_port() -> int:
    """On which the server listens."""
    from serve.__main__ import ServeCommand

    return next(field.default for field in fields(ServeCommand) if field.name == "port")  # type: ignore[return-value]


def wrong_image(image: object) -> str:
    """What is wrong with an image's name; empty where it is one of ours, or one that is named by its digest."""
    if not isinstance(image, str):
        return ""
    name, _, digest = image.partition("@")
    if digest:
        return ""
    path, colon, tag = name.rpartition(":")
    wanted = f"{release()}-{BUILDS[0]} or {release()}-{BUILDS[1]}"
    if not colon or "/" in tag:
        return f"is {image!r}, without a tag; infra/Dockerfile makes {IMAGE}:{wanted}"
    if path.rpartition("/")[2] != IMAGE:
        return f"is {image!r}, which is no image of infra/Dockerfile; it makes {IMAGE}:{wanted}"
    if tag not in {f"{release()}-{build}" for build in BUILDS}:
        return f"is {image!r}, whose tag {tag!r} is no version of this code; it must be {wanted}"
    return ""


def wrong_variable(name: str) -> str:
    """What is wrong with a variable's name; empty where nothing is."""
    if name.startswith("GENLIB") and name not in VARIABLES:
        return f"is {name}, which the code does not read.{instead(name, VARIABLES)}"
    if name not in OF_OTHERS and (near := get_close_matches(name, OF_OTHERS, n=1, cutoff=0.85)):
        return f"is {name}, which nothing reads. Did you mean {near[0]!r}?"
    return ""


def wrong_resource(name: str, also: tuple[str, ...] = ()) -> str:
    """What is wrong with the name of one of Ray's resources; empty where something asks for it."""
    known = [*RESOURCES, *also]
    if name in known or name.startswith(("accelerator_type:", "node:")):
        return ""
    return f"is a resource that nothing asks for.{instead(name, known)}"
