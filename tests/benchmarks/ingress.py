"""Ways to the same application: `python -m serve` in one process, and a replica of Ray Serve behind its ingress, by itself, and behind HAProxy.

The first is what users start on one machine; the others are what `serve deploy` makes of `--write-config`, by Ray's settings. All have the
5 ms model of `tests.benchmarks.serving`. Requests a second of the first over those of each other one, by turns, with 1 and 32 clients. HAProxy is
the one that comes with Ray, set up as `python -m serve --replicas 2` does.

    OMP_NUM_THREADS=1 python -m tests.benchmarks.ingress
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

from tests.benchmarks.measure import report
from tests.benchmarks.serving import WIDTHS, compared, server, trained

DIRECT, BALANCED = "RAY_SERVE_ENABLE_DIRECT_INGRESS", "RAY_SERVE_ENABLE_HA_PROXY"
SAME_THREAD = {"RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0"}
WAYS = {"Ray Serve's ingress": SAME_THREAD, "HTTP served by the replica": {DIRECT: "1", **SAME_THREAD}, "HAProxy": {BALANCED: "1"}}


def deployed(run: str, port: int) -> None:
    """The application as `serve deploy` runs it, until a signal: prints its address."""
    from ray import serve

    from cluster.connect import connected
    from serve.deployment import APPLICATION, application
    from serve.options import ServeOptions
    from serve.servers.ray import haproxy_settings

    if BALANCED in os.environ:
        os.environ.update(haproxy_settings(Path(tempfile.mkdtemp()), ServeOptions()))
    os.environ["RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT"] = str(port + 1)
    with connected():
        serve.start(http_options={"host": "127.0.0.1", "port": port})
        serve.run(application({"checkpoints": [run]}), name=APPLICATION, route_prefix="/")
        address = f"http://127.0.0.1:{port + 1 if DIRECT in os.environ else port}"
        while not answers(address):
            time.sleep(0.2)
        print(f"serving at {address}", flush=True)
        signal.sigwait({signal.SIGTERM})
        serve.shutdown()  # HAProxy would outlive its Ray


def answers(address: str) -> bool:
    """Whether there are models behind it."""
    try:
        return urllib.request.urlopen(f"{address}/readyz", timeout=5).status == 200
    except OSError:
        return False


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        run = str(trained(Path(folder) / "dcgan", WIDTHS["5 ms"]))
        with server(["serve", run, "--port", "0"], Path(folder)) as ours:
            for number, (way, settings) in enumerate(WAYS.items()):
                os.environ.update(settings)
                with server(["tests.benchmarks.ingress", run, str(18000 + 10 * number)], Path(folder)) as theirs:
                    for clients in (1, 32):
                        slower, facts = compared(theirs, ours, clients)
                        named = {"a_second": facts["ours_a_second"], "p50_ms": facts["ours_p50_ms"], "python_m_serve_p50_ms": facts["theirs_p50_ms"]}
                        report(f"{way}, {clients} clients: requests a second of `python -m serve` over it", slower, must=None, **named)
                for name in settings:
                    del os.environ[name]


if __name__ == "__main__":
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM}) if len(sys.argv) > 1 else None
    deployed(sys.argv[1], int(sys.argv[2])) if len(sys.argv) > 1 else main()
