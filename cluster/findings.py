"""What is wrong with a cluster, from what was measured of its nodes and pairs of nodes: a sentence for each, and a table of all."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

GB = 1e9


@dataclass(frozen=True, kw_only=True, slots=True)
class Thresholds:
    """From where on something is wrong."""

    shm_gb: float = 1.0
    """/dev/shm of a node, at least: decoded pictures pass through it between processes, and a container has 0.067 GB by default."""
    disk_gb: float = 20.0
    """Free disk for temporary files, at least: Ray spills there, and shards are cached there."""
    open_files: int = 8192
    """Files and connections that a process may have open, at least."""
    skew_seconds: float = 1.0
    """By which a node's clock may differ from the driver's, at most: times of files and logs are compared between nodes."""
    of_median: float = 0.5
    """A link or a node's reading that is slower than this part of the median is named."""
    link_gb_per_second: float = 0.0
    """All-reduce between two nodes, at least; 0 compares pairs with each other alone."""


@dataclass(kw_only=True, slots=True)
class Surveyed:
    """What was measured of a node. None and empty are what was not measured."""

    name: str
    resources: Mapping[str, float] = field(default_factory=dict)
    """What Ray says it has."""
    lost: str = ""
    """Why it did not answer; empty where it did."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """As `cluster.probe.Probe.facts` says."""
    skew_seconds: float = 0.0
    """Its clock less the driver's."""
    skew_within_seconds: float = 0.0
    """By which that may be off: half the time that the question took."""
    storage: str = ""
    """What is wrong with the shared storage there."""
    unseen: Sequence[str] = ()
    """Names of nodes whose file in the storage it does not see."""
    shards: str = ""
    """Why the shards cannot be read there."""
    shard_bytes_per_second: float | None = None


@dataclass(frozen=True, slots=True)
class Pair:
    """Two nodes and the link between them."""

    nodes: tuple[str, str]
    gb_per_second: float | None
    error: str = ""


def findings(nodes: Sequence[Surveyed], pairs: Sequence[Pair], limits: Thresholds) -> list[str]:
    """A sentence for each thing that is wrong."""
    here = [node for node in nodes if not node.lost]
    found = [f"{node.name} does not answer: {node.lost}" for node in nodes if node.lost]
    for node in here:
        found += of_node(node, limits)
    return [*found, *unlike(here), *slow_readers(here, limits), *slow_links(pairs, limits)]


def of_node(node: Surveyed, limits: Thresholds) -> list[str]:
    """What is wrong with one node by itself."""
    facts, found = node.facts, []
    if (shm := facts["shm_bytes"]) is not None and shm < limits.shm_gb * GB:
        found.append(f"{node.name} has {shm / GB:.2f} GB of /dev/shm, less than {limits.shm_gb:g}; start its container with a larger --shm-size")
    if (free := facts["disk_free_bytes"]) < limits.disk_gb * GB:
        where = facts["disk_folder"]
        found.append(f"{node.name} has {free / GB:.1f} GB free in {where}, less than {limits.disk_gb:g}; make room, or let TMPDIR name a larger disk")
    if 0 <= facts["open_files"] < limits.open_files:  # -1 is without limit
        found.append(
            f"{node.name} lets a process open {facts['open_files']:,} files, fewer than {limits.open_files:,}; "
            f"`ulimit -n {limits.open_files}` before Ray starts there"
        )
    if abs(node.skew_seconds) - node.skew_within_seconds > limits.skew_seconds:
        way = "ahead of" if node.skew_seconds > 0 else "behind"
        found.append(f"the clock of {node.name} is {abs(node.skew_seconds):.1f} s {way} this machine's; let both follow the same time server")
    if node.storage:
        found.append(f"{node.name} does not share the storage: it {node.storage}; mount it there under the same path")
    elif node.unseen:
        found.append(f"{node.name} does not see what {' and '.join(node.unseen)} wrote into the storage; mount the same one everywhere")
    if node.shards:
        found.append(f"{node.name} cannot read the shards: {node.shards}")
    return found + of_gpus(node)


def of_gpus(node: Surveyed) -> list[str]:
    """What is wrong with a node's GPUs."""
    counted, listed = int(node.resources.get("GPU", 0)), node.facts["gpus"]
    if error := next((gpu["error"] for gpu in listed if "error" in gpu), None):
        return [f"nvidia-smi fails on {node.name}: {error}"] if counted else []
    found = []
    if counted and counted != len(listed):
        found.append(f"Ray counts {counted} GPUs on {node.name} and nvidia-smi {len(listed)}; restart the node, or exchange it")
    for gpu in listed if counted else ():
        name = f"GPU {gpu['index']} of {node.name}"
        if gpu["ecc.errors.uncorrected.volatile.total"] not in ("0", "[N/A]", "N/A"):
            found.append(f"{name} has {gpu['ecc.errors.uncorrected.volatile.total']} memory errors that were not corrected; exchange the node")
        if gpu["clocks_event_reasons.hw_slowdown"] == "Active":
            found.append(f"{name} is slowed down by its hardware at {gpu['temperature.gpu']} degrees; see to its cooling and power")
        if (used := float(gpu["memory.used"])) > 0.05 * float(gpu["memory.total"]):
            found.append(f"{name} has {used:,.0f} MiB in use by others; end what runs there")
    return found


