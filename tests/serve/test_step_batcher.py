"""Calls that can run together do, nobody waits for nothing, and nobody gets another's rows."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from serve.models.batched_call import Cancelled, PendingRequest
from serve.models.step_batcher import StepBatcher

SOON = 20.0  # seconds after which a test fails instead of hanging


class Network:
    """Adds one, and remembers how many rows each call had."""

    def __init__(self) -> None:
        self.rows: list[int] = []

    def __call__(self, x: Tensor, time: Tensor, *, label: Tensor | None = None, scale: float = 1.0) -> Tensor:
        self.rows.append(len(x))
        return x * scale + time[:, None] + (0 if label is None else label[:, None])


@pytest.fixture
def merger() -> Iterator[StepBatcher]:
    made = StepBatcher(max_rows=8)
    yield made
    made.close()


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(16) as made:
        yield made


LOOP = asyncio.new_event_loop()
threading.Thread(target=LOOP.run_forever, daemon=True).start()


def submit(merger: StepBatcher, function: Callable[..., Any], arguments: dict[str, Any], rows: Sequence[str], ticket: PendingRequest) -> Future[Any]:
    """What an event loop asks of it; on return the merger has it."""
    asked = asyncio.run_coroutine_threadsafe(merger.outcome(function, arguments, rows, ticket), LOOP)
    for _ in range(2):
        asyncio.run_coroutine_threadsafe(asyncio.sleep(0), LOOP).result(SOON)
    return asked


class Crowd:
    """Requests that start together, in the order in which they were added: the first turn is held until all are there."""

    def __init__(self, merger: StepBatcher, pool: ThreadPoolExecutor) -> None:
        self.merger, self.pool = merger, pool
        self.works: list[tuple[Callable[[], Any], PendingRequest]] = []

    def add(self, work: Callable[[], Any], ticket: PendingRequest | None = None) -> None:
        self.works.append((work, ticket or PendingRequest()))

    def run(self) -> list[Future[Any]]:
        def one(work: Callable[[], Any], ticket: PendingRequest) -> Any:
            with self.merger.request(ticket):
                return work()

        futures = []
        self.merger.patience_seconds = SOON  # a machine that stutters must not part those who come together
        with self.merger.request(PendingRequest()):
            for number, work in enumerate(self.works):
                futures.append(self.pool.submit(one, *work))
                while len(self.merger._ready) <= number:
                    time.sleep(0.001)
        return futures

    def results(self) -> list[Any]:
        return [future.result(SOON) for future in self.run()]


@pytest.fixture
def crowd(merger: StepBatcher, pool: ThreadPoolExecutor) -> Crowd:
    return Crowd(merger, pool)


def asks(merger: StepBatcher, network: Network, value: float, rows: int = 1, calls: int = 1, **options: Any) -> Callable[[], Tensor]:
    """A request's work: so many calls, each on what the one before gave."""

    def work() -> Tensor:
        x = torch.full((rows, 2), value)
        for _ in range(calls):
            x = merger.call(network, x, torch.ones(rows), **options)
        return x

    return work


def test_alike_calls_run_as_one_and_rows_come_back(merger: StepBatcher, crowd: Crowd) -> None:
    network = Network()
    for value, rows in ((10.0, 1), (20.0, 3), (30.0, 2)):
        crowd.add(asks(merger, network, value, rows))
    results = crowd.results()
    assert network.rows == [6]
    assert [result.tolist() for result in results] == [[[value + 1] * 2] * rows for value, rows in ((10.0, 1), (20.0, 3), (30.0, 2))]
    assert all(ticket.batch_size == 6 for _, ticket in crowd.works)


def test_unlike_calls_run_apart(merger: StepBatcher, crowd: Crowd) -> None:
    network, other = Network(), Network()
    crowd.add(asks(merger, network, 1.0))
    crowd.add(asks(merger, network, 1.0, scale=2.0))
    crowd.add(asks(merger, network, 1.0, label=torch.tensor([5.0])))
    crowd.add(asks(merger, other, 1.0))
    crowd.add(lambda: merger.call(network, torch.ones(1, 3), torch.ones(1)))
    crowd.add(lambda: merger.call(network, torch.ones(1, 2, dtype=torch.float64), torch.ones(1)))
    results = crowd.results()
    assert [result.flatten()[0].item() for result in results] == [2, 3, 7, 2, 2, 2]
    assert (network.rows, other.rows) == ([1] * 5, [1])


