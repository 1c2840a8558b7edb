"""What a run exports: the whole contract is scraped from a real run, and dashboards and alerts ask for nothing else."""

from __future__ import annotations

import json
import math
import re
import shutil
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from cluster.local import local_head
from infra.monitoring.dashboards import DASHBOARDS, HERE, dashboard
from jobs.run_metrics import EXPORTED, RunMetrics, paid_since
from serve.observability import Metrics
from tests.jobs.runs import finish, kill, start, wait_until, workers

ON_GPUS = {"genlib_train_mfu_ratio", "genlib_train_worker_gpu_memory_bytes"}
Samples = dict[str, list[tuple[Mapping[str, str], float]]]


def scraped(head: Path) -> Samples:
    """The values of every series of ours that the nodes of a head serve now, by name; found as Prometheus finds them."""
    found: Samples = {}
    for target in (target for group in json.loads((head / "prom_metrics_service_discovery.json").read_text()) for target in group["targets"]):
        with suppress(urllib.error.URLError), urllib.request.urlopen(f"http://{target}/metrics", timeout=10) as answer:
            families = list(text_string_to_metric_families(answer.read().decode()))
            for one in (sample for family in families for sample in family.samples if sample.name.startswith("ray_genlib_")):
                found.setdefault(one.name.removeprefix("ray_"), []).append((one.labels, one.value))
    return found


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Samples:
    """Of a run with two workers, one of which is killed after a checkpoint, once it goes on."""
    runs, found = tmp_path_factory.mktemp("exported"), []
    with local_head(cpus=2) as head:
        words = ("--workers", "2", "--train.steps", "400", "--task.seconds-per-step", "0.2", "--train.log-every-seconds", "2")
        run = start("toy", *words, "--run", "one", "--train.checkpoint-every-steps", "10", runs=runs, RAY_ADDRESS=head.address)
        wait_until(lambda: len(list((runs / "one" / "checkpoints").glob("step_*"))) >= 2)
        kill(workers(head.pid)[1])

        def complete() -> bool:
            found.append(scraped(head.folder))
            ranks = {labels["rank"] for labels, _ in found[-1].get("genlib_train_worker_step_seconds", [])}
            return ranks == {"0", "1"} and {one.name for one in EXPORTED if one.name.startswith("genlib_train")} - ON_GPUS <= found[-1].keys()

        wait_until(lambda: "resumed" in (runs / "one" / "log.txt").read_text())
        wait_until(complete, timeout_seconds=180)
        run.terminate()
        finish(run)
    return found[-1]


@pytest.mark.ray
def test_a_run_exports_the_whole_contract_with_its_labels(exported: Samples) -> None:
    for one in EXPORTED:
        for labels, _ in exported.get(one.name, []):
            assert set(one.labels) <= labels.keys(), one.name
            assert labels["run"] == "one"
    values = {name: [value for _, value in series] for name, series in exported.items()}
    assert max(values["genlib_train_steps"]) == 400
    assert max(values["genlib_train_restarts_total"]) == 1
    assert 0 < max(values["genlib_train_checkpoint_step"]) <= 400
    assert all(value > 0 for value in values["genlib_train_samples_per_second"])
    parts = [values[f"genlib_train_worker_{part}_seconds"] for part in ("data_wait", "forward", "backward", "optimizer")]
    assert sum(max(part) for part in parts) <= 1.5 * max(values["genlib_train_worker_step_seconds"])
    assert min(values["genlib_train_worker_forward_seconds"]) >= 0.2, "where the toy sleeps"
    useful, paid = (sum(values[f"genlib_train_worker_{kind}_seconds_total"]) for kind in ("useful", "paid"))
    assert 0 < useful < paid, "a start costs, and does nothing"
    assert {labels["rank"] for labels, _ in exported["genlib_train_worker_step_seconds"]} == {"0", "1"}


def expressions() -> Iterator[str]:
    """All that dashboards and alerts ask Prometheus for."""
    for _, panels, choice in DASHBOARDS.values():
        yield choice
        yield from (expression for _, _, drawn in panels for expression, _ in drawn)
    for group in yaml.safe_load((HERE / "alerts.yml").read_text())["groups"]:
        yield from (rule["expr"] for rule in group["rules"])


def test_dashboards_and_alerts_ask_for_what_is_exported_and_for_all_of_it() -> None:
    families = list(Metrics().registry.collect())
    serving = {f"{family.name}{end}" for family in families for end in ("", "_total", "_bucket", "_count", "_sum")}
    asked = {name for one in expressions() for name in re.findall(r"\b(?:ray_genlib|serve)_\w+", one)}
    training = {f"ray_{one.name}" for one in EXPORTED}
    assert {name for name in asked if name.startswith("ray_")} <= training
    assert {name for name in asked if name.startswith("serve_")} <= serving
    beside = {"ray_genlib_train_samples_seen", "ray_genlib_train_samples_per_second_per_worker", "ray_genlib_train_checkpoint_step"}
    assert training - asked == beside, "each other metric is drawn or watched somewhere"


