"""Metrics, logs and traces say what happened, and nothing of what was asked."""

from __future__ import annotations

import json
import logging
from typing import Any

import httpx2
import pytest

from serve.models.pool import ModelPool
from serve.observability import JsonFormatter, begin_request
from tests.serve.models import KEY, Walker, ask, post

GENERATE = "/v1/images/generations"
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


def lines(records: list[logging.LogRecord]) -> list[dict[str, Any]]:
    return [json.loads(JsonFormatter().format(record)) for record in records if record.name == "serve.requests"]


@pytest.mark.parametrize("prompts", [False, True])
def test_a_line_of_json_a_request_without_its_prompt(local: ModelPool, caplog: pytest.LogCaptureFixture, prompts: bool) -> None:
    caplog.set_level(logging.INFO, "serve.requests")
    body = {"model": "ldm_tiny", "prompt": "a secret wish", "num_inference_steps": 2, "n": 2}
    headers = {"x-request-id": "mine-1", "traceparent": f"00-{TRACE}-00f067aa0ba902b7-01"}
    response = ask(local, lambda client: client.post(GENERATE, json=body, headers=headers), log_prompts=prompts)
    (line,) = lines(caplog.records)
    assert (line["request_id"], line["trace_id"], line["status"], line["route"]) == ("mine-1", TRACE, 200, GENERATE)
    assert (line["model"], line["steps"], line["rows"], line["level"]) == ("ldm_tiny", 2, 2, "info")
    assert ("a secret wish" in json.dumps(line)) == prompts
    assert response.headers["x-request-id"] == "mine-1"
    assert response.headers["traceparent"].split("-")[1] == TRACE
    assert response.headers["traceparent"].split("-")[2] != "00f067aa0ba902b7"
    assert "model;dur=" in response.headers["server-timing"]


@pytest.mark.parametrize("headers", [{"x-request-id": "a b\n{", "traceparent": "00-" + "0" * 32 + "-00f067aa0ba902b7-01"}, {"traceparent": "x"}, {}])
def test_ids_that_are_none_are_not_taken_over(headers: dict[str, str]) -> None:
    context = begin_request(headers)
    assert context.request_id.startswith("req_")
    assert "0" * 32 not in context.traceparent


def test_metrics_count_phases_batches_steps_and_what_was_refused(local: ModelPool) -> None:
    async def asked(client: httpx2.AsyncClient) -> str:
        await client.post(GENERATE, json={"model": "ddpm", "label": 1, "n": 3, "num_inference_steps": 4})
        await client.post(GENERATE, json={"model": "no-such-model-x"})
        await client.get("/v1/nothing/secret-path")
        for _ in range(2):
            await client.post("/v1/embeddings", json={"input": "a"}, headers={"Idempotency-Key": "k"})
        return (await client.get("/metrics")).text

    text = ask(local, asked)
    for line in (
        f'serve_requests_total{{method="POST",route="{GENERATE}",status="200"}} 1.0',
        f'serve_requests_total{{method="POST",route="{GENERATE}",status="404"}} 1.0',
        'serve_requests_total{method="GET",route="other",status="404"} 1.0',
        'serve_pictures_total{model="ddpm"} 3.0',
        'serve_steps_bucket{le="4.0",model="ddpm"} 1.0',
        'serve_idempotent_answers_total{cache="hit"} 1.0',
        'serve_requests_open 1.0',
    ):  # fmt: skip
        assert line in text
    for phase in ("queue", "batch", "model", "encode"):
        assert f'serve_phase_seconds_count{{model="ddpm",phase="{phase}"}} 1.0' in text
    assert "secret" not in text
    assert "no-such-model" not in text


def test_methods_that_clients_invent_make_no_new_series(local: ModelPool) -> None:
    async def asked(client: httpx2.AsyncClient) -> str:
        for number in range(3):
            await client.request(f"ODD{number}", "/healthz")
        return (await client.get("/metrics")).text

    assert 'serve_requests_total{method="other",route="/healthz",status="405"} 3.0' in (text := ask(local, asked))
    assert "ODD" not in text


def test_alive_is_not_ready() -> None:
    class Empty(Walker):
        problems = {"clip": "weights.safetensors is not what its manifest says"}  # noqa: RUF012

        def models(self) -> list[Any]:
            return []

    async def asked(client: httpx2.AsyncClient) -> list[httpx2.Response]:
        return [await client.get("/healthz"), await client.get("/readyz")]

    alive, ready = ask(Empty(), asked)
    assert alive.status_code == 200
    assert ready.status_code == 503
    assert "clip: weights.safetensors is not what its manifest says" in ready.json()["error"]["message"]
    assert "clip" not in ask(Empty(), asked, keys=(KEY,))[1].text, "who has no key is told of a model"
    assert ask(Walker(), asked)[1].json() == {"status": "ready", "models": 1}


def test_no_model_yet_is_a_reason_to_come_again() -> None:
    for path, body in (("/v1/images/generations", {"model": "ddpm"}), ("/v1/embeddings", {"input": "x"}), ("/v1/models/ddpm/actions/generate", {})):
        early = post(ModelPool(()), path, body)
        assert (early.status_code, early.headers["retry-after"]) == (503, "5"), early.text
