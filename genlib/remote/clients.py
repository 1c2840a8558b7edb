"""Clients of object stores and web servers: one a (process, store, settings), made at its first use.

A client's threads do not survive a fork: a process forked after the first use is refused rather than left to hang. One that
was spawned makes its own clients.
"""

from __future__ import annotations

import base64
import os
import re
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit, urlunsplit

from genlib.lru_cache import LruCache

_MOST_CLIENTS = 64
_HF_FILE = re.compile(r"hf://(datasets/)?(?!spaces/|buckets/|datasets/)([\w.-]+/[\w.-]+)(?:@([\w.-]+))?(?:/(.*))?", re.DOTALL)
_NO_PATH = re.compile(r"(?:^|/)(?:\.{0,2})(?:/|$)|[\x00-\x1f\x7f]")


@dataclass(frozen=True, slots=True)
class RemoteSettings:
    """How long and how often a client tries, and how many bytes it asks for at once."""

    tries: int = 6
    total_seconds: float = 120.0
    """No further try begins after this time."""
    request_seconds: float = 60.0
    """Longest time of one try; the next one goes on where it stopped."""
    stall_seconds: float = 15.0
    """Longest time without a byte."""
    connect_seconds: float = 5.0
    first_pause_seconds: float = 0.25
    """The pause before another try is uniform below this, which doubles with each try (full jitter)."""
    longest_pause_seconds: float = 10.0
    concurrency: int = 32
    """Requests under way at once to one store from one process."""
    gap_bytes: int = 256 << 10
    """Ranges no farther apart are one request: to read so much takes less time than to ask again."""
    request_bytes: int = 8 << 20
    """Longest range of one request."""
    client_tries: int = 0
    """Further tries of the client itself with each request: of a file that goes out in many parts none may bring back all."""


DEFAULT_SETTINGS = RemoteSettings()


class StoreClient(NamedTuple):
    """Connections to one store, with a bound on the requests under way."""

    store: Any
    """An `obstore` store."""
    limit: threading.BoundedSemaphore
    """Held by each request; there are `RemoteSettings.concurrency` of them."""
    threads: ThreadPoolExecutor


class HubPath(NamedTuple):
    """A file or folder in a repository on the Hugging Face Hub."""

    kind: str
    """dataset or model."""
    repository: str
    revision: str
    path: str


def printable_url(url: str) -> str:
    """A URL as it may be printed: without a user's name, password or signature."""
    if not url.startswith(("http://", "https://")):
        return url
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def hf_endpoint() -> str:
    """Where the Hugging Face Hub is: `HF_ENDPOINT`."""
    return os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")


def hub_path(url: str) -> HubPath:
    """Parts of hf://datasets/OWNER/NAME[@REVISION]/PATH, or of a model's without `datasets/`. ValueError where it is none."""
    found = _HF_FILE.fullmatch(url)
    if not found:
        raise ValueError(f"{url!r} is no path on the Hub; write hf://datasets/OWNER/NAME/PATH, a revision as OWNER/NAME@REVISION")
    return HubPath("dataset" if found[1] else "model", found[2], found[3] or "main", found[4] or "")


def store_and_path(url: str) -> tuple[str, str]:
    """(store, path in it). A store is SCHEME://BUCKET, SCHEME://HOST[?QUERY] or hf://ENDPOINT. ValueError for a path no store has."""
    scheme, _, rest = url.partition("://")
    if scheme in ("http", "https"):
        parts = urlsplit(url)
        store, path = f"{scheme}://{parts.netloc}?{parts.query}", unquote(parts.path[1:])
    elif scheme == "hf":
        file = hub_path(url)
        store = f"hf://{hf_endpoint()}"
        path = f"{'datasets/' if file.kind == 'dataset' else ''}{file.repository}/resolve/{file.revision}/{file.path}"
    else:
        bucket, _, path = rest.partition("/")
        store = f"{scheme}://{bucket}"
    if _NO_PATH.search(path.rstrip("/")) and path:
        raise ValueError(f"{printable_url(url)!r}: stores have no such path; it may not have an empty part, '.', '..' or a control character")
    return store, path


def client_of(url: str, settings: RemoteSettings) -> tuple[StoreClient, str]:
    """The client of a URL's store, and the path in it. OSError in a process that was forked from one with clients."""
    global _owner
    store, path = store_and_path(url)
    if _owner not in (None, os.getpid()):
        raise OSError(f"{printable_url(url)}: this process was forked from one that reads from stores, whose threads it lacks; start it by spawn")
    _owner = os.getpid()
    return _clients[store, settings], path


