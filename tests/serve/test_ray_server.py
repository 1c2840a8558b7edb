"""Ray's HAProxy is started as we want it: the settings that we name are Ray's, and its configuration is adapted before it is read."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from ray.serve._private import constants, haproxy_templates

from serve.__main__ import bound
from serve.options import ServeOptions
from serve.servers.ray import NOBODY, adapted, answered, asked, environment, haproxy_settings
from tests.jobs.runs import wait_until


def test_ray_knows_every_setting(tmp_path: Path) -> None:
    source = Path(constants.__file__).read_text()
    assert [name for name in haproxy_settings(tmp_path, ServeOptions()) if f'"{name}"' not in source] == []


def test_the_lines_that_are_adapted_are_in_the_configuration() -> None:
    template = haproxy_templates.HAPROXY_CONFIG_TEMPLATE
    for line in (
        "bind :{{ config.metrics_port }}\n",
        "bind *:{{ config.stats_port }}\n",
        "timeout client {{ config.timeout_client_s }}s{% endif %}\n",
        "    errorfile 503 {{ config.error_file_path }}\n",
        "frontend http_frontend\n",
        "    http-request return status 404 content-type text/plain lf-string",
        "    server {{ backend.fallback_server.name }} {{ backend.fallback_server.host }}:{{ backend.fallback_server.port }} check backup\n",
    ):
        assert template.count(line) == 1


def test_pages_take_no_port_and_heads_get_a_time(tmp_path: Path) -> None:
    file = tmp_path / "haproxy.cfg"
    file.write_text("defaults\n    timeout client 30s\nfrontend a\n    bind :1\nfrontend b\n    bind *:8000\nlisten stats\n  bind *:2\n")
    program = adapted(tmp_path / "haproxy", 2.5)
    found = subprocess.run([program, "-c", "-f", str(file)], capture_output=True, text=True, check=False)
    assert file.read_text().splitlines() == [
        "defaults", "    timeout client 30s", "    timeout http-request 2500ms", "frontend a", f"    bind unix@{program}.1", "frontend b",
        "    bind *:8000", "listen stats", f"  bind unix@{program}.2",
    ]  # fmt: skip
    assert "haproxy.cfg" in found.stdout + found.stderr or found.returncode == 0  # HAProxy itself has read it


def die_of_a_request(replica: socket.socket) -> bytes:
    """What was asked of a replica that is lost then; until then it is well."""
    with replica:
        while True:
            connection, _ = replica.accept()
            with connection:
                if b"/healthz" not in (words := connection.recv(4096)):
                    return words
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")


def test_where_no_replica_is_left_clients_are_told_to_come_again(tmp_path: Path) -> None:
    """Where none is known, and where the known one is lost with the request; at an address that the command holds all the time."""
    held = bound("127.0.0.1", 0)
    door, settings = held.getsockname()[1], haproxy_settings(tmp_path, ServeOptions())
    replica = socket.create_server(("127.0.0.1", 0))
    known = replica.getsockname()[1]
    file = tmp_path / "haproxy.cfg"
    file.write_text(f"""defaults
    mode http
    timeout connect 5s
    timeout client 30s
    timeout server 30s
    option redispatch 1
    retry-on {settings["RAY_SERVE_HAPROXY_RETRY_ON"]}
    retries {settings["RAY_SERVE_HAPROXY_RETRIES"]}
    errorfile 503 {tmp_path / "500.http"}
frontend http_frontend
    bind 127.0.0.1:{door}
    use_backend lost if {{ path /lost }}
    default_backend default_backend
backend default_backend
    http-request return status 404 content-type text/plain lf-string "Path not found"
backend lost
    option httpchk GET /healthz
    http-check expect status 200
    default-server check inter 1s fastinter 250ms
    server replica 127.0.0.1:{known} check observe layer4 error-limit 3 on-error mark-down
    server proxy 127.0.0.1:{known} check backup
""")
    program = adapted(tmp_path / "haproxy", 2.5)
    with subprocess.Popen([program, "-db", "-f", str(file)], stderr=subprocess.DEVNULL) as process, ThreadPoolExecutor(1) as beside:
        try:
            taken = beside.submit(die_of_a_request, replica)
            wait_until(lambda: asked(f"http://127.0.0.1:{door}/", ServeOptions())[0] > 0)
            time.sleep(1.5)  # health checks of all servers have been there
            for path in ("/v1/models", "/lost"):
                with pytest.raises(urllib.error.HTTPError) as error:
                    urllib.request.urlopen(f"http://127.0.0.1:{door}{path}", timeout=10)
                assert (error.value.code, error.value.headers["Retry-After"]) == (503, "1")
                document = json.loads(error.value.read())
                assert (document["error"]["code"], document["error"]["type"]) == (NOBODY, "server_error")
                assert not answered((503, document))
            assert b"GET /lost" in taken.result()
            assert "server proxy" not in file.read_text()
        finally:
            process.terminate()
            held.close()


def test_the_environment_is_as_it_was() -> None:
    before = dict(os.environ)
    with environment({"GENLIB_OF_A_TEST": "1", "PATH": "nowhere"}):
        assert (os.environ["GENLIB_OF_A_TEST"], os.environ["PATH"]) == ("1", "nowhere")
    assert dict(os.environ) == before
