"""What `--write-config` writes, without a cluster."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from genlib.trusted_packages import VARIABLE
from serve.__main__ import write_config
from serve.options import ServeOptions
from serve.servers.replicas import Replicas


@pytest.mark.parametrize(("packages", "wanted"), [("skylib", {"env_vars": {VARIABLE: "skylib"}}), ("", {})])
def test_replicas_trust_the_packages_that_the_command_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, packages: str, wanted: dict[str, object]
) -> None:
    monkeypatch.setenv(VARIABLE, packages)
    write_config(tmp_path / "serve.yaml", (), Replicas(), ServeOptions())
    (application,) = yaml.safe_load((tmp_path / "serve.yaml").read_text())["applications"]
    assert application["runtime_env"] == wanted
