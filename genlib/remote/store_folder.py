"""A folder of an object store that is written to: whole files up and down, small ones at once, and writes on a condition."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

from genlib.remote.clients import BUCKETS, RemoteSettings, client_of
from genlib.remote.ranges import ObjectChangedError
from genlib.remote.remote_file import RemoteFile, stream
from genlib.remote.retry import with_retries

T = TypeVar("T")
Version = tuple[str, str]
"""Of a content: the ETag, by which S3 and Azure know it, and the version, by which Google does."""

WRITE_SETTINGS = RemoteSettings(tries=3, stall_seconds=60.0, client_tries=6)
"""A part of a file goes out within `stall_seconds`, as no byte comes back before its end."""
_PART_BYTES, _MOST_PARTS, _PARTS_AT_ONCE = 8 << 20, 9000, 8
"""Of an upload: S3 takes at most 10,000 parts; that many at once are in memory."""
_FILES_AT_ONCE = 4
_ADDRESS = re.compile(rf"({'|'.join(BUCKETS)})://([^/\s]+)((?:/[^/\s]+)*)/*")


@dataclass(frozen=True, slots=True)
class StoredFile:
    """What a store says of an object."""

    size: int
    """Bytes."""
    modified: datetime


def is_address(text: object) -> bool:
    """Whether it is meant as a folder of a store, rightly written or not: `s3://...`. Local paths have no `://`."""
    return "://" in str(text)


def checked_address(text: str) -> str:
    """The address of a folder in a bucket, without a slash at its end. ValueError where it is none."""
    scheme, _, rest = text.partition("://")
    known = ", ".join(f"{name}://" for name in BUCKETS)
    if scheme not in BUCKETS:
        raise ValueError(f"{text!r} begins with none of {known}; write a folder of a store like s3://BUCKET/runs/NAME, or a local path")
    found = _ADDRESS.fullmatch(text)
    if not found or not found[3] or any(part in (".", "..") for part in found[3].split("/")):
        missing = "no bucket" if not rest.strip("/") or rest.startswith("/") else "no folder in its bucket"
        raise ValueError(f"{text!r} names {missing}; write a folder of a store like {scheme}://BUCKET/runs/NAME")
    return text.rstrip("/")


@dataclass(frozen=True, slots=True)
class StoreFolder:
    """The folder at an address. Names are paths in it. Every method raises OSError in one sentence after the last try."""

    url: str
    settings: RemoteSettings = WRITE_SETTINGS

    def __truediv__(self, name: str) -> StoreFolder:
        return StoreFolder(f"{self.url}/{name}", self.settings)

    def __str__(self) -> str:
        return self.url

    @property
    def name(self) -> str:
        """Its last part."""
        return self.url.rpartition("/")[2]

    def _try(self, name: str, call: Callable[[Any, str], T]) -> T:
        client, path = client_of(f"{self.url}/{name}".rstrip("/"), self.settings)

        def limited() -> T:
            with client.limit:
                return call(client.store, path)

        return with_retries(f"{self.url}/{name}".rstrip("/"), self.settings, limited)

    def files(self) -> dict[str, StoredFile]:
        """All below it by name; none where nothing is there."""
        import obstore

        def listed(store: Any, path: str) -> dict[str, StoredFile]:
            begin = path + "/"
            entries = [meta for some in obstore.list(store, begin) for meta in some]
            return {one["path"].removeprefix(begin): StoredFile(one["size"], one["last_modified"]) for one in entries}

        return self._try("", listed)

    def read(self, name: str) -> tuple[bytes, Version] | None:
        """A small file's content and version; None where there is none."""
        import obstore

        def got(store: Any, path: str) -> tuple[bytes, Version]:
            answer = obstore.get(store, path)
            return bytes(answer.bytes()), _version(answer.meta)

        try:
            return self._try(name, got)
        except FileNotFoundError:
            return None

    def write(self, name: str, content: bytes) -> None:
        """Writes a small file."""
        import obstore

        self._try(name, lambda store, path: obstore.put(store, path, content, use_multipart=False))

    def upload(self, path: Path, name: str) -> None:
        """Writes a file of any size, a few parts of it in memory at a time. What a kill leaves of one is no object."""
        import obstore

        part = max(_PART_BYTES, -(-path.stat().st_size // _MOST_PARTS))
        if path.stat().st_size <= part:
            return self.write(name, path.read_bytes())

        self._try(name, lambda store, where: obstore.put(store, where, path, use_multipart=True, chunk_size=part, max_concurrency=_PARTS_AT_ONCE))

    def download(self, name: str, path: Path) -> None:
        """Writes a file of any size to a path. OSError also where it changes meanwhile."""
        try:
            with open(path, "wb") as file:
                for chunk in stream(RemoteFile(f"{self.url}/{name}"), ahead=_PARTS_AT_ONCE, settings=self.settings):
                    file.write(chunk)
        except ObjectChangedError:
            raise OSError(f"{self.url}/{name} was written anew while it was read") from None

    def delete(self, names: Iterable[str]) -> None:
        """Deletes files that may be there."""
        import obstore

        def gone(store: Any, folder: str) -> None:
            try:
                obstore.delete(store, [f"{folder}/{name}" for name in names])
            except FileNotFoundError:  # which S3 does not say
                for name in names:
                    _delete_one(store, f"{folder}/{name}")

        if names := list(names):
            self._try("", gone)

    def move(self, name: str, to: str) -> None:
        """Gives a file another name."""
        import obstore

        target = client_of(f"{self.url}/{to}", self.settings)[1]
        self._try(name, lambda store, path: obstore.copy(store, path, target))
        self.delete([name])

    def create(self, name: str, content: bytes) -> Version | None:
        """Writes a small file where there is none; its version, None where there is one. After a broken answer that may be this very one."""
        return self._on_condition(name, content, "create")

    def replace(self, name: str, content: bytes, version: Version) -> Version | None:
        """Writes a small file in the place of the one of that version; its new version, None where another one is there, or none."""
        return self._on_condition(name, content, {key: value for key, value in zip(("e_tag", "version"), version, strict=True) if value})

    def _on_condition(self, name: str, content: bytes, mode: Any) -> Version | None:
        import obstore
        from obstore.exceptions import AlreadyExistsError, NotSupportedError, PreconditionError

        def put(store: Any, path: str) -> Version | None:
            try:
                return _version(obstore.put(store, path, content, mode=mode, use_multipart=False))
            except (AlreadyExistsError, PreconditionError):
                return None
            except FileNotFoundError as error:  # of what is to be replaced; a missing bucket is said by the one who retries
                if mode == "create" or "NoSuchBucket" in str(error):
                    raise
                return None
            except (NotSupportedError, NotImplementedError):
                unfit = f"{self.url}: the store does not write on a condition (If-None-Match), without which two launches would mix; use another"
            raise ValueError(unfit)

        return self._try(name, put)


def some_at_once(work: Callable[[T], object], items: Iterable[T]) -> None:
    """Does it with each item; after the first error no other is begun, as one that a store does not answer takes minutes."""
    pool = ThreadPoolExecutor(_FILES_AT_ONCE)
    try:
        list(pool.map(work, items))
    finally:
        pool.shutdown(cancel_futures=True)


def _version(facts: Any) -> Version:
    return facts["e_tag"] or "", facts["version"] or ""


def _delete_one(store: Any, path: str) -> None:
    import obstore

    try:
        obstore.delete(store, path)
    except FileNotFoundError:
        return
