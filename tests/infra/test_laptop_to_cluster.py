"""The page from a laptop to 64 GPUs: its commands are those of programs that exist, name what the files have, and run where they can."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from ray.scripts.scripts import cli

from infra.checks.commands import Node, of_command
from infra.checks.documents import inside
from infra.checks.facts import BUILDS, release

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "infra" / "laptop_to_cluster.md").read_text()
PROGRAMS = {"genlib", "ray", "docker", "kubectl", "helm", "sky", "aws", "gcloud", "pip", "sed", "export", "curl"}
NODES = [Node(8, {"CPU": 192.0, "GPU": 8.0})]
"""Of infra/aws.yaml, the largest cluster of the page."""


@cache
def commands() -> list[str]:
    """The lines of the page's blocks, continued ones joined, without what is said of them."""
    joined = re.sub(r" *\\\n\s*", " ", PAGE)
    return [re.split(r"\s{4,}", line.strip())[0] for line in joined.splitlines() if line.startswith("    ")]


def documents(name: str) -> list[Any]:
    """Of a file of infra/."""
    return list(yaml.safe_load_all((ROOT / "infra" / name).read_text()))


def test_every_line_is_a_command_of_a_known_program() -> None:
    assert len(commands()) > 40
    assert {line.split()[0] for line in commands()} == PROGRAMS


def test_files_that_it_names_exist() -> None:
    named = set(re.findall(r"\binfra/[\w.-]+\.(?:yaml|md)|infra/Dockerfile", PAGE)) | {
        f"infra/{name}" for name in re.findall(r"`([\w-]+\.(?:yaml|lock))`", PAGE)
    }
    assert len(named) >= 10
    assert [name for name in named if not (ROOT / name).is_file()] == []
    shipped = {f"infra/{path.name}" for path in (ROOT / "infra").glob("*.yaml")}
    assert shipped <= named


def test_what_trains_on_a_cluster_is_read_to_its_last_option() -> None:
    jobs = [line.partition(" -- ")[2] for line in commands() if line.startswith("ray job submit")]
    assert {re.search(r"(\w+)_", job)[1] for job in jobs} == {"clip", "sdxl", "stylegan"}  # type: ignore[index]
    for job in jobs:
        assert list(of_command(job, (), NODES, installed="")) == [], job


def test_options_of_ray_exist() -> None:
    seen = set()
    for line in commands():
        words = shlex.split(line.partition(" -- ")[0])
        if words[0] != "ray":
            continue
        command: click.Command = cli
        rest = words[1:]
        while isinstance(command, click.Group):
            assert rest[0] in command.commands, line
            command, rest = command.commands[rest[0]], rest[1:]
        known = {option for parameter in command.params for option in parameter.opts}
        assert [word for word in rest if word.startswith("--") and word.partition("=")[0] not in known] == [], line
        seen.add(command.name)
    assert seen >= {"up", "down", "dashboard", "submit", "get-auth-token"}


def test_images_are_those_that_the_files_ask_for() -> None:
    tags = set(re.findall(r"genlib:(\S+)", PAGE))
    assert tags == {f"{release()}-{build}" for build in BUILDS}
    builds = [shlex.split(line) for line in commands() if line.startswith("docker build")]
    assert {next(word for word in words if word.startswith("TORCH=")).removeprefix("TORCH=") for words in builds} == set(BUILDS)
    assert all(words[words.index("--file") + 1] == "infra/Dockerfile" for words in builds)


def test_names_in_kubernetes_are_those_of_the_files() -> None:
    cluster, service = documents("raycluster.yaml")[0], documents("rayservice.yaml")[0]
    names = {document["metadata"]["name"] for job in ("clip", "sdxl", "stylegan") for document in documents(f"rayjob-{job}.yaml")}
    assert set(re.findall(r"(?:get|delete) rayjob (\S+)|job/(\S+)", PAGE)) <= {(name, "") for name in names} | {("", name) for name in names}
    assert f"service/{cluster['metadata']['name']}-head-svc 8265:8265" in PAGE
    assert f"get secret {cluster['metadata']['name']} --output jsonpath={{.data.auth_token}}" in PAGE
    assert f"service/{service['metadata']['name']}-serve-svc 8000:8000" in PAGE
    head = inside(service, "spec", "rayClusterConfig", "headGroupSpec", "template", "spec", "containers", 0)
    (key,) = [one["valueFrom"]["secretKeyRef"] for one in head["env"] if one["name"] == "GENLIB_API_KEYS"]
    assert f"create secret generic {key['name']} --from-literal {key['key']}=" in PAGE
    claims = {claim["metadata"]["name"] for claim in documents("storage.yaml")}
    volumes = inside(documents("rayjob-clip.yaml")[0], "spec", "rayClusterSpec", "headGroupSpec", "template", "spec", "volumes")
    assert {volume["persistentVolumeClaim"]["claimName"] for volume in volumes} == claims
    queue = next(one for one in documents("kueue.yaml") if one["kind"] == "LocalQueue")["metadata"]["name"]
    assert {documents(f"rayjob-{job}.yaml")[0]["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] for job in ("clip", "sdxl", "stylegan")} == {queue}


def test_variables_of_the_task_are_those_that_it_is_given() -> None:
    task = documents("skypilot.yaml")[0]
    (launch,) = [shlex.split(line) for line in commands() if line.startswith("sky jobs launch")]
    given = [launch[number + 1].partition("=")[0] for number, word in enumerate(launch) if word in ("--env", "--secret")]
    assert sorted(given) == sorted(name for where in ("envs", "secrets") for name, value in task[where].items() if value is None)


@pytest.mark.slow
@pytest.mark.ray
def test_what_runs_on_a_laptop_runs(tmp_path: Path) -> None:
    block = re.search(r"<!-- runs here -->\n((?:    .+\n)+)", PAGE)
    assert block
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "PYTHONPATH": os.environ.get("PYTHONPATH", str(ROOT))}
    for line in [re.split(r"\s{4,}", line.strip())[0] for line in block[1].splitlines()]:
        done = subprocess.run(["bash", "-ec", line], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=500)
        assert done.returncode == 0, (line, done.stdout, done.stderr)
    assert (tmp_path / "runs" / "first").is_dir()
