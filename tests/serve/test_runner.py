"""A runner gives each request its own, whoever it is merged with, and lets go of what nobody waits for."""

from __future__ import annotations

import asyncio
import io
import pickle
import shutil
from collections.abc import Coroutine
from contextlib import aclosing
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
import torch
from PIL import Image
from torch._dynamo import lookup_backend

from genlib import checkpoint
from genlib.inference import Inference
from genlib.models.diffusion.base.latent import LatentTask
from serve.backend import Event, Overloaded, Result, Unavailable
from serve.models import image_encoding as pictures
from serve.models.batched_call import PendingRequest
from serve.models.runner import Runner
from tests.models.stages import train_stages

T = TypeVar("T")
SOON = 60.0


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Stage folders of tiny trained models."""
    root = tmp_path_factory.mktemp("runs")
    return {name: list(train_stages(name, root / name).values())[-1].parents[1] for name in ("ddpm", "ldm_tiny", "dcgan", "vae", "rbm")}


def loaded(folder: Path, **options: Any) -> Runner:
    """With weights that say more than so short a training leaves."""
    runner = Runner.load(folder, device="cpu", **options)
    torch.manual_seed(0)
    with torch.no_grad():
        for weight in runner.task.parameters():
            weight.add_(torch.randn(weight.shape).to(weight), alpha=0.03)
    return runner


@pytest.fixture(scope="module")
def runners(runs: dict[str, Path]) -> Any:
    made = {name: loaded(folder, name=name) for name, folder in runs.items()}
    yield made
    for runner in made.values():
        runner.close()


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(asyncio.wait_for(coroutine, SOON))


def pixels(result: Result) -> np.ndarray:
    return np.stack([np.asarray(Image.open(io.BytesIO(image))) for image in result.images]).astype(int)


async def crowd(runner: Runner, action: str, requests: list[dict[str, Any]]) -> list[Result]:
    """Requests that start together: the first turn is held until all are there, and a machine that stutters does not part them."""
    merger, patience = runner.merger, runner.merger.patience_seconds
    merger.patience_seconds = SOON
    with merger.request(PendingRequest()):
        tasks = [asyncio.create_task(runner.run(action, request)) for request in requests]
        while len(merger._ready) + len(merger._pending) < len(tasks):
            await asyncio.sleep(0.001)
    results = await asyncio.gather(*tasks)
    merger.patience_seconds = patience
    return results


STRANGERS: dict[str, tuple[dict[str, Any], list[dict[str, Any]]]] = {
    "ddpm": (
        {"seed": [7], "label": [3], "steps": 9, "guidance_scale": 2.0},
        [
            {"seed": [number, number + 50], "label": [number % 10, 1], "steps": steps, "sampler": sampler, "guidance_scale": scale}
            for number, (steps, sampler, scale) in enumerate(
                [(4, "ddim", 1.0), (13, "ancestral", 2.0), (9, "heun", 3.0), (7, "dpm_solver_pp_2m", 1.0), (9, "ddim", 2.0)] * 2
            )
        ],
    ),
    "ldm_tiny": (
        {"seed": [7], "prompt": ["a red circle"], "steps": 5, "guidance_scale": 3.0},
        [
            {"seed": [number], "prompt": ["blue"], "steps": steps, "sampler": sampler, "guidance_scale": scale, "negative_prompt": negative}
            for number, (steps, sampler, scale, negative) in enumerate(
                [(3, "ancestral", 1.0, ""), (7, "ddim", 5.0, "green"), (5, "heun", 3.0, ""), (5, "ddim", 3.0, "")] * 2
            )
        ],
    ),
    "dcgan": ({"seed": [7]}, [{"seed": [number, 7]} for number in range(6)]),
    "rbm": ({"seed": [7], "steps": 20}, [{"seed": [number], "steps": 20 + number % 2} for number in range(6)]),
}


@pytest.mark.parametrize("name", STRANGERS)
def test_a_picture_is_the_same_alone_and_among_strangers(runners: dict[str, Runner], name: str) -> None:
    mine, strangers = STRANGERS[name]
    alone = run(crowd(runners[name], "generate", [mine]))[0]
    others = run(crowd(runners[name], "generate", strangers[:1]))[0]
    *_, among = run(crowd(runners[name], "generate", [*strangers, mine]))
    assert among.batch_size > alone.batch_size
    assert np.abs(pixels(alone) - pixels(among)).max() <= 1
    assert np.abs(pixels(alone) - pixels(others)[0]).max() > 1, "another seed is another picture"


@pytest.mark.parametrize("name", ["ldm_tiny", "dcgan"])
def test_in_bf16_pictures_are_near_to_those_of_fp32_whoever_they_are_merged_with(
    runs: dict[str, Path], runners: dict[str, Runner], name: str
) -> None:
    low, (mine, strangers) = loaded(runs[name], inference=Inference("bf16")), STRANGERS[name]
    try:
        usual, alone = (run(crowd(runner, "generate", [mine]))[0] for runner in (runners[name], low))
        *_, among = run(crowd(low, "generate", [*strangers, mine]))
        assert among.batch_size > alone.batch_size
        assert np.abs(pixels(alone) - pixels(among)).mean() <= 1
        assert np.abs(pixels(alone) - pixels(usual)).mean() <= 2
        assert low.memory_bytes() < 0.7 * runners[name].memory_bytes()
    finally:
        low.close()


@pytest.mark.parametrize(
    ("name", "backend"),
    [("dcgan", "eager"), pytest.param("dcgan", "inductor", marks=pytest.mark.slow), pytest.param("ldm_tiny", "eager", marks=pytest.mark.slow)],
)
def test_compiled_networks_draw_the_same_pictures(
    runs: dict[str, Path], runners: dict[str, Runner], name: str, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    graphs: list[int] = []

    def counted(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Any:
        graphs.append(len(graph.graph.nodes))
        return lookup_backend(backend)(graph, inputs)

    torch.compiler.reset()
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=counted))
    compiled, (mine, strangers) = loaded(runs[name], inference=Inference(compile=True)), STRANGERS[name]
    try:
        usual = run(crowd(runners[name], "generate", [mine]))[0]
        alone = asyncio.run(crowd(compiled, "generate", [mine]))[0]
        *_, among = asyncio.run(crowd(compiled, "generate", [*strangers, mine]))
        assert np.abs(pixels(alone) - pixels(usual)).max() <= 1
        assert np.abs(pixels(among) - pixels(usual)).max() <= 1
        assert max(graphs) > 20, "a whole network in one piece"
        before = len(graphs)
        asyncio.run(crowd(compiled, "generate", [*strangers[1:], mine]))
        assert len(graphs) == before, "another number of rows is compiled once more and no more"
    finally:
        compiled.close()


def calls_of(runner: Runner) -> list[torch.Tensor]:
    """What the network is given in each call from now on."""
    given: list[torch.Tensor] = []
    network = runner.task.net.forward.args[0]

    def spied(x: torch.Tensor, *args: Any, **options: Any) -> Any:
        given.append(x.clone())
        return network(x, *args, **options)

    runner.task.net.forward = partial(runner.merger.call, spied)
    return given


def test_what_the_network_starts_from_is_bit_equal(runs: dict[str, Path]) -> None:
    runner = loaded(runs["ddpm"])
    given, mine = calls_of(runner), {"seed": [11], "label": [3], "steps": 2}
    run(crowd(runner, "generate", [mine]))
    first = given[0][0]
    given.clear()
    run(crowd(runner, "generate", [{"seed": [number], "label": [1], "steps": 3} for number in range(6)] + [mine]))
    assert max(map(len, given)) == 7
    assert any(torch.equal(first, row) for x in given for row in x)
    runner.close()


def test_image_i_of_a_batch_is_that_of_its_seed_and_files_say_how(runners: dict[str, Runner]) -> None:
    arguments = {"seed": [4, 5, 6], "label": [1, 2, 3], "steps": 4}
    said = {"prompt": "ein Fähnchen 旗", "parameters": "a flag\nSteps: 4"}
    many = run(runners["ddpm"].run("generate", arguments, parameters=said))
    for number in range(3):
        one = run(runners["ddpm"].run("generate", {"seed": [4 + number], "label": [1 + number], "steps": 4}))
        assert np.abs(pixels(one)[0] - pixels(many)[number]).max() <= 1
        text = Image.open(io.BytesIO(many.images[number])).text
        assert text == {**said, "parameters": f"a flag\nSteps: 4, Seed: {4 + number}", "seed": str(4 + number)}
        assert Image.open(io.BytesIO(one.images[0])).text == {}
    assert set(many.seconds) == {"queue", "batch", "model", "encode"}
    assert all(value >= 0 for value in many.seconds.values())


def test_results_that_are_several_pictures_a_row_or_none(runners: dict[str, Runner]) -> None:
    vae = runners["vae"]
    images = np.random.default_rng(0).random((2, 1, 8, 8), np.float32)
    codes = run(vae.run("embed", {"image": images})).numbers
    assert codes is not None
    assert codes.shape[0] == 2
    moved = run(vae.run("move", {"image": images, "direction": np.ones(codes.shape[1], np.float32), "amount": [0.0, 0.1, 9.0]}))
    assert (len(moved.images), moved.per_row, moved.numbers) == (6, 3, None)
    same = run(vae.run("reconstruct", {"image": images}))
    assert np.abs(pixels(moved)[[0, 3]] - pixels(same)).max() <= 1


def test_rows_of_one_action_merge_and_joint_ones_do_not(runners: dict[str, Runner]) -> None:
    vae = runners["vae"]
    images = [np.random.default_rng(number).random((1 + number % 2, 1, 8, 8), np.float32) for number in range(6)]
    alone = [run(vae.run("embed", {"image": image})).numbers for image in images]
    merged = run(crowd(vae, "embed", [{"image": image} for image in images]))
    assert max(result.batch_size for result in merged) > 2
    for one, result in zip(alone, merged, strict=True):
        np.testing.assert_allclose(result.numbers, one, atol=1e-5)
    sums = run(crowd(vae, "combine", [{"image": image, "weight": [1.0] * len(image)} for image in images]))
    assert [len(result.images) for result in sums] == [1] * 6
    assert {result.batch_size for result in sums} == {1}


async def events(runner: Runner, action: str, arguments: dict[str, Any], **options: Any) -> list[Event]:
    return [event async for event in runner.stream(action, arguments, **options)]


@pytest.mark.parametrize(("name", "arguments"), [("ddpm", {"label": [1, 2]}), ("ldm_tiny", {"prompt": ["a", "b"]})])
def test_news_on_the_way(runners: dict[str, Runner], name: str, arguments: dict[str, Any]) -> None:
    arguments = {**arguments, "seed": [1, 2], "steps": 6}
    *way, last = run(events(runners[name], "generate", arguments, partial_images=2))
    assert [(event.kind, event.step, event.steps) for event in way] == [
        ("partial" if step in (2, 4) else "progress", step, 6) for step in range(1, 7)
    ]
    assert all(len(event.images) == (2 if event.kind == "partial" else 0) for event in way)
    assert last.kind == "result"
    assert last.result is not None
    whole = run(runners[name].run("generate", arguments))
    assert np.abs(pixels(last.result) - pixels(whole)).max() <= 1
    early = np.stack([np.asarray(Image.open(io.BytesIO(image))) for image in way[1].images]).astype(int)
    assert early.shape == pixels(whole).shape
    assert np.abs(early - pixels(whole)).max() > 1


def test_editing_is_one_way_and_chains_tell_their_steps(runners: dict[str, Runner]) -> None:
    side = runners["ldm_tiny"].card().sizes.side
    edit = {"image": np.full((1, 3, side, side), 0.5, np.float32), "source_prompt": ["a"], "prompt": ["b"], "steps": 5, "strength": 0.6}
    *way, _ = run(events(runners["ldm_tiny"], "edit", edit))
    assert [(event.step, event.steps) for event in way] == [(step + 1, len(way)) for step in range(len(way))]
    assert len(way) > 4
    *way, last = run(events(runners["rbm"], "generate", {"seed": [1], "steps": 4}, partial_images=1))
    assert [(event.kind, event.step) for event in way] == [("progress", step) for step in (1, 2, 3, 4)]
    assert last.kind == "result"


def test_a_client_that_goes_away_stops_its_work(runs: dict[str, Path]) -> None:
    runner = loaded(runs["ddpm"])
    given, arguments = calls_of(runner), {"seed": [1], "label": [1], "steps": 1000}

    async def leave() -> None:
        async with aclosing(runner.stream("generate", arguments)) as stream:
            async for event in stream:
                if event.step == 3:
                    break
        at_leaving = len(given)
        task = asyncio.create_task(runner.run("generate", {**arguments, "seed": [2]}))
        while len(given) < at_leaving + 5:
            await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await runner.run("generate", {**arguments, "steps": 40})

    run(leave())
    assert len(given) < 500
    assert runner.inside == 0
    before = len(given)
    run(asyncio.sleep(0.05))
    assert len(given) == before, "nothing goes on"
    runner.close()


def test_more_than_there_is_room_for_is_refused_at_once(runs: dict[str, Path]) -> None:
    runner = loaded(runs["ddpm"], max_active=2, max_queued=3)

    async def flood() -> list[Any]:
        request = {"seed": [1], "label": [1], "steps": 20}
        return await asyncio.gather(*(runner.run("generate", request) for _ in range(9)), return_exceptions=True)

    for _ in range(2):  # there is room again
        answers = run(flood())
        assert sum(isinstance(answer, Result) for answer in answers) == 5
        refused = [answer for answer in answers if not isinstance(answer, Result)]
        assert all(isinstance(answer, Overloaded) and answer.retry_after_seconds >= 1 for answer in refused)
    runner.close()
    with pytest.raises(Unavailable):
        run(runner.run("generate", {"seed": [1], "label": [1]}))


def test_closing_ends_what_runs(runs: dict[str, Path]) -> None:
    runner = loaded(runs["ddpm"])

    async def close() -> None:
        tasks = [asyncio.create_task(runner.run("generate", {"seed": [number], "label": [1], "steps": 1000})) for number in range(3)]
        await asyncio.sleep(0.1)
        runner.close()
        for task in tasks:
            with pytest.raises(Unavailable):
                await task

    run(close())


WRONG = [
    ({"label": [1]}, "needs seed"),
    ({"seed": [1], "label": [1], "stepps": 3}, "takes no argument"),
    ({"seed": [], "label": []}, "seed is empty"),
    ({"seed": ["secret"], "label": [1]}, "^seed must be an integer"),
    ({"seed": [1], "label": [1], "sampler": "secret"}, "^sampler must be one of ddim"),
    ({"seed": [1], "label": [1, 2]}, "one label"),
    ({"seed": [-5], "label": [1]}, "seed is -5; it must be at least 0"),
    ({"seed": [1], "label": [99]}, "label 99 is not between"),
]


@pytest.mark.parametrize(("arguments", "sentence"), WRONG)
def test_wrong_arguments_are_a_sentence(runners: dict[str, Runner], arguments: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence) as error:
        run(runners["ddpm"].run("generate", arguments))
    assert "secret" not in str(error.value)


def test_wrong_pictures_and_names_are_a_sentence(runners: dict[str, Runner]) -> None:
    for image in ([[0.5]], np.array(0.5), np.array(["a"])):
        with pytest.raises(ValueError, match="image must be numbers in rows"):
            run(runners["vae"].run("embed", {"image": image}))
    with pytest.raises(ValueError, match="has no such action"):
        run(runners["vae"].run("state_dict", {}))


def test_the_card_says_what_it_is_in_plain_values(runs: dict[str, Path], runners: dict[str, Runner]) -> None:
    card = pickle.loads(pickle.dumps(runners["ddpm"].card()))
    assert (card.name, card.recipe, card.step, card.sizes.side, card.sizes.channels, card.sizes.multiple) == ("ddpm", "ddpm", 8, 8, 1, 0)
    assert card.sizes.classes[:3] == ("zero", "one", "two")
    assert (card.sizes.max_steps, card.max_batch) == (1000, 32)
    newest = checkpoint.checkpoints(runs["ddpm"] / "checkpoints")[0]
    assert card.sha256 in {checkpoint.sha256(newest / name) for name in ("weights.safetensors", "ema.safetensors") if (newest / name).exists()}
    assert card.actions["generate"].required == ("seed", "label")
    assert card.actions["generate"].summary.startswith("Pictures, each of its own seed and class")
    latent = runners["ldm_tiny"]
    assert isinstance(latent.task, LatentTask)
    assert latent.card().sizes.multiple == 4
    assert latent.memory_bytes() > 4 * sum(weight.numel() for weight in latent.task.net.parameters())


def test_only_verified_checkpoints_are_opened(runs: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(runs["rbm"], tmp_path / "run")
    newest = checkpoint.checkpoints(tmp_path / "run" / "checkpoints")[0]
    for path in checkpoint.checkpoints(tmp_path / "run" / "checkpoints")[1:]:
        shutil.rmtree(path)
    before = Runner.load(newest, device="cpu")
    weights = newest / "weights.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    for folder in (newest, tmp_path / "run"):
        with pytest.raises(ValueError, match=r"weights.safetensors is damaged"):
            Runner.load(folder)
    with pytest.raises(ValueError, match="holds no checkpoint"):
        Runner.load(tmp_path)
    before.close()


def test_grey_colour_and_transparent_pictures() -> None:
    for channels, mode in ((1, "L"), (3, "RGB"), (4, "RGBA")):
        (image,) = pictures.files(torch.tensor([0.0, 0.5, 1.0, 2.0]).expand(1, channels, 2, 4))
        assert Image.open(io.BytesIO(image)).mode == mode
        assert np.asarray(Image.open(io.BytesIO(image)))[0].reshape(4, -1)[:, 0].tolist() == [0, 128, 255, 255]
