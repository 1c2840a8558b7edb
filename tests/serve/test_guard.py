"""The gate: keys, pages of others, bodies too large or too slow, clients that go away."""

from __future__ import annotations

import asyncio
import json
import re
import select
import socket
import time
import tracemalloc
from typing import Any

import httpx2
import pytest
from fastapi.routing import APIRoute
from hypothesis import given, settings
from hypothesis import strategies as st

from serve.app import PROBES, build_app, page_files
from serve.limits import Limits
from serve.options import ServeOptions
from tests.serve.models import KEY, ORIGIN, SOON, Walker, ask, client_of, listening, run, until

Client = httpx2.AsyncClient
GENERATE = "/v1/images/generations"


def routes() -> list[tuple[str, str]]:
    """Every method and path of the router's own list, with names for what stands in braces."""
    app = build_app(Walker(), ServeOptions())
    assert all(isinstance(route, APIRoute) for route in app.routes)
    return [(method, route.path.replace("{", "").replace("}", "")) for route in app.routes for method in route.methods]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "headers", [{}, {"Authorization": "Bearer wrong"}, {"Authorization": f"Basic {KEY}"}, {"X-API-Key": KEY[:-1]}, {"X-API-Key": ""}]
)
def test_every_route_but_the_page_and_the_probes_refuses_without_the_key(headers: dict[str, str]) -> None:
    async def statuses(client: Client) -> dict[tuple[str, str], int]:
        return {one: (await client.request(*one, headers=headers)).status_code for one in [*routes(), ("GET", "/nothing"), ("PUT", "/v1/models")]}

    found = ask(Walker(), statuses, keys=(KEY,))
    open_paths = {*PROBES, *page_files()}
    assert open_paths >= {"/healthz", "/readyz"}
    assert {one for one, status in found.items() if status != 401} == {one for one in found if one[1] in open_paths}


def test_the_description_of_the_api_needs_nothing_from_elsewhere() -> None:
    async def parts(client: Client) -> dict[str, tuple[int, str, str]]:
        page = (await client.get("/docs")).text
        answers = {path: await client.get(f"/{path}") for path in re.findall(r'(?:src|href)="([^"]+)"', page)}
        return {path: (answer.status_code, answer.headers["content-type"], answer.text) for path, answer in answers.items()}

    found = ask(Walker(), parts, keys=(KEY,))
    assert {"docs/swagger-ui-bundle.js", "docs/swagger-ui.css", "page/docs.js"} <= found.keys(), "all addresses are of this server"
    assert {status for status, _, _ in found.values()} == {200}
    assert "SwaggerUIBundle" in found["docs/swagger-ui-bundle.js"][2]
    assert found["docs/swagger-ui.css"][1].startswith("text/css")


@pytest.mark.parametrize("headers", [{"Authorization": f"Bearer {KEY}"}, {"authorization": f"bearer {KEY}"}, {"X-API-Key": KEY}])
def test_the_key_opens(headers: dict[str, str]) -> None:
    assert ask(Walker(), lambda client: client.get("/v1/models", headers=headers), keys=("another-key-0123456789", KEY)).status_code == 200


def test_no_way_out_of_this_machine_without_a_key() -> None:
    for host in ("0.0.0.0", "::", "192.168.1.2", "example.org"):
        with pytest.raises(ValueError, match="there is no API key"):
            ServeOptions(host=host)
        ServeOptions(host=host, keys=(KEY,))
    ServeOptions(host="127.0.0.9")
    with pytest.raises(ValueError, match="fewer than 16"):
        ServeOptions(keys=("short",))
    assert KEY not in repr(ServeOptions(keys=(KEY,)))


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Origin": ORIGIN}, 200),
        ({"Origin": ORIGIN, "Sec-Fetch-Site": "same-origin"}, 200),
        ({"Origin": "https://friend.example", "Sec-Fetch-Site": "cross-site"}, 200),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://[broken"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Origin": ORIGIN, "Sec-Fetch-Site": "same-site"}, 403),
        ({"Host": "evil.example:8000", "Origin": "http://evil.example:8000"}, 403),
        ({"Host": "[broken"}, 403),
    ],
)
def test_a_page_of_another_site_changes_nothing(headers: dict[str, str], status: int) -> None:
    walker = Walker(0)
    body = {"n": 1, "num_inference_steps": 1}
    response = ask(walker, lambda client: client.post(GENERATE, json=body, headers=headers), cors_origins=("https://friend.example",))
    assert response.status_code == status
    assert walker.walked == (status == 200)
    assert ("access-control-allow-origin" in response.headers) == (headers.get("Origin") == "https://friend.example")


def test_every_answer_tells_browsers_what_it_is() -> None:
    async def both(client: Client) -> list[httpx2.Response]:
        return [await client.get("/healthz"), await client.get("/nothing"), await client.post(GENERATE, content=b"{")]

    for response in ask(Walker(), both):
        assert response.headers["x-content-type-options"] == "nosniff"
        assert "default-src 'self'" in response.headers["content-security-policy"]
        assert response.headers["x-request-id"].startswith("req_")


