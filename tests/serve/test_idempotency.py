"""Kept answers take no more memory than their budget, however many, however small, whatever their keys and headers."""

from __future__ import annotations

import asyncio
import time
import tracemalloc

import httpx2
import pytest
from fastapi.responses import Response
from hypothesis import given, settings
from hypothesis import strategies as st

from serve.http.idempotency import Answers, size_of
from serve.observability import Metrics
from serve.problem import Problem
from tests.serve.models import Walker, ask, run
from tests.serve.raw import GENERATE

Client = httpx2.AsyncClient


async def kept(answers: Answers, key: str, response: Response) -> Response:
    async def make() -> Response:
        return response

    return await answers.once(key, "one", make)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 6000), st.integers(0, 30)), max_size=40))
def test_what_is_kept_is_the_latest_within_the_budget(asked: list[tuple[int, int, int]]) -> None:
    """Against a model that knows nothing but the sizes."""
    limit, model = 20_000, dict[str, Response]()
    answers = Answers(limit, Metrics())

    async def all_of_them() -> None:
        for key, size, headers in asked:
            response = Response(b"x" * size, headers={f"x-{number}": "y" for number in range(headers)})
            first = model.pop(str(key), response)  # what was asked for again is the latest
            assert (await kept(answers, str(key), response)).body == first.body
            if size_of(first) <= limit:
                model[str(key)] = first
            while sum(map(size_of, model.values())) > limit:
                del model[next(iter(model))]
            assert [*answers.done] == [*model]
            assert answers.done_bytes == sum(map(size_of, model.values())) <= limit

    run(all_of_them())


@pytest.mark.parametrize(("size", "headers"), [(0, 0), (2, 1), (2, 40), (3000, 3)])
def test_an_entry_takes_no_more_than_is_counted(size: int, headers: int) -> None:
    answers, count = Answers(1 << 30, Metrics()), 2000

    async def fill() -> None:
        for number in range(count):
            named = {f"x-header-{number}-{one}": f"{number}" for one in range(headers)}
            await kept(answers, f"{number:064d}", Response(f"{number}".encode().ljust(size), headers=named))

    tracemalloc.start()
    run(fill())
    taken = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert len(answers.done) == count
    assert taken < answers.done_bytes


def test_very_many_tiny_answers_take_the_budget_and_little_time() -> None:
    answers = Answers(4 << 20, Metrics())

    async def fill() -> None:
        for number in range(60_000):
            answers.keep(f"{number}", "one", Response(b""))

    began = time.monotonic()
    run(fill())
    assert time.monotonic() - began < 10  # a sum over all that is kept, each time, takes minutes
    assert 0 < len(answers.done) * size_of(Response(b"")) == answers.done_bytes <= 4 << 20


def test_requests_under_way_count_and_are_refused_where_they_fill_it() -> None:
    async def crowd(client: Client) -> list[httpx2.Response]:
        keys = [{"Idempotency-Key": f"k{number}"} for number in range(12)]
        sent = [client.post(GENERATE, json={"num_inference_steps": 20}, headers=key) for key in keys]
        return [*await asyncio.gather(*sent), await client.post(GENERATE, json={"num_inference_steps": 1}, headers={"Idempotency-Key": "later"})]

    found = ask(Walker(), crowd, answers_bytes=5000)
    assert [response.status_code for response in found[:-1]].count(200) == 4
    assert all("retry-after" in response.headers for response in found if response.status_code == 429)
    assert found[-1].status_code == 200


def test_a_long_key_or_credential_is_kept_as_a_digest() -> None:
    async def asked(client: Client) -> int:
        app = client._transport.app  # type: ignore[attr-defined]
        headers = {"Idempotency-Key": "k" * 255, "Authorization": "Bearer " + "x" * 50_000}
        first, second = [(await client.post(GENERATE, json={"num_inference_steps": 1}, headers=headers)).json() for _ in range(2)]
        assert first == second
        (key,) = app.state.front.answers.done
        return len(key)

    assert ask(Walker(0), asked) == 64


def test_who_has_another_key_of_the_server_has_other_answers() -> None:
    keys = ("correct-horse-battery-staple", "another-key-0123456789")

    async def asked(client: Client) -> list[int]:
        body = {"num_inference_steps": 1}
        headers = [{"Idempotency-Key": "k", "X-API-Key": key} for key in keys]
        return [(await client.post(GENERATE, json=body, headers=one)).json()["data"][0]["seed"] for one in (*headers, *headers)]

    one, two, again, too = ask(Walker(0), asked, keys=keys)
    assert (one, two) == (again, too)
    assert one != two


def test_a_failure_is_not_kept() -> None:
    answers = Answers(1 << 20, Metrics())

    async def fails() -> Response:
        raise Problem(503, "away")

    async def asked() -> None:
        with pytest.raises(Problem):
            await answers.once("k", "one", fails)
        assert not answers.running
        assert (await kept(answers, "k", Response(b"made"))).body == b"made"

    run(asked())
