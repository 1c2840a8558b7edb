"""All jobs together keep within `jobs_bytes`, whatever became of them; what ended first goes first, and nothing goes that need not."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import stat
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import httpx2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genlib.ports import Image, Seeds, Steps, Texts
from genlib.task import Task, action
from serve.api_error import ApiError
from serve.background_jobs import job
from serve.background_jobs.folder import JobFolder
from serve.background_jobs.job import ENDED, BackgroundJob, job_id
from serve.background_jobs.jobs import Jobs
from tests.serve.models import Walker, application, ask, card_of, run, until

GENERATE = "/v1/images/generations"
Client = httpx2.AsyncClient
LIMIT = 60_000


def used(folder: Path) -> int:
    """Bytes in folders of jobs, temporary files and all."""
    return sum(path.stat().st_size for one in folder.glob("job_*") for path in one.rglob("*") if path.is_file())


DAMAGE = {
    "no state": None, "empty": b"", "cut": b'{"id": "job_', "list": b"[]", "null": b"null", "nested": b"[" * 100_000, "bytes": b"\xff\xfe",
    "of another": b'{"id": "job_0", "status": "completed"}', "no fields": b'{"id": "ID", "status": "completed"}',
    "odd status": b'{"id": "ID", "status": "done", "created_at": 1, "progress": {}, "fingerprint": "", "attempts": 0, "error": null, "result": null}',
}  # fmt: skip


def laid(root: Path, what: str, size: int) -> BackgroundJob:
    """A job as it may lie there, of exactly that size unless its state alone is larger."""
    one = BackgroundJob(root / job_id())
    one.folder.mkdir()
    state = {"id": one.id, "status": what, "created_at": 1, "progress": {"steps": 1, "step": 1}, "fingerprint": "", "attempts": 0}
    content = DAMAGE[what] if what in DAMAGE else json.dumps({**state, "error": None, "result": None, "completed_at": 1, "endpoint": "x"}).encode()
    if content is not None:
        (one.folder / "state.json").write_bytes(content.replace(b"ID", one.id.encode()))
    rest = max(0, size - one.size())
    (one.folder / ".result-0.png.x7z").write_bytes(b"x" * (rest // 2))  # what a process that was killed left
    (one.folder / "work.npz").write_bytes(b"x" * (rest - rest // 2))
    return one


FATES = st.sampled_from([*ENDED, "queued", "in_progress", *(name for name in DAMAGE if name != "nested")])
STEPS = st.one_of(
    st.tuples(st.just("lay"), FATES, st.integers(300, 20_000)),
    st.tuples(st.just("claim"), st.just(""), st.integers(0, 70_000)),
    st.tuples(st.just("end"), st.sampled_from(ENDED), st.integers(0, 9)),
    st.tuples(st.sampled_from(["make room", "restart", "foreign"]), st.just(""), st.just(0)),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(STEPS, max_size=25))
def test_what_is_kept_is_what_a_model_keeps(steps: list[tuple[str, str, int]]) -> None:
    """Against a list in the order of their ends, which knows sizes alone."""
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        folder, over, busy, foreign = JobFolder(root, LIMIT), list[BackgroundJob](), list[BackgroundJob](), list[Path]()
        sizes: dict[str, int] = {}

        def model(need: int) -> bool:
            """Whether it fits, and, where it does, what has to go for it."""
            if sum(sizes[one.id] for one in busy) + need > LIMIT:
                return False
            while over and sum(sizes[one.id] for one in [*over, *busy]) + need > LIMIT:
                over.pop(0)
            return True

        for what, fate, size in steps:
            if what == "lay":
                one = laid(root, fate, size)
                sizes[one.id] = one.size()
                (busy if fate in ("queued", "in_progress") else over).append(one)
                time.sleep(0.005)  # a tick of the clock that file systems go by
            elif what == "end" and busy:
                over.append(one := busy.pop(size % len(busy)))
                one.update(status=fate)
                sizes[one.id] = one.size()
            elif what == "claim":
                fits = model(size)
                with nullcontext() if fits else pytest.raises(ApiError, match=r"ask for less|try again"):
                    folder.claim(size)
            elif what == "make room":
                folder.make_room()
                if not model(0):  # those that wait or run are more by themselves
                    over.clear()
            elif what == "restart":
                folder = JobFolder(root, LIMIT)
            elif what == "foreign":
                for made in (root / f"job_{len(foreign)}", root / f"job_{'0' * 32}_copy", root / f"{len(foreign)}"):
                    made.mkdir(exist_ok=True)
                    (made / "state.json").write_bytes(b"x" * LIMIT)
                    foreign.append(made)
            assert {path.name for path in root.glob("job_*")} - {path.name for path in foreign} == {one.id for one in [*over, *busy]}
            assert all((path / "state.json").stat().st_size == LIMIT for path in foreign)
            assert {one.id for one in folder.all()} == {one.id for one in [*over, *busy]}


def test_a_damaged_job_that_a_process_does_is_left_alone(tmp_path: Path) -> None:
    folder = JobFolder(tmp_path, 1000)
    one = laid(tmp_path, "cut", 2000)
    lock = one.lock()
    assert lock is not None
    folder.make_room()
    assert one.folder.is_dir()
    lock.close()
    folder.make_room()
    assert not one.folder.is_dir()


class Fated(Walker):
    """Its pictures end as the number of steps says."""

    async def stream(self, model: str, action: str, arguments: dict[str, Any], **options: Any) -> AsyncIterator[Any]:  # type: ignore[override]
        if arguments["steps"] == 2:
            raise ValueError("no such width")
        if arguments["steps"] == 3:
            raise RuntimeError("a bug")
        if arguments["steps"] == 4:
            await asyncio.sleep(60)
        async for event in super().stream(model, action, arguments, **options):
            yield event


async def posted(client: Client, **body: Any) -> httpx2.Response:
    return await client.post(GENERATE, json={"async": True, "prompt": "x" * 3900, "user": "y" * 400, **body})


async def over(client: Client, one: dict[str, Any]) -> str:
    while (response := await client.get(f"/v1/jobs/{one['id']}")).status_code == 200 and response.json()["status"] not in ENDED:
        await asyncio.sleep(0.005)
    return response.json()["status"] if response.status_code == 200 else "gone"


class Words(Task):
    """Takes a prompt."""

    @action
    def generate(self, *, seed: Seeds, prompt: Texts = (), steps: Steps = 50) -> Image:  # type: ignore[assignment]
        """Pictures."""
        raise NotImplementedError


class Worded(Fated):
    """Takes a prompt, which makes a job large."""

    def models(self) -> list[Any]:
        return [card_of("walker", Words)]


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 1000])
def test_jobs_of_every_end_make_room_for_the_next(tmp_path: Path, steps: int) -> None:
    """Done, refused by the model, failed by a bug, out of time, and stopped by their client."""

    async def asked() -> None:
        async with application(Worded(0.001), jobs_folder=tmp_path, jobs_bytes=LIMIT, job_timeout_seconds=0.05 if steps == 4 else 60) as (_, client):
            made, ends = [], []
            for number in range(12):
                response = await posted(client, num_inference_steps=steps, seed=number)
                assert response.status_code == 202, response.text
                made.append(response.json()["id"])
                if steps == 1000:
                    await client.delete(f"/v1/jobs/{made[-1]}")
                ends.append(await over(client, response.json()))
                assert used(tmp_path) <= LIMIT
            await asyncio.sleep(0.05)
            kept = [one["id"] for one in (await client.get("/v1/jobs")).json()["data"]]
            assert set(ends) == {{1: "completed", 1000: "cancelled"}.get(steps, "failed")}
            assert kept == made[::-1][: len(kept)]
            assert 2 <= len(kept) < 12
            assert used(tmp_path) > LIMIT / 2

    run(asked())


def test_jobs_that_wait_or_run_are_never_deleted_and_a_new_one_is_told_so(tmp_path: Path) -> None:
    async def asked() -> None:
        async with application(Worded(0.001), jobs_folder=tmp_path, jobs_bytes=LIMIT, jobs_running=1) as (_, client):
            done = await over(client, (await posted(client, num_inference_steps=1)).json())
            assert done == "completed"
            under_way = []
            while (response := await posted(client, num_inference_steps=1000)).status_code == 202:
                under_way.append(response.json()["id"])
                assert used(tmp_path) <= LIMIT
            assert response.status_code == 507
            assert response.json()["error"]["code"] == "jobs_full"
            assert "delete one" in response.json()["error"]["message"]
            assert int(response.headers["retry-after"]) >= 1
            listed = [one["id"] for one in (await client.get("/v1/jobs")).json()["data"]]
            assert sorted(listed) == sorted(under_way)  # the one that was over made room
            link = await client.post(GENERATE, json={"response_format": "url", "prompt": "x" * 3900, "num_inference_steps": 1})
            assert link.status_code == 507
            await client.delete(f"/v1/jobs/{under_way[-1]}")
            assert (await posted(client, num_inference_steps=1000)).status_code == 202

    run(asked())


def test_a_job_larger_than_all_together_may_be_is_refused_and_costs_no_other(tmp_path: Path) -> None:
    async def asked() -> None:
        async with application(Worded(0), jobs_folder=tmp_path, jobs_bytes=9_000) as (_, client):
            small = (await client.post(GENERATE, json={"async": True, "num_inference_steps": 1})).json()
            assert await over(client, small) == "completed"
            response = await posted(client, num_inference_steps=1)
            assert (response.status_code, response.json()["error"]["code"]) == (507, "job_too_large")
            assert await over(client, small) == "completed"
            assert len(list(tmp_path.glob("job_*"))) == 1

    run(asked())


def test_pictures_that_do_not_fit_fail_their_job_and_no_other() -> None:
    class Large(Walker):
        async def stream(self, *given: Any, **options: Any) -> AsyncIterator[Any]:
            async for event in super().stream(*given, **options):
                if event.result is not None:
                    event.result.images[:] = [image + b"\0" * 40_000 for image in event.result.images]
                yield event

    async def asked(client: Client) -> None:
        first = (await client.post(GENERATE, json={"async": True, "num_inference_steps": 1})).json()
        assert await over(client, first) == "completed"
        waits = (await client.post(GENERATE, json={"async": True, "num_inference_steps": 1000})).json()
        second = (await client.post(GENERATE, json={"async": True, "num_inference_steps": 1, "n": 2})).json()
        assert await over(client, second) == "failed"
        assert (await client.get(f"/v1/jobs/{second['id']}")).json()["error"]["code"] == "job_too_large"
        assert await over(client, first) == "completed"
        assert (await client.get(f"/v1/jobs/{waits['id']}")).json()["status"] == "in_progress"

    ask(Large(0.001), asked, jobs_bytes=LIMIT)


def test_a_folder_that_is_over_the_budget_is_tidied_at_the_start(tmp_path: Path) -> None:
    laid_down = []
    for number in range(20):
        laid_down.append(laid(tmp_path, [*ENDED, *DAMAGE][number % 13], 8000))
        time.sleep(0.005)
    (tmp_path / "notes").mkdir()
    (tmp_path / "job_notes.txt").write_bytes(b"mine")

    async def asked() -> None:
        async with application(Worded(0), jobs_folder=tmp_path, jobs_bytes=LIMIT) as (_, client):
            await until(lambda: used(tmp_path) <= LIMIT)
            assert (await client.get("/v1/jobs")).status_code == 200
            for one in laid_down:
                assert (await client.get(f"/v1/jobs/{one.id}")).status_code in (200, 404)
                assert (await client.delete(f"/v1/jobs/{one.id}")).status_code in (200, 404)

    kept_before = [one.id for one in laid_down[-3:]]
    Jobs.make_room(JobFolder(tmp_path, LIMIT))  # type: ignore[arg-type]
    assert all((tmp_path / name).is_dir() for name in kept_before)
    run(asked())
    assert (tmp_path / "job_notes.txt").read_bytes() == b"mine"


def test_a_damaged_job_does_not_stand_in_the_way_of_its_key(tmp_path: Path) -> None:
    async def asked() -> None:
        async with application(Walker(0), jobs_folder=tmp_path) as (_, client):
            body, headers = {"async": True, "num_inference_steps": 1}, {"Idempotency-Key": "mine"}
            first = (await client.post(GENERATE, json=body, headers=headers)).json()
            assert await over(client, first) == "completed"
            await until(lambda: not BackgroundJob(tmp_path / first["id"]).held())
            (tmp_path / first["id"] / "state.json").write_bytes(b"{")
            again = await client.post(GENERATE, json=body, headers=headers)
            assert (again.status_code, again.json()["id"]) == (202, first["id"])
            assert await over(client, first) == "completed"

    run(asked())


def test_a_job_of_the_same_key_comes_right_after_the_other_was_deleted() -> None:
    """The first one's process may still be at its end."""
    walker = Walker(0.001)

    async def asked(client: Client) -> None:
        jobs, headers = client._transport.app.state.front.jobs, {"Idempotency-Key": "mine"}  # type: ignore[attr-defined]
        for _ in range(20):
            made = (await client.post(GENERATE, json={"async": True, "num_inference_steps": 1}, headers=headers)).json()
            assert await over(client, made) == "completed"
            await client.delete(f"/v1/jobs/{made['id']}")
            again = (await client.post(GENERATE, json={"async": True, "num_inference_steps": 1000}, headers=headers)).json()
            assert again["id"] == made["id"]
            await asyncio.sleep(0.01)
            assert list(jobs.tasks) == [made["id"]]
            assert (await client.delete(f"/v1/jobs/{made['id']}")).json()["status"] == "cancelled"
            assert walker.inside == 0
            await client.delete(f"/v1/jobs/{made['id']}")

    ask(walker, asked)