def sent(address: str, *parts: bytes, between_seconds: float = 0.0) -> bytes:
    """What the server answers to raw bytes, sent part after part until it does."""
    with socket.create_connection(("127.0.0.1", int(address.rsplit(":", 1)[1])), timeout=SOON) as connection:
        for part in parts:
            try:
                connection.sendall(part)
            except ConnectionError:  # it answered, and reads no more
                break
            if select.select([connection], [], [], between_seconds)[0]:
                break
        return connection.recv(1 << 16)


def head(*lines: str) -> bytes:
    return "\r\n".join([f"POST {GENERATE} HTTP/1.1", "Host: 127.0.0.1", "Content-Type: application/json", *lines, "", ""]).encode()


def test_a_body_too_large_is_refused_before_it_is_read_and_the_connection_ends() -> None:
    with listening(Walker()) as address:
        began = time.monotonic()
        answer = sent(address, head("Content-Length: 200000000"), b"x")
        assert answer.startswith(b"HTTP/1.1 413")
        assert b"connection: close" in answer.lower()
        assert time.monotonic() - began < 5


def test_a_body_without_end_is_refused_at_the_limit() -> None:
    limits = Limits(body_bytes=1 << 20)
    chunk = b"10000\r\n" + b"x" * 65536 + b"\r\n"
    with listening(Walker(), limits=limits) as address:
        tracemalloc.start()
        try:
            answer = sent(address, head("Transfer-Encoding: chunked"), *[chunk] * 2000, between_seconds=0.001)
            peak = tracemalloc.get_traced_memory()[1]
        finally:  # or all that follows is traced, and slow
            tracemalloc.stop()
        assert answer.startswith(b"HTTP/1.1 413")
        assert peak < 32 << 20


def test_a_body_that_trickles_is_refused() -> None:
    with listening(Walker(), body_timeout_seconds=0.5) as address:
        answer = sent(address, head("Content-Length: 1000"), *[b"x"] * 100, between_seconds=0.05)
        assert answer.startswith(b"HTTP/1.1 408")
        assert b'"code":"timeout"' in answer


def test_many_bodies_at_once_are_refused_when_there_is_no_room() -> None:
    async def crowd(client: Client) -> list[httpx2.Response]:
        bodies = [json.dumps({"prompt": "", "user": "x" * 400, "num_inference_steps": 20}).encode()] * 8
        return await asyncio.gather(*(client.post(GENERATE, content=body, headers={"Content-Type": "application/json"}) for body in bodies))

    found = ask(Walker(), crowd, limits=Limits(bodies_bytes=2000))
    assert {response.status_code for response in found} == {200, 503}
    assert all("retry-after" in response.headers for response in found if response.status_code == 503)


def test_more_requests_than_are_answered_at_once_are_told_when_to_try_again() -> None:
    async def crowd(client: Client) -> list[int]:
        responses = await asyncio.gather(*(client.post(GENERATE, json={"num_inference_steps": 20}) for _ in range(9)))
        assert all(int(response.headers["retry-after"]) >= 1 for response in responses if response.status_code == 429)
        after = await client.post(GENERATE, json={"num_inference_steps": 1})
        return [*(response.status_code for response in responses), after.status_code]

    found = ask(Walker(), crowd, requests_at_once=3)
    assert (found.count(200), found.count(429)) == (4, 6)


def test_work_stops_when_its_client_goes_away() -> None:
    walker = Walker(0.01)

    async def gone(address: str, stream: bool) -> int:
        body = json.dumps({"num_inference_steps": 1000, "stream": stream}).encode()
        _, writer = await asyncio.open_connection("127.0.0.1", int(address.rsplit(":", 1)[1]))
        writer.write(head(f"Content-Length: {len(body)}") + body)
        before = walker.walked
        await until(lambda: walker.walked > before + 3)
        writer.close()
        await until(lambda: walker.inside == 0)
        return walker.walked - before

    with listening(walker) as address:
        for stream in (False, True):
            assert run(gone(address, stream)) < 500


MARK = "qzXq7ZJv"


