"""What `genlib.remote.retry` reads of obstore's errors: classes, and where these say too little, pieces of their text."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from datetime import timedelta
from importlib.metadata import version

import obstore
import pytest
from obstore import exceptions
from obstore.store import HTTPStore

from genlib.remote import retry
from genlib.remote.clients import RemoteSettings
from tests.remote import servers
from tests.remote.servers import FileServer

PINNED = "0.12.1"
URL = "https://user:SECRET@host/a.tar?sig=SECRET"
ONCE = RemoteSettings(tries=1)
KINDS = {
    "401": (servers.status(401), exceptions.UnauthenticatedError, ""),
    "403": (servers.status(403), exceptions.PermissionDeniedError, ""),
    "404": (servers.status(404), FileNotFoundError, ""),
    "416": (servers.status(416), exceptions.GenericError, "non-2xx status code: 416 Range Not Satisfiable"),
    "429": (servers.status(429), exceptions.GenericError, "non-2xx status code: 429 Too Many Requests"),
    "503": (servers.status(503), exceptions.GenericError, "non-2xx status code: 503 Service Unavailable"),
    "no ranges": (servers.whole, exceptions.NotSupportedError, ""),
    "another range": (servers.other_range(1), exceptions.GenericError, "Requested "),
    "no length": (servers.endless(206), exceptions.GenericError, "Content-Length Header missing"),
    "redirects": (servers.status(302, Location="/d/a.tar"), exceptions.GenericError, "following redirect"),
    "no answer": (servers.stall(), exceptions.GenericError, "kind: Timeout,"),
    "cut": (servers.truncate(10), exceptions.GenericError, "kind: Interrupted,"),
}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    with FileServer({"/d/a.tar": bytes(1000)}) as running:
        yield running


def store_at(url: str) -> HTTPStore:
    """A client without patience."""
    options = {"allow_http": True, "timeout": timedelta(seconds=1), "connect_timeout": timedelta(seconds=1)}
    return HTTPStore(url, client_options=options, retry_config={"max_retries": 0, "retry_timeout": timedelta(seconds=5)})  # type: ignore[arg-type]


def error_of(store: HTTPStore) -> Exception:
    with pytest.raises((exceptions.BaseError, FileNotFoundError)) as caught:
        for _ in obstore.get(store, "d/a.tar", options={"range": (0, 100)}).stream(50):
            pass
    return caught.value


def test_the_texts_below_are_those_of_the_pinned_release() -> None:
    assert version("obstore") == PINNED, (
        "run this module against the new release and set PINNED to it: should a case fail, retry.py takes a status or a broken connection "
        "for an answer that makes no sense, tries again what cannot heal, and misses the end of a file (416)"
    )


@pytest.mark.parametrize("name", KINDS)
def test_errors_are_told_apart_as_the_client_tells_them(server: FileServer, name: str) -> None:
    fault, kind, text = KINDS[name]
    server.faults.extend([fault] * 99)
    error = error_of(store_at(server.url))
    assert type(error) is kind
    assert text in str(error)


@pytest.mark.usefixtures("server")
def test_a_port_that_nobody_listens_to() -> None:
    with socket.socket() as bound:  # bound and not listening: no other process can have the port meanwhile
        bound.bind(("127.0.0.1", 0))
        error = error_of(store_at(f"http://127.0.0.1:{bound.getsockname()[1]}"))
    assert type(error) is exceptions.GenericError
    assert "kind: Connect," in str(error)


def failing(error: Exception) -> Callable[[], None]:
    def fail() -> None:
        raise error

    return fail


@pytest.mark.parametrize(
    ("error", "kind", "sentence"),
    [
        (
            exceptions.GenericError("to SECRET - Server returned non-2xx status code: 416 Range Not Satisfiable: SECRET"),
            retry.PastEndError,
            "says 416",
        ),
        (
            exceptions.GenericError("to SECRET - Server returned non-2xx status code: 500 Internal Server Error: SECRET"),
            OSError,
            "says 500 .*1 time ",
        ),
        (exceptions.GenericError("Error performing GET http://169.254.169.254/latest SECRET"), PermissionError, "no credentials were found"),
        (exceptions.GenericError("a text of another release SECRET"), OSError, "the answer makes no sense, 1 time "),
        (exceptions.NotSupportedError("SECRET"), OSError, "does not answer requests for ranges"),
        (exceptions.UnauthenticatedError("SECRET"), PermissionError, "access is refused"),
        (FileNotFoundError("SECRET"), FileNotFoundError, "there is no such file"),
        (retry.BadAnswerError("fewer bytes came than were promised"), OSError, "fewer bytes came"),
    ],
)
def test_an_error_becomes_one_sentence_without_secrets(error: Exception, kind: type[OSError], sentence: str) -> None:
    with pytest.raises(kind, match=sentence) as caught:
        retry.with_retries(URL, ONCE, failing(error))
    assert type(caught.value) is kind
    assert "SECRET" not in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.__context__ is None
