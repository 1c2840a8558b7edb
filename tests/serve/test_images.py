"""Pictures over HTTP: the seed's own, of the size asked for, filled where the mask says, with what they were made of."""

from __future__ import annotations

import asyncio
import base64
import io
from collections.abc import Iterator
from typing import Any

import httpx2
import numpy as np
import pytest
from PIL import Image

from serve.limits import Limits
from serve.models.pool import ModelPool
from serve.models.sources import ModelSource
from tests.models.stages import train_stages
from tests.serve.models import Walker, ask, events_of, opened, picture, png, post, shown, uri

GENERATE, EDIT = "/v1/images/generations", "/v1/images/edits"


def images(response: httpx2.Response) -> list[bytes]:
    assert response.status_code == 200, response.text
    return [base64.b64decode(row["b64_json"]) for row in response.json()["data"]]


def test_picture_i_is_that_of_seed_plus_i_alone(local: ModelPool) -> None:
    async def asked(client: httpx2.AsyncClient) -> list[httpx2.Response]:
        body = {"model": "ddpm", "prompt": "three", "num_inference_steps": 3}
        strangers = [client.post(GENERATE, json={"model": "ddpm", "label": label, "num_inference_steps": 2 + label}) for label in range(4)]
        both = [client.post(GENERATE, json={**body, "n": 3, "seed": 5}), client.post(GENERATE, json={**body, "seed": 7})]
        return list(await asyncio.gather(*both, *strangers))

    batch, alone, *_ = ask(local, asked)
    assert [row["seed"] for row in batch.json()["data"]] == [5, 6, 7]
    assert np.abs(shown(images(batch)[2]) - shown(images(alone)[0])).max() <= 1
    assert np.abs(shown(images(batch)[0]) - shown(images(alone)[0])).max() > 1


def test_the_used_seed_comes_back_and_makes_the_picture_again(local: ModelPool) -> None:
    body = {"model": "ldm_tiny", "prompt": "a red circle", "num_inference_steps": 2, "size": "32x16"}
    first = post(local, GENERATE, body)
    again = post(local, GENERATE, {**body, "seed": first.json()["data"][0]["seed"]})
    assert first.json()["size"] == "32x16"
    assert shown(images(first)[0]).shape == (16, 32, 3)
    assert np.abs(shown(images(first)[0]) - shown(images(again)[0])).max() <= 1


def test_pictures_say_what_they_were_made_of_unless_refused(local: ModelPool) -> None:
    body = {"model": "ldm_tiny", "prompt": "a cat", "negative_prompt": "a dog", "seed": 9, "num_inference_steps": 2, "guidance_scale": 3.5}
    said = Image.open(io.BytesIO(images(post(local, GENERATE, body))[0])).info  # type: ignore[union-attr]
    assert said["seed"] == "9"
    lines = said["parameters"].split("\n")
    assert lines[:2] == ["a cat", "Negative prompt: a dog"]
    assert {"Steps: 2", "CFG scale: 3.5", "Seed: 9", "Size: 32x32", "Model: ldm_tiny"} <= set(lines[2].split(", "))
    for response in (post(local, GENERATE, {**body, "png_parameters": False}), post(local, GENERATE, body, png_parameters=False)):
        assert not Image.open(io.BytesIO(images(response)[0])).info


def test_a_class_by_its_name_or_number(local: ModelPool) -> None:
    base = {"model": "ddpm", "seed": 1, "num_inference_steps": 2}
    same = [images(post(local, GENERATE, {**base, **one}))[0] for one in ({"prompt": "Seven"}, {"label": 7}, {"label": "seven"}, {"prompt": "7"})]
    assert len(set(same)) == 1
    wrong = post(local, GENERATE, {**base, "prompt": "platypus"})
    assert wrong.status_code == 404
    assert "zero, one, two" in wrong.text
    assert "platypus" not in wrong.text
    missing = post(local, GENERATE, {"model": "ddpm"})
    assert (missing.status_code, missing.json()["error"]["param"], missing.json()["error"]["code"]) == (400, "prompt", "missing_class")
    assert "name one as the prompt: zero, one, two" in missing.json()["error"]["message"]


