"""What an operator sees: Prometheus metrics, logs, and the trace to which a request belongs. Never a prompt, unless asked."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import os
import re
import time
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import pydantic_core
from prometheus_client import CollectorRegistry, Counter, Gauge

from cluster.screen import LogFormat
from genlib.phases import in_words, since_last
from serve.backend import Result
from serve.histogram import Histogram

LOG = logging.getLogger("serve.requests")
PHASES = logging.getLogger("serve.phases")
_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 300, 600)
_METHODS = ("GET", "POST", "DELETE", "HEAD", "OPTIONS", "PUT", "PATCH")
_POWERS = tuple(2**power for power in range(11))
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_TRACEPARENT = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")


@dataclass(slots=True)
class RequestContext:
    """A request on its way: who it is, and what there is to say of it."""

    request_id: str
    traceparent: str
    """W3C trace context: the caller's trace, or a new one, with a span of our own."""
    method: str = ""
    route: str = "other"
    """Its template, never the path that was asked."""
    status: int = 0
    began: float = field(default_factory=time.perf_counter)
    notes: dict[str, Any] = field(default_factory=dict)
    """Of the work: model, pictures, steps."""
    prompt: str = ""

    def ids(self) -> dict[str, str]:
        """By which lines of several processes are found to be of one request."""
        return {"request_id": self.request_id, "trace_id": self.traceparent[3:35]}


_current: ContextVar[RequestContext | None] = ContextVar("context", default=None)


def current_request() -> RequestContext:
    """The request in whose task this runs; one of its own outside of any."""
    context = _current.get()
    if context is None:
        context = begin_request({})
    return context


def begin_request(headers: Mapping[str, str], method: str = "") -> RequestContext:
    """The context of a request with these headers (names in lower case), which is `current_request` from here on in this task."""
    asked, parent = headers.get("x-request-id", ""), headers.get("traceparent", "")
    digits = os.urandom(36).hex()
    request_id = asked if _REQUEST_ID.fullmatch(asked) else f"req_{digits[:24]}"
    trace, flags = (parent[3:35], parent[-2:]) if _TRACEPARENT.fullmatch(parent) else (digits[24:56], "00")
    context = RequestContext(request_id, f"00-{trace}-{digits[56:]}-{flags}", method)
    _current.set(context)
    return context


class Metrics:
    """Counters of one process, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.requests = Counter("serve_requests", "Requests answered", ("method", "route", "status"), registry=registry)
        self.latency = Histogram(
            "serve_request_seconds", "From the first byte of a request to the last of its answer", ("route",), buckets=_SECONDS, registry=registry
        )
        self.phases = Histogram("serve_phase_seconds", "Where the time of work went", ("model", "phase"), buckets=_SECONDS, registry=registry)
        self.batch = Histogram(
            "serve_batch_rows", "Rows of the largest call that a request was part of", ("model",), buckets=_POWERS, registry=registry
        )
        self.steps = Histogram("serve_steps", "Denoising steps asked for", ("model",), buckets=_POWERS, registry=registry)
        self.pictures = Counter("serve_pictures", "Pictures made", ("model",), registry=registry)
        self.cancelled = Counter("serve_cancelled", "Work stopped because its client went away or said so", ("kind",), registry=registry)
        self.answers = Counter(
            "serve_idempotent_answers", "Requests with an Idempotency-Key, by whether the answer was there", ("cache",), registry=registry
        )
        self.open = Gauge("serve_requests_open", "Requests being read or answered", registry=registry)
        self.jobs = Gauge("serve_jobs", "Jobs of this process", ("state",), registry=registry)
        self._known: dict[tuple[Any, ...], Any] = {}

    def _of(self, metric: Counter, *labels: str | int) -> Any:
        """The counter for these labels, looked up faster than by the library's checks."""
        known = self._known.get((metric, *labels))
        if known is None:
            known = self._known[metric, *labels] = metric.labels(*labels)
        return known

    def closed(self, context: RequestContext) -> None:
        """Counts a request that is answered."""
        method = context.method if context.method in _METHODS else "other"  # a client may invent any number of them
        self._of(self.requests, method, context.route, context.status).inc()
        self.latency.labels(context.route).observe(time.perf_counter() - context.began)

    def worked(self, model: str, steps: int, results: list[Result]) -> None:
        """Counts work that is done."""
        for result in results:
            for phase, seconds in result.seconds.items():
                self.phases.labels(model, phase).observe(seconds)
            if result.batch_size:
                self.batch.labels(model).observe(result.batch_size)
            self._of(self.pictures, model).inc(len(result.images))
        if steps:
            self.steps.labels(model).observe(steps)


