"""Files at URLs: the right bytes through any passing fault, and one sentence in a bounded time for any that stays."""

from __future__ import annotations

import itertools
import multiprocessing
import resource
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from genlib.remote import clients, remote_file
from genlib.remote.ranges import join_range, plan_requests
from genlib.remote.remote_file import FileVersion, ObjectChangedError, RemoteFile, RemoteSettings
from tests.remote import servers
from tests.remote.servers import FileServer

ROOT = Path(__file__).parents[3]
CONTENT = np.random.default_rng(0).bytes(300_000)
QUICK = RemoteSettings(
    tries=4, total_seconds=20, first_pause_seconds=0.01, longest_pause_seconds=0.05, gap_bytes=1000, request_bytes=100_000, concurrency=4
)
HURRIED = replace(QUICK, total_seconds=3, stall_seconds=0.3, request_seconds=0.6, connect_seconds=0.3)
RANGES = [(5, 5), (250_000, 250_100), (10, 900), (200, 1000), (299_999, 300_000), (0, 0)]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    with FileServer({"/d/a.tar": CONTENT, "/d/empty.tar": b"", "/d/b c%é.tar": b"odd"}) as server:
        yield server


@pytest.fixture
def file(server: FileServer) -> RemoteFile:
    return RemoteFile(f"{server.url}/d/a.tar")


def _expected(ranges: list[tuple[int, int]]) -> list[bytes]:
    return [CONTENT[start:end] for start, end in ranges]


def _sentence(error: BaseException) -> str:
    """The error's text, which must be one line of bounded length."""
    text = str(error)
    assert "\n" not in text
    assert len(text) < 400
    return text


# --- without faults


def test_ranges_come_in_the_order_asked_for(file: RemoteFile) -> None:
    assert remote_file.read(file, RANGES, settings=QUICK) == _expected(RANGES)
    assert remote_file.read(file, [], settings=QUICK) == []
    assert remote_file.read(file, [(7, 7)], settings=QUICK) == [b""]


@given(st.lists(st.tuples(st.integers(0, 300), st.integers(0, 300)).map(sorted), max_size=8), st.integers(0, 40), st.integers(1, 90))
@examples(deadline=None)
def test_the_plan_covers_every_range_and_no_byte_twice(ranges: list[list[int]], gap: int, most: int) -> None:
    wanted = [(start, end) for start, end in ranges]
    parts = plan_requests(wanted, replace(QUICK, gap_bytes=gap, request_bytes=most))
    assert all(0 < end - start <= most for start, end in parts)
    assert all(before[1] <= after[0] for before, after in itertools.pairwise(parts))
    assert {byte for start, end in wanted for byte in range(start, end)} <= {byte for start, end in parts for byte in range(start, end)}
    assert [join_range(each, [start for start, _ in parts], [CONTENT[start:end] for start, end in parts]) for each in wanted] == _expected(wanted)


def test_near_ranges_share_a_request_and_long_ones_are_split(server: FileServer, file: RemoteFile) -> None:
    near = [(start, start + 100) for start in range(0, 50_000, 1000)]
    assert remote_file.read(file, near, settings=QUICK) == _expected(near)
    assert server.spans() == [(0, 49_100)]
    server.asked.clear()
    far = [(0, 10), (2000, 2010), (50_000, 290_000)]
    assert remote_file.read(file, far, settings=QUICK) == _expected(far)
    assert sorted(server.spans()) == [(0, 10), (2000, 2010), (50_000, 150_000), (150_000, 250_000), (250_000, 290_000)]


def test_stat_tells_one_content_from_another(server: FileServer, file: RemoteFile) -> None:
    first = remote_file.stat(file, settings=QUICK)
    assert first.size == len(CONTENT)
    assert first.tag
    assert remote_file.stat(file, settings=QUICK) == first
    server.files["/d/a.tar"] = CONTENT[::-1]
    assert remote_file.stat(file, settings=QUICK).tag != first.tag
    server.tags["/d/a.tar"] = ""
    assert "2026-01-01" in remote_file.stat(file, settings=QUICK).tag
    server.dated = False
    assert remote_file.stat(file, settings=QUICK) == FileVersion(len(CONTENT), "")


def test_an_empty_file(server: FileServer) -> None:
    empty = RemoteFile(f"{server.url}/d/empty.tar")
    assert remote_file.stat(empty, settings=QUICK).size == 0
    assert list(remote_file.stream(empty, settings=QUICK)) == []
    assert remote_file.read(empty, [(0, 0)], settings=QUICK) == [b""]


