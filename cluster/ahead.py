"""A command's own head, started before the command imports its modules: on another core it comes up in that time."""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from cluster import connect
from cluster.local import TIMEOUT_SECONDS, Head, coming_head

_begun: list[tuple[ExitStack, Callable[[float], Head]]] = []


def begin() -> None:
    """Starts a head for the first `connected` of this process; nothing where RAY_ADDRESS names a cluster. It ends with the process, used or not."""
    if os.environ.get("RAY_ADDRESS"):
        return
    connect.quieten_ray()
    head = ExitStack()
    _begun.append((head, head.enter_context(coming_head(dashboard=False))))
    atexit.register(head.close)


@contextmanager
def connected(meanwhile: Callable[[], object] = lambda: None) -> Iterator[None]:
    """As `cluster.connect.connected`, on the head that `begin` started if it did; that one ends on the way out."""
    if not _begun:
        with connect.connected(meanwhile=meanwhile):
            yield
        return
    head, head_within = _begun.pop()
    with head:
        meanwhile()
        with connect.attached(head_within(TIMEOUT_SECONDS).address):
            yield