def test_a_model_that_fits_is_taken_where_none_is_named(local: ModelPool) -> None:
    models = [post(local, GENERATE, {**one, "num_inference_steps": 2}).json()["model"] for one in ({"prompt": "a cat"}, {"label": 3}, {})]
    assert models == ["ldm_tiny", "ddpm", "inpainting"]


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        ({"model": "ddpm", "size": "16x16"}, 400, "size"),
        ({"model": "ldm_tiny", "prompt": "x", "size": "33x32"}, 400, "size"),
        ({"model": "ldm_tiny", "prompt": "x", "size": "8192x8192"}, 400, "size"),
        ({"model": "ldm_tiny", "prompt": "x", "size": "4096x4096", "n": 64}, 400, None),
        ({"model": "ldm_tiny", "prompt": "x" * 5000}, 400, "prompt"),
        ({"model": "vae", "guidance_scale": 2.0}, 400, "guidance_scale"),
        ({"model": "vae", "prompt": "a cat"}, 400, "prompt"),
        ({"model": "ldm_tiny", "label": 1}, 400, "label"),
        ({"model": "clip_tiny"}, 404, "model"),
        ({"model": "gan"}, 404, "model"),
        ({"model": "dall-e-3"}, 404, "model"),
        ({"model": "ddpm", "label": 3, "n": 65}, 400, "n"),
        ({"model": "ddpm", "label": 3, "output_format": "webp"}, 400, "output_format"),
    ],
)
def test_what_a_model_cannot_do_is_refused_with_the_fields_name(local: ModelPool, body: dict[str, Any], status: int, param: str | None) -> None:
    response = post(local, GENERATE, body)
    assert (response.status_code, response.json()["error"]["param"]) == (status, param), response.text


def test_the_picture_itself(local: ModelPool) -> None:
    body = {"model": "ddpm", "label": 3, "seed": 4, "num_inference_steps": 2}

    async def asked(client: httpx2.AsyncClient) -> tuple[httpx2.Response, httpx2.Response]:
        headers = {"Accept": "image/png"}
        return await client.post(GENERATE, json=body, headers=headers), await client.post(GENERATE, json={**body, "n": 2}, headers=headers)

    one, two = ask(local, asked)
    assert one.headers["content-type"] == "image/png"
    assert one.headers["x-seed"] == "4"
    assert shown(one.content).shape == (8, 8)
    assert two.status_code == 406


def test_a_stream_tells_progress_and_partial_pictures_and_ends(local: ModelPool) -> None:
    body = {"model": "ldm_tiny", "prompt": "x", "n": 2, "seed": 3, "num_inference_steps": 4, "stream": True, "partial_images": 2}
    response = post(local, GENERATE, body)
    events = events_of(response.text)
    assert response.headers["content-type"].startswith("text/event-stream")
    assert events[-1]["data"] == "[DONE]"
    data = [event["data"] for event in events[:-1]]
    assert all(event["event"] == event["data"]["type"] for event in events[:-1])
    partial = [one for one in data if one["type"] == "image_generation.partial_image"]
    assert [(one["partial_image_index"], one["index"]) for one in partial] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    completed = [one for one in data if one["type"] == "image_generation.completed"]
    assert [one["seed"] for one in completed] == [3, 4]
    assert data[-2:] == completed
    plain = images(post(local, GENERATE, {**body, "stream": False}))
    assert [base64.b64decode(one["b64_json"]) for one in completed] == plain


def test_a_stream_that_waits_says_that_it_lives_and_one_that_fails_says_why() -> None:
    body = {"stream": True, "num_inference_steps": 2}
    slow = post(Walker(0.4), GENERATE, body, heartbeat_seconds=0.1).text
    assert slow.count(": alive") >= 2
    assert slow.endswith("data: [DONE]\n\n")
    late = events_of(post(Walker(0.6), GENERATE, body, request_timeout_seconds=0.9).text)
    assert late[-2]["event"] == "error"
    assert late[-2]["data"]["error"]["code"] == "timeout"
    assert post(Walker(0.6), GENERATE, {"num_inference_steps": 2}, request_timeout_seconds=0.2).status_code == 504


