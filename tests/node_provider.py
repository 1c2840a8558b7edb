"""A cloud on this machine for Ray's autoscaler, whose machines are processes, as those of `tests.nodes`; Ray's own one lacks files in its wheel."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.autoscaler.node_provider import NodeProvider
from ray.autoscaler.tags import (
    NODE_KIND_HEAD,
    NODE_KIND_WORKER,
    STATUS_UP_TO_DATE,
    TAG_RAY_NODE_KIND,
    TAG_RAY_NODE_NAME,
    TAG_RAY_NODE_STATUS,
    TAG_RAY_USER_NODE_TYPE,
)  # fmt: skip

from cluster import local
from cluster.local import Head
from tests.nodes import Node, head_alone, started_node

HEAD_ID = "a" * 51 + "00000"
IDLE_MINUTES = 0.2


class LocalNodes(NodeProvider):
    """Nodes by Ray's own ids, which the autoscaler takes for addresses, as all of them have one."""

    def __init__(self, provider_config: dict[str, Any], cluster_name: str) -> None:
        super().__init__(provider_config, cluster_name)
        self.nodes: dict[str, Node] = {}
        head = {TAG_RAY_NODE_KIND: NODE_KIND_HEAD, TAG_RAY_USER_NODE_TYPE: "head", TAG_RAY_NODE_NAME: "head", TAG_RAY_NODE_STATUS: STATUS_UP_TO_DATE}
        self.tags = {HEAD_ID: head}

    def non_terminated_nodes(self, tag_filters: dict[str, str]) -> list[str]:
        return [node for node, tags in self.tags.items() if tag_filters.items() <= tags.items()]

    def is_running(self, node_id: str) -> bool:
        return node_id in self.tags

    def is_terminated(self, node_id: str) -> bool:
        return node_id not in self.tags

    def node_tags(self, node_id: str) -> dict[str, str]:
        return self.tags[node_id]

    def external_ip(self, node_id: str) -> str:
        return node_id

    def internal_ip(self, node_id: str) -> str:
        return node_id

    def create_node_with_resources_and_labels(
        self, node_config: dict[str, Any], tags: dict[str, str], count: int, resources: dict[str, float], labels: dict[str, str]
    ) -> None:
        """One at a time: two that start at once take each other's ports."""
        folder = Path(self.provider_config["folder"])
        address = (folder / "ray_current_cluster").read_text().strip()
        for _ in range(count):
            node_id = f"{'b' * 51}{len(list(folder.glob('node-*.log'))):05d}"
            node = started_node(folder, address, int(resources["CPU"]), node_id=node_id)
            self.nodes[node_id] = node
            self.tags[node_id] = {TAG_RAY_NODE_KIND: NODE_KIND_WORKER, TAG_RAY_NODE_NAME: node_id, TAG_RAY_NODE_STATUS: STATUS_UP_TO_DATE, **tags}

    def terminate_node(self, node_id: str) -> None:
        self.tags.pop(node_id)
        self.nodes.pop(node_id).kill()


@contextmanager
def growing_cluster(most: int, cpus: int = 1) -> Iterator[Head]:
    """A head without CPUs whose autoscaler starts nodes of so many CPUs, at most so many, as they are asked for, and ends those that idle."""
    usual = local.command

    def command(folder: Path, *words: Any) -> list[str]:
        config = folder / "autoscaling.yaml"
        config.write_text(yaml.safe_dump(configured(folder, most, cpus)))
        return [*(word for word in usual(folder, *words) if word != "--no-monitor"), f"--autoscaling-config={config}"]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(local, "command", command)
        patch.setenv("RAY_OVERRIDE_NODE_ID_FOR_TESTING", HEAD_ID)
        with head_alone() as head:
            patch.delenv("RAY_OVERRIDE_NODE_ID_FOR_TESTING")
            yield head


def configured(folder: Path, most: int, cpus: int) -> dict[str, Any]:
    """What the launcher's file of such a cluster would say."""
    nothing = (
        "initialization_commands", "setup_commands", "head_setup_commands", "worker_setup_commands", "head_start_ray_commands",
        "worker_start_ray_commands", "cluster_synced_files", "rsync_exclude", "rsync_filter",
    )  # fmt: skip
    return {
        "cluster_name": "here", "max_workers": most, "upscaling_speed": 1.0, "idle_timeout_minutes": IDLE_MINUTES, "docker": {}, "auth": {},
        "provider": {
            "type": "external", "module": f"{LocalNodes.__module__}.{LocalNodes.__name__}", "use_node_id_as_ip": True, "disable_node_updaters": True,
            "disable_launch_config_check": True, "folder": str(folder),
        },
        "available_node_types": {
            "head": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
            "worker": {"resources": {"CPU": cpus}, "node_config": {}, "min_workers": 0, "max_workers": most},
        },
        "head_node_type": "head", "file_mounts": {}, "file_mounts_sync_continuously": False, **{name: [] for name in nothing},
    }  # fmt: skip
