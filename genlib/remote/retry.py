"""Calls to a store, tried again where that may help: full jitter, bounds on tries and time, and at the end one sentence without secrets.

What an error means is decided by the class that obstore raises and, for its `GenericError`, by the HTTP status in the message, for
which obstore has no attribute. The other texts below only choose words for the user; `tests/remote/test_retry.py` pins them all.
"""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from genlib.plurals import counted
from genlib.remote.clients import RemoteSettings, credentials_hint, printable_url

T = TypeVar("T")

_STATUS = re.compile(r"non-2xx status code: (\d+)([A-Za-z' -]*)")
_NO_CREDENTIALS = re.compile(r"token request|http://169\.254\.")
"""In messages of clients that found no key and asked the cloud's own machines for one."""
_NO_BUCKET = re.compile(r"<Code>(NoSuchBucket|ContainerNotFound)</Code>")
_PASSING_STATUS = (408, 425, 429)
"""Statuses below 500 that another try may heal: timeout, too early, too many requests."""
_WORDS = {
    "Content-Length Header missing": "an answer came without its length",
    "Requested ": "another range of bytes came than was asked for",
    "following redirect": "it is redirected without an end",
    "kind: Timeout,": "no answer came in time",
    "kind: Interrupted,": "the connection broke",
    "kind: Connect,": "no connection could be made",
}


class BadAnswerError(OSError):
    """An answer that cannot be right; another try may bring a better one."""


class PastEndError(OSError):
    """The range begins at the end of the object or after it."""


@dataclass(frozen=True, slots=True)
class _Failure:
    """An error of a client: what to tell the user, as which exception, and whether another try may help."""

    text: str
    kind: type[OSError] = OSError
    retry: bool = False


def with_retries(url: str, settings: RemoteSettings, fn: Callable[[], T]) -> T:
    """Calls `fn` as often as the settings allow and returns its result.

    OSError in one sentence: FileNotFoundError, PermissionError and `PastEndError` at once, others after the last try.
    """
    from obstore.exceptions import BaseError

    began, tried = time.monotonic(), 0
    while True:
        tried += 1
        try:
            return fn()
        except (BaseError, OSError) as error:
            failure = _failure(error, url)
        pause = random.uniform(0, min(settings.longest_pause_seconds, settings.first_pause_seconds * 2 ** (tried - 1)))
        passed = time.monotonic() - began
        if not failure.retry or tried >= settings.tries or passed + pause > settings.total_seconds:
            break
        time.sleep(pause)
    # raised outside of the handler: the store's error, which quotes signed addresses, must not go along as its context
    tries = f", {counted(tried, 'time')} in {passed:.1f} s" if failure.retry else ""
    raise failure.kind(f"{printable_url(url)}: {failure.text}{tries}")


def _failure(error: Exception, url: str) -> _Failure:
    """Classifies an error of the client. Its text quotes addresses and answers, so nothing of it but the status is passed on."""
    from obstore import exceptions

    message = str(error).partition("\n\nDebug source")[0]
    if isinstance(error, BadAnswerError):
        return _Failure(message, retry=True)
    if _NO_CREDENTIALS.search(message):
        return _Failure(f"no credentials were found; set {credentials_hint(url)}", PermissionError)
    if _NO_BUCKET.search(message):
        return _Failure("there is no such bucket; make it, or name another", FileNotFoundError)
    if isinstance(error, FileNotFoundError):
        return _Failure("there is no such file", FileNotFoundError)
    if isinstance(error, exceptions.PermissionDeniedError | exceptions.UnauthenticatedError):
        return _Failure(f"access is refused; is {credentials_hint(url)} right?", PermissionError)
    if isinstance(error, exceptions.NotSupportedError):
        return _Failure("the server does not answer requests for ranges of bytes, as this needs", retry=True)
    if status := _STATUS.search(message):
        return _of_status(int(status[1]), status[2].strip())
    words = next((words for part, words in _WORDS.items() if part in str(error)), "the answer makes no sense")
    return _Failure(words, retry=True)


def _of_status(code: int, reason: str) -> _Failure:
    kind = PastEndError if code == 416 else OSError
    return _Failure(f"the server says {code} {reason}", kind, retry=code >= 500 or code in _PASSING_STATUS)
