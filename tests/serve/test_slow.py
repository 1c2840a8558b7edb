"""Over the socket: nobody holds a connection, or memory, by sending or taking slowly, at any time of a request, or by sending what is no content."""

from __future__ import annotations

import gc
import json
import select
import socket
import time
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from serve.limits import Limits
from serve.protocol import Protocol
from tests.serve.models import SOON, Walker, listening, wordy
from tests.serve.raw import GENERATE, HEALTH, answer, chunked, connected, head

PATIENCE_SECONDS = 0.4
RATE = 100_000
OPTIONS: dict[str, Any] = {"body_timeout_seconds": PATIENCE_SECONDS, "body_bytes_per_second": RATE}
MULTIPART = b'--x\r\nContent-Disposition: form-data; name="user"\r\n\r\n'


def dripped(connection: socket.socket, drops: Iterator[bytes], every_seconds: float) -> float:
    """Sends drop after drop until the server says something or ends the connection; the seconds that took."""
    began = time.monotonic()
    for drop in drops:
        try:
            connection.sendall(drop)
        except OSError:
            break
        if select.select([connection], [], [], every_seconds)[0]:
            break
    return time.monotonic() - began


def endless(drop: bytes) -> Iterator[bytes]:
    end = time.monotonic() + SOON
    while time.monotonic() < end:
        yield drop


FRAMES: dict[str, tuple[tuple[str, ...], Callable[[bytes], bytes]]] = {
    "length": (("Content-Length: 16000000",), lambda content: content),
    "chunks": (("Transfer-Encoding: chunked",), lambda content: b"%x\r\n%b\r\n" % (len(content), content)),
}


@pytest.mark.parametrize(("frame", "kind"), [("length", "application/json"), ("chunks", "multipart/form-data; boundary=x")])
def test_no_fast_start_buys_a_slow_end(frame: str, kind: str) -> None:
    lines, framed = FRAMES[frame]
    start = (MULTIPART if "multipart" in kind else b"{").ljust(8 << 20)
    raw = head(*lines).replace(b"application/json", kind.encode())
    with listening(Walker(0), **OPTIONS) as address, connected(address) as connection:
        connection.sendall(raw + framed(start))  # at the rate it would have taken 80 seconds
        assert PATIENCE_SECONDS / 2 < dripped(connection, endless(framed(b"x")), 0.02) < 5
        assert answer(connection)[0] == 408


def test_a_stall_in_the_middle_is_no_better_however_fast_the_whole() -> None:
    """Twice the rate over all, in bursts: what counts is each moment."""
    with listening(Walker(0), **OPTIONS) as address, connected(address) as connection:
        connection.sendall(head("Content-Length: 16000000"))
        assert dripped(connection, endless(b"x" * 4 * RATE), 2.0) < 1.9
        assert answer(connection)[0] == 408


def test_a_body_a_little_above_the_rate_is_taken() -> None:
    content = json.dumps({"num_inference_steps": 1, "user": "x" * 400}).encode() + b" " * 100_000
    with listening(Walker(0), **OPTIONS) as address, connected(address) as connection:
        connection.sendall(head(f"Content-Length: {len(content)}"))
        for at in range(0, len(content), 7000):
            connection.sendall(content[at : at + 7000])
            time.sleep(0.04)
        assert answer(connection)[0] == 200


@pytest.mark.parametrize("refused", ["no key", "too large", "not found", "open"])
def test_a_body_that_is_refused_before_it_is_read_holds_nothing(refused: str) -> None:
    size = 900_000_000 if refused == "too large" else 1_000_000
    lines = [f"Content-Length: {size}", *(("X-API-Key: correct-horse-battery-staple",) if refused in ("too large", "not found") else ())]
    path = "/healthz" if refused == "open" else "/nothing" if refused == "not found" else GENERATE
    with listening(Walker(0), head_timeout_seconds=0.4, keys=("correct-horse-battery-staple",), **OPTIONS) as address, connected(address) as one:
        one.sendall(head(*lines, path=path))
        began = time.monotonic()
        end = began + SOON
        said = b""
        one.settimeout(0.02)
        while time.monotonic() < end:
            try:
                one.sendall(b"x")
                if not (part := one.recv(1 << 16)):
                    break
                said += part
            except TimeoutError:
                continue
            except OSError:
                break
        assert time.monotonic() - began < 5
        assert said.split()[1] in (b"401", b"413", b"408", b"405", b"200")