@pytest.mark.parametrize(
    "content",
    [
        b"", b"{", b"[]", b"null", b'"x"', b'{"n": NaN}', b'{"guidance_scale": Infinity}', b'{"guidance_scale": 1e999}',
        b'{"n": 1' + b"0" * 9999 + b"}", b"[" * 100_000, b'{"prompt": ' * 5000, b'{"prompt": "\xff\xfe"}', b'{"prompt": "\\ud800"}',
        b'{"n": "2"}', b'{"n": true}', b'{"n": 0}', b'{"n": 1000000}', b'{"num_inference_steps": 1000000000}', b'{"size": "99999x99999"}',
        b'{"size": "8x8\\n"}', b'{"seed": -1}', b'{"seed": 9223372036854775807, "n": 2}',
        *(json.dumps({name: MARK}).encode() for name in (f"{MARK} x", "scheduler", "prompt", "model", "size")),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_in_one_shape_without_what_was_sent(content: bytes) -> None:
    walker = Walker(0)
    for path in (GENERATE, "/v1/models/walker/actions/generate"):
        response = ask(walker, lambda client, path=path: client.post(path, content=content, headers={"Content-Type": "application/json"}))
        assert 400 <= response.status_code < 500, response.text
        assert set(response.json()) == {"error"}
        assert set(response.json()["error"]) == {"message", "type", "param", "code"}
        assert MARK not in response.text
        assert len(response.text) < 1000
    assert walker.walked == 0


Json: Any = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
)


ANY = build_app(Walker(0), ServeOptions())


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(st.sampled_from(["n", "seed", "size", "prompt", "label", "stream", "model", "steps", "image", "user"]) | st.text(), Json))
def test_no_body_makes_the_server_fail(body: dict[str, Any]) -> None:
    async def asked() -> list[int]:
        async with client_of(ANY, headers={"Content-Type": "application/json"}) as client:
            paths = (GENERATE, "/v1/models/walker/actions/generate", "/v1/images/edits", "/v1/embeddings")
            return [(await client.post(path, content=json.dumps(body).encode())).status_code for path in paths]

    assert all(status < 500 for status in run(asked()))


def test_what_is_no_json_is_told_so() -> None:
    async def asked(client: Client) -> list[int]:
        kinds = [{}, {"Content-Type": "text/plain"}, {"Content-Type": "application/x-www-form-urlencoded"}, {"Content-Type": "multipart/form-data"}]
        return [(await client.post(GENERATE, content=b"a=1", headers=kind)).status_code for kind in kinds]

    assert ask(Walker(), asked) == [415, 415, 415, 400]


def test_a_method_that_a_path_does_not_take_is_told_those_it_takes() -> None:
    response = ask(Walker(), lambda client: client.put("/v1/jobs/job_" + "0" * 32))
    assert response.status_code == 405
    assert response.headers["allow"] == "DELETE, GET, HEAD"


def test_head_answers_as_get_without_a_body() -> None:
    def raw(port: int, method: str, path: str) -> tuple[list[bytes], bytes]:
        with socket.create_connection(("127.0.0.1", port), timeout=SOON) as connection:
            connection.sendall(f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode())
            with connection.makefile("rb") as answer:
                head, _, body = answer.read().partition(b"\r\n\r\n")
        own = (b"x-request-id", b"traceparent", b"date")
        return [line for line in head.lower().split(b"\r\n") if not line.startswith(own)], body

    with listening(Walker()) as address:
        port = int(address.rsplit(":", 1)[1])
        for path in ("/health", "/healthz", "/readyz", "/", "/v1/models", "/v1/models/nothing", "/nothing"):
            (said, body), (whole, content) = raw(port, "HEAD", path), raw(port, "GET", path)
            assert said == whole
            assert body == b""
            assert content != b""


def test_a_model_that_there_is_not_is_not_found_wherever_it_is_named() -> None:
    async def asked(client: Client) -> list[httpx2.Response]:
        generated = await client.post(GENERATE, json={"model": "nothing"})
        acted = await client.post("/v1/models/nothing/actions/generate", json={"seed": [1]})
        return [generated, acted, await client.get("/v1/models/nothing")]

    class Closed(Walker):
        problems = {"nothing": "weights.safetensors is damaged"}  # noqa: RUF012

    class Gone(Walker):
        """Its model goes between the check and the work."""

        async def run(self, *_: Any, **__: Any) -> Any:
            self.models = list  # type: ignore[method-assign]
            raise ValueError("there is no such model; there are none")

    for response in ask(Walker(), asked):
        assert (response.status_code, response.json()["error"]["code"]) == (404, "model_not_found")
    for response in ask(Closed(), asked):
        assert (response.status_code, response.json()["error"]["code"]) == (503, "unavailable")
        assert "retry-after" in response.headers
    gone = ask(Gone(), lambda client: client.post(GENERATE, json={}))
    assert (gone.status_code, gone.json()["error"]["code"]) == (404, "model_not_found")


def test_a_bug_in_the_models_is_no_leak() -> None:
    class Broken(Walker):
        async def run(self, *_: Any, **__: Any) -> Any:
            raise RuntimeError(f"CUDA error at /secret/{MARK}")

    response = ask(Broken(), lambda client: client.post(GENERATE, json={}))
    assert response.status_code == 500
    assert MARK not in response.text
    assert response.json()["error"]["code"] == "internal_error"


def test_half_open_connections_hold_nobody_up() -> None:
    with listening(Walker(0)) as address:
        port = int(address.rsplit(":", 1)[1])
        idle = [socket.create_connection(("127.0.0.1", port)) for _ in range(50)]
        for one in idle:
            one.sendall(head("Content-Length: 100"))
        assert httpx2.post(address + GENERATE, json={"num_inference_steps": 1}, timeout=SOON).status_code == 200
        for one in idle:
            one.close()


def test_client_of_the_application_is_the_same_machine() -> None:
    async def asked() -> int:
        async with client_of(build_app(Walker(), ServeOptions()), headers={"Host": "localhost:1234"}) as client:
            return (await client.get("/v1/models")).status_code

    assert run(asked()) == 200
