"""Tries again what a store failed at: full jitter, a bound on tries and on time, and at the end one sentence without secrets."""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from genlib.data.remote.clients import Settings, needs, shown

T = TypeVar("T")

_STATUS = re.compile(r"non-2xx status code: (\d+)([A-Za-z' -]*)")
_CREDENTIALS = re.compile(r"token request|http://169\.254\.")
_KIND = re.compile(r"\bHttpError \{\s*kind: (\w+)")
_OF_KIND = {"Timeout": "no answer came in time", "Interrupted": "the connection broke", "Connect": "no connection could be made"}
_OF_TEXT = {
    "Range request not supported": "the server does not answer requests for ranges of bytes, as this needs",
    "Content-Length Header missing": "an answer came without its length",
    "Requested ": "another range of bytes came than was asked for",
    "following redirect": "it is redirected without an end",
}
_PASSING = (408, 425, 429)


class UnfitError(OSError):
    """An answer that cannot be right; another try may bring a better one."""


class BeyondError(OSError):
    """The range begins at the end of the object or after it."""


@dataclass(frozen=True, slots=True)
class _Trouble:
    text: str
    kind: type[OSError] = OSError
    again: bool = False


def patiently(url: str, settings: Settings, deed: Callable[[], T]) -> T:
    """What the deed returns, after as many tries as the settings allow.

    OSError in one sentence: FileNotFoundError, PermissionError and `BeyondError` at once, others after the last try.
    """
    from obstore.exceptions import BaseError

    began, tried = time.monotonic(), 0
    while True:
        tried += 1
        try:
            return deed()
        except (BaseError, OSError) as error:
            trouble = _trouble(error, url)
        pause = random.uniform(0, min(settings.longest_pause_seconds, settings.first_pause_seconds * 2 ** (tried - 1)))
        passed = time.monotonic() - began
        if not trouble.again or tried >= settings.tries or passed + pause > settings.total_seconds:
            break
        time.sleep(pause)
    # outside of the handler: the store's error, which quotes signed addresses, must not go along as its context
    tries = f", {tried} times in {passed:.1f} s" if trouble.again else ""
    raise trouble.kind(f"{shown(url)}: {trouble.text}{tries}")


def _trouble(error: Exception, url: str) -> _Trouble:
    """What an error of the client means. Its own text quotes addresses and answers, so nothing of it is passed on but the status."""
    from obstore import exceptions

    text, _, details = str(error).partition("\n\nDebug source")
    status = _STATUS.search(text)
    if isinstance(error, UnfitError):
        return _Trouble(text, again=True)
    if _CREDENTIALS.search(text):
        return _Trouble(f"no credentials were found; set {needs(url)}", PermissionError)
    if isinstance(error, FileNotFoundError):
        return _Trouble("there is no such file", FileNotFoundError)
    if isinstance(error, exceptions.PermissionDeniedError | exceptions.UnauthenticatedError):
        return _Trouble(f"access is refused; is {needs(url)} right?", PermissionError)
    if status:
        return _of_status(int(status[1]), status[2].strip())
    said = next((means for part, means in _OF_TEXT.items() if part in text or part in details), None)
    kind = _KIND.search(details)
    return _Trouble(said or _OF_KIND.get(kind[1] if kind else "", "the answer makes no sense"), again=True)


def _of_status(code: int, reason: str) -> _Trouble:
    kind = BeyondError if code == 416 else OSError
    return _Trouble(f"the server says {code} {reason}", kind, again=code >= 500 or code in _PASSING)
