"""Ray's HAProxy is started as we want it: the settings that we name are Ray's, and its configuration is adapted before it is read."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from ray.serve._private import constants, haproxy_templates

from serve.options import ServeOptions
from serve.servers.ray import adapted, environment, haproxy_settings


def test_ray_knows_every_setting(tmp_path: Path) -> None:
    source = Path(constants.__file__).read_text()
    assert [name for name in haproxy_settings(tmp_path, ServeOptions()) if f'"{name}"' not in source] == []


def test_the_lines_that_are_adapted_are_in_the_configuration() -> None:
    template = haproxy_templates.HAPROXY_CONFIG_TEMPLATE
    for line in (
        "bind :{{ config.metrics_port }}\n",
        "bind *:{{ config.stats_port }}\n",
        "timeout client {{ config.timeout_client_s }}s{% endif %}\n",
    ):
        assert template.count(line) == 1


def test_pages_are_put_on_loopback_and_heads_get_a_time(tmp_path: Path) -> None:
    file = tmp_path / "haproxy.cfg"
    file.write_text("defaults\n    timeout client 30s\nfrontend a\n    bind :9101\nfrontend b\n    bind *:8000\nlisten stats\n  bind *:8404\n")
    program = adapted(tmp_path / "haproxy", [9101, 8404], 2.5)
    found = subprocess.run([program, "-c", "-f", str(file)], capture_output=True, text=True, check=False)
    assert file.read_text().splitlines() == [
        "defaults", "    timeout client 30s", "    timeout http-request 2500ms", "frontend a", "    bind 127.0.0.1:9101", "frontend b",
        "    bind *:8000", "listen stats", "  bind 127.0.0.1:8404",
    ]  # fmt: skip
    assert "haproxy.cfg" in found.stdout + found.stderr or found.returncode == 0  # HAProxy itself has read it


def test_the_environment_is_as_it_was() -> None:
    before = dict(os.environ)
    with environment({"GENLIB_OF_A_TEST": "1", "PATH": "nowhere"}):
        assert (os.environ["GENLIB_OF_A_TEST"], os.environ["PATH"]) == ("1", "nowhere")
    assert dict(os.environ) == before
