"""Kill anything at any time, run the same command again: the same weights, no step missing or twice. `make chaos` prints what comes of each fault."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.chaos.disturbed import STEPS, WORDS
from tests.chaos.faults import FAULTS
from tests.jobs.runs import launch, steps

pytestmark = pytest.mark.ray
QUICK = ("worker_killed",)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    runs = tmp_path_factory.mktemp("undisturbed")
    code, out, err = launch(*WORDS, runs=runs)
    assert code == 0, out + err
    assert steps(runs / "r") == list(range(1, STEPS + 1))
    return runs / "r"


@pytest.mark.xdist_group("chaos")
@pytest.mark.parametrize("name", [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in FAULTS])
def test_a_fault_costs_no_more_than_was_promised(name: str, tmp_path: Path, undisturbed: Path) -> None:
    seed = random.randrange(2**32)
    outcome = FAULTS[name](tmp_path, undisturbed, random.Random(seed))
    assert outcome.good, f"{name}, seed {seed}: {outcome}"
