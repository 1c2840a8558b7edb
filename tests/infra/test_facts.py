"""What files are held against is what the code, Ray and the image say."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from ray.scripts.scripts import start

from infra.checks import facts, schema
from infra.checks.commands import INSTALLED
from infra.checks.kubernetes import amount
from tests.test_house import FOLDERS

ROOT = Path(__file__).parents[2]


def test_variables_are_all_that_the_code_reads() -> None:
    files = subprocess.run(
        ["git", "ls-files", *(f"{folder}/*.py" for folder in FOLDERS if folder != "infra")], cwd=ROOT, capture_output=True, text=True
    )
    read = {name for file in files.stdout.split() for name in re.findall(r"\bGENLIB_[A-Z_]*[A-Z]\b", (ROOT / file).read_text())}
    assert set(facts.VARIABLES) == read


def test_ports_are_those_of_ray() -> None:
    from ray._private import ray_constants

    defaults = {name: parameter.default for parameter in start.params for name in parameter.opts}
    assert facts.PORTS["gcs-server"] == ray_constants.DEFAULT_PORT
    assert facts.PORTS["dashboard"] == defaults["--dashboard-port"]
    assert facts.PORTS["client"] == 10001
    assert facts.serve_port() == 8000


def test_the_image_has_the_code_where_commands_look_for_it() -> None:
    assert f"WORKDIR {INSTALLED}\n" in (ROOT / "infra" / "Dockerfile").read_text()


def test_schemas_name_definitions_that_kubernetes_has() -> None:
    _, definitions = schema.kubernetes()
    for name in ("kuberay", "kueue"):
        named = set(re.findall(r"_definitions.json#/\$defs/([\w.]+)", (ROOT / "infra" / "schemas" / f"{name}.json").read_text()))
        assert named
        assert named <= set(definitions)


def test_amounts_are_numbers() -> None:
    assert [amount(one) for one in ("8", 8, "500m", "16Gi", "1.5k", "2e3", None, "big")] == [8, 8, 0.5, 16 * 2**30, 1500, 2000, 0, 0]