@pytest.mark.parametrize("uid", list(DASHBOARDS))
def test_dashboards_are_what_their_script_makes(uid: str) -> None:
    assert json.loads((HERE / f"{uid}.json").read_text()) == dashboard(uid)
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in dashboard(uid)["panels"]]
    assert len(set(places)) == len(places)


def test_labels_of_expressions_are_those_of_their_metrics() -> None:
    labels = {f"ray_{one.name}": set(one.labels) for one in EXPORTED}
    for one in expressions():
        for name, inside in re.findall(r"\b(ray_genlib_\w+)\{([^}]*)\}", one):
            assert set(re.findall(r"(\w+)\s*[=!]", inside)) <= labels[name], one


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool of Prometheus is not installed")
def test_prometheus_takes_the_rules_and_alerts_fire(tmp_path: Path) -> None:
    rules = yaml.safe_load((HERE / "alerts.yml").read_text())
    for rule in (rule for group in rules["groups"] for rule in group["rules"]):
        assert rule.pop("annotations").keys() == {"summary", "action"}
    (tmp_path / "alerts.yml").write_text(yaml.safe_dump(rules))
    here = '{run="one", stage="main"}'
    series = {
        f"ray_genlib_train_step{here}": "0+10x10 100x30", f"ray_genlib_train_steps{here}": "1000x40",
        f"ray_genlib_train_loss{here}": "1x40", f"ray_genlib_train_skipped_updates{here}": "0x20 3x20",
        f"ray_genlib_train_checkpoint_timestamp_seconds{here}": "0x80",
        'ray_genlib_train_restarts_total{run="one"}': "_x4 1 2 3 4x90",
        'ray_genlib_train_worker_corrupt_samples_total{run="one", stage="main", rank="0", node="a"}': "0x10 3x30",
        'ray_genlib_train_worker_forward_seconds{run="one", stage="main", rank="0", node="a"}': "1x40",
        'ray_genlib_train_worker_forward_seconds{run="one", stage="main", rank="1", node="b"}': "1x40",
        'ray_genlib_train_worker_forward_seconds{run="one", stage="main", rank="2", node="c"}': "2x40",
    }  # fmt: skip
    cases = {
        "TrainingStalled": ("30m", {}),
        "TrainingNotFinite": ("22m", {}),
        "Straggler": ("10m", {"rank": "2", "node": "c"}),
        "SamplesCorrupt": ("15m", {}),
        "CheckpointTooOld": ("70m", {}),
        "TrainingRestartsOften": ("20m", {}),
    }
    quiet = {
        "TrainingStalled": "8m", "TrainingNotFinite": "10m", "SamplesCorrupt": "8m", "CheckpointTooOld": "30m", "Straggler": "2m",
        "TrainingRestartsOften": "6m",
    }  # fmt: skip
    severity = {"TrainingStalled": "page"}
    run = {"run": "one", "stage": "main"}
    tests: list[dict] = [{"eval_time": moment, "alertname": name, "exp_alerts": []} for name, moment in quiet.items()]
    for name, (moment, own) in cases.items():
        labels = {"severity": severity.get(name, "warn"), **({"run": "one"} if name == "TrainingRestartsOften" else run), **own}
        tests.append({"eval_time": moment, "alertname": name, "exp_alerts": [{"exp_labels": labels}]})
    described = {"rule_files": ["alerts.yml"], "evaluation_interval": "1m", "tests": [
        {"interval": "1m", "input_series": [{"series": name, "values": values} for name, values in series.items()], "alert_rule_test": tests},
    ]}  # fmt: skip
    (tmp_path / "test.yml").write_text(yaml.safe_dump(described))
    done = subprocess.run(["promtool", "test", "rules", "test.yml"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_time_is_paid_since_the_launch_or_since_the_run_was_last_heard_of(tmp_path: Path) -> None:
    (tmp_path / "launches.jsonl").write_text('{"what": "launch", "time": 100.0}\n{"what": "launch", "time": 300.0}\n')
    assert paid_since(tmp_path, tmp_path) == 300.0
    (tmp_path / "metrics.jsonl").write_text("{}\n")
    assert paid_since(tmp_path, tmp_path) == pytest.approx((tmp_path / "metrics.jsonl").stat().st_mtime)


def test_a_loss_that_is_not_finite_is_exported_as_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    metrics, said = RunMetrics(tmp_path / "one"), {}
    monkeypatch.setattr(metrics, "set", lambda name, value, label="": said.update({(name, label): value}))
    metrics.line({"step": 3, "train/G/loss": None, "train/G/grad_norm": 2.0, "train/lr": 0.1}, 10)
    assert math.isnan(said["genlib_train_loss", "G/loss"])
    assert said["genlib_train_grad_norm", "G/grad_norm"] == 2.0
    assert said["genlib_train_step", ""] == 3