def _make_client(key: tuple[str, RemoteSettings]) -> StoreClient:
    store, settings = key
    scheme, _, where = store.partition("://")
    make, hint = _MAKERS[scheme]
    try:
        made = make(store if scheme.startswith("http") else where, settings)
    except ImportError:
        raise
    except Exception:  # it may quote what the environment holds
        raise ValueError(f"{printable_url(store)}: no client could be made of the address and the environment; is {hint} right?") from None
    return StoreClient(made, threading.BoundedSemaphore(settings.concurrency), ThreadPoolExecutor(settings.concurrency, "store"))


_owner: int | None = None
"""The process whose clients these are."""
_clients = LruCache(_make_client, _MOST_CLIENTS)


def _options(settings: RemoteSettings, *, insecure: bool = False, headers: dict[str, str] | None = None) -> dict[str, Any]:
    """Arguments every store takes. Its own retries are off for reading: they give up where `genlib.remote.retry` goes on, as in mid-answer."""
    client: dict[str, Any] = {
        "connect_timeout": timedelta(seconds=settings.connect_seconds),
        "read_timeout": timedelta(seconds=settings.stall_seconds),
        "timeout": timedelta(seconds=settings.request_seconds),
    }
    if insecure:
        client["allow_http"] = True
    if headers:
        client["default_headers"] = headers
    return {
        "client_options": client,
        "retry_config": {"max_retries": settings.client_tries, "retry_timeout": timedelta(seconds=settings.total_seconds)},
    }


def _insecure(*names: str) -> bool:
    """Whether the user names an endpoint without TLS in the environment."""
    return any(os.environ.get(name, "").startswith("http://") for name in names)


def _http(root: str, settings: RemoteSettings) -> Any:
    from obstore.store import HTTPStore

    scheme, _, where = root.removesuffix("?").partition("://")
    user, _, host = where.rpartition("@")
    secret = base64.b64encode(unquote(user).encode()).decode()
    headers = {"authorization": f"Basic {secret}"} if user else None
    return HTTPStore(f"{scheme}://{host}", **_options(settings, insecure=scheme == "http", headers=headers))


def _hf(endpoint: str, settings: RemoteSettings) -> Any:
    from huggingface_hub import get_token
    from obstore.store import HTTPStore

    token = get_token()
    headers = {"authorization": f"Bearer {token}"} if token else None  # the client drops it where another host is redirected to
    return HTTPStore(endpoint, **_options(settings, insecure=endpoint.startswith("http://"), headers=headers))


def _s3(bucket: str, settings: RemoteSettings) -> Any:
    from obstore.store import S3Store

    options = _options(settings, insecure=_insecure("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT"))
    return S3Store(bucket, credential_provider=_aws_profile(), **options)


def _aws_profile() -> Any:
    """Keys of a profile in ~/.aws, where boto3 is installed; those of the environment and roles of machines the store finds itself."""
    named = "AWS_PROFILE" in os.environ or (Path.home() / ".aws" / "credentials").exists()
    if not named or {"AWS_ACCESS_KEY_ID", "AWS_SKIP_SIGNATURE", "AWS_WEB_IDENTITY_TOKEN_FILE"} & set(os.environ):
        return None
    try:
        from obstore.auth.boto3 import Boto3CredentialProvider
    except ImportError:
        return None
    return Boto3CredentialProvider()


def _gs(bucket: str, settings: RemoteSettings) -> Any:
    from obstore.store import GCSStore

    return GCSStore(bucket, **_options(settings, insecure=_insecure("GOOGLE_BASE_URL")))


def _az(container: str, settings: RemoteSettings) -> Any:
    from obstore.store import AzureStore

    return AzureStore(container, **_options(settings, insecure=_insecure("AZURE_STORAGE_ENDPOINT", "AZURE_ENDPOINT")))


_MAKERS: dict[str, tuple[Callable[[str, RemoteSettings], Any], str]] = {
    "s3": (_s3, "AWS_ACCESS_KEY_ID with AWS_SECRET_ACCESS_KEY, or for a public bucket AWS_SKIP_SIGNATURE=true,"),
    "gs": (_gs, "GOOGLE_APPLICATION_CREDENTIALS, or for a public bucket GOOGLE_SKIP_SIGNATURE=true,"),
    "az": (_az, "AZURE_STORAGE_ACCOUNT_NAME with AZURE_STORAGE_ACCOUNT_KEY, or for a public container AZURE_SKIP_SIGNATURE=true,"),
    "http": (_http, "the address"),
    "https": (_http, "the address"),
    "hf": (_hf, "HF_ENDPOINT"),
}
SCHEMES = tuple(_MAKERS)
BUCKETS = ("s3", "gs", "az")
"""Schemes of stores that are written to; web servers and the Hub never are."""


def credentials_hint(url: str) -> str:
    """Environment variables in which a store of this scheme looks for credentials or its address."""
    return _MAKERS[url.partition("://")[0]][1].rstrip(",")
