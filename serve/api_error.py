"""What goes wrong, in the one shape in which clients are told: {"error": {message, type, param, code}}.

Of what they sent it repeats numbers, sizes and names of fields; never texts.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from serve.backend import Overloaded, Unavailable

_TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}


class ApiError(Exception):
    """A request that is refused or failed: one sentence that says what, where, and the way out."""

    def __init__(
        self, status: int, message: str, *, code: str = "invalid_value", param: str | None = None, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.param = status, message, code, param
        self.headers = dict(headers or {})

    def body(self) -> dict[str, Any]:
        """As clients see it."""
        kind = _TYPES.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}


def busy(status: int, message: str, seconds: float, code: str) -> ApiError:
    """One that passes: with the whole seconds after which to try again."""
    return ApiError(status, message, code=code, headers={"Retry-After": str(max(1, math.ceil(seconds)))})


def some_of(names: Iterable[str], most: int = 12) -> str:
    """Names in a sentence: of very many the first."""
    known = list(names)
    return ", ".join(known[:most]) + (f", ... ({len(known):,} in all)" if len(known) > most else "")


def no_model(message: str, names: Iterable[str], param: str | None = None) -> ApiError:
    """Of a model that there is not, with those that there are."""
    return ApiError(404, f"{message}; /v1/models lists all: {some_of(names) or 'none is there'}", param=param, code="model_not_found")


def as_problem(error: BaseException, texts: Iterable[str] = (), *, timeout_seconds: float | None = None) -> ApiError | None:
    """What a client is told of a backend's exception; None for one that only a bug raises.

    A message in which one of the request's own `texts` stands is not passed on. timeout_seconds: after which a TimeoutError came.
    """
    if isinstance(error, ApiError):
        return error
    if isinstance(error, Overloaded):
        return busy(429, str(error), error.retry_after_seconds, "overloaded")
    if isinstance(error, Unavailable):
        return busy(503, str(error), error.retry_after_seconds, "unavailable")
    if isinstance(error, TimeoutError):
        limit = f"the {timeout_seconds:g} seconds that it may" if timeout_seconds else "it may"
        return ApiError(504, f"the work took longer than {limit}; ask for less, or send async: true, as a job has more", code="timeout")
    if isinstance(error, ValueError):
        message = str(error)
        if any(text in message for text in texts if len(text) > 3):
            message = "the model refuses the values that were given; /v1/models describes what it takes"
        return ApiError(400, message, code="invalid_value")
    return None
