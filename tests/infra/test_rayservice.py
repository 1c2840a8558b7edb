"""The Kubernetes file says what Ray Serve and our application take."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.serve.schema import ServeDeploySchema

from serve import deployment
from serve.options import KEYS

ROOT = Path(__file__).parents[2]


@pytest.fixture
def config() -> dict[str, Any]:
    """What stands under serveConfigV2."""
    return yaml.safe_load(yaml.safe_load((ROOT / "infra" / "rayservice.yaml").read_text())["spec"]["serveConfigV2"])


def test_ray_serve_takes_it(config: dict[str, Any]) -> None:
    (application,) = ServeDeploySchema.model_validate(config).applications
    assert application.import_path == f"{deployment.__name__}:{deployment.application.__name__}"


def test_the_application_takes_its_arguments(config: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEYS, "correct-horse-battery-staple")
    (arguments,) = [application["args"] for application in config["applications"]]
    assert set(arguments) == {"checkpoints", "replicas", "options"}
    assert asdict(deployment.Replicas(**arguments["replicas"]))["most"] == 8
    assert str(deployment.options_of(arguments["options"]).jobs_folder) == "/runs/.serve"


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"checkpoint": []}, "argument 'checkpoint'"), ({"replicas": {"gpu": 1}}, "setting of replicas 'gpu'"),
        ({"options": {"keys": ["x" * 20]}}, "option 'keys'"), ({"options": {"limits": {"megabytes": 1}}}, "limit 'megabytes'"),
    ],
)  # fmt: skip
def test_what_it_does_not_know_is_named(arguments: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=f"there is no {named}; there are "):
        deployment.application(arguments)
