"""`python -m serve` under the largest bodies that it takes, of every route that it has: the process grows by no more than a few times the body."""

from __future__ import annotations

import http.client
import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from serve.limits import Limits
from tests.jobs.runs import ROOT
from tests.serve.hostile import JSON, Attack, Peak, attacks, filled
from tests.serve.models import folders

pytestmark = pytest.mark.slow
LARGEST = (16 << 20) - (64 << 10)
DRAWN = b'{"model":"ddpm","label":3,"num_inference_steps":2}'
TIMES = 8
ALLOWANCE = 24 << 20
"""Of what is no body: answers, pictures on their way, and what the allocator keeps."""
LEFT = 80 << 20
"""What is left of all requests before: modules, the models' own memory, and what the allocator keeps of small blocks."""
PICTURE = Limits().picture_bytes + (64 << 20)
"""What the largest picture takes while it is decoded, however small its file is."""


@contextmanager
def serving(root: Path) -> Iterator[tuple[int, str]]:
    """Tiny models; the process, and the address."""
    words = [sys.executable, "-m", "serve", *(f"{name}={folder}" for name, folder in folders(root / "models").items()), "--port", "0"]
    environment = {**os.environ, "GENLIB_RUNS": str(root / "runs")}
    with (root / "serve.log").open("w") as log:
        process = subprocess.Popen([*words, "--reload-seconds", "0"], cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=log, text=True)
    assert process.stdout
    line = process.stdout.readline()
    assert line.startswith("serving "), (root / "serve.log").read_text()[-2000:]
    try:
        yield process.pid, line.split()[-1]
    finally:
        process.terminate()
        process.wait(60)


def sent(address: str, attack: Attack, content: bytes) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(address.removeprefix("http://"), timeout=120)
    connection.request("POST", attack.path, content, {"Content-Type": attack.kind})
    answer = connection.getresponse()
    found = answer.status, answer.read()
    connection.close()
    return found


def test_no_body_takes_much_more_memory_than_it_has_bytes(tmp_path: Path) -> None:
    rows: list[dict] = []
    with serving(tmp_path) as (pid, address):
        with urllib.request.urlopen(address + "/openapi.json") as answer:
            document = json.loads(answer.read())
        models = {"vae", "ddpm", "clip_tiny"}  # of each kind of action one; the routes with models of all kinds are all asked
        document["paths"] = {path: one for path, one in document["paths"].items() if "/actions/" not in path or path.split("/")[3] in models}
        began_with = Peak(pid).before
        for attack in attacks(document, LARGEST):
            content = attack.make()
            peak, began = Peak(pid), time.perf_counter()
            status, said = sent(address, attack, content)
            time.sleep(0.5 if status == 202 else 0.0)  # the job is a part of it
            row = {"path": attack.path, "name": attack.name, "size": len(content), "status": status, "seconds": round(time.perf_counter() - began, 2)}
            rows.append({**row, "bytes": peak.bytes(), "grown": peak.before + peak.bytes() - began_with, "said": said[:200].decode()})
        assert sent(address, Attack("/v1/images/generations", "", JSON, bytes), DRAWN)[0] == 200
        (tmp_path / "table.jsonl").write_text("\n".join(map(json.dumps, rows)))
    for row in rows:
        assert row["status"] < 500, row
        allowed = PICTURE if "large picture" in row["name"] else ALLOWANCE
        assert row["bytes"] <= TIMES * row["size"] + allowed, row
        assert row["grown"] <= max(TIMES * LARGEST, PICTURE) + LEFT, row  # a picture's memory goes back beside the next request


def test_work_for_a_client_who_leaves_ends_and_none_piles_up(tmp_path: Path) -> None:
    body = b'{"code":' + filled(8 << 20, b"[1],[2,3]") + b"}"
    head = f"POST /v1/models/vae/actions/decode HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: {JSON}\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    with serving(tmp_path) as (front, address):
        host, port = address.removeprefix("http://").split(":")
        peak = Peak(front)
        for _ in range(40):
            with socket.create_connection((host, int(port))) as connection:
                connection.sendall(head + body)
        ticks = cpu(front)
        time.sleep(4)
        later = cpu(front)
        time.sleep(1)
        assert cpu(front) - later < 50, (ticks, later)
        assert peak.bytes() < 16 * TIMES * len(body)
        assert sent(address, Attack("/v1/images/generations", "", JSON, bytes), DRAWN)[0] == 200


def cpu(pid: int) -> int:
    """Hundredths of a second that a process has computed."""
    return sum(map(int, Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[11:13]))