@pytest.mark.parametrize("chunk_bytes", [1, 7, 100_000, 299_999, 300_000, 300_001, 1 << 20])
def test_stream_gives_all_bytes_in_order(file: RemoteFile, server: FileServer, chunk_bytes: int) -> None:
    server.files["/d/a.tar"] = content = CONTENT if chunk_bytes > 10 else CONTENT[:50]
    chunks = list(remote_file.stream(file, chunk_bytes, settings=QUICK))
    assert b"".join(chunks) == content
    assert all(len(chunk) == chunk_bytes for chunk in chunks[:-1])


def test_a_stream_that_is_left_asks_for_little_more(file: RemoteFile, server: FileServer) -> None:
    chunks = remote_file.stream(file, 1000, settings=QUICK)
    next(chunks)
    chunks.close()
    assert len(server.asked) <= 4


def test_names_are_read_as_written_in_a_url(server: FileServer) -> None:
    assert remote_file.read(RemoteFile(f"{server.url}/d/b%20c%25%C3%A9.tar"), [(0, 3)], settings=QUICK) == [b"odd"]


def test_a_signed_address_keeps_its_query(server: FileServer) -> None:
    file = RemoteFile(f"{server.url}/d/a.tar?sig=a%2Fb&x=1")
    assert (file.name, file.stem) == ("a.tar", "a")
    assert file.sibling("a.tar.idx").url == f"{server.url}/d/a.tar.idx?sig=a%2Fb&x=1"
    assert remote_file.read(file, [(0, 9)], settings=QUICK) == [CONTENT[:9]]
    assert server.asked[-1].path == "/d/a.tar?sig=a%2Fb&x=1"


def test_a_bucket_may_have_odd_names() -> None:
    file = RemoteFile("s3://bucket/a?b/c#d.tar")
    assert (file.name, file.sibling("x").url, str(file)) == ("c#d.tar", "s3://bucket/a?b/x", file.url)
    assert clients.store_and_path(file.url) == ("s3://bucket", "a?b/c#d.tar")


def test_requests_under_way_are_bounded(server: FileServer, file: RemoteFile) -> None:
    server.hold_seconds = 0.05
    far = [(start, start + 10) for start in range(0, 300_000, 10_000)]
    with ThreadPoolExecutor(8) as threads:
        for got in threads.map(lambda _: remote_file.read(file, far, settings=QUICK), range(4)):
            assert got == _expected(far)
    assert 2 <= server.most_at_once <= QUICK.concurrency


# --- faults that pass


PASSING = {
    "500": servers.status(500),
    "503 with Retry-After": servers.status(503, Retry_After="1"),
    "429": servers.status(429),
    "408": servers.status(408),
    "reset before an answer": servers.refuse_at_once,
    "reset within the body": servers.reset(70_000),
    "reset before the body": servers.reset(0),
    "truncated": servers.truncate(70_000),
    "the whole file": servers.whole,
    "another range": servers.other_range(1),
    "a longer range": servers.other_range(0, 1),
    "a shorter range": servers.other_range(0, -1),
    "no end": servers.endless(206),
    "not HTTP": servers.garbage,
}
STALLS = {"stall": servers.stall(), "stall within the body": servers.stall(70_000), "one byte at a time": servers.drip}


@pytest.mark.parametrize("name", PASSING)
@pytest.mark.parametrize("tag", ["etag", "no etag"])
def test_a_passing_fault_heals(server: FileServer, file: RemoteFile, name: str, tag: str) -> None:
    server.tags.update({"/d/a.tar": ""} if tag == "no etag" else {})
    server.faults.extend([PASSING[name]] * 2)
    assert remote_file.read(file, [(100, 90_000)], settings=QUICK) == [CONTENT[100:90_000]]
    server.faults.extend([servers.sound, PASSING[name]])
    assert b"".join(remote_file.stream(file, 90_000, settings=QUICK)) == CONTENT
    server.faults.append(PASSING[name])
    assert remote_file.stat(file, settings=QUICK).size == len(CONTENT)


@pytest.mark.parametrize("name", STALLS)
def test_a_stall_heals(server: FileServer, file: RemoteFile, name: str) -> None:
    server.faults.append(STALLS[name])
    if name == "one byte at a time":  # what came so is no part of the file
        server.files["/d/a.tar"] = b"x" * 300_000
    assert remote_file.read(file, [(100, 90_000)], settings=HURRIED) == [server.files["/d/a.tar"][100:90_000]]


