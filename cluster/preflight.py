"""Whether the cluster can ever hold what is asked for: what its nodes have, or what its autoscaler may still start."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from genlib.plurals import counted

Resources = Mapping[str, float]


def check_cluster_fits(count: int, each: Resources, what: str = "worker") -> None:
    """ValueError saying what the connected cluster has, where it can never run so many of such at once; `what` is the options' word for one."""
    nodes, limit = node_resources(), autoscaling_limit()
    if fit_on(nodes, each) >= count or (limit is not None and fit_under(limit, each) >= count):
        return
    asked = f"{counted(count, what)} of {words(each)} each"
    has = words({name: sum(node.get(name, 0.0) for node in nodes) for name in each})
    place = f"the cluster has {has} on {counted(len(nodes), 'node')}"
    may = f" and may grow to {words({name: limit.get(name, 0.0) for name in each})}" if limit is not None else ""
    raise ValueError(f"{asked} can never run: {place}{may}; ask for fewer --{what}s, or for less with --cpus-per-{what} or --gpus-per-{what}")


def fit_on(nodes: Sequence[Resources], each: Resources) -> int:
    """Workers that fit when every one lives on one node."""
    return sum(fit_under(node, each) for node in nodes)


def fit_under(total: Resources, each: Resources) -> int:
    """Workers that such resources hold."""
    return min(int(total.get(name, 0.0) / amount + 1e-9) for name, amount in each.items() if amount > 0)


def words(resources: Resources) -> str:
    """`2 CPU and 1 GPU`."""
    return " and ".join(f"{amount:g} {name}" for name, amount in resources.items() if amount > 0) or "nothing of the kind"


def node_resources() -> list[dict[str, float]]:
    """What each living node has in all, used or not."""
    import ray

    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def autoscaling_limit() -> Resources | None:
    """The most the autoscaler may reach by its own report; None where there is none. Ray has no public call for it yet."""
    from ray._private.state import state

    return state.get_max_resources_from_cluster_config()