@pytest.mark.parametrize("kind", ["alpha", "white", "own"])
def test_only_what_the_mask_says_is_filled(local: ModelPool, kind: str) -> None:
    given, hidden = picture(8), np.zeros((8, 8, 1), np.uint8)
    hidden[4:] = 255
    with_alpha = np.concatenate([given, 255 - hidden], axis=2)
    body: dict[str, Any] = {"model": "inpainting", "image": uri(png(given)), "num_inference_steps": 3, "seed": 1}
    if kind == "own":
        body["image"] = uri(png(with_alpha))
    else:
        body["mask"] = uri(png(with_alpha if kind == "alpha" else hidden))
    found = shown(images(post(local, EDIT, body))[0])
    grey = np.asarray(Image.fromarray(given).convert("L")).astype(int)
    assert np.abs(found[:4] - grey[:4]).max() <= 1
    assert np.abs(found[4:] - grey[4:]).max() > 20


def test_edits_as_a_form_are_the_same(local: ModelPool) -> None:
    hidden = np.zeros((8, 8, 1), np.uint8)
    hidden[4:] = 255
    files = {"image": ("a.png", png(picture(8)), "image/png"), "mask": ("b.png", png(hidden), "image/png")}
    fields = {"model": "inpainting", "num_inference_steps": "3", "seed": "1", "n": "2"}
    as_form = ask(local, lambda client: client.post(EDIT, data=fields, files=files))
    as_json = post(
        local, EDIT, {"model": "inpainting", "image": uri(png(picture(8))), "mask": uri(png(hidden)), "num_inference_steps": 3, "seed": 1, "n": 2}
    )
    assert images(as_form) == images(as_json)
    assert len(images(as_form)) == 2


def test_an_edit_as_a_form_that_comes_again_has_the_answer_of_the_first(local: ModelPool) -> None:
    """Clients draw a boundary for each; the key says that it is the same request, and another picture that it is not."""

    def sent(boundary: str, image: bytes) -> tuple[bytes, dict[str, str]]:
        parts = {"model": b"ldm_tiny", "prompt": b"a red square", "num_inference_steps": b"2", 'image"; filename="a.png': image}
        lines = [f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n'.encode() + value + b"\r\n" for name, value in parts.items()]
        headers = {"Content-Type": f"multipart/form-data; boundary={boundary}", "Idempotency-Key": "mine"}
        return b"".join(lines) + f"--{boundary}--\r\n".encode(), headers

    async def asked(client: httpx2.AsyncClient) -> list[httpx2.Response]:
        requests = [sent(boundary, png(picture(size))) for boundary, size in (("one", 16), ("two", 16), ("two", 32))]
        return [await client.post(EDIT, content=content, headers=headers) for content, headers in requests]

    first, again, other = ask(local, asked)
    assert first.status_code == 200, first.text
    assert again.json() == first.json()
    assert other.json()["error"]["code"] == "idempotency_key_reused"


def test_each_way_of_editing(local: ModelPool) -> None:
    small, large = uri(png(picture(16))), uri(png(picture(64)))
    base = {"model": "ldm_tiny", "prompt": "a blue square", "num_inference_steps": 2}
    changed = post(local, EDIT, {**base, "image": large, "strength": 0.5})
    assert shown(images(changed)[0]).shape == (32, 32, 3)
    edited = post(local, EDIT, {**base, "image": large, "source_prompt": "a red square", "size": "32x32"})
    assert shown(images(edited)[0]).shape == (32, 32, 3)
    wider = post(local, EDIT, {**base, "image": small, "left": 0.0, "top": 0.0, "size": "32x16"})
    assert np.abs(shown(images(wider)[0])[:16, :16] - picture(16)).max() <= 1
    assert post(local, EDIT, {**base, "image": large, "left": 0.0}).json()["error"]["param"] == "image"
    assert post(local, EDIT, {**base, "image": large, "mode": "inpaint"}).json()["error"]["param"] == "mask"
    assert post(local, EDIT, {"model": "inpainting", "image": small, "source_prompt": "x"}).status_code == 404


def test_variations_follow_their_strength(local: ModelPool) -> None:
    base = {"image": uri(png(picture(32))), "num_inference_steps": 4, "seed": 3, "n": 2}
    near, far = (images(post(local, "/v1/images/variations", {**base, "strength": strength}))[0] for strength in (0.25, 1.0))
    assert np.abs(shown(near) - shown(far)).mean() > 1


def test_reconstructions_say_how_far_they_are(local: ModelPool) -> None:
    given = [picture(8, 1, seed) for seed in range(2)]
    answer = post(local, "/v1/images/reconstructions", {"model": "vae", "image": [uri(png(one)) for one in given]})
    for row, file, original in zip(answer.json()["data"], images(answer), given, strict=True):
        assert row["error"] == pytest.approx(float(np.square((shown(file) - original[:, :, 0]) / 255).mean()), abs=1e-5)
        assert row["anomaly_score"] == row["error"]


TRANSLATE = "/v1/images/translations"


@pytest.fixture(scope="module")
def translators(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModelPool]:
    root = tmp_path_factory.mktemp("translators")
    finals = {name: train_stages(name, root / name)["train"] for name in ("cyclegan", "pix2pix")}
    pool = opened([ModelSource(name, str(final.parents[1])) for name, final in finals.items()])
    yield pool
    pool.close()


def test_a_model_that_translates_nothing_is_not_found(local: ModelPool) -> None:
    assert post(local, TRANSLATE, {"image": uri(png(picture(8)))}).status_code == 404


def test_translations_between_two_sets_go_both_ways_and_keep_proportions(translators: ModelPool) -> None:
    given = uri(png(picture(16)[:, :8]))  # as wide as half its height
    body = {"model": "cyclegan", "image": given}
    to_b, by_name, to_a = (post(translators, TRANSLATE, {**body, **more}) for more in ({}, {"to": "B"}, {"to": "A"}))
    width, height = map(int, to_b.json()["size"].split("x"))
    assert width % 2 == height % 2 == 0
    assert width < height
    assert shown(images(to_b)[0]).shape == (height, width, 3)
    assert images(to_b) == images(by_name)
    assert np.abs(shown(images(to_b)[0]) - shown(images(to_a)[0])).max() > 1
    said = Image.open(io.BytesIO(images(to_b)[0])).info["parameters"]  # type: ignore[union-attr]
    assert "Model: cyclegan" in said
    refused = post(translators, TRANSLATE, {**body, "to": "C"})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "to")


