"""The family that CONTRIBUTING.md shows is one, as it stands there."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from genlib import checkpoint, companions, registry
from tests.models.stages import source_of, train_stage
from tune_spaces.base import check_space, defaults, space_of

TEXT = (Path(__file__).parents[1] / "CONTRIBUTING.md").read_text()
NAME = "genlib.models.maps.kmeans"


@pytest.fixture(autouse=True)
def family(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its module and its line in the registry."""
    module = ModuleType(NAME)
    monkeypatch.setitem(sys.modules, NAME, module)
    exec(compile(TEXT.split("```python\n")[1].split("```")[0], "CONTRIBUTING.md", "exec"), module.__dict__)
    assert '"kmeans": "genlib.models.maps.kmeans:kmeans",' in TEXT
    monkeypatch.setitem(registry.RECIPES, "kmeans", f"{NAME}:kmeans")


def test_it_trains_is_judged_and_clusters(tmp_path: Path) -> None:
    (stage,) = registry.load("kmeans").stages
    source = source_of(stage)
    task = checkpoint.load_task(train_stage("kmeans", stage, tmp_path, {}))
    scores = companions.assess(task, source, tmp_path)
    batch = next(source.batches("validation", 300))
    cluster = task.cluster(image=batch["image"])
    votes = torch.zeros(16, 10).index_put_((cluster, batch["label"]), torch.ones(300), accumulate=True)
    assert votes.amax(1).sum() > 0.7 * 300, "most digits are in a cluster of their class"
    assert scores["validation/distance"] < 1.8
    assert task.divergence_reason({"distance": scores["validation/distance"]}) == ""
    assert (tmp_path / "centres.png").exists()


def test_it_can_be_searched_as_it_is() -> None:
    (stage,) = registry.load("kmeans").stages
    ranges = space_of("kmeans", stage)
    assert {"task.spread", "train.optim.learning_rate"} == set(ranges) == set(defaults(stage, ranges))
    check_space(stage, ranges)
