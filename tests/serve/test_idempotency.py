"""Answers to repeated requests: made once, whichever server of a folder is asked, and no more of them than their budget."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import stat
import time
from pathlib import Path

import httpx2
import pytest
from fastapi.responses import Response

from serve.api_error import ApiError
from serve.http import idempotency
from serve.http.idempotency import Answers, size_on_disk
from serve.observability import Metrics
from tests.serve.models import SOON, Walker, ask, run, until
from tests.serve.raw import GENERATE

Client = httpx2.AsyncClient


async def made(answers: Answers, key: str, response: Response, fingerprint: str = "one") -> Response:
    async def make() -> Response:
        return response

    return await answers.once(key, fingerprint, make)


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_the_latest_stay_within_the_budget(tmp_path: Path) -> None:
    limit = 64 * 4096
    answers = Answers(tmp_path, limit, Metrics())

    async def all_of_them() -> None:
        for number in range(300):
            if number % 10 == 5:
                assert (await made(answers, "used", Response(b"other"))).body == b"first"  # what is asked for again is the latest
            await made(answers, "used" if number == 0 else f"{number}", Response(b"first" if number == 0 else b"x" * (number * 37 % 9000)))
            assert sum(size_on_disk(path.stat().st_size) for path in tmp_path.iterdir()) <= limit

    run(all_of_them())
    numbers = sorted(int(name) for name in names(tmp_path) - {"used"})
    assert numbers == [*range(numbers[0], 300)]
    assert len(numbers) > 20
    assert "used" in names(tmp_path)


def test_what_would_take_the_room_of_all_is_not_kept(tmp_path: Path) -> None:
    answers = Answers(tmp_path, 20_000, Metrics())
    assert len(run(made(answers, "k", Response(b"x" * 20_000))).body) == 20_000
    assert names(tmp_path) == set()


def test_an_answer_comes_back_whole_and_is_its_owners_alone(tmp_path: Path) -> None:
    answers, folder = Answers(tmp_path / "answers", 1 << 20, Metrics()), tmp_path / "answers"
    first = Response(b"\x00\n\xff", 201, {"X-Seed": "7", "Server-Timing": "model;dur=1"}, "image/png")
    run(made(answers, "k", first))
    again = run(made(Answers(folder, 1 << 20, Metrics()), "k", Response(b"other")))  # as after a restart
    assert (again.body, again.status_code, again.raw_headers) == (first.body, 201, first.raw_headers)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((folder / "k").stat().st_mode) == 0o600
    (folder / "k").write_bytes(b"what a full disk has left")
    assert run(made(answers, "k", Response(b"other"))).body == b"other"


def test_an_answer_is_forgotten_a_day_after_its_last_use(tmp_path: Path) -> None:
    answers = Answers(tmp_path, 1 << 20, Metrics())
    run(made(answers, "k", Response(b"old")))
    day_ago = time.time() - 25 * 3600
    os.utime(tmp_path / "k", (day_ago, day_ago))
    assert run(made(answers, "k", Response(b"new"), "another request")).body == b"new"


def test_two_servers_make_an_answer_once(tmp_path: Path) -> None:
    one, two = (Answers(tmp_path, 1 << 20, Metrics()) for _ in range(2))
    begun, go = [], asyncio.Event()

    async def make() -> Response:
        begun.append(None)
        await go.wait()
        return Response(b"made")

    async def asked() -> list[bytes]:
        waiting = [asyncio.create_task(answers.once("k", "one", make)) for answers in (one, two, one, two)]
        await until(lambda: bool(begun))
        await asyncio.sleep(0.2)
        with pytest.raises(ApiError, match="came with another request"):
            await two.once("k", "another", make)
        go.set()
        return [(await task).body for task in waiting]

    assert run(asked()) == [b"made"] * 4
    assert len(begun) == 1
    assert names(tmp_path) == {"k"}


def dies(folder: Path) -> None:
    """A server that is killed while it makes an answer."""

    async def make() -> Response:
        os.kill(os.getpid(), signal.SIGKILL)
        return Response()

    run(Answers(folder, 1 << 20, Metrics()).once("k", "one", make))


def test_an_answer_whose_server_died_is_made_by_another(tmp_path: Path) -> None:
    process = multiprocessing.get_context("spawn").Process(target=dies, args=(tmp_path,))
    process.start()
    process.join(SOON)
    assert process.exitcode == -signal.SIGKILL
    assert names(tmp_path) == {"k.lock"}
    assert run(made(Answers(tmp_path, 1 << 20, Metrics()), "k", Response(b"made"))).body == b"made"
    assert names(tmp_path) == {"k"}


def test_where_nothing_can_be_written_an_answer_is_made_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_bytes(b"")
    answers = Answers(tmp_path / "file" / "answers", 1 << 20, Metrics())
    assert run(made(answers, "k", Response(b"made"))).body == b"made"
    monkeypatch.setattr(idempotency, "write_atomically", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    assert run(made(Answers(tmp_path / "full", 1 << 20, Metrics()), "k", Response(b"made"))).body == b"made"


def test_requests_under_way_count_and_are_refused_where_they_fill_it() -> None:
    async def crowd(client: Client) -> list[httpx2.Response]:
        keys = [{"Idempotency-Key": f"k{number}"} for number in range(12)]
        sent = [client.post(GENERATE, json={"num_inference_steps": 20}, headers=key) for key in keys]
        return [*await asyncio.gather(*sent), await client.post(GENERATE, json={"num_inference_steps": 1}, headers={"Idempotency-Key": "later"})]

    found = ask(Walker(), crowd, answers_bytes=5000)
    assert [response.status_code for response in found[:-1]].count(200) == 4
    assert all("retry-after" in response.headers for response in found if response.status_code == 429)
    assert found[-1].status_code == 200


def test_a_long_key_or_credential_is_kept_as_a_digest(tmp_path: Path) -> None:
    async def asked(client: Client) -> None:
        headers = {"Idempotency-Key": "k" * 255, "Authorization": "Bearer " + "x" * 50_000}
        first, second = [(await client.post(GENERATE, json={"num_inference_steps": 1}, headers=headers)).json() for _ in range(2)]
        assert first == second

    ask(Walker(0), asked, jobs_folder=tmp_path)
    (name,) = names(tmp_path / idempotency.FOLDER)
    assert len(name) == 64


def test_who_has_another_key_of_the_server_has_other_answers() -> None:
    keys = ("correct-horse-battery-staple", "another-key-0123456789")

    async def asked(client: Client) -> list[int]:
        body = {"num_inference_steps": 1}
        headers = [{"Idempotency-Key": "k", "X-API-Key": key} for key in keys]
        return [(await client.post(GENERATE, json=body, headers=one)).json()["data"][0]["seed"] for one in (*headers, *headers)]

    one, two, again, too = ask(Walker(0), asked, keys=keys)
    assert (one, two) == (again, too)
    assert one != two


def test_a_failure_is_not_kept(tmp_path: Path) -> None:
    answers = Answers(tmp_path, 1 << 20, Metrics())

    async def fails() -> Response:
        raise ApiError(503, "away")

    async def asked() -> None:
        with pytest.raises(ApiError):
            await answers.once("k", "one", fails)
        assert not answers.running
        assert names(tmp_path) == set()
        assert (await made(answers, "k", Response(b"made"))).body == b"made"

    run(asked())
