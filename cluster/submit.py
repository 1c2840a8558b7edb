"""Submits a command to Ray's job API and follows its log: `python -m cluster.submit -- python jobs/clip_pretrain.py --workers 2`.

To the cluster that RAY_ADDRESS names; without it, to a head on this machine that is started for the job and ends with it.
"""

from __future__ import annotations

if __name__ == "__main__":  # before imports that take a second
    from cluster.quiet import ends_quietly

    ends_quietly()
    import genlib.phases  # noqa: F401 whose clock begins

import asyncio
import logging
import os
import re
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from cluster.connect import passed_on
from cluster.local import local_head
from cluster.screen import screen
from cluster.signals import GRACE_SECONDS, ends_well, interruptible, keeps
from genlib.phases import phase

EXCLUDES = ["/.git", "/.venv", "/data", "/runs", "/build", "*.egg-info", "__pycache__"]
"""Never uploaded with the code; Ray leaves out what .gitignore names as well."""
_MORE_SECONDS = 10.0
"""For the job to hear of a signal, and to say what it kept, beside its own grace time."""
RAY_CHATTER = re.compile(r"^(\S+ )?\S+\s+INFO job_manager\.py|^Running entrypoint for job ")


@contextmanager
def job_address() -> Iterator[tuple[str, bool]]:
    """Where to submit to, and whether it is a head of our own."""
    if address := os.environ.get("RAY_API_SERVER_ADDRESS") or os.environ.get("RAY_ADDRESS"):
        yield address, False
    else:
        with local_head() as head:
            yield head.job_address, True


def submit(command: Sequence[str]) -> int:
    """Runs the command as a job with this folder as its working directory; its exit code."""
    logging.disable(logging.WARNING)  # Ray tells of every file it leaves out
    with screen(), job_address() as (address, ours):
        phase("Ray")
        client, environment = connect(address), {} if ours else passed_on() or {}
        job = client.submit_job(entrypoint=shlex.join(command), runtime_env={"working_dir": ".", "excludes": EXCLUDES, **environment})
        phase(f"job {job}")
        with ends_well(partial(client.stop_job, job), GRACE_SECONDS + _MORE_SECONDS) if ours else keeps(partial(goes_on, job)):
            follow(client, job)
            return code_of(client, job)


def connect(address: str, timeout_seconds: float = 60.0) -> Any:
    """A client of the job API, which comes up a moment after the head; ConnectionError after `timeout_seconds`."""
    from ray.job_submission import JobSubmissionClient

    deadline = time.monotonic() + timeout_seconds
    while True:
        try:
            return JobSubmissionClient(address)
        except (ConnectionError, RuntimeError):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


def follow(client: Any, job: str) -> None:
    """Prints the job's own lines as they come, until it ends."""

    async def lines() -> None:
        rest = ""
        async for text in client.tail_job_logs(job):
            *whole, rest = (rest + text).split("\n")
            for line in whole:
                if not RAY_CHATTER.search(line):
                    print(line, flush=True)
        if rest:
            print(rest, flush=True)

    asyncio.run(lines())


def goes_on(job: str) -> str:
    """A job on a cluster does not end with the command that follows it."""
    return f"job {job} goes on; follow it with `ray job logs --follow {job}`, end it with `ray job stop {job}`"


def code_of(client: Any, job: str) -> int:
    """The exit code of a job that ended, as its command gave it."""
    for _ in range(100):
        info = client.get_job_info(job)
        if info.status.is_terminal():
            if info.driver_exit_code is None and info.message and str(info.status) == "FAILED":
                print(info.message, file=sys.stderr)
            return info.driver_exit_code if info.driver_exit_code is not None else int(str(info.status) != "SUCCEEDED")
        time.sleep(0.1)
    return 1


def main(arguments: Sequence[str]) -> int:
    """`python -m cluster.submit -- COMMAND...`; the exit code of the command."""
    command = list(arguments[1:] if arguments[:1] == ["--"] else arguments)
    if not command:
        print("what shall I submit? `python -m cluster.submit -- python jobs/train.py RECIPE`", file=sys.stderr)
        return 2
    return submit(command)


if __name__ == "__main__":
    sys.exit(interruptible(lambda: main(sys.argv[1:])))