@pytest.mark.parametrize("moment", ["at the start", "in the middle"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EIO])
def test_a_disk_that_takes_nothing_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str, number: int) -> None:
    whole = job.write_atomically

    def full(path: Path, content: bytes, mode: int) -> None:
        if moment == "at the start" or path.suffix == ".png":
            raise OSError(number, os.strerror(number))
        whole(path, content, mode)

    monkeypatch.setattr(job, "write_atomically", full)

    async def asked() -> None:
        async with application(Walker(0), jobs_folder=tmp_path) as (_, client):
            response = await client.post(GENERATE, json={"async": True, "num_inference_steps": 1})
            if moment == "at the start":
                error = response.json()["error"]
                assert response.status_code == 507
                assert not list(tmp_path.glob("job_*"))
            else:
                assert await over(client, response.json()) == "failed"
                error = (await client.get(f"/v1/jobs/{response.json()['id']}")).json()["error"]
            assert error["code"] == "jobs_unwritable"
            assert os.strerror(number) in error["message"]
            assert str(tmp_path) not in error["message"]
            assert (await client.post(GENERATE, json={"num_inference_steps": 1})).status_code == 200

    run(asked())


def test_news_that_a_full_disk_cut_short_are_left_out(tmp_path: Path) -> None:
    async def asked() -> None:
        async with application(Walker(0), jobs_folder=tmp_path) as (_, client):
            made = (await client.post(GENERATE, json={"async": True, "num_inference_steps": 3})).json()
            assert await over(client, made) == "completed"
            news = tmp_path / made["id"] / "events.jsonl"
            first, *rest = news.read_bytes().splitlines(keepends=True)
            news.write_bytes(first + rest[0][:-9] + b"\n[]\n" + b"".join(rest))
            response = await client.get(f"/v1/jobs/{made['id']}/events")
            assert response.status_code == 200
            assert "event: job.completed" in response.text
            assert (await client.get(f"/v1/jobs/{made['id']}")).json()["status"] == "completed"

    run(asked())