def unlike(nodes: Sequence[Surveyed]) -> list[str]:
    """Nodes whose versions, code or kind of GPU are not those of most."""
    found = []
    for package in sorted({name for node in nodes for name in node.facts["versions"]}):
        has = {node.name: node.facts["versions"].get(package, "") for node in nodes}
        most = _most(has.values())
        found += [f"{name} has {package} {its or 'nowhere'}, most have {most or 'none'}; use one image" for name, its in has.items() if its != most]
    codes = {node.name: node.facts["code"] for node in nodes}
    most = _most(codes.values())
    for name, its in codes.items():
        if its != most:
            has = f"other code ({its})" if its else "none of our code"
            found.append(f"{name} has {has}, most have {most or 'none'}; use one image, or submit the code with the job")
    kinds = {node.name: kind for node in nodes if (kind := tuple(sorted({gpu.get("name", "") for gpu in node.facts["gpus"]})))}
    most = _most(kinds.values())
    found += [f"{name} has {' and '.join(kind)}, most have {' and '.join(most)}" for name, kind in kinds.items() if kind != most]
    return found


def _most(values: Any) -> Any:
    """The most frequent; of equals the first."""
    return next((value for value, _ in Counter(values).most_common(1)), ())


def slow_readers(nodes: Sequence[Surveyed], limits: Thresholds) -> list[str]:
    """Nodes that read shards much slower than the others do."""
    speeds = {node.name: node.shard_bytes_per_second for node in nodes if node.shard_bytes_per_second is not None}
    return [
        f"{name} reads shards at {speed / GB:.2f} GB/s, the median is {statistics.median(speeds.values()) / GB:.2f}; see to its way to the storage"
        for name, speed in speeds.items()
        if speed < limits.of_median * statistics.median(speeds.values())
    ]


def slow_links(pairs: Sequence[Pair], limits: Thresholds) -> list[str]:
    """Pairs of nodes whose link is broken or slow; the node alone where all its links are, and those between others are not."""
    found = []
    speeds = {pair.nodes: pair.gb_per_second for pair in pairs if pair.gb_per_second is not None}
    median = statistics.median(speeds.values()) if speeds else 0.0
    least = max(limits.of_median * median, limits.link_gb_per_second)
    bad = {pair.nodes for pair in pairs if pair.error or (pair.gb_per_second or 0.0) < least}
    names = sorted({name for pair in pairs for name in pair.nodes})
    for name in names:
        own = {pair.nodes for pair in pairs if name in pair.nodes}
        if len(own) > 1 and own <= bad and not any(set(other) & (set(names) - {name}) == set(other) for other in bad):
            found.append(f"all links of {name} are slow or broken, and none between the others; see to its network")
            bad -= own
    for pair in pairs:
        a, b = pair.nodes
        if pair.nodes in bad and pair.error:
            found.append(f"{a} and {b} cannot add up their numbers: {pair.error}")
        elif pair.nodes in bad:
            found.append(f"the link between {a} and {b} is slow: {pair.gb_per_second:.3g} GB/s, the median of all pairs is {median:.3g}")
    return found


def table(nodes: Sequence[Surveyed], pairs: Sequence[Pair]) -> str:
    """A line a node; the link is the slowest of its own."""
    head = ("node", "CPU", "GPU", "/dev/shm GB", "disk GB", "files", "clock ms", "storage", "shards GB/s", "link GB/s")
    lines = [head, *(_cells(node, pairs) for node in nodes)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines)


def _cells(node: Surveyed, pairs: Sequence[Pair]) -> tuple[str, ...]:
    has = tuple(f"{node.resources.get(kind, 0):g}" for kind in ("CPU", "GPU"))
    if node.lost:
        return (node.name, *has, "lost", "", "", "", "", "", "")
    shm, speed = node.facts["shm_bytes"], node.shard_bytes_per_second
    links = [pair.gb_per_second for pair in pairs if node.name in pair.nodes]
    slowest = "" if not links else "broken" if None in links else f"{min(link for link in links if link is not None):.3g}"
    return (
        node.name, *has, "none" if shm is None else f"{shm / GB:.2f}", f"{node.facts['disk_free_bytes'] / GB:.0f}",
        "any" if node.facts["open_files"] < 0 else f"{node.facts['open_files']:,}", f"{node.skew_seconds * 1e3:+.0f}",
        "bad" if node.storage or node.unseen else "ok", "bad" if node.shards else "" if speed is None else f"{speed / GB:.2f}", slowest,
    )  # fmt: skip