def test_another_try_goes_on_where_the_last_one_stopped(server: FileServer) -> None:
    server.files["/big"] = content = CONTENT * 10
    server.faults.extend([servers.truncate(1_500_000), servers.reset(700_000)])
    assert remote_file.read(RemoteFile(f"{server.url}/big"), [(0, 3_000_000)], settings=replace(QUICK, request_bytes=1 << 30)) == [content]
    starts = [span[0] for span in server.spans() if span]
    assert starts[0] == 0
    assert 1_000_000 < starts[1] <= 1_500_000 < starts[2]


def test_without_a_tag_another_try_begins_anew(server: FileServer, file: RemoteFile) -> None:
    server.tags["/d/a.tar"], server.dated = "", False
    server.faults.append(servers.truncate(50_000))
    assert remote_file.read(file, [(0, 100_000)], settings=QUICK) == [CONTENT[:100_000]]
    assert server.spans() == [(0, 100_000)] * 2


# --- faults that stay


LASTING = {
    "500": (servers.status(500, b"SECRET"), "500 Internal Server Error"),
    "503": (servers.status(503), "503"),
    "truncated": (servers.truncate(0), "the connection broke"),
    "reset": (servers.refuse_at_once, "the connection broke"),
    "the whole file": (servers.whole, "does not answer requests for ranges"),
    "another range": (servers.other_range(1), "another range"),
    "no end": (servers.endless(206), "without its length"),
    "not HTTP": (servers.garbage, "makes no sense"),
}


@pytest.mark.parametrize("name", LASTING)
def test_a_lasting_fault_ends_in_a_sentence_after_all_tries(server: FileServer, file: RemoteFile, name: str) -> None:
    fault, text = LASTING[name]
    server.faults.extend([fault] * 99)
    with pytest.raises(OSError, match=text) as caught:
        remote_file.read(file, [(0, 1000)], settings=QUICK)
    assert "4 times" in _sentence(caught.value)
    assert file.url in str(caught.value)
    assert "SECRET" not in "".join(traceback.format_exception(caught.value))
    assert len(server.asked) == 4


@pytest.mark.parametrize("name", STALLS)
def test_a_lasting_stall_ends_within_its_time(server: FileServer, file: RemoteFile, name: str) -> None:
    server.faults.extend([STALLS[name]] * 99)
    began = time.monotonic()
    with pytest.raises(OSError, match="in time") as caught:
        remote_file.read(file, [(0, 90_000)], settings=HURRIED)
    assert time.monotonic() - began < 4 * (HURRIED.total_seconds + HURRIED.request_seconds)
    _sentence(caught.value)


@pytest.mark.parametrize(("code", "kind"), [(400, OSError), (403, PermissionError), (401, PermissionError), (404, FileNotFoundError), (410, OSError)])
def test_a_refusal_is_not_tried_again(server: FileServer, file: RemoteFile, code: int, kind: type[OSError]) -> None:
    server.faults.extend([servers.status(code, b"SECRET")] * 9)
    with pytest.raises(kind) as caught:
        remote_file.stat(file, settings=QUICK)
    assert "times" not in _sentence(caught.value)
    assert len(server.asked) == 1


def test_nobody_listens(server: FileServer) -> None:
    server._server.server_close()
    with pytest.raises(OSError, match="no connection could be made, 4 times"):
        remote_file.stat(RemoteFile(f"{server.url}/d/a.tar"), settings=QUICK)
    with pytest.raises(OSError, match="no connection"):
        remote_file.stat(RemoteFile("https://nowhere.invalid/a.tar"), settings=QUICK)


def test_time_is_bounded_even_with_many_tries(server: FileServer, file: RemoteFile) -> None:
    server.faults.extend([servers.status(500)] * 10_000)
    with pytest.raises(OSError, match="500"):
        remote_file.read(file, [(0, 10)], settings=replace(QUICK, tries=10_000, total_seconds=0.5))
    assert len(server.asked) < 1000