@pytest.mark.parametrize("umask", [0, 0o022, 0o777])
def test_only_its_owner_can_read_what_is_written(tmp_path: Path, umask: int) -> None:
    folder = tmp_path / "jobs"

    async def asked() -> None:
        async with application(Walker(0.001), jobs_folder=folder) as (_, client):
            done = (await client.post(GENERATE, json={"async": True, "num_inference_steps": 3, "partial_images": 2})).json()
            assert await over(client, done) == "completed"
            waits = (await client.post(GENERATE, json={"async": True, "num_inference_steps": 1000})).json()
            await client.delete(f"/v1/jobs/{waits['id']}")

    before = os.umask(umask)
    try:
        run(asked())
    finally:
        os.umask(before)
    written = {path: path.stat().st_mode for path in [folder, *folder.rglob("*")]}
    assert {"work.npz", "state.json", "events.jsonl", "lock", "cancel", "result-0.png"} < {path.name for path in written}
    assert all(stat.S_IMODE(mode) == (0o700 if stat.S_ISDIR(mode) else 0o600) for mode in written.values())


def test_what_others_could_read_is_taken_from_them_and_nothing_else(tmp_path: Path) -> None:
    mine, other = tmp_path / "mine", tmp_path / "others"
    for root in (mine, other):
        root.mkdir()
        laid(root, "completed", 500)
        (root / ".lock").write_bytes(b"pid 1")
    (other / "notes").mkdir()
    (other / "notes" / "a").write_bytes(b"a")
    (outside := tmp_path / "outside").write_bytes(b"x")
    for root in (mine, other):
        (next(root.glob("job_*")) / "link").symlink_to(outside)
        for path in [root, *root.rglob("*")]:
            path.chmod(0o777 if path.is_dir() else 0o666)
    outside.chmod(0o644)
    for root in (mine, other):
        JobFolder(root, LIMIT)
        (made,) = root.glob("job_*")
        assert made.stat().st_mode & 0o777 == 0o700
        assert all(path.stat().st_mode & 0o777 == 0o600 for path in made.iterdir() if not path.is_symlink())
        assert (root / ".lock").stat().st_mode & 0o777 == 0o600
    assert mine.stat().st_mode & 0o777 == 0o700
    assert other.stat().st_mode & 0o777 == 0o777  # it holds what is not ours
    assert (other / "notes" / "a").stat().st_mode & 0o777 == 0o666
    assert outside.stat().st_mode & 0o777 == 0o644
