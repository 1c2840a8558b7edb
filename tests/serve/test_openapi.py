"""The OpenAPI document is exact: schemathesis finds nothing in what it says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from serve.limits import Limits
from serve.models.pool import ModelPool
from tests.serve.models import KEY, ask, listening

COMMAND = [str(Path(sys.executable).with_name("schemathesis")), "--config-file", str(Path(__file__).with_name("schemathesis.toml")), "run"]


@pytest.mark.slow
@pytest.mark.parametrize("phases", ["coverage", "fuzzing,stateful"])
def test_schemathesis_finds_nothing(local: ModelPool, phases: str, tmp_path: Path) -> None:
    with listening(local, keys=(KEY,), limits=Limits(cost=1 << 20)) as address:  # what it asks for takes no longer than it waits
        options = ["-H", f"Authorization: Bearer {KEY}", "--phases", phases, "-n", "20", "--max-time", "60", "--seed", "1"]
        found = subprocess.run(
            [*COMMAND, f"{address}/openapi.json", *options], cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False
        )
    assert found.returncode == 0, found.stdout[-6000:]


def test_every_action_of_every_model_has_a_path_of_its_own(local: ModelPool) -> None:
    document = ask(local, lambda client: client.get("/openapi.json")).json()
    wanted = {f"/v1/models/{card.name}/actions/{action}" for card in local.models() for action in card.actions}
    assert wanted <= set(document["paths"])
    schema = document["paths"]["/v1/images/generations"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert set(schema["properties"]["model"]["anyOf"][0]["enum"]) == {"ddpm", "inpainting", "vae", "ldm_tiny", "gan"} - {"gan"}
