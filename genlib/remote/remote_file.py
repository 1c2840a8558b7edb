"""Files at URLs: their version, ranges of their bytes, all of them in order, and folders of them.

`s3://BUCKET/KEY`, `gs://`, `az://CONTAINER/KEY` (the account is in the environment), `http(s)://`, and
`hf://datasets/OWNER/NAME/PATH`. Credentials and endpoints come from each store's usual environment variables.
"""

from __future__ import annotations

import math
import re
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from itertools import islice

from braceexpand import braceexpand

from genlib.remote.clients import BUCKETS, DEFAULT_SETTINGS, SCHEMES, RemoteSettings, client_of, hf_endpoint, hub_path, printable_url
from genlib.remote.ranges import FileVersion, ObjectChangedError, Range, fetch, fetch_all, join_range, plan_requests
from genlib.remote.retry import PastEndError, with_retries

__all__ = ["FileVersion", "ObjectChangedError", "RemoteFile", "RemoteSettings", "expand", "is_remote", "put", "read", "stat", "stream", "tree"]

_STARTS = tuple(f"{scheme}://" for scheme in SCHEMES)
_MOST_FILES = 10_000_000
_NUMBERS = re.compile(r"\{(-?\d{1,18})\.\.(-?\d{1,18})(?:\.\.-?(0*[1-9]\d{0,17}))?\}")
_AHEAD = 2


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file at a URL; stands where a path stands for a local one."""

    url: str

    @property
    def name(self) -> str:
        """Last part of the path, without a query."""
        return self._split()[1]

    @property
    def stem(self) -> str:
        """The name without `.tar`."""
        return self.name.removesuffix(".tar")

    def sibling(self, name: str) -> RemoteFile:
        """The file of another name in the same folder."""
        folder, _, query = self._split()
        return RemoteFile(folder + name + query)

    def _split(self) -> tuple[str, str, str]:
        marks = "?#" if self.url.startswith("http") else ""  # elsewhere they are part of a name
        end = min([at for mark in marks if (at := self.url.find(mark)) >= 0], default=len(self.url))
        slash = self.url.rfind("/", 0, end) + 1
        return self.url[:slash], self.url[slash:end], self.url[end:]

    def __str__(self) -> str:
        """For messages: without passwords and signatures."""
        return printable_url(self.url)


def is_remote(where: object) -> bool:
    """Whether this is a URL that can be read here. `file:` and `pipe:` never are."""
    return str(where).startswith(_STARTS)


def stat(file: RemoteFile, *, settings: RemoteSettings = DEFAULT_SETTINGS) -> FileVersion:
    """Size and tag. FileNotFoundError where there is none, OSError where the store does not answer for ranges."""
    try:
        return fetch(file.url, (0, 1), None, settings)[0]
    except PastEndError:
        return _stat_empty(file, settings)


def _stat_empty(file: RemoteFile, settings: RemoteSettings) -> FileVersion:
    import obstore

    client, path = client_of(file.url, settings)
    return with_retries(file.url, settings, lambda: FileVersion.of(obstore.head(client.store, path)))


def read(
    file: RemoteFile, ranges: Sequence[Range], version: FileVersion | None = None, *, settings: RemoteSettings = DEFAULT_SETTINGS
) -> list[bytes]:
    """Bytes of ranges (start, end) in the order given; near ones share a request, far ones are asked for at once.

    ObjectChangedError where the object is of another version, ValueError for a range it does not have, OSError after the last try.
    """
    _check(file, ranges, version)
    parts = plan_requests(ranges, settings)
    try:
        found = list(fetch_all(file.url, parts, version, settings))
    except PastEndError:
        raise ValueError(f"{printable_url(file.url)} has fewer than the {parts[-1][1]} bytes that are asked for; make its index again") from None
    starts, chunks = [start for start, _ in found], [chunk for _, chunk in found]
    return [join_range(wanted, starts, chunks) for wanted in ranges]


def _check(file: RemoteFile, ranges: Iterable[Range], version: FileVersion | None) -> None:
    for start, end in ranges:
        if not 0 <= start <= end or (version and end > version.size):
            size = f" of {version.size} bytes" if version else ""
            raise ValueError(f"{printable_url(file.url)}: {start} to {end} is no range of a file{size}; make its index again")


def stream(file: RemoteFile, chunk_bytes: int = 8 << 20, *, ahead: int = _AHEAD, settings: RemoteSettings = DEFAULT_SETTINGS) -> Iterator[bytes]:
    """All bytes in order, so many chunks ahead. ObjectChangedError where the object changes meanwhile, OSError after the last try."""
    try:
        version, chunks = fetch(file.url, (0, chunk_bytes), None, settings)
    except PastEndError:  # an empty file has no first byte
        return
    client, _ = client_of(file.url, settings)
    starts = iter(range(chunk_bytes, version.size, chunk_bytes))
    waiting: deque[Future] = deque()
    try:
        while True:
            for start in islice(starts, ahead - len(waiting)):
                waiting.append(client.threads.submit(fetch, file.url, (start, start + chunk_bytes), version, settings))
            yield b"".join(chunks)
            if not waiting:
                return
            chunks = waiting.popleft().result()[1]
    finally:
        for future in waiting:
            future.cancel()


def put(file: RemoteFile, content: bytes, *, settings: RemoteSettings = DEFAULT_SETTINGS) -> bool:
    """Writes a file; whether that is allowed. Web servers and the Hub are never written to. OSError after the last try."""
    if not file.url.startswith(tuple(f"{scheme}://" for scheme in BUCKETS)):
        return False
    import obstore

    client, path = client_of(file.url, settings)
    try:
        with_retries(file.url, settings, lambda: obstore.put(client.store, path, content, use_multipart=False))
    except PermissionError:
        return False
    return True


def expand(pattern: str, *, settings: RemoteSettings = DEFAULT_SETTINGS) -> list[RemoteFile]:
    """The files a URL names: braces are written out; a last part with `*`, or a `/` at the end, is looked up in the store.

    ValueError for what is no such URL, and for a look-up on a web server; OSError after the last try.
    """
    if not is_remote(pattern):
        raise ValueError(f"{printable_url(pattern)!r} begins with none of {', '.join(_STARTS)}; write a local file as a plain path")
    if math.prod(abs(int(last) - int(first)) // int(step or 1) + 1 for first, last, step in _NUMBERS.findall(pattern)) > _MOST_FILES:
        raise ValueError(f"{printable_url(pattern)!r} names more than {_MOST_FILES:,} files; is a number in its braces too large?")
    try:
        urls = list(braceexpand(pattern))
    except ValueError:
        raise ValueError(f"{printable_url(pattern)!r}: a brace is not closed; write for example .../{{00000..00099}}.tar") from None
    return [file for url in urls for file in _named(RemoteFile(url), settings)]


def _named(file: RemoteFile, settings: RemoteSettings) -> list[RemoteFile]:
    folder = file.sibling("").url
    if file.name and "*" not in folder + file.name:
        return [file]
    if file.url.startswith("http"):
        raise ValueError(f"{printable_url(file.url)}: a web server does not say which files it has; name them, like .../{{00000..00099}}.tar")
    if "*" in folder:
        raise ValueError(f"{file}: '*' may stand in the last part alone; name the folder")
    found = _on_hub(folder) if folder.startswith("hf://") else with_retries(folder, settings, lambda: _in_store(folder, settings))
    return [file.sibling(name) for name in sorted(found) if fnmatchcase(name, file.name or "*")]


def tree(folder: str, *, settings: RemoteSettings = DEFAULT_SETTINGS) -> list[RemoteFile]:
    """All files of a folder of a store and of the folders in it, by their paths, without hidden ones. Errors as those of `expand`."""
    file = RemoteFile(folder.rstrip("/") + "/")
    if not is_remote(folder) or folder.startswith("http") or "*" in folder:
        return expand(file.url, settings=settings)  # which says why
    look = _on_hub if folder.startswith("hf://") else partial(_in_store, settings=settings)
    found = with_retries(file.url, settings, lambda: look(file.url, below=True))
    return [RemoteFile(file.url + name) for name in sorted(found) if not any(part.startswith(".") for part in name.split("/"))]


def _in_store(folder: str, settings: RemoteSettings, below: bool = False) -> list[str]:
    """Names of the files right in a folder; with `below` the paths of all in it."""
    import obstore

    client, path = client_of(folder, settings)
    if not below:
        return [meta["path"].rpartition("/")[2] for meta in obstore.list_with_delimiter(client.store, path or None)["objects"]]
    begin = path.strip("/") + "/" if path.strip("/") else ""
    return [meta["path"].removeprefix(begin) for some in obstore.list(client.store, begin or None) for meta in some]


def _on_hub(folder: str, below: bool = False) -> list[str]:
    """As `_in_store`, on the Hub, whose client has retries of its own."""
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoFile

    hub = hub_path(folder)
    path = hub.path.rstrip("/")
    try:
        tree = HfApi(hf_endpoint()).list_repo_tree(hub.repository, path or None, recursive=below, revision=hub.revision, repo_type=hub.kind)
        return [entry.path[len(path) :].lstrip("/") for entry in tree if isinstance(entry, RepoFile)]
    except Exception as error:  # of several libraries
        status: int = getattr(getattr(error, "response", None), "status_code", 0)
    kind = {401: PermissionError, 403: PermissionError, 404: FileNotFoundError}.get(status, OSError)
    raise kind(f"{folder}: the Hub does not list it ({f'it says {status}' if status else 'no answer came'})")
