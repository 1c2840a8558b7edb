"""How many replicas the load needs. Ray Serve's controller runs this, so it imports nothing of ours."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ray.serve.config import AutoscalingContext

LOAD = "calls"
"""Name under which each replica says how many calls run or wait in it."""


def replicas_for_load(context: AutoscalingContext) -> tuple[int, dict[str, Any]]:
    """Replicas among which the calls that run and wait are no more than wanted in each; Ray applies bounds and delays."""
    loads, config = (context.aggregated_metrics or {}).get(LOAD, {}), context.config
    return math.ceil(sum(loads.values()) / config.target_ongoing_requests), {}  # type: ignore[union-attr]
