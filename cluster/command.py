"""`genlib cluster`: a head on this machine for several terminals, a job for a cluster, the nodes of one, what is wrong with them, a node that
leaves, files for one."""

from __future__ import annotations

import os
import shlex
import time
from collections.abc import Sequence
from importlib import import_module

from cluster.local import Head, NotStarted, local_head
from cluster.signals import keeps

VALIDATE = "infra.validate:main"
"""What looks at files knows jobs and the server, of which nothing here may."""
USAGE = """usage: genlib cluster start | status | preflight | leave | notices CLOUD | submit -- COMMAND | validate [FILE...]

  start              starts a head on this machine, 127.0.0.1 alone, says how other terminals reach it, and ends it with Ctrl-C
  status             the nodes of the cluster that RAY_ADDRESS names, and what of them is in use
  preflight          looks for what is wrong with its nodes and the links between them, before money is spent; --help shows what it takes
  leave              tells Ray that this machine's node will be gone soon: runs save and go on without it
  notices CLOUD      does so when aws, google or azure gives notice that it takes this machine away; for spot nodes, beside Ray
  submit -- COMMAND  runs a command with this folder as its own as a job, on the cluster that RAY_ADDRESS names, else on a head of its own
  validate [FILE...] says what is wrong with files for clusters, Kubernetes and images, by default those of infra/"""


def main(arguments: Sequence[str]) -> int:
    """Runs the command; the exit code."""
    verb, *words = [*arguments] or ["--help"]
    if verb in ("-h", "--help"):
        print(USAGE)
        return 0
    if verb == "submit":
        from cluster.submit import submit

        if not (command := words[words[:1] == ["--"] :]):
            raise ValueError("what shall I submit? `genlib cluster submit -- genlib train RECIPE`")
        return submit(command)
    if verb == "preflight":
        from cluster import survey

        return survey.main(words)
    if verb in ("leave", "notices"):
        from cluster import notices

        return (notices.leave if verb == "leave" else notices.notices)(words)
    if verb == "validate":
        module, _, function = VALIDATE.partition(":")
        return getattr(import_module(module), function)(words)
    if verb not in ("start", "status") or words:
        verbs = "start, status, preflight, leave, notices CLOUD, submit -- COMMAND or validate [FILE...]"
        raise ValueError(f"`genlib cluster` takes {verbs}, not {shlex.join(arguments)!r}")
    return start() if verb == "start" else status()


def start() -> int:
    """Holds a head until it is interrupted. NotStarted where it does not come up, or ends by itself."""
    with keeps(lambda: "stopped: the head has ended, and what ran on it; runs are kept, and their commands go on with them"), local_head() as head:
        print(reached(head), flush=True)
        while os.waitid(os.P_PID, head.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            time.sleep(0.5)
        raise NotStarted("Ray's head ended by itself; the same command starts another")


def reached(head: Head) -> str:
    """What to type in another terminal."""
    values = {"RAY_ADDRESS": head.address, "RAY_API_SERVER_ADDRESS": head.job_address}
    values |= {name: os.environ[name] for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN_PATH")}
    words = " ".join(f"{name}={shlex.quote(value)}" for name, value in values.items())
    return f"Ray is up at {head.address} until Ctrl-C; commands in another terminal run on it after\n  export {words}"


def status() -> int:
    """Prints a line a node. ValueError where no cluster is named, or none answers."""
    import ray

    from cluster.connect import attached
    from cluster.preflight import words

    address = os.environ.get("RAY_ADDRESS")
    if not address:
        raise ValueError("RAY_ADDRESS names no cluster; set it, or start a head with `genlib cluster start`")
    try:
        with attached(address):
            nodes = [node for node in ray.nodes() if node["Alive"]]
            free = ray.available_resources()
    except (ConnectionError, RuntimeError) as error:
        raise ValueError(f"no cluster answers at RAY_ADDRESS {address}: {str(error).splitlines()[0]}") from None
    kinds = ("CPU", "GPU")
    for node in nodes:
        print(f"{node['NodeManagerAddress']:<16} {words({kind: node['Resources'].get(kind, 0.0) for kind in kinds})}")
    print(f"{'free now':<16} {words({kind: free.get(kind, 0.0) for kind in kinds})}")
    return 0
