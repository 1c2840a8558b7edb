"""What `--write-config` writes runs on a cluster by Ray Serve's own command."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.local import held_port, local_head
from tests.jobs.runs import ROOT, wait_until
from tests.models.stages import train_stages

pytestmark = [pytest.mark.ray, pytest.mark.slow]


def post(address: str, body: dict[str, Any]) -> Any:
    request = urllib.request.Request(f"{address}/v1/images/generations", json.dumps(body).encode(), {"content-type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return {"status": error.code, **json.loads(error.read())}


def ready(address: str) -> bool:
    try:
        return urllib.request.urlopen(f"{address}/readyz", timeout=5).status == 200
    except OSError:
        return False


def test_what_is_written_is_deployed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = next(iter(train_stages("ddpm", tmp_path).values())).parents[1]
    monkeypatch.setenv("GENLIB_RUNS", str(tmp_path))
    file, door = tmp_path / "serve.yaml", held_port()
    words = [sys.executable, "-m", "serve", f"digits={run}", "--replicas", "1:2", "--cpus-per-replica", "0.5", "--write-config", str(file)]
    subprocess.run([*words, "--limits.pictures", "3"], cwd=ROOT, check=True)
    config = yaml.safe_load(file.read_text())
    config["http_options"]["port"] = door.getsockname()[1]
    file.write_text(yaml.safe_dump(config))
    address = f"http://127.0.0.1:{door.getsockname()[1]}"
    with door, local_head(dashboard=True) as head:
        command = [str(Path(sys.executable).parent / "serve"), "deploy", str(file), "-a", head.job_address]
        subprocess.run(command, cwd=ROOT, env=os.environ, check=True, timeout=120)
        wait_until(lambda: ready(address), timeout_seconds=120)
        made = post(address, {"model": "digits", "prompt": "three", "seed": 3, "num_inference_steps": 2})
        assert "error" not in made
        assert made["data"][0]["seed"] == 3
        assert post(address, {"model": "digits", "prompt": "three", "n": 4})["status"] == 400  # the limit that the file holds
        with urllib.request.urlopen(f"{address}/metrics", timeout=30) as answer:
            assert b'serve_pictures_total{model="digits",replica="' in answer.read()