def test_requests_join_and_leave_between_calls(merger: StepBatcher, crowd: Crowd) -> None:
    network = Network()
    for calls in (1, 2, 5):
        crowd.add(asks(merger, network, float(calls), calls=calls))
    assert [result[0, 0].item() for result in crowd.results()] == [2, 4, 10]
    assert network.rows == [3, 2, 1, 1, 1]


def test_a_call_of_too_many_rows_is_split_and_groups_stay_small(merger: StepBatcher, crowd: Crowd) -> None:
    network = Network()
    values = torch.arange(20.0)[:, None].expand(20, 2)
    crowd.add(lambda: merger.call(network, values, torch.ones(20)))
    for value in range(3):
        crowd.add(asks(merger, network, float(value), rows=3))
    many, *few = crowd.results()
    assert torch.equal(many, values + 1)
    assert [one[0, 0].item() for one in few] == [1, 2, 3]
    assert network.rows == [8, 8, 4, 6, 3]


def test_ones_error_is_not_the_others(merger: StepBatcher, crowd: Crowd) -> None:
    def picky(x: Tensor) -> Tensor:
        if (x < 0).any():
            raise ValueError("below zero")
        return x * 2

    for value in (1.0, -1.0, 3.0):
        crowd.add(lambda value=value: merger.call(picky, torch.tensor([value])))
    first, second, third = crowd.run()
    assert (first.result(SOON).item(), third.result(SOON).item()) == (2, 6)
    with pytest.raises(ValueError, match="below zero"):
        second.result(SOON)


def test_a_result_without_rows_is_not_divided(merger: StepBatcher, crowd: Crowd) -> None:
    for value in (1.0, 2.0):
        crowd.add(lambda value=value: merger.call(torch.sum, torch.full((2,), value)))
    assert [result.item() for result in crowd.results()] == [2, 4]


def test_cancelled_ones_end_at_their_next_call(merger: StepBatcher, crowd: Crowd) -> None:
    network, ticket = Network(), PendingRequest()

    def cancelled_on_the_way() -> Tensor:
        x = merger.call(network, torch.ones(1, 2), torch.ones(1))
        ticket.cancelled = True
        return merger.call(network, x, torch.ones(1))

    crowd.add(cancelled_on_the_way, ticket)
    crowd.add(asks(merger, network, 1.0, calls=3))
    stopped, kept = crowd.run()
    assert kept.result(SOON)[0, 0] == 4
    with pytest.raises(Cancelled):
        stopped.result(SOON)
    assert network.rows == [2, 1, 1]


def test_cancelled_while_it_waits(merger: StepBatcher) -> None:
    release, entered = threading.Event(), threading.Event()

    def slow(x: Tensor) -> Tensor:
        entered.set()
        release.wait(SOON)
        return x

    network, ticket = Network(), PendingRequest()
    first = submit(merger, slow, {"x": torch.ones(1)}, ["x"], PendingRequest())
    entered.wait(SOON)
    second = submit(merger, network, {"x": torch.ones(1, 2), "time": torch.ones(1)}, ["x", "time"], ticket)
    ticket.cancelled = True
    release.set()
    assert first.result(SOON) == 1
    with pytest.raises(Cancelled):
        second.result(SOON)
    assert network.rows == []


def test_who_keeps_its_turn_does_not_hold_up_the_others(merger: StepBatcher, pool: ThreadPoolExecutor) -> None:
    held, done, network = threading.Event(), threading.Event(), Network()

    def slow() -> None:
        with merger.request(PendingRequest()):
            merger.call(network, torch.ones(1, 2), torch.ones(1))
            held.set()
            assert done.wait(SOON)
            merger.call(network, torch.ones(1, 2), torch.ones(1))

    def quick() -> None:
        with merger.request(PendingRequest()):
            for _ in range(5):
                merger.call(network, torch.ones(1, 2), torch.ones(1))

    first = pool.submit(slow)
    held.wait(SOON)
    pool.submit(quick).result(SOON)
    assert submit(merger, network, {"x": torch.ones(1, 2), "time": torch.ones(1)}, ["x"], PendingRequest()).result(SOON)[0, 0] == 2
    done.set()
    first.result(SOON)
    assert len(network.rows) == 8


