"""What runs in a cluster is what is tested here, and no older than what is known to be safe."""

import re
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FLOORS = {"ray": "2.60", "torch": "2.10", "transformers": "5.0", "pillow": "12.3", "deepspeed": "0.15.1"}
"""Releases below these have published holes that reach us."""


def numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", text.partition("+")[0]))


@pytest.mark.parametrize(("package", "floor"), list(FLOORS.items()))
def test_dependencies_are_above_their_floor(package: str, floor: str) -> None:
    assert numbers(version(package)) >= numbers(floor)


def test_tests_run_the_pinned_ray() -> None:
    pinned = next(line for line in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"] if line.startswith("ray["))
    assert pinned.endswith(f"=={version('ray')}")


def test_image_and_makefile_install_the_same_torch() -> None:
    found = {re.search(r"torch==[\d.]+", (ROOT / name).read_text()).group() for name in ("Makefile", "infra/Dockerfile")}
    assert len(found) == 1
