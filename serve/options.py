"""How a server is set up: where it listens, who may use it, how much."""

from __future__ import annotations

import ipaddress
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from serve.limits import Limits

KEYS = "GENLIB_API_KEYS"
"""Environment variable with the keys that clients may use, between commas: on a command line any user of the machine could read them."""
_KEY_CHARACTERS = 16


def environment_keys() -> tuple[str, ...]:
    """The keys that the environment names."""
    return tuple(filter(None, (key.strip() for key in os.environ.get(KEYS, "").split(","))))


@dataclass(frozen=True, kw_only=True, slots=True)
class ServeOptions:
    """Made once, at the start. ValueError in one sentence where it would be unsafe."""

    host: str = "127.0.0.1"
    """Where it listens. Any other than this machine's own address needs a key."""
    keys: Annotated[tuple[str, ...], tyro.conf.Suppress] = field(default_factory=environment_keys, repr=False)
    """Any of them opens every route; several, so that one can be replaced while the other is still in use. None: no key is asked."""
    hosts: tuple[str, ...] = ()
    """Names under which clients reach it, beside this machine's own; only without a key, where a name that someone else chose is refused."""
    cors_origins: tuple[str, ...] = ()
    """Origins of pages elsewhere that may use the API, as `https://example.org`."""
    limits: Limits = field(default_factory=Limits)
    requests_at_once: int = 256
    """More are refused with 429."""
    request_timeout_seconds: float = 600.0
    connections: int = 4096
    """That are open at once; the newest ends where there are more, or no more files may be open."""
    head_timeout_seconds: float = 10.0
    """In which the first line and the headers of a request must come."""
    read_timeout_seconds: float = 30.0
    """In which a client must take a part of the answer that waits for it."""
    idle_timeout_seconds: float = 75.0
    """That a connection is kept for a next request: longer than a load balancer keeps it, which would use one that ends."""
    body_timeout_seconds: float = 10.0
    """By which a body may be behind one of `body_bytes_per_second`, at its start as at any time after, however fast it came before."""
    body_bytes_per_second: int = 16 << 10
    heartbeat_seconds: float = 10.0
    """A stream without news says that it lives."""
    log_prompts: bool = False
    png_parameters: bool = True
    """Pictures carry what they were made of, unless a request refuses."""
    held_out: bool = True
    """Whoever may use the server may see the held-out samples that runs kept, for trying their models."""
    jobs_folder: Path | None = None
    """Where jobs and their pictures are kept; None: a temporary folder, gone with the process."""
    jobs_bytes: int = 2 << 30
    """Of all jobs on disk, those that wait or run too. The oldest that are over go once they are more; a new one that does not fit is refused."""
    jobs_waiting: int = 1000
    jobs_running: int = 8
    job_timeout_seconds: float = 24 * 3600.0
    answers_bytes: int = 64 << 20
    """Answers kept on disk, beside jobs, for repeated requests with the same Idempotency-Key."""

    def __post_init__(self) -> None:
        if not self.keys and not is_loopback(self.host):
            raise ValueError(
                f"host {self.host} can be reached from other machines, and there is no API key; put one into {KEYS}, or listen on 127.0.0.1"
            )
        if any(len(key) < _KEY_CHARACTERS or not key.isascii() or not key.isprintable() or " " in key for key in self.keys):
            raise ValueError(
                f"an API key has fewer than {_KEY_CHARACTERS} characters, or some that no header takes; take one of `openssl rand -hex 24`"
            )
        if "*" in self.cors_origins:
            raise ValueError("cors_origins has *, which lets any page use this server; name the origins")


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