def log(context: RequestContext, *, prompts: bool) -> None:
    """One line a request."""
    level = logging.ERROR if context.status >= 500 else logging.INFO
    if not LOG.isEnabledFor(level):
        return
    values = {"method": context.method, "route": context.route, "status": context.status, **context.notes}
    values["seconds"] = round(time.perf_counter() - context.began, 4)
    if prompts and context.prompt:
        values["prompt"] = context.prompt
    extra = {"values": {**values, **context.ids()}}
    LOG.handle(LOG.makeRecord(LOG.name, level, "", 0, "request", (), None, extra=extra))  # `LOG.log` would look through the stack for its caller


@functools.lru_cache(1)
def _second(seconds: int) -> str:
    """A moment to the second, as ISO 8601 has it; most lines share theirs with the one before."""
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))


class JsonFormatter(logging.Formatter):
    """A line of JSON a record: time, level, message, and the record's `values`."""

    def format(self, record: logging.LogRecord) -> str:
        moment = f"{_second(int(record.created))}.{int(record.msecs):03d}Z"
        line = {"time": moment, "level": record.levelname.lower(), "message": record.getMessage(), **getattr(record, "values", {})}
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return pydantic_core.to_json(line, ensure_ascii=True).decode()


class LineHandler(logging.StreamHandler):
    """Writes lines to standard error, those of one turn of an event loop together: each write of its own may cost the thread its turn."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []
        """Of a loop's turn that is not over."""

    def emit(self, record: logging.LogRecord) -> None:
        """See `logging.Handler`."""
        try:
            line = self.format(record) + self.terminator
        except Exception:
            self.handleError(record)
            return
        self.lines.append(line)
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            self.flush()
            return
        if len(self.lines) == 1:
            loop.call_soon(self.flush)

    def flush(self) -> None:
        """Writes what waits."""
        with self.lock or contextlib.nullcontext(), contextlib.suppress(OSError, ValueError):  # nobody reads there any more
            lines, self.lines = self.lines, []
            self.stream.write("".join(lines))
            self.stream.flush()


class TextFormatter(logging.Formatter):
    """A line for a person: the time, what the record says, and its `values`; of a phase its seconds come first."""

    def format(self, record: logging.LogRecord) -> str:
        values = dict(getattr(record, "values", {}))
        if record.name == PHASES.name:
            return in_words(record.getMessage(), values["seconds"])
        level = "" if record.levelno < logging.WARNING else f"{record.levelname.lower()}: "
        said = " ".join(f"{name}={value}" for name, value in values.items() if name not in ("request_id", "trace_id"))
        line = f"{time.strftime('%H:%M:%S', time.localtime(record.created))} {level}{record.getMessage()} {said}".rstrip()
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


def phase(words: str) -> None:
    """Logs that a phase of the server's start is through, with its seconds."""
    PHASES.info(words, extra={"values": {"seconds": round(since_last(), 1)}})


def start_logs(log_format: LogFormat = "auto", level: int = logging.INFO) -> None:
    """Sends this package's logs to standard error, once: as lines of JSON, or as text; auto is text where that is a terminal."""
    logger = logging.getLogger("serve")
    if not any(isinstance(handler, LineHandler) for handler in logger.handlers):
        logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False  # no line says them
        handler = LineHandler()
        readable = log_format == "text" or (log_format == "auto" and handler.stream.isatty())
        handler.setFormatter(TextFormatter() if readable else JsonFormatter())
        logger.addHandler(handler)
    logger.setLevel(level)
    logger.propagate = False
