"""A client that has only shut down its sending half gets its answer; one that is gone stops its work."""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Iterator

import pytest
import uvicorn

from tests.serve.models import SOON, Walker, listening
from tests.serve.raw import HEALTH, connected, everything, request

WALKER = Walker(0.01)


@pytest.fixture(params=["uvloop", pytest.param("asyncio", marks=pytest.mark.slow)], scope="module")
def address(request: pytest.FixtureRequest) -> Iterator[str]:
    """Of a server on each event loop: they tell of an end each in its own way."""
    made = uvicorn.Config.__init__
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(uvicorn.Config, "__init__", lambda self, *given, **options: made(self, *given, loop=request.param, **options))
        with listening(WALKER) as found:
            yield found


@pytest.mark.parametrize(("version", "steps"), [("1.1", 1), ("1.1", 130), ("1.0", 30)])
def test_whoever_shuts_down_its_half_gets_its_answer_and_nothing_else(version: str, steps: int, address: str) -> None:
    with connected(address) as connection:
        connection.sendall(request(num_inference_steps=steps, version=version))
        connection.shutdown(socket.SHUT_WR)
        whole = everything(connection)
        assert whole.startswith(b"HTTP/1.1 200 OK\r\n")
        assert whole.count(b"HTTP/1.1") == whole.count(b'"b64_json"') == 1


def test_all_answers_to_whole_requests_come_and_the_rest_of_one_does_no_harm(address: str) -> None:
    for rest in (b"", b"GET /hea", b"POST /v1/images/generations HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 9\r\n\r\n{"):
        with connected(address) as connection:
            connection.sendall(request(num_inference_steps=15) + HEALTH + request(num_inference_steps=5) + rest)
            connection.shutdown(socket.SHUT_WR)
            whole = everything(connection)
            assert whole.count(b"HTTP/1.1 200 OK\r\n") == whole.count(b"HTTP/1.1") == 3
            assert whole.count(b'"b64_json"') == 2


def test_a_stream_goes_on_to_its_end(address: str) -> None:
    with connected(address) as connection:
        connection.sendall(request(num_inference_steps=30, stream=True))
        connection.shutdown(socket.SHUT_WR)
        whole = everything(connection)
        assert whole.startswith(b"HTTP/1.1 200 OK\r\n")
        assert b"image_generation.completed" in whole
        assert whole.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")


def test_a_request_without_its_end_is_let_go(address: str) -> None:
    walked = WALKER.walked
    for part in (b"", b"GET /", request(num_inference_steps=1)[:-1]):
        with connected(address) as connection:
            connection.sendall(part)
            connection.shutdown(socket.SHUT_WR)
            assert everything(connection) == b""
    assert WALKER.walked == walked


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("how", ["closes", "resets", "half, then closes", "half, then resets", "two requests, then closes"])
def test_work_stops_when_its_client_is_gone(how: str, stream: bool, address: str) -> None:
    with connected(address) as connection:
        start = WALKER.walked
        connection.sendall(request(num_inference_steps=1000, stream=stream) * (2 if "two" in how else 1))
        while WALKER.walked < start + 5:
            time.sleep(0.01)
        if "half" in how:
            connection.shutdown(socket.SHUT_WR)
            time.sleep(0.15)
            assert WALKER.inside == 1
        if "resets" in how:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        before, began = WALKER.walked, time.monotonic()
        connection.close()
        while WALKER.inside:
            assert time.monotonic() - began < SOON
            time.sleep(0.002)
        time.sleep(0.05)
        assert WALKER.inside == 0
        assert WALKER.walked - before < 150  # 1.5 seconds: the second probe comes after one
