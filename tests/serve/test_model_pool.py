"""Several models in one process: loaded when asked for, put away, renewed without losing a request, and refused where a byte changed."""

from __future__ import annotations

import asyncio
import gc
import shutil
import weakref
from pathlib import Path

import pytest

from serve.backend import Unavailable
from serve.models.pool import ModelPool
from serve.models.runner import Runner
from serve.models.sources import ModelSource
from tests.models.stages import train_stages

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of tiny trained models, each with two checkpoints."""
    root = tmp_path_factory.mktemp("runs")
    return {name: next(iter(train_stages(name, root / name).values())).parents[1] for name in ("gan", "rbm")}


@pytest.fixture
def runs(trained: dict[str, Path], tmp_path: Path) -> dict[str, Path]:
    """Copies that a test may change, of the older checkpoint alone."""
    for name, folder in trained.items():
        older, *_ = sorted((folder / "checkpoints").glob("step_*"))
        shutil.copytree(older, tmp_path / name / "checkpoints" / older.name)
    return {name: tmp_path / name for name in trained}


def goes_on(name: str, trained: dict[str, Path], runs: dict[str, Path]) -> Path:
    """The run's newer checkpoint arrives."""
    *_, newer = sorted((trained[name] / "checkpoints").glob("step_*"))
    return Path(shutil.copytree(newer, runs[name] / "checkpoints" / newer.name))


def pool_of(runs: dict[str, Path], **options: float) -> ModelPool:
    return ModelPool(tuple(ModelSource(name, str(folder)) for name, folder in runs.items()), device="cpu", **options)


async def test_all_models_are_known_and_answer(runs: dict[str, Path]) -> None:
    pool = pool_of(runs)
    await pool.ready()
    assert {card.name: card.step for card in pool.models()} == {"gan": 4, "rbm": 4}
    made = await pool.run("rbm", "generate", {"seed": [1, 2], "steps": 3})
    assert len(made.images) == 2


async def test_a_model_that_there_is_not_is_refused(runs: dict[str, Path]) -> None:
    pool = pool_of(runs)
    with pytest.raises(ValueError, match="there is no such model; there are gan, rbm"):
        await pool.run("nothing", "generate", {"seed": [1]})
    with pytest.raises(ValueError, match="there is no such model; there are gan, rbm"):
        async for _ in pool.stream("nothing", "generate", {"seed": [1]}):
            pass


async def test_none_is_named_before_all_are_known(runs: dict[str, Path]) -> None:
    pool = pool_of(runs)
    await pool.runner("gan")
    assert pool.models() == []
    await pool.runner("rbm")
    assert {card.name for card in pool.models()} == {"gan", "rbm"}
    pool.close()


async def test_short_of_memory_the_least_recently_used_goes_and_comes_back(runs: dict[str, Path]) -> None:
    pool = pool_of(runs, memory_gb=1e-9)
    await pool.ready()
    assert list(pool.runners) == ["rbm"]
    assert {card.name for card in pool.models()} == {"gan", "rbm"}
    gone = [weakref.ref(weight) for weight in pool.runners["rbm"].task.parameters()]
    gc.disable()  # its memory goes back as the model is put away, not some time later
    try:
        await pool.run("gan", "generate", {"seed": [1]})
        assert list(pool.runners) == ["gan"]
        await asyncio.gather(*pool.leaving)
        await asyncio.sleep(0.2)  # its threads end
        assert [one for one in gone if one() is not None] == []
    finally:
        gc.enable()
    await pool.run("rbm", "generate", {"seed": [1], "steps": 3})
    assert list(pool.runners) == ["rbm"]


@pytest.mark.parametrize("name", ["ddpm", "ldm_tiny"])
def test_a_closed_runner_is_part_of_no_cycle(tmp_path: Path, name: str) -> None:
    runner = Runner.load(list(train_stages(name, tmp_path).values())[-1].parents[1], device="cpu")
    gone = [weakref.ref(module) for module in runner.task.modules()]
    gc.disable()
    try:
        runner.close()
        runner.merger._thread.join()
        del runner
        assert [one for one in gone if one() is not None] == []
    finally:
        gc.enable()


async def test_a_newer_checkpoint_takes_over_while_requests_run(trained: dict[str, Path], runs: dict[str, Path]) -> None:
    pool = pool_of(runs)
    await pool.ready()
    assert await pool.refresh() == []
    running = [asyncio.create_task(pool.run("rbm", "generate", {"seed": [seed], "steps": 400})) for seed in range(4)]
    await asyncio.sleep(0.05)
    goes_on("rbm", trained, runs)
    assert await pool.refresh() == ["rbm"]
    assert {card.name: card.step for card in pool.models()} == {"gan": 4, "rbm": 8}
    assert all(len(made.images) == 1 for made in await asyncio.gather(*running))


async def test_a_newer_checkpoint_with_a_changed_byte_is_not_taken(trained: dict[str, Path], runs: dict[str, Path]) -> None:
    pool = pool_of(runs)
    await pool.ready()
    weights = goes_on("rbm", trained, runs) / "weights.safetensors"
    damaged = bytearray(weights.read_bytes())
    damaged[-9] ^= 1
    weights.write_bytes(damaged)
    assert await pool.refresh() == []
    assert {card.name: card.step for card in pool.models()} == {"gan": 4, "rbm": 4}
    assert "weights.safetensors is damaged" in pool.problems["rbm"]
    assert (await pool.run("rbm", "generate", {"seed": [1], "steps": 3})).images


async def test_a_model_that_cannot_be_opened_keeps_no_other_from_being_served(runs: dict[str, Path]) -> None:
    (weights,) = runs["gan"].glob("checkpoints/*/weights.safetensors")
    weights.write_bytes(weights.read_bytes() + b"\0")
    pool = pool_of(runs)
    await pool.ready()
    assert [card.name for card in pool.models()] == ["rbm"]
    assert list(pool.problems) == ["gan"]
    with pytest.raises(Unavailable):
        await pool.run("gan", "generate", {"seed": [1]})
