"""Tars that a stranger might hand in: one for each way to harm a reader, with what must be left of them.

Every tar holds good samples around the hostile part. `python -m tests.data.hostile CASE...` reads the named ones as training does,
in the working folder, under limits of memory and CPU time, and prints a JSON line for each.
"""

from __future__ import annotations

import base64
import json
import re
import resource
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.data.shards import Entry, pair

BLOCK = 512
END = bytes(2 * BLOCK)
MEMORY_BYTES = 1 << 30
"""What reading may take beside what Python and PyTorch hold before."""
CPU_SECONDS = 100
"""What all cases together may take; they take a tenth."""
AROUND = ("00000", "00002")
ALL = ("00000", "00001", "00002")


@dataclass(frozen=True)
class Case:
    """A tar and what must come of it: keys of the samples that are read, bad ones by reason, those that fail to decode later."""

    tar: bytes
    keys: Sequence[str] = AROUND
    bad: Mapping[str, int] = field(default_factory=dict)
    fails: Mapping[str, int] = field(default_factory=dict)


def header(name: bytes, size: int | bytes = 0, kind: bytes = b"0", magic: bytes = b"ustar\x0000", link: bytes = b"") -> bytes:
    """A tar header with a true checksum, whatever its fields say; `size` may be the raw field of 12 bytes."""
    raw_size = b"%011o\0" % size if isinstance(size, int) else size
    block = bytearray(BLOCK)
    block[:100] = name[:100].ljust(100, b"\0")
    block[100:124] = b"0000644\x000000000\x000000000\0"
    block[124:156] = raw_size + b"00000000001\0" + b" " * 8
    block[156:257] = kind + link.ljust(100, b"\0")
    block[257:265] = magic
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def padded(content: bytes) -> bytes:
    """FileContent filled up to a whole block."""
    return content + bytes(-len(content) % BLOCK)


def member(name: str | bytes, content: bytes = b"", **how) -> bytes:
    """A member with its data."""
    raw = name.encode() if isinstance(name, str) else name
    return header(raw, how.pop("size", len(content)), **how) + padded(content)


def members(entries: Sequence[Entry]) -> bytes:
    """Regular members one after the other."""
    return b"".join(member(name, content) for name, content in entries)


def record(key: bytes, value: bytes) -> bytes:
    """One PAX record `length key=value`."""
    body = b" " + key + b"=" + value + b"\n"
    length = len(body) + 1
    while len(str(length)) + len(body) != length:
        length = len(str(length)) + len(body)
    return b"%d" % length + body


def pax(*records: tuple[bytes, bytes], kind: bytes = b"x") -> bytes:
    """A PAX header for the next member."""
    return member("./PaxHeaders/0", b"".join(record(*each) for each in records), kind=kind)


def long_name(name: bytes) -> bytes:
    """A GNU header that names the next member."""
    return member("././@LongLink", name + b"\0", kind=b"L")


def around(middle: bytes) -> bytes:
    """A tar with good samples 0 and 2 and something between them."""
    return members(pair(0)) + middle + members(pair(2)) + END


def one(*without: str) -> list[Entry]:
    """Sample 1 without some of its members."""
    return [entry for entry in pair(1) if not entry[0].endswith(tuple(without) or "-")]


def instead(extension: str, content: bytes, of: str = "") -> bytes:
    """A tar whose sample 1 has this member instead of its own with the extension `of`."""
    return around(members([*one(of or extension), (f"00001.{extension}", content)]))


def _survivors(source) -> dict[str, int]:
    """Samples that count, by key, with the value of their picture."""
    found, count = {}, source.num_samples("train")
    for position, batch in zip(range(count), source.batches("train", 1), strict=False):
        if batch["valid"].item():
            key = source.keys("train", [position], 1)[0].partition(":")[2]
            found[key] = round(float(batch["image"].mean()) * 255)
    return found


def _read(path: Path) -> dict[str, object]:
    from genlib.config import DataConfig
    from genlib.data.shards.shard_set import ShardSet
    from genlib.data.source import open_source

    shards = ShardSet.open([path])
    if not len(shards):
        return {"found": {}, "bad": shards.bad, "fails": {}, "fields": shards.fields}
    source = open_source(DataConfig(train=str(path), image_size=8, cache_mb=0))
    return {"found": _survivors(source), "bad": shards.bad, "fails": source.failures, "fields": shards.fields}


def _kilobytes(name: str) -> int:
    return int(re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())[1])


def main(names: Sequence[str]) -> None:
    """Reads the cases; a limit that is passed ends the process."""
    import torch

    from tests.data.hostile_cases import CASES

    torch.set_num_threads(1)
    Path("warm.tar").write_bytes(members(pair(0)) + END)
    _read(Path("warm.tar"))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
    for name in names:
        tar = CASES[name]().tar
        before = _kilobytes("VmSize") << 10
        resource.setrlimit(resource.RLIMIT_AS, (before + MEMORY_BYTES, resource.RLIM_INFINITY))
        path = Path(f"{base64.urlsafe_b64encode(name.encode()).decode()}.tar")
        path.write_bytes(tar)
        print(json.dumps({"case": name, **_read(path)}), flush=True)
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


if __name__ == "__main__":
    main(sys.argv[1:])