def test_translations_of_pairs_draw_their_noise_by_the_seed_and_stand_alone(translators: ModelPool) -> None:
    given = [uri(png(picture(16, seed=seed))) for seed in range(2)]
    both = post(translators, TRANSLATE, {"model": "pix2pix", "image": given, "seed": 3})
    alone = post(translators, TRANSLATE, {"model": "pix2pix", "image": given[1], "seed": 4})
    other = post(translators, TRANSLATE, {"model": "pix2pix", "image": given[1], "seed": 5})
    assert [row["seed"] for row in both.json()["data"]] == [3, 4]
    assert np.abs(shown(images(both)[1]) - shown(images(alone)[0])).max() <= 1
    assert np.abs(shown(images(other)[0]) - shown(images(alone)[0])).max() > 1
    refused = post(translators, TRANSLATE, {"model": "pix2pix", "image": given[0], "to": "A"})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "to")


@pytest.mark.parametrize(
    "image", ["https://example.org/a.png", "http://169.254.169.254/", "file:///etc/passwd", "%%%", "QUJD", "data:image/png;base64,", uri(b"GIF89a")]
)
def test_what_is_no_picture_is_refused_and_nothing_is_fetched(local: ModelPool, image: str) -> None:
    response = post(local, EDIT, {"model": "ldm_tiny", "prompt": "x", "image": image})
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "image"


def test_a_picture_larger_than_it_says_costs_nothing(local: ModelPool) -> None:
    bomb = png(np.zeros((3000, 3000, 1), np.uint8))
    response = post(local, EDIT, {"model": "ldm_tiny", "prompt": "x", "image": uri(bomb)}, limits=Limits(input_pixels=1 << 20))
    assert response.status_code == 400
    assert "image has 3000x3000 = 9,000,000 pixels, and may have 1,048,576" in response.text
