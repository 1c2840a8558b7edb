"""JSON as it is sent and kept."""

from __future__ import annotations

import json
from typing import Any

import pydantic_core


def json_bytes(value: Any) -> bytes:
    """Compact JSON in ASCII; ValueError for what it cannot say, as NaN."""
    content = pydantic_core.to_json(value, ensure_ascii=True)
    if b"NaN" in content or b"Infinity" in content:  # as a number, or by chance in a text
        json.dumps(value, allow_nan=False)
    return content
