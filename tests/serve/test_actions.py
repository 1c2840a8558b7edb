"""Every action of every family over HTTP, by its schema."""

from __future__ import annotations

import asyncio
import base64
import gc
import io
from typing import Any

import numpy as np
import pytest
import torch
from jsonschema import Draft202012Validator

from serve.api_error import ApiError
from serve.inference.execution import execute
from serve.inference.request import ActionCall, InferenceRequest
from serve.inference.schema import arguments_schema
from serve.limits import Limits
from serve.models.pool import ModelPool
from serve.observability import Metrics
from tests.serve.models import SOON, ask, events_of, picture, png, post, run, shown, uri


def path(model: str, action: str) -> str:
    return f"/v1/models/{model}/actions/{action}"


def npy(array: np.ndarray) -> str:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return base64.b64encode(buffer.getvalue()).decode()


def test_numbers_come_as_the_model_gives_them(local: ModelPool) -> None:
    answer = post(local, path("gan", "generate"), {"seed": [3, 4]}).json()
    direct = run(local.run("gan", "generate", {"seed": [3, 4]})).numbers
    assert direct is not None
    assert answer["shape"] == [2, 2]
    assert np.allclose(answer["numbers"], direct)


@pytest.mark.parametrize("form", ["lists", "npy"])
def test_a_code_there_and_back(local: ModelPool, form: str) -> None:
    code = post(local, path("vae", "embed"), {"image": [uri(png(picture(8, 1))), uri(png(picture(8, 1, 2)))]}).json()["numbers"]
    given = code if form == "lists" else npy(np.float32(code))
    rows = post(local, path("vae", "decode"), {"code": given}).json()["data"]
    direct = run(local.run("vae", "decode", {"code": np.float32(code)})).images
    assert [np.abs(shown(base64.b64decode(row["b64_json"])) - shown(one)).max() for row, one in zip(rows, direct, strict=True)] == [0, 0]


def test_several_pictures_a_row(local: ModelPool) -> None:
    one = uri(png(picture(8, 1)))
    answer = post(local, path("vae", "interpolate"), {"first": one, "second": uri(png(picture(8, 1, 2))), "steps": 5}).json()
    assert answer["per_row"] == 5
    assert len(answer["data"]) == 5


def test_a_stream_and_a_job(local: ModelPool) -> None:
    body = {"seed": [1, 2], "label": [3, 4], "steps": 3}
    plain = post(local, path("ddpm", "generate"), body).json()["data"]
    events = events_of(post(local, path("ddpm", "generate"), {**body, "stream": True}).text)
    completed = [event["data"] for event in events if event.get("event") == "action.completed"]
    assert [one["b64_json"] for one in completed] == [row["b64_json"] for row in plain]
    assert [one["seed"] for one in completed] == [1, 2]
    vectors = events_of(post(local, path("gan", "generate"), {"seed": [1], "stream": True}).text)
    assert vectors[-2]["data"]["shape"] == [1, 2]


@pytest.mark.parametrize(
    ("action", "body", "param"),
    [
        ("ddpm/generate", {"label": [1]}, "seed"),
        ("ddpm/generate", {"seed": [1], "label": [1], "steps": 0}, "steps"),
        ("ddpm/generate", {"seed": [1], "label": [1], "steps": 10**9}, "steps"),
        ("ddpm/generate", {"seed": [1], "label": [1], "sampler": "magic"}, "sampler"),
        ("ddpm/generate", {"seed": 1, "label": [1]}, "seed"),
        ("ddpm/generate", {"seed": [2**63], "label": [1]}, "seed"),
        ("ddpm/generate", {"seed": [], "label": []}, "seed"),
        ("ddpm/generate", {"seed": [1], "label": [1], "guidance_scale": "high"}, "guidance_scale"),
        ("ddpm/generate", {"seed": [1], "label": [1], "colour": "red"}, "colour"),
        ("ddpm/generate", {"seed": [1] * 65, "label": [1] * 65}, "seed"),
        ("gan/interpolate", {"first": 1, "last": 2, "steps": 5000}, "steps"),
        ("vae/decode", {"code": [[1.0], [1.0, 2.0]]}, "code"),
        ("vae/decode", {"code": [["a"]]}, "code"),
        ("vae/decode", {"code": []}, "code"),
        ("vae/decode", {"code": npy(np.array([np.nan]))}, "code"),
        ("vae/embed", {"image": [uri(png(picture(8))), uri(png(picture(9)))]}, "image"),
        ("vae/generate", {"seed": [1], "model": "gan"}, "model"),
    ],
)  # fmt: skip
def test_arguments_are_checked_by_name(local: ModelPool, action: str, body: dict[str, Any], param: str | None) -> None:
    model, name = action.split("/")
    response = post(local, path(model, name), body)
    assert (response.status_code, response.json()["error"]["param"]) == (400, param), response.text


