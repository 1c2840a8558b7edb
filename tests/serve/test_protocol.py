"""Connections that are held open end; whoever sends a request in time notices nothing."""

from __future__ import annotations

import json
import select
import socket
import time
from typing import Any

import httpx2

from serve.protocol import HEAD_BYTES
from tests.serve.models import SOON, Walker, listening, wordy

HEAD_SECONDS = 0.4
ASK = b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n"


def connected(address: str) -> socket.socket:
    return socket.create_connection(("127.0.0.1", int(address.rsplit(":", 1)[1])), timeout=SOON)


def dripped(connection: socket.socket, drop: bytes, answer: bytes = b"") -> bytes:
    """What the server says until it ends the connection, to a client that sends a drop again and again."""
    connection.settimeout(0.05)
    end = time.monotonic() + SOON
    while time.monotonic() < end:
        try:
            if drop:
                connection.sendall(drop)
            part = connection.recv(1 << 16)
            if not part:
                return answer
            answer += part
        except TimeoutError:
            continue
        except OSError:
            return answer
    raise AssertionError("the connection is still open")


def test_a_client_that_says_nothing_is_let_go() -> None:
    with listening(Walker(0), head_timeout_seconds=HEAD_SECONDS) as address:
        assert dripped(connected(address), b"") == b""


def test_headers_that_trickle_are_refused() -> None:
    with listening(Walker(0), head_timeout_seconds=HEAD_SECONDS) as address:
        for start in (b"GET /he", ASK):
            connection = connected(address)
            connection.sendall(start)
            answer = dripped(connection, b"X")
            assert answer.startswith(b"HTTP/1.1 408")
            assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"] == "timeout"


def test_a_second_request_that_trickles_is_refused_too() -> None:
    with listening(Walker(0), head_timeout_seconds=HEAD_SECONDS) as address:
        for start, drop, refusal in ((ASK, b"X", b"HTTP/1.1 408"), (b"", b"\r\n", b"")):  # empty lines before a request are no part of it
            connection = connected(address)
            connection.sendall(ASK + b"\r\n")
            assert connection.recv(1 << 16).startswith(b"HTTP/1.1 200")
            connection.sendall(start)
            assert dripped(connection, drop).startswith(refusal)


def test_a_body_that_nobody_reads_holds_nothing_open() -> None:
    with listening(Walker(0), head_timeout_seconds=HEAD_SECONDS) as address:
        connection = connected(address)
        connection.sendall(ASK + b"Content-Length: 1000000\r\n\r\n")
        assert dripped(connection, b"x").startswith(b"HTTP/1.1 200")


def test_headers_without_end_are_refused() -> None:
    with listening(Walker(0)) as address:
        connection = connected(address)
        connection.sendall(ASK)
        answer = dripped(connection, b"X-Long: " + b"x" * 8000 + b"\r\n")
        assert answer == b"" or answer.startswith(b"HTTP/1.1 431")  # the refusal is lost where the client goes on sending
        again = connected(address)
        again.sendall(ASK + b"X: " + b"x" * (HEAD_BYTES + 1000))
        assert again.recv(1 << 16).startswith(b"HTTP/1.1 431")


def test_headers_after_a_body_are_none() -> None:
    with listening(Walker(0)) as address:
        connection = connected(address)
        chunks = b"Transfer-Encoding: chunked\r\nContent-Type: application/json\r\n\r\n2\r\n{}\r\n0\r\nX-Request-Id: late\r\n\r\n"
        connection.sendall(b"POST /v1/images/generations HTTP/1.1\r\nHost: 127.0.0.1\r\n" + chunks)
        answer = connection.recv(1 << 16)
        assert answer.startswith(b"HTTP/1.1 200")
        assert b"x-request-id: req_" in answer


def test_what_is_no_http_is_told_so_in_the_usual_shape() -> None:
    with listening(Walker(0)) as address:
        for content in (
            b"\x16\x03\x01\x02\x00\x01\x00",
            b"GET / HTTP/9.9\r\n\r\n",
            b"nonsense\r\n\r\n",
            b"POST /v1/models HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        ):
            connection = connected(address)
            connection.sendall(content)
            answer = connection.recv(1 << 16)
            assert answer.startswith(b"HTTP/1.1 400")
            assert set(json.loads(answer.partition(b"\r\n\r\n")[2])["error"]) == {"message", "type", "param", "code"}


def test_work_that_takes_longer_than_a_head_may_goes_on() -> None:
    with listening(Walker(0.05), head_timeout_seconds=HEAD_SECONDS) as address, httpx2.Client(timeout=SOON) as client:
        for _ in range(2):  # the second on the same connection
            response = client.post(f"{address}/v1/images/generations", json={"num_inference_steps": 20})
            assert response.status_code == 200


def test_who_does_not_read_the_answer_holds_nobody_up() -> None:
    class Talker(Walker):
        def models(self) -> list[Any]:
            return [wordy(card, 16 << 20) for card in super().models()]

    with listening(Talker(0), read_timeout_seconds=0.3) as address:
        lazy = connected(address)
        lazy.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        lazy.sendall(b"GET /v1/models HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        ended = select.poll()
        ended.register(lazy, 0)  # that the other side is gone is always told
        assert ended.poll(1000 * SOON)
        assert len(httpx2.get(f"{address}/v1/models", timeout=SOON).content) > 16 << 20
        lazy.close()


def test_a_server_that_is_full_takes_no_more_and_recovers() -> None:
    with listening(Walker(0), connections=5) as address:
        held = [connected(address) for _ in range(5)]
        for one in held:
            one.sendall(ASK)
        extra = connected(address)
        assert dripped(extra, ASK + b"\r\n") == b""
        for one in held:
            one.close()
        deadline = time.monotonic() + SOON
        while time.monotonic() < deadline:
            try:
                assert httpx2.get(f"{address}/healthz", timeout=SOON).status_code == 200
                break
            except httpx2.HTTPError:
                time.sleep(0.05)
        else:
            raise AssertionError("it does not recover")
