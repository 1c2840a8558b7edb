"""Jobs go on without their clients, survive their process, stop when told, and keep within their budget; the same key gives the same answer."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import signal
import threading
from pathlib import Path
from typing import Any

import httpx2
import pytest

from serve.backend import Unavailable
from serve.background_jobs import jobs as jobs_module
from serve.background_jobs.job import ENDED
from serve.background_jobs.jobs import Jobs
from tests.serve.models import SOON, Walker, application, ask, events_of, run, shown, until

GENERATE = "/v1/images/generations"
Client = httpx2.AsyncClient


async def started(client: Client, key: str = "", **body: Any) -> dict[str, Any]:
    response = await client.post(GENERATE, json={"async": True, **body}, headers={"Idempotency-Key": key} if key else {})
    assert response.status_code == 202
    assert response.headers["location"] == f"/v1/jobs/{response.json()['id']}"
    return response.json()


async def over(client: Client, job: dict[str, Any]) -> dict[str, Any]:
    while (state := (await client.get(f"/v1/jobs/{job['id']}")).json())["status"] not in ENDED:
        await asyncio.sleep(0.01)
    return state


def test_a_job_is_done_and_its_pictures_stay(tmp_path: Path) -> None:
    async def first() -> dict[str, Any]:
        async with application(Walker(), jobs_folder=tmp_path) as (_, client):
            job = await started(client, n=2, seed=7, num_inference_steps=5)
            assert job["status"] == "queued"
            assert job["request"]["seed"] == 7
            return await over(client, job)

    async def later() -> tuple[list[httpx2.Response], dict[str, Any]]:
        async with application(Walker(), jobs_folder=tmp_path) as (_, client):
            listed = (await client.get("/v1/jobs")).json()
            return [await client.get(row["url"]) for row in listed["data"][0]["result"]["data"]], listed

    state = run(first())
    assert state["status"] == "completed"
    assert state["progress"] == {"step": 5, "steps": 5}
    files, listed = run(later())
    assert listed["data"] == [state]
    assert not listed["has_more"]
    assert [shown(file.content).shape for file in files] == [(8, 8, 3)] * 2
    assert files[0].headers["content-type"] == "image/png"


def test_a_job_that_was_completed_stays_so_where_the_server_ends_in_the_same_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tidied = threading.Event()
    monkeypatch.setattr(Jobs, "make_room", lambda self: tidied.wait(SOON))

    async def work() -> dict[str, Any]:
        async with application(Walker(), jobs_folder=tmp_path) as (app, client):
            job = await started(client, seed=7, num_inference_steps=2)
            done = await over(client, job)
            ending = asyncio.create_task(app.state.front.jobs.stop())
            await asyncio.sleep(0.05)
            tidied.set()
            await ending
            return done

    done = run(work())
    assert done["status"] == json.loads((tmp_path / done["id"] / "state.json").read_text())["status"] == "completed"


def test_news_are_resumed_after_the_last_that_came() -> None:
    async def asked(client: Client) -> None:
        job = await started(client, num_inference_steps=20, seed=1)
        everything = events_of((await client.get(f"/v1/jobs/{job['id']}/events")).text)
        assert everything[0]["event"] == "job.started"
        assert everything[-2]["event"] == "job.completed"
        assert everything[-1]["data"] == "[DONE]"
        assert [int(event["id"]) for event in everything[:-1]] == list(range(1, len(everything)))
        assert any(event["event"] == "image_generation.completed" and "b64_json" in event["data"] for event in everything)
        rest = events_of((await client.get(f"/v1/jobs/{job['id']}/events", headers={"Last-Event-ID": everything[2]["id"]})).text)
        assert rest == everything[3:]
        odd = await client.get(f"/v1/jobs/{job['id']}/events", headers={"Last-Event-ID": "x"})
        assert events_of(odd.text) == everything
        none = await client.get(f"/v1/jobs/{job['id']}/events", headers={"Last-Event-ID": "99"})
        assert events_of(none.text) == everything[-1:]

    ask(Walker(0.02), asked)


def test_a_deleted_job_stops_within_a_step_and_a_finished_one_goes_with_its_pictures() -> None:
    walker = Walker(0.01)

    async def asked(client: Client) -> None:
        job = await started(client, num_inference_steps=1000)
        await until(lambda: walker.walked > 3)
        stopped = (await client.delete(f"/v1/jobs/{job['id']}")).json()
        assert stopped["status"] == "cancelled"
        assert walker.inside == 0
        walked = walker.walked
        await asyncio.sleep(0.05)
        assert walker.walked == walked
        assert events_of((await client.get(f"/v1/jobs/{job['id']}/events")).text)[-2]["event"] == "job.cancelled"
        done = await over(client, await started(client, num_inference_steps=1))
        assert (await client.delete(f"/v1/jobs/{done['id']}")).json()["deleted"]
        gone = [f"/v1/jobs/{done['id']}", done["result"]["data"][0]["url"], f"/v1/jobs/{done['id']}/events"]
        assert [(await client.get(path)).status_code for path in gone] == [404] * 3

    ask(walker, asked)


def test_a_job_that_waits_for_its_turn_can_be_deleted() -> None:
    async def asked(client: Client) -> None:
        first = await started(client, num_inference_steps=1000)
        second = await started(client, num_inference_steps=1000)
        assert (await client.delete(f"/v1/jobs/{second['id']}")).json()["status"] == "cancelled"
        assert (await client.get(f"/v1/jobs/{first['id']}")).json()["status"] == "in_progress"

    ask(Walker(), asked, jobs_running=1)


def test_too_many_jobs_are_told_when_to_come_back() -> None:
    async def asked(client: Client) -> httpx2.Response:
        for _ in range(3):
            await started(client, num_inference_steps=1000)
        return await client.post(GENERATE, json={"async": True})

    response = ask(Walker(), asked, jobs_waiting=3)
    assert response.status_code == 429
    assert int(response.headers["retry-after"]) >= 1


def serve_until_killed(folder: Path, walked: Any) -> None:
    """Begins a job, and waits to be killed."""

    async def forever() -> None:
        walker = Walker(0.01)
        async with application(walker, jobs_folder=folder) as (_, client):
            await started(client, key="mine", num_inference_steps=1000, seed=3)
            while True:
                await asyncio.sleep(0.01)
                walked.value = walker.walked

    asyncio.run(forever())


def test_a_job_of_a_killed_process_is_taken_up_by_the_next(tmp_path: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    walked = spawn.Value("i", 0)
    process = spawn.Process(target=serve_until_killed, args=(tmp_path, walked))
    process.start()

    async def next_one() -> dict[str, Any]:
        await until(lambda: walked.value > 5)
        async with application(Walker(0), jobs_folder=tmp_path) as (_, client):
            (job,) = (await client.get("/v1/jobs")).json()["data"]
            assert job["status"] == "in_progress"  # the first process still has it
            following = asyncio.create_task(client.get(f"/v1/jobs/{job['id']}/events"))
            await asyncio.sleep(0.1)
            assert process.pid is not None
            os.kill(process.pid, signal.SIGKILL)
            process.join()
            text = (await following).text
            assert events_of(text)[-2]["event"] == "job.completed"
            assert text.count("event: job.started") == 2
            return await over(client, job)

    state = run(next_one())
    assert state["status"] == "completed"
    assert state["request"]["seed"] == 3


@pytest.mark.parametrize("waits", [False, True])
def test_a_job_is_seen_and_stopped_by_way_of_any_server_of_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, waits: bool) -> None:
    monkeypatch.setattr(jobs_module, "_ADOPT_SECONDS", 0.1)
    walker, other = Walker(), Walker()

    async def asked() -> list[str]:
        async with application(walker, jobs_folder=tmp_path, jobs_running=1) as (_, one), application(other, jobs_folder=tmp_path) as (_, two):
            if waits:
                await started(one, num_inference_steps=1000)
            job = await started(one, num_inference_steps=1000, seed=2)
            following = asyncio.create_task(two.get(f"/v1/jobs/{job['id']}/events"))
            await asyncio.sleep(0.3)
            assert (await two.get(f"/v1/jobs/{job['id']}")).json()["status"] == ("queued" if waits else "in_progress")
            assert other.walked == 0
            await two.delete(f"/v1/jobs/{job['id']}")
            assert (await over(two, job))["status"] == (await over(one, job))["status"] == "cancelled"
            return [event["event"] for event in events_of((await following).text) if "event" in event]

    assert run(asked())[-1] == "job.cancelled"


def test_a_job_that_kills_its_process_is_given_up(tmp_path: Path) -> None:
    async def left() -> str:
        async with application(Walker(), jobs_folder=tmp_path) as (app, client):
            job = await started(client, num_inference_steps=1000)
            state = tmp_path / job["id"] / "state.json"
            await app.state.front.jobs.stop()
            assert json.loads(state.read_text())["attempts"] == 0  # an orderly end is no fault of the job's
            state.write_text(json.dumps({**json.loads(state.read_text()), "attempts": 3, "status": "in_progress"}))
            return job["id"]

    async def taken(name: str) -> dict[str, Any]:
        async with application(Walker(), jobs_folder=tmp_path) as (_, client):
            return await over(client, {"id": name})

    state = run(taken(run(left())))
    assert state["status"] == "failed"
    assert state["error"]["code"] == "gave_up"


def test_a_job_waits_for_models_that_are_away_and_fails_with_a_reason() -> None:
    class Away(Walker):
        failures = 2

        async def stream(self, *given: Any, **options: Any) -> Any:
            if self.failures:
                self.failures -= 1
                raise Unavailable(0.01)
            async for event in super().stream(*given, **options):
                yield event

    class Refusing(Walker):
        async def stream(self, *given: Any, **options: Any) -> Any:
            raise ValueError("no such width")
            yield

    async def asked(client: Client) -> dict[str, Any]:
        return await over(client, await started(client, num_inference_steps=1))

    assert ask(Away(), asked)["status"] == "completed"
    failed = ask(Refusing(), asked)
    assert failed["status"] == "failed"
    assert failed["error"]["message"] == "no such width"


def test_the_oldest_jobs_make_room(tmp_path: Path) -> None:
    async def asked() -> tuple[list[str], list[str]]:
        async with application(Walker(0), jobs_folder=tmp_path, jobs_bytes=12_000) as (_, client):
            made = [(await over(client, await started(client, num_inference_steps=1)))["id"] for _ in range(12)]
            await asyncio.sleep(0.1)
            return made, [job["id"] for job in (await client.get("/v1/jobs")).json()["data"]]

    made, kept = run(asked())
    assert 1 <= len(kept) < 12
    assert kept == made[::-1][: len(kept)]
    assert sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()) < 12_000


def test_jobs_are_listed_in_pages() -> None:
    async def asked(client: Client) -> None:
        made = [(await over(client, await started(client, num_inference_steps=1)))["id"] for _ in range(5)]
        first = (await client.get("/v1/jobs?limit=2")).json()
        rest = (await client.get(f"/v1/jobs?after={first['data'][-1]['id']}")).json()
        assert [job["id"] for job in first["data"] + rest["data"]] == made[::-1]
        assert first["has_more"]
        assert not rest["has_more"]
        assert [(await client.get(f"/v1/jobs?{query}")).status_code for query in ("limit=0", "limit=x", "after=../..")] == [400] * 3

    ask(Walker(0), asked)


@pytest.mark.parametrize("name", ["job_" + "0" * 32, "..", "job_x", "%2e%2e%2fetc", "job_" + "0" * 32 + "%00"])
def test_names_are_no_paths(name: str) -> None:
    async def asked(client: Client) -> set[int]:
        return {
            (await client.get(path)).status_code
            for path in (f"/v1/jobs/{name}", f"/v1/jobs/{name}/events", f"/v1/files/{name}-0", f"/v1/files/{name}")
        }

    assert ask(Walker(), asked) == {404}


def test_the_same_key_gives_the_same_answer_and_works_once() -> None:
    walker = Walker(0.005)

    async def asked(client: Client) -> None:
        body, headers = {"num_inference_steps": 10}, {"Idempotency-Key": "once"}
        first, second = await asyncio.gather(*(client.post(GENERATE, json=body, headers=headers) for _ in range(2)))
        third = await client.post(GENERATE, json=body, headers=headers)
        assert first.json() == second.json() == third.json()
        assert walker.walked == 10
        assert (await client.post(GENERATE, json={"n": 2}, headers=headers)).status_code == 409
        assert (await client.post(GENERATE, json={**body, "stream": True}, headers=headers)).status_code == 409
        assert (await client.post(GENERATE, json=body, headers={"Idempotency-Key": "k" * 256})).status_code == 400
        job = await started(client, key="job", num_inference_steps=3)
        assert (await started(client, key="job", num_inference_steps=3))["id"] == job["id"]
        assert (await client.post(GENERATE, json={"async": True}, headers={"Idempotency-Key": "job"})).status_code == 409

    ask(walker, asked)


def test_with_a_key_work_stops_when_the_last_of_its_clients_has_gone() -> None:
    walker = Walker(0.01)

    async def asked(client: Client) -> None:
        body, headers = {"num_inference_steps": 1000}, {"Idempotency-Key": "shared"}
        tasks = [asyncio.create_task(client.post(GENERATE, json=body, headers=headers)) for _ in range(2)]
        await until(lambda: walker.walked > 2)
        tasks[0].cancel()
        await asyncio.sleep(0.05)
        assert walker.inside == 1
        tasks[1].cancel()
        await until(lambda: walker.inside == 0)

    ask(walker, asked)


def test_addresses_in_place_of_pictures() -> None:
    async def asked(client: Client) -> None:
        plain = (await client.post(GENERATE, json={"response_format": "url", "num_inference_steps": 2, "seed": 1, "n": 2})).json()
        files = [(await client.get(row["url"])).content for row in plain["data"]]
        assert len(set(files)) == 2
        assert [row["seed"] for row in plain["data"]] == [1, 2]
        stream = await client.post(GENERATE, json={"response_format": "url", "num_inference_steps": 2, "seed": 1, "stream": True})
        (completed,) = [event["data"] for event in events_of(stream.text) if event.get("event") == "image_generation.completed"]
        assert (await client.get(completed["url"])).content == files[0]
        assert "b64_json" not in completed

    ask(Walker(), asked)