@pytest.mark.parametrize("what", ["trailer", "trailers", "extension", "zeros"])
@pytest.mark.parametrize("read", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_what_is_no_content_of_a_body_is_not_kept_and_ends(what: str, read: bool) -> None:
    start = {"trailer": b"1\r\n{\r\n0\r\nX: ", "trailers": b"1\r\n{\r\n0\r\n", "extension": b"1\r\n{\r\n1;", "zeros": b"1\r\n{\r\n"}[what]
    drop = {"trailer": b"x" * 65536, "trailers": b"x: y\r\n" * 10_000, "extension": b"x" * 65536, "zeros": b"0" * 65536}[what]
    with listening(Walker(0)) as address, connected(address) as connection:
        tracemalloc.start()
        connection.sendall(head("Transfer-Encoding: chunked", path=GENERATE if read else "/healthz") + start)
        if not read:
            time.sleep(0.1)
        seconds = 0.0
        try:
            for _ in range(400):
                connection.sendall(drop)
            seconds = dripped(connection, endless(b""), 0.05)
            while connection.recv(1 << 16):
                pass
        except OSError:
            pass
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert seconds < 5
    assert peak < 8 << 20


@pytest.mark.parametrize("what", ["trailer", "extension"])
def test_what_is_no_content_is_refused_in_a_sentence(what: str) -> None:
    start = {"trailer": b"1\r\n{\r\n0\r\nX: ", "extension": b"1\r\n{\r\n1;"}[what]
    with listening(Walker(0)) as address, connected(address) as connection:
        connection.sendall(head("Transfer-Encoding: chunked") + start)
        time.sleep(0.05)
        connection.sendall(b"x" * 66_000)
        status, said, _ = answer(connection)
        assert (status, said["error"]["code"]) == (431, "headers_too_large")


def test_trailers_and_extensions_of_a_usual_size_do_no_harm() -> None:
    content = json.dumps({"num_inference_steps": 1, "user": "x" * 400}).encode()
    body = chunked(content, 50).replace(b"\r\n", b";" + b"e" * 3000 + b"\r\n", 1)[:-2] + b"X-Checksum: 1\r\n\r\n"
    with listening(Walker(0)) as address, connected(address) as connection:
        for _ in range(3):
            connection.sendall(head("Transfer-Encoding: chunked") + body)
            assert answer(connection)[0] == 200


def test_chunks_of_a_byte_or_two_take_no_more_than_their_content() -> None:
    """In segments of their own, as a client can force with TCP_NODELAY."""
    with listening(Walker(0), limits=Limits(body_bytes=1 << 20)) as address, connected(address) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.sendall(head("Transfer-Encoding: chunked"))
        time.sleep(0.05)
        tracemalloc.start()
        for _ in range(20_000):
            connection.sendall(b"2\r\nab\r\n")
        time.sleep(0.1)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 400_000


def test_many_requests_in_one_segment_are_all_answered() -> None:
    """The limit on a head is one on each of them."""
    padded = HEALTH.replace(b"\r\n\r\n", b"\r\nX-Padding: " + b"x" * 900 + b"\r\n\r\n")
    with listening(Walker(0)) as address, connected(address) as connection:
        connection.sendall(padded * 150 + padded[:500])
        connection.sendall(padded[500:])
        assert [answer(connection, "GET")[0] for _ in range(151)] == [200] * 151


class Talker(Walker):
    """What it says of its models is as long as it is told."""

    def __init__(self, size: int) -> None:
        super().__init__(0)
        self.size = size

    def models(self) -> list[Any]:
        return [wordy(card, self.size) for card in super().models()]


@pytest.mark.parametrize("end", ["keep-alive", "close"])
def test_the_rest_of_an_answer_holds_nobody_up_either(end: str) -> None:
    """It is less than what makes writing wait, and the answer is over."""
    ask = "GET /v1/models HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: {}\r\n\r\n"
    with listening(Talker(50_000), read_timeout_seconds=1.0, idle_timeout_seconds=20.0) as address, socket.socket() as lazy:
        lazy.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        lazy.connect(("127.0.0.1", int(address.rsplit(":", 1)[1])))
        lazy.sendall(HEALTH)
        assert answer(lazy, "GET")[0] == 200
        (protocol,) = (
            one for one in gc.get_objects() if isinstance(one, Protocol) and one.transport.get_extra_info("peername") == lazy.getsockname()
        )
        while not protocol.transport.get_write_buffer_size():  # the systems' buffers take some of them
            answered = protocol.server_state.total_requests
            lazy.sendall(ask.format("keep-alive").encode())
            while protocol.server_state.total_requests == answered:
                assert not protocol.transport.is_closing()
                time.sleep(0.001)
        assert protocol.transport.get_write_buffer_size() < 60_000
        assert not protocol.flow.write_paused
        if end == "close":
            lazy.sendall(ask.format(end).encode())
        ended = select.poll()
        ended.register(lazy, 0)
        assert ended.poll(1000 * 10)


def test_who_takes_answers_slowly_but_takes_them_is_served() -> None:
    with listening(Talker(12_000_000), read_timeout_seconds=0.2) as address, connected(address) as connection:
        connection.sendall(b"GET /v1/models HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
        size = 0
        while part := connection.recv(200_000):
            size += len(part)
            time.sleep(0.01)
        assert size > 12_000_000