def test_whole_actions_merge_by_rows(merger: StepBatcher) -> None:
    seen: list[tuple[int, list[str]]] = []
    entered, release = threading.Event(), threading.Event()

    def act(*, image: Tensor, text: list[str], labels: list[str], gallery: Tensor) -> Tensor:
        seen.append((len(image), text))
        entered.set()
        release.wait(SOON)
        return image.flatten(1).sum(1) + gallery.sum()

    def ask(value: float, texts: Sequence[str], labels: list[str], gallery: float) -> Future[Tensor]:
        images = torch.full((len(texts), 1, 2, 2), value)
        arguments = {"image": images, "text": list(texts), "labels": labels, "gallery": torch.full((3,), gallery)}
        return submit(merger, act, arguments, ["image", "text"], PendingRequest())

    first = ask(9.0, ["held"], ["x"], 0.0)
    entered.wait(SOON)
    rest = [ask(1.0, "ab", ["x"], 0.0), ask(2.0, "c", ["x"], 0.0), ask(3.0, "d", ["y"], 0.0), ask(4.0, "e", ["x"], 1.0)]
    release.set()
    assert first.result(SOON).tolist() == [36]
    assert [future.result(SOON).tolist() for future in rest] == [[4, 4], [8], [12], [19]]
    assert seen == [(1, ["held"]), (3, ["a", "b", "c"]), (1, ["d"]), (1, ["e"])]


def test_rows_that_do_not_fit_run_by_themselves(merger: StepBatcher) -> None:
    seen: list[int] = []
    entered, release = threading.Event(), threading.Event()

    def act(*, seed: list[int], label: list[int]) -> Tensor:
        seen.append(len(seed))
        entered.set()
        release.wait(SOON)
        if len(seed) != len(label):
            raise ValueError("one label a seed")
        return torch.tensor(seed)

    asked = [([0], [0]), ([1], [1]), ([2, 3], [2]), ([4], [4, 5])]  # the last two would fit each other
    futures = []
    for seed, label in asked:
        futures.append(submit(merger, act, {"seed": seed, "label": label}, ["seed", "label"], PendingRequest()))
        entered.wait(SOON)
    release.set()
    assert [future.result(SOON).tolist() for future in futures[:2]] == [[0], [1]]
    for future in futures[2:]:
        with pytest.raises(ValueError, match="one label"):
            future.result(SOON)


def test_closing_lets_all_go(pool: ThreadPoolExecutor) -> None:
    merger, entered, release = StepBatcher(), threading.Event(), threading.Event()

    def slow(x: Tensor) -> Tensor:
        entered.set()
        release.wait(SOON)
        return x

    def request() -> Tensor:
        with merger.request(PendingRequest()):
            return merger.call(slow, torch.ones(1))

    futures = [pool.submit(request)]
    entered.wait(SOON)
    futures += [pool.submit(request) for _ in range(3)]
    merger.close()
    release.set()
    assert futures[0].result(SOON) == 1
    for future in futures[1:]:
        with pytest.raises(Cancelled):
            future.result(SOON)
    with pytest.raises(Cancelled):
        request()


@settings(max_examples=30, deadline=None)
@given(
    requests=st.lists(st.tuples(st.integers(1, 11), st.integers(0, 6), st.sampled_from([1.0, 2.0])), min_size=1, max_size=12),
    patience=st.sampled_from([0.0, 0.002]),
)
def test_any_crowd_gets_its_own(requests: list[tuple[int, int, float]], patience: float) -> None:
    merger, network = StepBatcher(max_rows=8, patience_seconds=patience), Network()
    with ThreadPoolExecutor(len(requests)) as pool:

        def work(number: int, rows: int, calls: int, scale: float) -> Tensor:
            with merger.request(PendingRequest()):
                return asks(merger, network, float(number), rows, calls, scale=scale)()

        futures = [pool.submit(work, number, *request) for number, request in enumerate(requests)]
        for number, (future, (rows, calls, scale)) in enumerate(zip(futures, requests, strict=True)):
            expected = float(number)
            for _ in range(calls):
                expected = expected * scale + 1
            assert torch.equal(future.result(SOON), torch.full((rows, 2), expected))
    merger.close()
    assert max(network.rows, default=0) <= 8
    assert sum(network.rows) == sum(rows * calls for rows, calls, _ in requests)


def test_what_an_event_loop_asks_in_one_turn_comes_together(merger: StepBatcher) -> None:
    network = Network()

    async def crowd() -> list[Tensor]:
        values = [{"x": torch.full((1, 2), float(number)), "time": torch.ones(1)} for number in range(5)]
        asks = [merger.outcome(network, value, ["x", "time"], PendingRequest()) for value in values]
        return await asyncio.gather(*asks)

    assert [result[0, 0].item() for result in asyncio.run(crowd())] == [1, 2, 3, 4, 5]
    assert network.rows == [5]
