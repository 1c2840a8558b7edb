"""JSON as it is sent and kept."""

from __future__ import annotations

import json
from typing import Any

_ENCODER = json.JSONEncoder(separators=(",", ":"), allow_nan=False)


def json_bytes(value: Any) -> bytes:
    """Compact JSON; ValueError for what it cannot say, as NaN."""
    return _ENCODER.encode(value).encode()
