"""The metrics of several replicas as one: whoever is asked for `/metrics` behind a load balancer answers for all.

Each replica writes what it counted into a folder that all share, again and again; a label says whose a series is.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterable
from pathlib import Path

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

from genlib.files import write_atomically
from serve import private

FOLDER = ".metrics"
"""In the folder of jobs."""
_WRITE_SECONDS = 5.0
_GONE_SECONDS = 60.0
"""After which a replica that has written nothing is no more."""


class SharedMetrics(CollectorRegistry):
    """This replica's metrics, and what the others in the folder wrote last."""

    def __init__(self, own: CollectorRegistry, folder: Path, replica: str) -> None:
        super().__init__()
        self.own, self.folder, self.replica = own, folder, replica

    def collect(self) -> Iterable[Metric]:
        """See `CollectorRegistry`."""
        found: dict[str, Metric] = {}
        for replica, text in {**self.others(), self.replica: generate_latest(self.own).decode()}.items():
            for family in text_string_to_metric_families(text):
                same = found.setdefault(family.name, Metric(family.name, family.documentation, family.type))
                same.samples += [sample._replace(labels={**sample.labels, "replica": replica}) for sample in family.samples]
        return found.values()

    def others(self) -> dict[str, str]:
        """What other replicas wrote, by their names; of those that are gone nothing."""
        found = {}
        for path in self.folder.glob("*.prom"):
            with contextlib.suppress(OSError):
                if path.stem == self.replica:
                    continue
                if time.time() - path.stat().st_mtime > _GONE_SECONDS:
                    path.unlink()
                    continue
                found[path.stem] = path.read_text()
        return found

    async def keep_writing(self) -> None:
        """Writes for the others, for as long as it runs; then there is nothing of this replica any more."""
        private.make_folder(self.folder)
        path = self.folder / f"{self.replica}.prom"
        try:
            while True:
                with contextlib.suppress(OSError):  # a disk that is full for a moment
                    await asyncio.to_thread(write_atomically, path, generate_latest(self.own), private.FILE)
                await asyncio.sleep(_WRITE_SECONDS)
        finally:
            path.unlink(missing_ok=True)
