"""Who listens where: the sockets of a process and of all below it, from the kernel's tables, as `ss -lntup` shows them."""

from __future__ import annotations

import ipaddress
import os
import socket
import threading
from dataclasses import dataclass
from pathlib import Path

from tests.jobs.runs import command_of, descendants

_STATES = {"tcp": "0A", "udp": "07"}
"""A TCP socket that listens, a UDP socket that is connected to nobody."""


@dataclass(frozen=True, slots=True)
class Socket:
    """One that takes what arrives at an address."""

    pid: int
    command: str
    protocol: str
    address: str
    port: int

    @property
    def beyond_loopback(self) -> bool:
        """Whether another machine can reach it."""
        address = ipaddress.ip_address(self.address)
        return not (getattr(address, "ipv4_mapped", None) or address).is_loopback


class Watch:
    """Looks again and again at the sockets of the process and of all below it, until the block is left.

    `seen`: every one that there was, by the kernel's number of it.
    """

    def __init__(self, pid: int) -> None:
        self.pid, self.over = pid, threading.Event()
        self.seen: dict[str, Socket] = {}

    def __enter__(self) -> Watch:
        self.thread = threading.Thread(target=self.look)
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.thread.join()

    def look(self) -> None:
        """In a thread of its own."""
        while not self.over.wait(0.1):
            for number, one in sockets({self.pid, *descendants(self.pid)}).items():
                if one.command or number not in self.seen:  # a process that ends has none any more
                    self.seen[number] = one

    def of(self, command: str) -> list[Socket]:
        """Those of processes with such a command."""
        return [one for one in self.seen.values() if command in one.command]

    def beyond_loopback(self) -> list[Socket]:
        """Those that other machines could reach."""
        return [one for one in self.seen.values() if one.beyond_loopback]

    def left(self) -> list[Socket]:
        """Those that are still there, whoever has them now."""
        return [self.seen[number] for number in self.seen.keys() & table().keys()]


def sockets(pids: set[int]) -> dict[str, Socket]:
    """The sockets of these processes, by the kernel's numbers."""
    there = table()
    return {number: Socket(pid, command_of(pid), *there[number]) for pid in pids for number in numbers(pid) & there.keys()}


def numbers(pid: int) -> set[str]:
    """The kernel's numbers of all sockets that the process has open."""
    found = set()
    for link in Path(f"/proc/{pid}/fd").glob("*"):
        try:
            found.add(os.readlink(link).removeprefix("socket:[").removesuffix("]"))
        except OSError:  # closed meanwhile
            continue
    return found


def table() -> dict[str, tuple[str, str, int]]:
    """Protocol, address and port of every socket of the machine that listens, by the kernel's number."""
    found = {}
    for name, family in (("tcp", socket.AF_INET), ("tcp6", socket.AF_INET6), ("udp", socket.AF_INET), ("udp6", socket.AF_INET6)):
        path = Path(f"/proc/net/{name}")
        for line in path.read_text().splitlines()[1:] if path.exists() else ():
            fields = line.split()
            if fields[3] == _STATES[name[:3]]:
                address, _, port = fields[1].partition(":")
                raw = bytes.fromhex(address)
                words = b"".join(raw[at : at + 4][::-1] for at in range(0, len(raw), 4))
                found[fields[9]] = (name[:3], socket.inet_ntop(family, words), int(port, 16))
    return found