def test_what_is_not_said_costs_as_much_as_what_is(local: ModelPool) -> None:
    (steps,) = [card.actions["generate"].inputs["steps"].default for card in local.models() if card.name == "ddpm"]
    limits = Limits(cost=8 * 8 * steps - 1)
    for body in ({"seed": [1], "label": [1]}, {"seed": [1], "label": [1], "steps": steps}):
        response = post(local, path("ddpm", "generate"), body, limits=limits)
        assert (response.status_code, response.json()["error"]["code"]) == (400, "limit_exceeded")
    assert post(local, path("ddpm", "generate"), {"seed": [1], "label": [1], "steps": 2}, limits=limits).status_code == 200


def test_an_object_in_npy_is_not_opened(local: ModelPool) -> None:
    buffer = io.BytesIO()
    np.save(buffer, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    response = post(local, path("vae", "decode"), {"code": base64.b64encode(buffer.getvalue()).decode()})
    assert response.status_code == 400
    assert response.json()["error"]["code"] == "invalid_array"


def test_what_is_not_there(local: ModelPool) -> None:
    for model, action in (("nothing", "generate"), ("vae", "fly"), ("vae", "__init__"), ("vae", "train")):
        assert post(local, path(model, action), {}).status_code == 404


def test_models_say_what_they_can_do_in_schemas_that_hold(local: ModelPool) -> None:
    models = {one["id"]: one for one in ask(local, lambda client: client.get("/v1/models")).json()["data"]}
    assert set(models) == set(local.runners)
    assert models["clip_tiny"]["capabilities"] == ["classifications", "embeddings.images", "embeddings.texts"]
    assert "images.generations" in models["ddpm"]["capabilities"]
    assert "images.generations" not in models["gan"]["capabilities"]
    assert len(models["vae"]["sha256"]) == 64
    assert models["vae"]["step"] == 8
    for card in local.models():
        for name, one in card.actions.items():
            Draft202012Validator.check_schema(arguments_schema(one, Limits().of_ports()))
            assert models[card.name]["actions"][name]["description"]
    one = ask(local, lambda client: client.get("/v1/models/vae"))
    assert one.json() == models["vae"]
    assert ask(local, lambda client: client.get("/v1/models/none")).status_code == 404


def test_what_was_refused_is_let_go_at_once(local: ModelPool) -> None:
    def arrays() -> int:
        return sum(isinstance(one, torch.Tensor) and one.numel() == 1_000_003 for one in gc.get_objects())

    async def refused() -> int:
        for _ in range(3):
            call = ActionCall(action="decode", arguments={"code": np.ones(1_000_003, np.float32)})
            with pytest.raises(ApiError, match="code of shape"):
                await execute(local, Metrics(), InferenceRequest(endpoint="actions", model="vae", calls=(call,)), SOON)
        async with asyncio.timeout(SOON):
            while found := arrays():
                await asyncio.sleep(0.1)
        return found

    gc.collect()
    gc.disable()  # what only it would find stays
    try:
        assert run(refused()) == 0
    finally:
        gc.enable()
