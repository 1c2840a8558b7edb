"""A family that serving has never heard of is served by its ports alone: every port in and out, merged between steps, cancelled within one."""

from __future__ import annotations

import asyncio
import base64
import io
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from jsonschema import Draft202012Validator

from genlib.actions import Action
from genlib.ports import PORTS, resolved
from genlib.types import DataSpec
from serve.models.runner import Runner
from tests.models.test_actions import broken
from tests.serve.models import ask, png, pool_over, post, run, uri
from tests.serve.toy import Toy, toy_runner

ACTIONS = {one.name: one for one in Toy.actions()}


@pytest.fixture
def runner() -> Iterator[Runner]:
    runner = toy_runner()
    yield runner
    runner.close()


def as_json(value: Any) -> Any:
    """An example as a client writes it."""
    return value.tolist() if isinstance(value, np.ndarray) else value


def body_of(action: Action, runner: Runner, rows: int = 2) -> dict[str, Any]:
    return {name: as_json(value) for name, value in action.example(runner.card().sizes, rows).items()}


def test_it_has_an_action_over_every_port() -> None:
    used = {one.port.kind for action in ACTIONS.values() for one in action.inputs.values()} | {action.result.kind for action in ACTIONS.values()}
    sizes = Toy().sizes(DataSpec())
    seen = used | {resolved(PORTS[kind], sizes).kind for kind in used if kind in PORTS}
    assert set(PORTS) <= seen, set(PORTS) - seen


@pytest.mark.parametrize("name", ACTIONS)
def test_it_keeps_its_own_promises(name: str) -> None:
    task = Toy().eval()
    assert broken(task, ACTIONS[name], task.sizes(DataSpec())) == ""


@pytest.mark.parametrize("name", ACTIONS)
def test_every_action_over_http(runner: Runner, name: str) -> None:
    action = runner.card().actions[name]
    response = post(pool_over(runner), f"/v1/models/toy/actions/{name}", body_of(action, runner))
    assert response.status_code == 200, response.text
    answer = response.json()
    assert ("numbers" in answer) != action.result.picture
    if not action.result.picture:
        assert len(answer["shape"]) == len(action.result.axes)


def test_what_is_no_picture_comes_as_numbers(runner: Runner) -> None:
    """Latents (B, 3, h, w) and logits of three masks have the shape of pictures, and are none."""
    for name in ("squeeze", "segment"):
        answer = post(pool_over(runner), f"/v1/models/toy/actions/{name}", body_of(ACTIONS[name], runner)).json()
        assert len(answer["shape"]) == 4
        assert np.min(answer["numbers"]) < 0


def test_openapi_describes_each_action(runner: Runner) -> None:
    found = ask(pool_over(runner), lambda client: client.get("/openapi.json")).json()
    for name, action in ACTIONS.items():
        schema = found["paths"][f"/v1/models/toy/actions/{name}"]["post"]["requestBody"]["content"]["application/json"]["schema"]
        Draft202012Validator.check_schema(schema)
        assert set(schema["required"]) == set(action.required)
        Draft202012Validator(schema).validate(body_of(action, runner))
        assert {schema["properties"][one]["x-port"] for one in action.inputs} == {one.port.kind for one in action.inputs.values()}


def test_pictures_of_masks_and_entries_go_in_as_their_ports_say(runner: Runner) -> None:
    grey = np.full((8, 8, 3), 128, np.uint8)
    body = {"given": uri(png(grey)), "was": ["a"], "wanted": ["b"], "group": [1], "hole": uri(png(grey)), "second": [1]}
    answer = post(pool_over(runner), "/v1/models/toy/actions/rework", body)
    assert answer.status_code == 200, answer.text
    assert answer.json()["per_row"] == 2
    buffer = io.BytesIO()
    np.save(buffer, np.arange(4, dtype=np.uint8).reshape(1, 2, 2))
    letters = base64.b64encode(buffer.getvalue()).decode()
    assert post(pool_over(runner), "/v1/models/toy/actions/read", {"letters": letters}).status_code == 200


def test_limits_are_those_of_the_ports(runner: Runner) -> None:
    backend = pool_over(runner)
    path = "/v1/models/toy/actions/paint"
    body = {"words": ["a"], "chosen": [1]}
    for wrong, param in (
        ({"rounds": 1001}, "rounds"), ({"rounds": 0}, "rounds"), ({"kind": "magic"}, "kind"), ({"w": 5000}, "w"), ({"chosen": [-1]}, "chosen"),
        ({"words": [1]}, "words"), ({"rounds": 1.5}, "rounds"), ({"words": []}, "words"),
    ):  # fmt: skip
        response = post(backend, path, {**body, **wrong})
        assert (response.status_code, response.json()["error"]["param"]) == (400, param), response.text
    assert post(backend, path, {"words": ["a"] * 65, "chosen": [1] * 65}).json()["error"]["code"] == "limit_exceeded"
    assert post(backend, path, {**body, "rounds": 1000, "w": 4096, "h": 4096}).json()["error"]["code"] == "limit_exceeded"


def test_requests_are_merged_between_steps(runner: Runner) -> None:
    bodies = [{"words": ["ab"], "chosen": [seed], "rounds": rounds} for seed, rounds in ((1, 40), (2, 70), (3, 50))]
    net = runner.task.net

    async def beside_each_other() -> list[Any]:
        paints = [asyncio.create_task(runner.run("paint", body)) for body in bodies]
        while runner.inside < len(bodies) or not net.rows:
            await asyncio.sleep(0.001)
        await asyncio.sleep(0.1)  # the others come as far as their first step, while that of the first is held
        net.gate.set()
        return await asyncio.gather(*paints)

    alone = [run(runner.run("paint", body)) for body in bodies]
    net.rows.clear()
    net.gate = threading.Event()
    together = run(beside_each_other())
    assert max(net.rows) > 1
    assert len(net.rows) < 40 + 70 + 50
    assert [one.images for one in together] == [one.images for one in alone]


def test_a_request_is_cancelled_within_a_step(runner: Runner) -> None:
    net = runner.task.net

    async def left() -> None:
        work = asyncio.create_task(runner.run("paint", {"words": ["ab"], "chosen": [1], "rounds": 500}))
        while not net.rows:
            await asyncio.sleep(0.001)
        work.cancel()
        with pytest.raises(asyncio.CancelledError):
            await work
        began = len(net.rows)
        while runner.inside:
            await asyncio.sleep(0.001)
        await asyncio.sleep(0.05)
        assert len(net.rows) <= began + 2
        assert len(net.rows) < 500

    run(left())


def test_progress_and_partial_pictures_come_from_its_own_preview(runner: Runner) -> None:
    async def seen() -> list[Any]:
        return [event async for event in runner.stream("paint", {"words": ["ab"], "chosen": [1], "rounds": 6}, partial_images=2)]

    events = run(seen())
    assert [event.kind for event in events].count("partial") == 2
    assert events[-1].kind == "result"


def test_sizes_and_samplers_are_told_to_clients(runner: Runner) -> None:
    async def models(client: Any) -> Any:
        return await client.get("/v1/models/toy")

    (toy,) = [ask(pool_over(runner), models).json()]
    assert (toy["image_size"], toy["multiple"], toy["max_steps"], toy["classes"]) == (8, 2, 500, ["cat", "dog"])
    assert toy["actions"]["paint"]["parameters"]["properties"]["kind"]["enum"][0] == "ddim"
    assert toy["actions"]["squeeze"]["result"] == {"port": "latent", "axes": ["batch", "latent", "row", "column"], "picture": False}
