"""A verified checkpoint that runs its actions for many at once.

Actions that walk noise away step by step run in a thread each, and what is merged are their networks' calls: so every request has its own
sampler, steps, seed and guidance, and joins and leaves between any two steps. Other actions are merged as a whole, but for joint ones,
which look at their rows together. Image i of any request is a function of its own arguments alone, whatever it was merged with.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from genlib import checkpoint
from genlib.checkpoint import Manifest
from genlib.functional.step_callbacks import step_callback
from genlib.inference import USUAL, Inference
from genlib.task import Task
from serve.backend import Event, ModelCard, Overloaded, Result, Unavailable
from serve.models import image_encoding as pictures
from serve.models import model_card as card
from serve.models.batched_call import Cancelled, PendingRequest
from serve.models.progress_events import ProgressEvents
from serve.models.step_batcher import StepBatcher
from serve.models.step_calls import divert, restore

_SMALL = 64 * 64 * 3
"""Numbers of pictures that are packed as fast as they could be handed to another thread."""
_PAST = 0.9
"""Weight of earlier requests in their mean time."""


class Runner:
    """A loaded model. `run` and `stream` are those of `serve.backend.Backend`, without the model's name; all in one event loop."""

    def __init__(
        self, task: Task, card: ModelCard, *, inference: Inference = USUAL, max_active: int = 32, max_queued: int = 256
    ) -> None:  # fmt: skip
        """The task is this runner's from now on. `max_active` step-by-step requests run at a time; of all, `max_queued` more may wait."""
        self.inference, self.compute = inference, partial(inference.apply, task.device)
        self.task, self.max_active, self.max_inside, self._card = task, max_active, max_active + max_queued, card
        self.actions = card.actions
        self.methods = {name: Method(partial(self.compute, getattr(task, name)), known.result.picture) for name, known in card.actions.items()}
        self.merger = StepBatcher(card.max_batch)
        self.walks = divert(task, self.merger, self.compute)
        self.walkers = ThreadPoolExecutor(max_active, thread_name_prefix="request")
        self.encoders = ThreadPoolExecutor(2, thread_name_prefix="encode")
        self.inside, self.mean_seconds, self.closed = 0, 1.0, False

    @classmethod
    def load(
        cls, folder: Path, *, name: str = "", device: str = "", threads: int = 0, max_batch: int = 32, inference: Inference = USUAL,
        **options: int,
    ) -> Self:  # fmt: skip
        """The newest checkpoint of a run or stage that verifies, or that in the folder itself; its moving average where there is one.

        device: by default a GPU where there is one. threads: of this process's arithmetic, 0 leaves them. max_batch: rows at once.
        ValueError in one sentence where there is no checkpoint or its files are not those it was sealed with.
        """
        if threads:
            torch.set_num_threads(threads)
        path, manifest = verified(folder)
        task = checkpoint.task_of(path, manifest)
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        inference.prepare(task, device)
        task.to(device).eval().requires_grad_(False)
        return cls(task, card.of(task, path, manifest, name or manifest.recipe, max_batch), inference=inference, **options)

    def card(self) -> ModelCard:
        """What it is and can do."""
        return self._card

    def memory_bytes(self) -> int:
        """Of its weights."""
        return sum(value.numel() * value.element_size() for value in self.task.state_dict().values() if isinstance(value, Tensor))

    def close(self) -> None:
        """Ends its threads; requests that still run raise Unavailable."""
        self.closed = True
        self.merger.close()
        self.walkers.shutdown(wait=False)
        self.encoders.shutdown(wait=False)
        self.let_go()

    def let_go(self) -> None:
        """Once it is closed and nobody is in it, its memory goes back as soon as nobody holds it."""
        if self.closed and not self.inside:
            restore(self.task)

    def steps(self, action: str) -> bool:
        """Whether the action asks a network at each of several steps."""
        return self.walks and self.actions[action].named("steps") is not None

    async def run(self, action: str, arguments: dict[str, Any], *, parameters: dict[str, str] | None = None) -> Result:
        """Runs an action to its end; cancelling the await stops the work within one step."""
        with self.admitted(action) as ticket:
            return await self.result(action, self.actions[action].taken(arguments), ticket, parameters)

    async def stream(
        self, action: str, arguments: dict[str, Any], *, partial_images: int = 0, parameters: dict[str, str] | None = None
    ) -> AsyncGenerator[Event, None]:
        """The same with news on the way; closing the iterator stops the work within one step."""
        with self.admitted(action) as ticket:
            taken = self.actions[action].taken(arguments)
            news = ProgressEvents(partial_images, self.shown)
            ticket.observer = news.step
            work = asyncio.create_task(self.result(action, taken, ticket, parameters))
            try:
                async for event in news.until(work):
                    yield event
            finally:
                work.cancel()

    @contextlib.contextmanager
    def admitted(self, action: str) -> Iterator[PendingRequest]:
        """A place for a request; whatever the request still does when it is left ends. Overloaded where there is no more room."""
        if action not in self.actions:
            raise ValueError(f"{self._card.name} has no such action; it has {', '.join(self.actions) or 'none'}")
        if self.closed:
            raise Unavailable(1.0)
        if self.inside >= self.max_inside:
            raise Overloaded(max(1.0, round(self.mean_seconds * self.inside / self.max_active)))
        ticket, began = PendingRequest(), time.perf_counter()
        self.inside += 1
        try:
            yield ticket
            self.mean_seconds = _PAST * self.mean_seconds + (1 - _PAST) * (time.perf_counter() - began)
        except Cancelled:
            raise Unavailable(1.0) from None
        finally:
            ticket.cancelled = True
            self.inside -= 1
            self.let_go()

    async def result(self, action: str, taken: dict[str, Any], ticket: PendingRequest, parameters: dict[str, str] | None) -> Result:
        """What an action gives, in the form in which it travels."""
        known, method, loop = self.actions[action], self.methods[action], asyncio.get_running_loop()
        tokens = 0 if known.result.picture else self.task.count_tokens(taken.get(known.named("texts") or "", ()))
        packing = Packing(ticket, parameters, taken.get(known.named("seeds") or "", ()), tokens)
        then = packing.few if known.result.picture else packing.numbers
        if self.steps(action):
            made = await loop.run_in_executor(self.walkers, walked, self.merger, ticket, method, taken, time.perf_counter(), then)
        else:
            # a call without rows is like no other, so it runs by itself
            rows = [] if known.joint else [name for name in known.rows if name in taken]
            made = await self.merger.outcome(method, taken, rows, ticket, then)
        return made if isinstance(made, Result) else await loop.run_in_executor(self.encoders, packing.files, made)

    def shown(self, x0: Tensor) -> list[bytes]:
        """A sampler's estimate of what comes out, as files of pictures; none where it is no picture."""
        made = self.task.preview(x0)
        return [] if made is None else pictures.files(made)


