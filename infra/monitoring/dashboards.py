"""Grafana's dashboards over what training, searches and serving export.

`python infra/monitoring/dashboards.py` writes their JSON beside this file.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from genlib.json_text import json_text

HERE = Path(__file__).parent
WIDTH, HEIGHT = 8, 7
"""Of a panel, three of which fill a row."""
SOURCE = {"type": "prometheus", "uid": "${source}"}
OF_RUN = '{run=~"$run"}'
Panel = tuple[str, str, Sequence[tuple[str, str]]]
"""Title, unit, and what is drawn: expressions with the legend of each."""


def _worker(name: str) -> str:
    return f"avg by (run, stage) (ray_genlib_train_worker_{name}_seconds{OF_RUN})"


TRAINING: tuple[Panel, ...] = (
    ("Loss", "short", [(f"ray_genlib_train_loss{OF_RUN}", "{{run}} {{stage}} {{name}}")]),
    ("Samples a second", "short", [(f"ray_genlib_train_samples_per_second{OF_RUN}", "{{run}} {{stage}}")]),
    ("Done", "percentunit", [(f"ray_genlib_train_step{OF_RUN} / ray_genlib_train_steps{OF_RUN}", "{{run}} {{stage}}")]),
    ("Gradient norm", "short", [(f"ray_genlib_train_grad_norm{OF_RUN}", "{{run}} {{stage}} {{name}}")]),
    ("Learning rate", "sci", [(f"ray_genlib_train_learning_rate{OF_RUN}", "{{run}} {{stage}}")]),
    ("Updates left out", "short", [(f"ray_genlib_train_skipped_updates{OF_RUN}", "{{run}} {{stage}}")]),
    (
        "A step's seconds, mean of the workers",
        "s",
        [(_worker(part), f"{{{{run}}}} {words}") for part, words in
         (("data_wait", "waiting for data"), ("forward", "forward"), ("backward", "backward"), ("optimizer", "optimizer"), ("step", "all"))],
    ),
    ("Forward pass by worker: who is slow", "s", [(f"ray_genlib_train_worker_forward_seconds{OF_RUN}", "{{run}} rank {{rank}} {{node}}")]),
    ("Share of the time that waits for data", "percentunit", [(f"ray_genlib_train_data_wait_ratio{OF_RUN}", "{{run}} {{stage}}")]),
    (
        "Goodput: useful over paid worker-seconds",
        "percentunit",
        [(
            f"sum by (run) (rate(ray_genlib_train_worker_useful_seconds_total{OF_RUN}[10m]))"
            f" / sum by (run) (rate(ray_genlib_train_worker_paid_seconds_total{OF_RUN}[10m]))",
            "{{run}}",
        )],
    ),
    ("Age of the newest checkpoint", "s", [(f"time() - ray_genlib_train_checkpoint_timestamp_seconds{OF_RUN}", "{{run}} {{stage}}")]),
    ("From a save's begin to its seal", "s", [(f"ray_genlib_train_checkpoint_seconds{OF_RUN}", "{{run}} {{stage}}")]),
    ("Workers", "short", [(f"ray_genlib_train_workers{OF_RUN}", "{{run}} {{stage}}")]),
    (
        "Samples that cannot be read",
        "short",
        [(f"sum by (run, stage) (ray_genlib_train_worker_corrupt_samples_total{OF_RUN})", "{{run}} {{stage}}")],
    ),
    (
        "Restarts",
        "short",
        [
            (f"sum by (run) (ray_genlib_train_restarts_total{OF_RUN})", "{{run}}: workers lost or hung"),
            (f"sum by (run) (ray_genlib_train_preemptions_total{OF_RUN})", "{{run}}: nodes taken away"),
        ],
    ),
    ("GPU memory at most", "bytes", [(f"ray_genlib_train_worker_gpu_memory_bytes{OF_RUN}", "{{run}} rank {{rank}}")]),
    ("Share of the GPUs' peak (MFU)", "percentunit", [(f"ray_genlib_train_mfu_ratio{OF_RUN}", "{{run}} {{stage}}")]),
)  # fmt: skip

TUNING: tuple[Panel, ...] = (
    ("Trials", "short", [(f"ray_genlib_tune_trials{OF_RUN}", "{{run}} {{name}}")]),
    ("Best value so far", "short", [(f"ray_genlib_tune_best_value{OF_RUN}", "{{run}}")]),
    ("Trials that ended in an hour", "short", [('delta(ray_genlib_tune_trials{run=~"$run", name="finished"}[1h])', "{{run}}")]),
)

_LATENCY = "histogram_quantile({}, sum by (le, route) (rate(serve_request_seconds_bucket[5m])))"
SERVING: tuple[Panel, ...] = (
    ("Requests a second", "reqps", [("sum by (route) (rate(serve_requests_total[5m]))", "{{route}}")]),
    (
        "Refused and failed, a second",
        "reqps",
        [('sum by (route, status) (rate(serve_requests_total{status=~"4..|5.."}[5m]))', "{{route}} {{status}}")],
    ),
    ("Requests being answered", "short", [("sum(serve_requests_open)", "open")]),
    ("Seconds of a request, median", "s", [(_LATENCY.format(0.5), "{{route}}")]),
    ("Seconds of a request, 99th of 100", "s", [(_LATENCY.format(0.99), "{{route}}")]),
    ("Background jobs", "short", [("sum by (state) (serve_jobs)", "{{state}}")]),
    (
        "Seconds of a phase of work, median",
        "s",
        [("histogram_quantile(0.5, sum by (le, model, phase) (rate(serve_phase_seconds_bucket[5m])))", "{{model}} {{phase}}")],
    ),
    ("Rows of a call, median", "short", [("histogram_quantile(0.5, sum by (le, model) (rate(serve_batch_rows_bucket[5m])))", "{{model}}")]),
    ("Pictures a second", "short", [("sum by (model) (rate(serve_pictures_total[5m]))", "{{model}}")]),
)

DASHBOARDS: dict[str, tuple[str, tuple[Panel, ...], str]] = {
    "training": ("Training", TRAINING, "label_values(ray_genlib_train_step, run)"),
    "tuning": ("Searches", TUNING, "label_values(ray_genlib_tune_trials, run)"),
    "serving": ("Serving", SERVING, ""),
}
"""Title, panels, and what the choice of runs is filled with, by file."""


def dashboard(uid: str) -> dict[str, Any]:
    """Grafana's JSON of one."""
    title, panels, runs = DASHBOARDS[uid]
    choices: list[dict[str, Any]] = [{"name": "source", "label": "Prometheus", "type": "datasource", "query": "prometheus"}]
    if runs:
        both = {"multi": True, "includeAll": True, "current": {"text": "All", "value": "$__all"}}
        choices.append({"name": "run", "label": "Run", "type": "query", "datasource": SOURCE, "query": runs, "refresh": 2, **both})
    return {
        "uid": f"genlib-{uid}", "title": f"genlib: {title}", "tags": ["genlib"], "schemaVersion": 39, "version": 1, "editable": True,
        "refresh": "10s", "time": {"from": "now-1h", "to": "now"}, "timezone": "browser", "templating": {"list": choices},
        "panels": [_panel(number, *one) for number, one in enumerate(panels)],
    }  # fmt: skip


def _panel(number: int, title: str, unit: str, drawn: Sequence[tuple[str, str]]) -> dict[str, Any]:
    targets = [
        {"refId": chr(ord("A") + place), "datasource": SOURCE, "expr": expression, "legendFormat": legend}
        for place, (expression, legend) in enumerate(drawn)
    ]
    return {
        "id": number + 1, "type": "timeseries", "title": title, "datasource": SOURCE, "targets": targets,
        "gridPos": {"x": number % 3 * WIDTH, "y": number // 3 * HEIGHT, "w": WIDTH, "h": HEIGHT},
        "fieldConfig": {"defaults": {"unit": unit, "custom": {"lineWidth": 2, "fillOpacity": 5}}, "overrides": []},
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}},
    }  # fmt: skip


def main() -> None:
    """Writes them."""
    for uid in DASHBOARDS:
        (HERE / f"{uid}.json").write_text(json_text(dashboard(uid), indent=2) + "\n")


if __name__ == "__main__":
    main()
