"""What asks for another protocol is answered in this one, with its whole body, and the connection goes on (RFC 9110, 7.8).

The way past httptools' own end at an upgrade is of httptools 0.9.0 under uvicorn 0.54.0 (`serve.http.protocol.RequestParser`).
"""

from __future__ import annotations

import json
import time
from importlib.metadata import version

import pytest

from serve.http.protocol import uvicorn_settings
from serve.options import ServeOptions
from tests.serve.models import Walker, listening
from tests.serve.raw import HEALTH, answer, chunked, connected, everything, head

CONTENT = json.dumps({"num_inference_steps": 1, "seed": 5, "user": "x" * 400}).encode()
ASKS = {
    "h2c": ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA"),
    "plain": ("Connection: upgrade", "Upgrade: h2c"),
    "websocket": (
        "Upgrade: websocket",
        "Connection: keep-alive, Upgrade",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    ),
    "several": ("Upgrade: a/1", "Upgrade: b/2", "Connection: keep-alive", "Connection: Upgrade"),
}


def test_the_versions_whose_behaviour_this_is_about() -> None:
    assert (version("uvicorn"), version("httptools")) == ("0.54.0", "0.9.0"), "read what serve.http.protocol.RequestParser overrides again"
    assert uvicorn_settings(ServeOptions())["ws"] == "none"


@pytest.mark.parametrize("asked", ASKS)
def test_an_upgrade_is_passed_over_and_the_body_read(asked: str) -> None:
    lines = ASKS[asked]
    whole = {f"Content-Length: {len(CONTENT)}": CONTENT, "Transfer-Encoding: chunked": chunked(CONTENT, 100)}
    with listening(Walker(0)) as address:
        for length, body in whole.items():
            for cut in (0, 1, len(body) // 2, len(body)):  # of the body, in the segment of the head
                with connected(address) as connection:
                    for _ in range(2):  # the second on the same connection
                        connection.sendall(head(*lines, length) + body[:cut])
                        if cut < len(body):
                            time.sleep(0.02)
                            connection.sendall(body[cut:])
                        status, said, headers = answer(connection)
                        assert (status, len(said["data"])) == (200, 1)
                        assert not {"upgrade", "connection"} & set(headers)
                    connection.sendall(HEALTH)
                    assert answer(connection)[0] == 200


def test_an_upgrade_in_any_of_its_bytes_apart() -> None:
    raw = head(*ASKS["h2c"], f"Content-Length: {len(CONTENT)}") + CONTENT
    with listening(Walker(0)) as address:
        for at in range(1, len(raw) - 390, 7):
            with connected(address) as connection:
                connection.sendall(raw[:at])
                time.sleep(0.002)
                connection.sendall(raw[at:])
                assert answer(connection)[0] == 200


@pytest.mark.parametrize("asked", ASKS)
def test_a_get_that_asks_for_an_upgrade_is_answered(asked: str) -> None:
    with listening(Walker(0)) as address, connected(address) as connection:
        for http, ends in (("1.1", False), ("1.0", True)):
            connection.sendall(head(*ASKS[asked], method="GET", path="/v1/models", version=http))
            status, said, _ = answer(connection, "GET")
            assert (status, said["data"][0]["id"]) == (200, "walker")
            if ends and "keep-alive" not in " ".join(ASKS[asked]):
                assert connection.recv(1) == b""


def test_what_comes_after_an_upgrade_at_once_is_answered_too() -> None:
    """Among it a body that looks like a request: of no other than the one it belongs to."""
    smuggled = b"DELETE /v1/jobs/job_0 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    upgrade = head(*ASKS["h2c"], method="GET", path="/healthz")
    with listening(Walker(0)) as address:
        with connected(address) as connection:
            connection.sendall(head(*ASKS["h2c"], f"Content-Length: {len(smuggled)}") + smuggled + upgrade * 3 + HEALTH)
            assert [answer(connection)[0] for _ in range(5)] == [400, 200, 200, 200, 200]
        with connected(address) as connection:  # very many in one segment
            connection.sendall(upgrade * 900 + HEALTH.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
            assert everything(connection).count(b"HTTP/1.1 200") == 901


def test_an_upgrade_with_expect_is_asked_for_its_body() -> None:
    with listening(Walker(0)) as address, connected(address) as connection:
        connection.sendall(head(*ASKS["h2c"], "Expect: 100-continue", f"Content-Length: {len(CONTENT)}"))
        assert connection.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(CONTENT)
        assert answer(connection)[0] == 200


def test_the_limits_hold_for_an_upgrade() -> None:
    with listening(Walker(0), body_timeout_seconds=0.3, keys=("correct-horse-battery-staple",)) as address:
        with connected(address) as connection:
            connection.sendall(head(*ASKS["h2c"], "Content-Length: 10"))
            assert answer(connection)[0] == 401
        with connected(address) as connection:
            connection.sendall(head(*ASKS["h2c"], "X-API-Key: correct-horse-battery-staple", "Content-Length: 10") + b"{")
            assert answer(connection)[0] == 408
        with connected(address) as connection:
            connection.sendall(head(*ASKS["h2c"], "X-API-Key: correct-horse-battery-staple", "Content-Length: 900000000"))
            assert answer(connection)[0] == 413


def test_no_tunnel_is_opened() -> None:
    with listening(Walker(0)) as address, connected(address) as connection:
        connection.sendall(b"CONNECT 127.0.0.1:22 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" + HEALTH)
        status, said, headers = answer(connection)
        assert (status, said["error"]["code"], headers["connection"]) == (501, "unsupported", "close")
        assert connection.recv(1) == b""