@dataclass(frozen=True, slots=True)
class Method:
    """A task's action, whose pictures are pixels already and whose numbers are on the CPU: once for all rows of a merged call."""

    method: Callable[..., Tensor]
    picture: bool

    def __call__(self, **taken: Any) -> Tensor:
        made = self.method(**taken)
        return pictures.pixels(made) if self.picture else made.cpu()


@dataclass(frozen=True, slots=True)
class Packing:
    """How what a request gets becomes its result."""

    ticket: PendingRequest
    parameters: dict[str, str] | None
    seeds: Sequence[int]
    tokens: int

    def numbers(self, made: Tensor) -> Result:
        """Of no pictures."""
        return Result(numbers=made.numpy(), seconds=self.ticket.seconds, batch_size=self.ticket.batch_size, tokens=self.tokens)

    def few(self, pixels: Tensor) -> Result | Tensor:
        """Of pictures that are packed as fast as they could be handed to another thread; others stay what they are."""
        return self.files(pixels) if pixels.numel() <= _SMALL else pixels

    def files(self, pixels: Tensor) -> Result:
        """Of pictures."""
        self.ticket.check()
        began = time.perf_counter()
        images = pictures.packed(pixels, self.parameters, self.seeds)
        self.ticket.seconds["encode"] = time.perf_counter() - began
        return Result(images=images, per_row=pictures.per_row(pixels), seconds=self.ticket.seconds, batch_size=self.ticket.batch_size)


def walked(
    merger: StepBatcher, ticket: PendingRequest, method: Callable[..., Tensor], taken: dict[str, Any], asked: float, then: Callable[[Tensor], Any]
) -> Any:
    """then(...) of what a method gives that goes step by step, in this thread, with its networks' calls merged."""
    ticket.check()
    ticket.seconds["queue"] += time.perf_counter() - asked

    def observer(step: int, steps: int, x: Tensor, x0: Tensor | None) -> None:
        ticket.check()
        if ticket.observer:
            ticket.observer(step, steps, x, x0)

    # also where nobody asked for news: the observer is where a cancelled request ends between steps
    with merger.request(ticket), torch.no_grad(), step_callback(observer):
        made = method(**taken)
    return then(made)


def verified(folder: Path) -> tuple[Path, Manifest]:
    """The newest checkpoint of a run or stage that verifies, or the one that the folder is, with its manifest. ValueError says what is wrong."""
    one = (folder / "manifest.json").is_file()
    paths = [folder] if one else checkpoint.checkpoints(folder / "checkpoints")
    problems = []
    for path in paths:
        try:
            return path, checkpoint.verify(path)
        except ValueError as error:
            problems.append(str(error))
    raise ValueError(problems[0] if problems else f"{folder} holds no checkpoint; name the folder of a run, of one of its stages, or of a checkpoint")