def test_no_secret_is_told(server: FileServer, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> None:
    secrets = ("USER", "PASSWORD", "SECRET", "Signature")
    url = f"{server.url.replace('//', '//USER:PASSWORD@')}/d/a.tar?X-Amz-Signature=SECRET"
    for fault in (servers.status(500), servers.status(403), servers.status(404), servers.whole, servers.refuse_at_once):
        server.faults.extend([fault] * 9)
        with pytest.raises(OSError, match=r"127.0.0.1.*/d/a.tar") as caught:
            remote_file.read(RemoteFile(url), [(0, 10)], settings=QUICK)
        server.faults.clear()
        told = "".join(traceback.format_exception(caught.value)) + repr(caught.value.__context__) + caplog.text + "".join(capfd.readouterr())
        assert not [secret for secret in secrets if secret in told]
    assert server.asked[0].headers["authorization"].startswith("Basic ")
    for wrong in (url.replace("/d/", "/d/../"), url.replace("a.tar", "*"), url.replace("/d/", "/{d/")):
        with pytest.raises(ValueError, match="d/") as refused:
            [remote_file.stat(file) for file in remote_file.expand(wrong)]
        assert not [secret for secret in secrets if secret in "".join(traceback.format_exception(refused.value)).replace(url, "")]


# --- another object


def test_a_changed_object_is_refused(server: FileServer, file: RemoteFile) -> None:
    stamp = remote_file.stat(file, settings=QUICK)
    assert remote_file.read(file, [(0, 10)], stamp, settings=QUICK) == [CONTENT[:10]]
    for other in (CONTENT[::-1], CONTENT[:1000], CONTENT + b"more"):
        server.files["/d/a.tar"] = other
        for ranges in ([(0, 10)], [(290_000, 290_010)], [(0, 10), (100_000, 100_010)]):
            with pytest.raises(ObjectChangedError, match="not what it was") as caught:
                remote_file.read(file, ranges, stamp, settings=QUICK)
            _sentence(caught.value)


def test_no_range_is_made_of_two_contents(server: FileServer, file: RemoteFile) -> None:
    def change(handler) -> None:
        servers.truncate(50_000)(handler)
        server.files["/d/a.tar"] = CONTENT[::-1]

    server.faults.append(change)
    with pytest.raises(ObjectChangedError):
        remote_file.read(file, [(0, 100_000)], settings=QUICK)


def test_a_stream_is_not_made_of_two_contents(server: FileServer, file: RemoteFile) -> None:
    chunks = remote_file.stream(file, 50_000, settings=QUICK)
    next(chunks)
    server.files["/d/a.tar"] = CONTENT[::-1]
    with pytest.raises(ObjectChangedError):
        list(chunks)


def test_ranges_of_two_contents_are_not_mixed(server: FileServer, file: RemoteFile) -> None:
    def change(handler) -> None:
        handler.answer()
        server.files["/d/a.tar"] = CONTENT[::-1]

    server.faults.append(change)
    with pytest.raises(ObjectChangedError):
        remote_file.read(file, [(0, 10), (100_000, 100_010), (200_000, 200_010)], settings=replace(QUICK, concurrency=1))


def test_a_range_the_file_does_not_have(file: RemoteFile) -> None:
    stamp = remote_file.stat(file, settings=QUICK)
    for known in (None, stamp):
        for wrong in ((0, 300_001), (300_000, 300_001), (400_000, 500_000), (-1, 5), (5, 4)):
            with pytest.raises(ValueError, match="make its index again") as caught:
                remote_file.read(file, [(0, 5), wrong], known, settings=QUICK)
            _sentence(caught.value)


# --- bounds


def test_an_endless_body_is_cut_off(server: FileServer, file: RemoteFile) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    server.faults.extend([servers.flood] * 4)
    with pytest.raises(OSError, match=r"more bytes came|makes no sense"):
        remote_file.read(file, [(0, 90_000)], settings=QUICK)
    server.faults.clear()
    server.faults.extend([servers.endless(200)] * 4)
    with pytest.raises(OSError, match="ranges"):
        remote_file.stat(file, settings=QUICK)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10  # KiB


def test_memory_is_that_of_the_ranges(server: FileServer) -> None:
    server.files["/big"], server.tags["/big"] = bytes(64 << 20), '"zeros"'
    code = (
        "import resource, sys; from genlib.remote import remote_file; f = remote_file.RemoteFile(sys.argv[1]); remote_file.read(f, [(0, 9)]);"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss;"
        "[None for _ in remote_file.stream(f, 1 << 20)]; remote_file.read(f, [(n << 20, (n << 20) + 9) for n in range(64)]);"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    grown = subprocess.run([sys.executable, "-c", code, f"{server.url}/big"], cwd=ROOT, capture_output=True, text=True, check=True, timeout=120)
    assert int(grown.stdout) < 24 << 10  # KiB


# --- where a URL may lead


def test_redirections_are_followed_to_the_web_alone(server: FileServer, file: RemoteFile) -> None:
    with FileServer({"/moved/a.tar": CONTENT}) as other:
        server.faults.append(servers.status(302, Location=f"{other.url}/moved/a.tar"))
        secret = RemoteFile(file.url.replace("//", "//USER:PASSWORD@"))
        assert remote_file.read(secret, [(3, 9)], settings=QUICK) == [CONTENT[3:9]]
        assert "authorization" in server.asked[0].headers
        assert "authorization" not in other.asked[0].headers
    for place in ("file:///etc/passwd", "ftp://127.0.0.1/a", "data:,x", "gopher://x"):
        server.faults.extend([servers.status(302, Location=place)] * QUICK.tries)
        with pytest.raises(OSError, match=r"302|makes no sense"):
            remote_file.read(file, [(0, 5)], settings=QUICK)
        server.faults.clear()
    server.faults.extend([servers.status(302, Location=file.url)] * 99)
    with pytest.raises(OSError, match="redirected"):
        remote_file.read(file, [(0, 5)], settings=QUICK)


@pytest.mark.parametrize(
    "where", ["a.tar", "/a/b.tar", "file:///a.tar", "file:/a.tar", "pipe:cat a.tar", "pipe://cat", "ftp://h/a", "memory:///a", "s3:/b/a", ""]
)
def test_what_is_not_far_away_is_refused(where: str) -> None:
    assert not remote_file.is_remote(where)
    with pytest.raises(ValueError, match="plain path"):
        remote_file.expand(where)


@pytest.mark.parametrize("url", ["s3://b/../a", "s3://b//a", "s3://b/./a", "https://h/a/../../b", "http://h/a%0a", "hf://x", "hf://spaces/a/b/c.tar"])
def test_a_path_no_store_has(url: str) -> None:
    with pytest.raises(ValueError, match=r"no such path|no path on the Hub") as caught:
        remote_file.stat(RemoteFile(url))
    _sentence(caught.value)


def test_braces_are_written_out() -> None:
    found = remote_file.expand("https://h/d/{00..02}-{a,b}.tar?q=1")
    assert [file.url for file in found] == [f"https://h/d/{n:02}-{c}.tar?q=1" for n in range(3) for c in "ab"]
    assert remote_file.expand("s3://b/k.tar") == [RemoteFile("s3://b/k.tar")]
    with pytest.raises(ValueError, match="not closed"):
        remote_file.expand("s3://b/{00..02")
    for endless in ("{0..99999999999}", "{99999999999..0}", "{0..9999}{0..9999}", "{0..9999}-{a,b,c}-{0..9999}"):
        with pytest.raises(ValueError, match="more than"):
            remote_file.expand(f"s3://b/{endless}.tar")


def test_a_web_server_cannot_be_listed(server: FileServer) -> None:
    for pattern in (f"{server.url}/d/", f"{server.url}/d/*.tar", f"{server.url}/*/a.tar"):
        with pytest.raises(ValueError, match="name them"):
            remote_file.expand(pattern)
    assert not remote_file.put(RemoteFile(f"{server.url}/d/new"), b"x")
    assert server.asked == []


def test_an_address_of_no_server() -> None:
    with pytest.raises(ValueError, match="no client could be made") as caught:
        remote_file.stat(RemoteFile("http://h:notaport/a"))
    _sentence(caught.value)


# --- processes


def _first_bytes(url: str) -> bytes:
    return remote_file.read(RemoteFile(url), [(0, 9)], settings=QUICK)[0]


def test_a_spawned_process_reads(file: RemoteFile) -> None:
    assert _first_bytes(file.url) == CONTENT[:9]
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(_first_bytes, (file.url,)) == CONTENT[:9]


_FORK = """
import os, signal, sys
from genlib.remote import remote_file
file = remote_file.RemoteFile(sys.argv[1])
if sys.argv[2] == "used":
    remote_file.stat(file)
child = os.fork()
if child == 0:
    signal.alarm(20)
    try:
        print(len(remote_file.read(file, [(0, 9)])[0]), flush=True)
    except OSError as error:
        print(error, flush=True)
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
print(remote_file.stat(file).size)
"""


@pytest.mark.parametrize("parent", ["used", "unused"])
def test_a_forked_process_reads_or_is_told_at_once(file: RemoteFile, parent: str) -> None:
    done = subprocess.run([sys.executable, "-c", _FORK, file.url, parent], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60)
    said, size = done.stdout.splitlines()
    assert said == "9" if parent == "unused" else "by spawn" in said
    assert size == "300000"


def test_threads_share_a_client(file: RemoteFile) -> None:
    with ThreadPoolExecutor(8) as threads:
        made = list(threads.map(lambda _: clients.client_of(file.url, QUICK)[0], range(64)))
    assert all(client is made[0] for client in made)


def test_clients_of_many_signed_addresses_are_let_go(server: FileServer) -> None:
    for number in range(80):
        assert remote_file.read(RemoteFile(f"{server.url}/d/a.tar?sig={number}"), [(0, 9)], settings=QUICK) == [CONTENT[:9]]
    assert len(clients._clients) <= 64
