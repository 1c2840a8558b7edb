"""The official client, unchanged, against the server on a port."""

from __future__ import annotations

import base64
from collections.abc import Iterator

import numpy as np
import openai
import pytest

from serve.models.pool import ModelPool
from tests.serve.models import KEY, SOON, listening, picture, png, shown, uri


@pytest.fixture(scope="module")
def client(local: ModelPool) -> Iterator[openai.OpenAI]:
    with listening(local, keys=(KEY,)) as address, openai.OpenAI(base_url=f"{address}/v1", api_key=KEY, timeout=SOON, max_retries=0) as made:
        yield made


def test_models(client: openai.OpenAI, local: ModelPool) -> None:
    assert {model.id for model in client.models.list()} == set(local.runners)
    assert client.models.retrieve("vae").owned_by == "genlib"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt-5")


def test_pictures(client: openai.OpenAI) -> None:
    options = {"seed": 5, "num_inference_steps": 2}
    answer = client.images.generate(model="ldm_tiny", prompt="a red circle", n=2, size="32x32", extra_body=options)  # type: ignore[call-overload]
    assert answer.size == "32x32"
    assert [row.seed for row in answer.data] == [5, 6]
    assert shown(base64.b64decode(answer.data[0].b64_json)).shape == (32, 32, 3)
    linked = client.images.generate(model="ldm_tiny", prompt="a red circle", response_format="url", extra_body=options)
    assert linked.data is not None
    assert str(linked.data[0].url).startswith("/v1/files/")


def test_a_stream(client: openai.OpenAI) -> None:
    stream = client.images.generate(model="ldm_tiny", prompt="a cat", stream=True, partial_images=2, extra_body={"num_inference_steps": 6})
    kinds = [event.type for event in stream]
    assert kinds.count("image_generation.partial_image") == 2
    assert kinds[-1] == "image_generation.completed"


def test_edits_and_variations(client: openai.OpenAI) -> None:
    hidden = np.zeros((8, 8, 1), np.uint8)
    hidden[4:] = 255
    mask = png(np.concatenate([picture(8), 255 - hidden], axis=2))
    edited = client.images.edit(
        model="inpainting", image=("a.png", png(picture(8))), mask=("m.png", mask), prompt="", n=2, extra_body={"num_inference_steps": 2}
    )
    assert edited.data is not None
    assert len(edited.data) == 2
    several = client.images.edit(
        model="ldm_tiny", image=[("a.png", png(picture(32)))], prompt="a cat", extra_body={"num_inference_steps": 2, "strength": 0.5}
    )
    assert several.data is not None
    assert several.data[0].b64_json
    varied = client.images.create_variation(image=("a.png", png(picture(32))), n=1)
    assert varied.data is not None
    assert varied.data[0].b64_json
    stream = client.images.edit(
        model="ldm_tiny", image=png(picture(32)), prompt="x", stream=True, partial_images=1, extra_body={"num_inference_steps": 4}
    )  # fmt: skip
    assert [event.type for event in stream][-1] == "image_edit.completed"


def test_embeddings(client: openai.OpenAI) -> None:
    answer = client.embeddings.create(model="clip_tiny", input=["a cat", uri(png(picture(32)))])  # as base64, which is the client's own choice
    plain = client.embeddings.create(model="clip_tiny", input=["a cat"], encoding_format="float")
    assert len(answer.data) == 2
    assert np.allclose(answer.data[0].embedding, plain.data[0].embedding, atol=1e-6)


def test_usage_counts_the_tokens_of_texts(client: openai.OpenAI, local: ModelPool) -> None:
    def tokens(*inputs: str) -> int:
        usage = client.embeddings.create(model="clip_tiny", input=list(inputs)).usage
        assert usage.prompt_tokens == usage.total_tokens
        return usage.total_tokens

    one = tokens("a cat")
    assert one >= 2 + 2, "two words and two marks"
    assert tokens("a cat", "a cat", uri(png(picture(32)))) == 2 * one
    assert tokens("cat " * 500) == tokens("cat " * 900), "what is cut off is not read"
    assert tokens(uri(png(picture(32)))) == 0


def test_errors_are_those_that_the_client_knows(client: openai.OpenAI) -> None:
    with pytest.raises(openai.AuthenticationError):
        client.with_options(api_key="wrong").models.list()
    with pytest.raises(openai.BadRequestError) as wrong:
        client.images.generate(model="ddpm", prompt="one", size="1024x1024")
    assert wrong.value.param == "size"
    assert wrong.value.code == "unsupported_size"
    assert wrong.value.request_id
    with pytest.raises(openai.NotFoundError):
        client.images.generate(model="gpt-image-1", prompt="a cat")
