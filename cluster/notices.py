"""A node that is about to be taken away: telling Ray so, by hand or at the notice of a cloud, lets runs save and go on elsewhere in time.

The notices are those of AWS (spot/instance-action, two minutes before), Google (instance/preempted, half a minute) and Azure (scheduledevents).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path

from cluster.connect import attached
from cluster.words import Words

LOOK_SECONDS = 5.0
_NO_WORK = ("ray::IDLE", "ray::DashboardAgent", "ray::RuntimeEnvAgent")
_ANSWER_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Cloud:
    """Where a cloud answers to its machines, and how a notice is read there."""

    address: str
    """Of the service."""
    notice: Callable[[str], float | None]
    """Seconds that are left, by the service at an address; None where there is no notice. OSError where nobody answers."""


def asked(address: str, headers: Mapping[str, str], method: str = "GET") -> str:
    """What a metadata service says; empty for 404, which is its way to say that there is nothing. OSError where it does not answer."""
    request = urllib.request.Request(address, headers=dict(headers), method=method)
    try:
        with urllib.request.urlopen(request, timeout=_ANSWER_SECONDS) as answer:
            return answer.read(1 << 20).decode()
    except urllib.error.HTTPError as error:
        if error.code == 404:
            return ""
        raise


def of_aws(address: str) -> float | None:
    """EC2's instance metadata, version 2: `{"action": "terminate", "time": "2026-09-18T08:22:00Z"}` once there is a notice."""
    token = asked(f"{address}/latest/api/token", {"X-aws-ec2-metadata-token-ttl-seconds": "60"}, "PUT")
    said = asked(f"{address}/latest/meta-data/spot/instance-action", {"X-aws-ec2-metadata-token": token})
    return until(datetime.fromisoformat(json.loads(said)["time"])) if said else None


def of_google(address: str) -> float | None:
    """Compute Engine's metadata: TRUE, thirty seconds before the end."""
    said = asked(f"{address}/computeMetadata/v1/instance/preempted", {"Metadata-Flavor": "Google"})
    return 30.0 if said.strip() == "TRUE" else None


def of_azure(address: str) -> float | None:
    """Azure's scheduled events, of which those of the type Preempt tell when."""
    said = asked(f"{address}/metadata/scheduledevents?api-version=2020-07-01", {"Metadata": "true"})
    events = [event for event in json.loads(said or "{}").get("Events", ()) if event.get("EventType") == "Preempt"]
    return min((until(parsedate_to_datetime(event["NotBefore"])) for event in events if event.get("NotBefore")), default=30.0) if events else None


CLOUDS = {
    "aws": Cloud("http://169.254.169.254", of_aws),
    "google": Cloud("http://metadata.google.internal", of_google),
    "azure": Cloud("http://169.254.169.254", of_azure),
}


def until(moment: datetime) -> float:
    """Seconds from now, at least none; a time without a zone is UTC."""
    return max(0.0, (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() - time.time())


def leave(words: Sequence[str]) -> int:
    """Tells Ray that this machine's node will be gone soon: runs save a checkpoint and go on without it."""
    parser = Words("leave", leave.__doc__)
    parser.add_argument("--seconds", type=int, default=60, help="until it is gone (%(default)s)")
    parser.add_argument("--wait", action="store_true", help="returns once nothing of Ray's works on this machine any more, or the time is over")
    parser.add_argument("--node", default="", help="id of another node than this machine's")
    options = parser.parse_args(words)
    if options.seconds < 0:
        raise ValueError(f"--seconds is {options.seconds}; it must be at least 0, for example 60")
    end = time.monotonic() + options.seconds
    say_gone(options.node or this_node(), options.seconds, "asked by `genlib cluster leave`")
    while options.wait and works() and time.monotonic() < end:
        time.sleep(0.5)
    return 0


def notices(words: Sequence[str]) -> int:
    """As `genlib cluster leave`, once the cloud gives notice that it takes this machine away; it runs beside Ray on every spot node."""
    parser = Words("notices", notices.__doc__)
    parser.add_argument("cloud", choices=CLOUDS)
    parser.add_argument("--metadata", default="", help="address of the cloud's metadata service, where it is not the usual one")
    options = parser.parse_args(words)
    cloud, node = CLOUDS[options.cloud], this_node()
    address = options.metadata or cloud.address
    while (left := notice_of(cloud, address)) is None:
        time.sleep(LOOK_SECONDS)
    say_gone(node, left, f"notice of {options.cloud}")
    return 0


def notice_of(cloud: Cloud, address: str) -> float | None:
    """As of `Cloud.notice`; a service that does not answer now, or not as it should, is asked again."""
    try:
        return cloud.notice(address)
    except (OSError, ValueError, KeyError) as error:
        print(f"{address} gave no answer ({error}); it is asked again in {LOOK_SECONDS:g} s", file=sys.stderr, flush=True)
        return None


def this_node() -> str:
    """The id of this machine's node. ValueError where it is none of a cluster."""
    import ray

    try:
        with attached(os.environ.get("RAY_ADDRESS", "auto")):
            return ray.get_runtime_context().get_node_id()
    except (ConnectionError, RuntimeError) as error:
        raise ValueError(f"this machine is no node of a cluster that answers: {str(error).splitlines()[0]}; start Ray first") from None


def works() -> bool:
    """Whether a task or an actor of Ray's runs on this machine: Ray names its processes after what they do."""
    names = map(_name, Path("/proc").glob("[0-9]*/cmdline"))
    return any(name.startswith("ray::") and not name.startswith(_NO_WORK) for name in names)


def _name(command_line: Path) -> str:
    with suppress(OSError):  # its process is gone
        return command_line.read_bytes().partition(b"\0")[0].decode(errors="replace")
    return ""


def say_gone(node: str, seconds: float, why: str) -> None:
    """Has Ray know that the node will be gone by then. ValueError where Ray refuses."""
    address = [f"--address={os.environ['RAY_ADDRESS']}"] if os.environ.get("RAY_ADDRESS") else []
    command = [
        sys.executable, "-c", "from ray.scripts.scripts import main; main()", "drain-node", *address, f"--node-id={node}",
        "--reason=DRAIN_NODE_REASON_PREEMPTION", f"--reason-message={why}", f"--deadline-remaining-seconds={seconds:.0f}",
    ]  # fmt: skip
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        said = [line.strip() for line in done.stdout.splitlines() if line.strip()] or ["it said nothing"]
        raise ValueError(f"Ray did not take that node {node} leaves: {said[-1]}")
    print(f"node {node} leaves within {seconds:.0f} s ({why}): runs save and go on without it", flush=True)
