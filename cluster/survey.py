"""`genlib cluster preflight`: looks at every node of a cluster, and at the link between every two, before money is spent on it."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, cast

from cluster.findings import Pair, Surveyed, Thresholds, findings, table
from cluster.parallel import once_connected
from cluster.words import Words
from genlib.phases import phase
from genlib.plurals import counted

_PINGS = 5
"""Of a clock: the fastest one is the most exact."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Survey:
    """What is looked at."""

    storage: str
    """Folder that all nodes share; `~` is that of each node."""
    shards: str = ""
    """Shards that are read, as a recipe's `data.train` names them; empty reads none."""
    shard_megabytes: int = 256
    """Of them that each node reads, all nodes at the same time."""
    link_megabytes: int = 64
    """That two nodes add up."""
    timeout_seconds: float = 120.0
    """In which a node answers, and in which two of them add up their numbers."""


def main(words: Sequence[str]) -> int:
    """Prints the table and what is wrong; 1 if anything is. ValueError where no cluster answers, or the storage cannot be written."""
    survey, limits = parsed(words)
    with reached():
        nodes, pairs = look(survey)
    print(table(nodes, pairs))
    wrong = findings(nodes, pairs, limits)
    print(*(wrong or [f"nothing is wrong with {counted(len(nodes), 'node')} and {counted(len(pairs), 'link')}"]), sep="\n")
    return int(bool(wrong))


def parsed(words: Sequence[str]) -> tuple[Survey, Thresholds]:
    """The options; SystemExit(0) after --help."""
    parser = Words("preflight", __doc__)
    parser.add_argument("--storage", default=os.environ.get("GENLIB_RUNS") or "~/genlib-runs", help="folder that all nodes share (%(default)s)")
    parser.add_argument("--shards", default="", help="shards that each node reads, as --data.train names them")
    parser.add_argument("--shard-megabytes", type=int, default=256, help="of them that each node reads (%(default)s)")
    parser.add_argument("--link-megabytes", type=int, default=64, help="that two nodes add up (%(default)s)")
    parser.add_argument("--timeout-seconds", type=float, default=120.0, help="in which a node answers (%(default)s)")
    usual = Thresholds()
    for one in fields(Thresholds):
        value = getattr(usual, one.name)
        parser.add_argument(f"--{one.name.replace('_', '-')}", type=type(value), default=value, help="what is wrong beyond it (%(default)s)")
    given = vars(parser.parse_args(list(words)))
    if bad := next((name for name in ("shard_megabytes", "link_megabytes", "timeout_seconds") if not given[name] > 0), None):
        raise ValueError(f"{bad} is {given[bad]:g}; it must be above 0")
    return (
        Survey(**{one.name: given[one.name] for one in fields(Survey)}),
        Thresholds(**{one.name: given[one.name] for one in fields(Thresholds)}),
    )


@contextlib.contextmanager
def reached() -> Iterator[None]:
    """Inside, this process is a driver: of the cluster that RAY_ADDRESS names, else of a head of its own, whose machine is looked at."""
    address = os.environ.get("RAY_ADDRESS")
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(once_connected())
        except (ConnectionError, RuntimeError) as error:
            if not address:
                raise
            raise ValueError(f"no cluster answers at RAY_ADDRESS {address}: {str(error).splitlines()[0]}") from None
        yield


def look(survey: Survey) -> tuple[list[Surveyed], list[Pair]]:
    """Everything that is measured, of the cluster to which this process is connected."""
    with probes() as (nodes, probe):
        for name, facts in answers({name: one.facts.remote() for name, one in probe.items()}, survey.timeout_seconds).items():
            if isinstance(facts, Exception):
                nodes[name].lost = _first_line(facts)
                del probe[name]
            else:
                nodes[name].facts = facts
        phase(f"{counted(len(probe), 'node')} of {len(nodes)}", aside=True)
        for name, one in probe.items():
            nodes[name].skew_seconds, nodes[name].skew_within_seconds = skew(one, survey.timeout_seconds)
        see_storage(survey, nodes, probe)
        phase("clocks and storage", aside=True)
        if survey.shards:
            read_shards(survey, nodes, probe)
            phase("shards", aside=True)
        pairs = [pair for matches in rounds(list(probe)) for pair in reduced(survey, probe, matches)]
        phase(counted(len(pairs), "link"), aside=True)
    return list(nodes.values()), pairs


@contextlib.contextmanager
def probes() -> Iterator[tuple[dict[str, Surveyed], dict[str, Any]]]:
    """The living nodes and an actor on each, by the nodes' names; the actors end on the way out."""
    import ray
    from ray import cloudpickle
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    from cluster import probe

    nodes, actors = {}, {}
    cloudpickle.register_pickle_by_value(probe)
    try:
        for name, one in named([node for node in ray.nodes() if node["Alive"]]).items():
            nodes[name] = Surveyed(name=name, resources=one["Resources"])
            here = NodeAffinitySchedulingStrategy(one["NodeID"], soft=False)
            gpus = min(1.0, one["Resources"].get("GPU", 0.0))  # without one it cannot speak NCCL
            actors[name] = ray.remote(num_cpus=0, num_gpus=gpus)(probe.Probe).options(scheduling_strategy=here).remote()
        yield nodes, dict(actors)
    finally:
        cloudpickle.unregister_pickle_by_value(probe)
        for actor in actors.values():
            ray.kill(actor)


