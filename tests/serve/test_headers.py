"""Over the socket: headers that decide something come once, and what could be read in two ways is refused."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.serve.models import KEY, Walker, listening
from tests.serve.raw import GENERATE, HEALTH, answer, connected, everything, head, request

BODY = b'{"num_inference_steps": 1}'
LENGTH = f"Content-Length: {len(BODY)}"
TWICE = {
    "Host": ("127.0.0.1", "127.0.0.1"), "hOST": ("127.0.0.1", "evil.example"), "Content-Type": ("application/json", "text/plain"),
    "Authorization": (f"Bearer {KEY}", "Bearer wrong"), "X-API-Key": (KEY, KEY), "Idempotency-Key": ("one", "two"),
    "Origin": ("http://127.0.0.1", "https://evil.example"), "Sec-Fetch-Site": ("same-origin", "cross-site"), "Last-Event-ID": ("1", "2"),
    "Content-Length": (f"{len(BODY)}", f"{len(BODY)}"), "Transfer-Encoding": ("chunked", "chunked"),
}  # fmt: skip


WALKER = Walker(0)


@pytest.fixture(scope="module")
def guarded() -> Iterator[str]:
    """The address of a server with a key."""
    with listening(WALKER, keys=(KEY,)) as address:
        yield address


@pytest.fixture(scope="module")
def plain() -> Iterator[str]:
    """The address of one without."""
    with listening(WALKER) as address:
        yield address


@pytest.mark.parametrize("name", TWICE)
@pytest.mark.parametrize("path", [GENERATE, "/healthz", "/v1/models"])
def test_a_header_that_decides_something_comes_once(name: str, path: str, guarded: str) -> None:
    walked = WALKER.walked
    usual = f"POST {path} HTTP/1.1\r\nX-API-Key: {KEY}\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n{LENGTH}\r\n\r\n"
    lines = [line for line in usual.split("\r\n")[:-2] if not line.lower().startswith(f"{name.lower()}:")]
    one, two = TWICE[name]
    for first, second in ((one, two), (two, one)):
        with connected(guarded) as connection:
            said = [*lines, f"{name}: {first}", "X-Between: 1", f"{name.upper()}: {second}", "", ""]
            connection.sendall("\r\n".join(said).encode() + BODY + HEALTH)
            status, told, headers = answer(connection)
            assert (status, told["error"]["type"], headers["connection"]) == (400, "invalid_request_error", "close")
            assert everything(connection) == b""  # what follows may be a part of it
    assert WALKER.walked == walked


def test_headers_that_are_lists_may_come_twice(plain: str) -> None:
    with connected(plain) as connection:
        lists = ("Accept: application/json", "Accept: */*", "Connection: keep-alive", "Connection: foo", "X-Forwarded-For: a", "X-Forwarded-For: b")
        connection.sendall(head(*lists, "Cookie: a=1", "Cookie: b=2", LENGTH) + BODY)
        assert answer(connection)[0] == 200


@pytest.mark.parametrize(("version", "status"), [("1.1", 400), ("1.0", 200)])
def test_host_is_missing_in_http_1_0_alone(version: str, status: int) -> None:
    for keys in ((), (KEY,)):
        with listening(Walker(0), keys=keys, hosts=("",)) as address, connected(address) as connection:
            connection.sendall(f"GET /v1/models HTTP/{version}\r\nX-API-Key: {KEY}\r\n\r\n".encode())
            assert answer(connection, "GET")[0] == status


def test_without_a_key_no_host_is_no_name_of_ours(plain: str) -> None:
    with connected(plain) as connection:
        connection.sendall(b"GET /v1/models HTTP/1.0\r\n\r\n")
        assert answer(connection, "GET")[0] == 403


@pytest.mark.parametrize(
    "lines",
    [
        ["X-A: 1", " folded: yes"],
        ["X-A: 1", "\tfolded"],
        ["Transfer-Encoding: chunked", LENGTH],
        [LENGTH, "Transfer-Encoding: chunked"],
        ["Transfer-Encoding : chunked"],
        ["Transfer-Encoding: chunked, identity"],
        ["Content-Length: +5"],
        ["Content-Length: 0x5"],
        ["Content-Length: 5, 5"],
        ["Content-Length: 99999999999999999999999999"],
        ["X-A: \x00"],
        ["X-A\x00: 1"],
        [": 1"],
        ["X-A"],
        ["X A: 1"],
    ],
)
def test_what_can_be_read_in_two_ways_is_refused_and_ends_the_connection(lines: list[str], plain: str) -> None:
    with connected(plain) as connection:
        connection.sendall(head(*lines) + BODY + HEALTH)
        whole = everything(connection)
        assert whole.startswith(b"HTTP/1.1 400 ")
        assert whole.count(b"HTTP/1.1 ") == 1


def test_very_many_headers_are_refused_and_very_many_small_ones_cost_nothing(plain: str) -> None:
    for count, status in ((5000, 200), (20_000, 431)):
        with connected(plain) as connection:
            whole = head(*(f"a{number}:" for number in range(count)), LENGTH) + BODY
            connection.sendall(whole if status == 200 else whole[: -len(BODY) - 2])
            assert answer(connection)[0] == status


def test_expect_is_answered_before_the_body_and_not_where_it_is_refused(guarded: str) -> None:
    with connected(guarded) as connection:
        connection.sendall(head("Expect: 100-continue", f"X-API-Key: {KEY}", LENGTH))
        assert connection.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(BODY + request(f"X-API-Key: {KEY}", num_inference_steps=1))
        assert [answer(connection)[0] for _ in range(2)] == [200, 200]
    for lines, status in ((["Content-Length: 5"], 401), ([f"X-API-Key: {KEY}", "Content-Length: 500000000"], 413)):
        with connected(guarded) as connection:
            connection.sendall(head("Expect: 100-continue", *lines))
            assert connection.recv(20).startswith(f"HTTP/1.1 {status}".encode())