def named(nodes: Sequence[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """Ray's nodes by address; where several share one, with the beginning of their ids."""
    addresses = [node["NodeManagerAddress"] for node in nodes]
    named = {}
    for node in nodes:
        address = node["NodeManagerAddress"]
        named[address if addresses.count(address) == 1 else f"{address}/{node['NodeID'][:6]}"] = node
    return dict(sorted(named.items()))


def answers(asked: Mapping[Any, Any], timeout_seconds: float) -> dict[Any, Any]:
    """What references came to, by the same keys: a value, or the exception in its place."""
    import ray

    ended = set(ray.wait(list(asked.values()), num_returns=len(asked), timeout=timeout_seconds)[0]) if asked else set()
    found: dict[Any, Any] = {}
    for key, reference in asked.items():
        if reference not in ended:
            found[key] = TimeoutError(f"no answer within {timeout_seconds:g} s")
            continue
        try:
            found[key] = ray.get(reference)
        except Exception as error:
            found[key] = getattr(error, "cause", None) or error
    return found


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def skew(probe: Any, timeout_seconds: float) -> tuple[float, float]:
    """Seconds of a node's clock less this machine's, and by which that may be off."""
    import ray

    tries = []
    for _ in range(_PINGS):
        before = time.time()
        theirs = cast(float, ray.get(probe.clock.remote(), timeout=timeout_seconds))
        after = time.time()
        tries.append(((after - before) / 2, theirs - (before + after) / 2))
    within, apart = min(tries)
    return apart, within


def see_storage(survey: Survey, nodes: Mapping[str, Surveyed], probe: Mapping[str, Any]) -> None:
    """Notes for every node whether it reads and writes what the others do. ValueError where this machine cannot write there."""
    token = secrets.token_hex(8)
    asked = f"{survey.storage.rstrip('/')}/.preflight-{token}"
    folder = Path(asked).expanduser()
    try:
        folder.mkdir(parents=True)
        (folder / "driver").write_text(token)
    except OSError as error:
        raise ValueError(f"storage {survey.storage} cannot be written on this machine: {error.strerror}; name a folder with --storage") from None
    try:
        for name, said in answers({name: one.sees.remote(asked, token) for name, one in probe.items()}, survey.timeout_seconds).items():
            nodes[name].storage = _first_line(said) if isinstance(said, Exception) else said
        good = {name: one for name, one in probe.items() if not nodes[name].storage}
        files = answers({name: one.name.remote() for name, one in good.items()}, survey.timeout_seconds)
        names = {file: name for name, file in files.items()}
        for name, missing in answers(
            {name: one.others.remote(asked, list(names), token) for name, one in good.items()}, survey.timeout_seconds
        ).items():
            nodes[name].unseen = [names[file] for file in missing]
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def read_shards(survey: Survey, nodes: Mapping[str, Surveyed], probe: Mapping[str, Any]) -> None:
    """Notes how fast each node reads shards while all do, each from another shard on."""
    asked = {name: one.reads.remote(survey.shards, survey.shard_megabytes * 2**20, number) for number, (name, one) in enumerate(probe.items())}
    for name, said in answers(asked, survey.timeout_seconds).items():
        if isinstance(said, Exception):
            nodes[name].shards = _first_line(said)
        else:
            nodes[name].shard_bytes_per_second = said[0] / max(said[1], 1e-9)


def rounds(names: Sequence[str]) -> list[list[tuple[str, str]]]:
    """Every pair once, in rounds in which no node has two: a tournament by the circle method."""
    ring: list[str | None] = [*names, *([None] if len(names) % 2 else [])]
    found = []
    for _ in range(len(ring) - 1):
        half = len(ring) // 2
        pairs = zip(ring[:half], reversed(ring[half:]), strict=True)
        found.append([(a, b) for a, b in pairs if a is not None and b is not None])
        ring = [ring[0], ring[-1], *ring[1:-1]]
    return found


def reduced(survey: Survey, probe: Mapping[str, Any], matches: Sequence[tuple[str, str]]) -> list[Pair]:
    """All-reduce between the nodes of each pair, all pairs at the same time."""
    doors = answers({pair: probe[pair[0]].address.remote() for pair in matches}, survey.timeout_seconds)
    running = {}
    for pair, door in doors.items():
        if not isinstance(door, Exception):
            for rank, name in enumerate(pair):
                running[pair, rank] = probe[name].all_reduce.remote(rank, door, survey.link_megabytes, survey.timeout_seconds)
    said = answers(running, 2 * survey.timeout_seconds)
    pairs = []
    for pair, door in doors.items():
        both: list[Any] = [door] if isinstance(door, Exception) else [said[pair, rank] for rank in (0, 1)]
        error = next((one for one in both if isinstance(one, Exception)), None)
        pairs.append(Pair(pair, None, _first_line(error)) if error else Pair(pair, min(both)))
    return pairs
