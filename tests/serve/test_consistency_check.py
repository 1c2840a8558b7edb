"""Consistency checks tell weights that are of no use, and machines that compute something else with the same weights."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from genlib import checkpoint
from genlib.inference import Inference
from serve.models import consistency_check
from serve.models.consistency_check import Sample, agree, check_consistency, samples
from serve.models.pool import ModelPool
from serve.models.runner import Runner
from serve.models.sources import ModelSource
from tests.models.stages import train_stages

pytestmark = pytest.mark.anyio
NAMES = ("gan", "ddpm", "vae")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of tiny trained models, each with two checkpoints."""
    root = tmp_path_factory.mktemp("runs")
    return {name: next(iter(train_stages(name, root / name).values())).parents[1] for name in NAMES}


@pytest.fixture
def run(trained: dict[str, Path], tmp_path: Path) -> Path:
    """A copy of a GAN's run that a test may change."""
    return Path(shutil.copytree(trained["gan"], tmp_path / "gan"))


def steps(run: Path) -> list[Path]:
    return sorted((run / "checkpoints").glob("step_*"))


def reweighted(folder: Path, value: float) -> None:
    """Replaces all weights of a checkpoint, with a manifest that is right."""
    manifest = checkpoint.read_manifest(folder)
    for path in folder.glob("*.safetensors"):
        save_file({name: torch.full_like(one, value) if one.is_floating_point() else one for name, one in load_file(path).items()}, path)
        manifest.files[path.name] = checkpoint.sha256(path)
    checkpoint.write_manifest(folder, manifest)


def pool_of(run: Path) -> ModelPool:
    return ModelPool((ModelSource("gan", str(run)),), device="cpu")


def record(run: Path) -> Path:
    (found,) = (run / "checkpoints" / consistency_check.FOLDER).glob("*.json")
    return found


@pytest.mark.parametrize("name", NAMES)
def test_the_same_weights_give_the_same_and_others_do_not(trained: dict[str, Path], name: str) -> None:
    older, newer = steps(trained[name])
    one, two, other = (Runner.load(folder, device="cpu") for folder in (newer, newer, older))
    assert samples(one)
    assert agree(samples(one), samples(two))
    assert not agree(samples(one), samples(other))
    for runner in (one, two, other):
        runner.close()


async def test_weights_that_are_no_numbers_are_not_served_though_their_manifest_is_right(run: Path) -> None:
    _, newer = steps(run)
    reweighted(newer, float("nan"))
    assert checkpoint.verify(newer)
    pool = pool_of(run)
    await pool.ready()
    assert [card.step for card in pool.models()] == [4]
    assert "holds numbers that are not finite" in pool.problems["gan"]
    assert (await pool.run("gan", "generate", {"seed": [1]})).numbers is not None


async def test_a_reload_that_fails_its_consistency_check_leaves_the_model_that_is_served(run: Path, tmp_path: Path) -> None:
    _, newer = steps(run)
    arriving = newer.rename(tmp_path / newer.name)
    reweighted(arriving, float("inf"))
    pool = pool_of(run)
    await pool.ready()
    before = (await pool.run("gan", "generate", {"seed": [1]})).numbers
    arriving.rename(newer)
    assert await pool.refresh() == []
    assert pool.problems["gan"].startswith("step 8 is not served: ")
    assert [card.step for card in pool.models()] == [4]
    assert (await pool.run("gan", "generate", {"seed": [1]})).numbers.tolist() == before.tolist()


def test_each_arithmetic_has_a_record_of_its_own(run: Path) -> None:
    for number, inference in enumerate((Inference(), Inference("bf16"), Inference("fp16")), 1):
        runner = Runner.load(steps(run)[-1], device="cpu", inference=inference)
        check_consistency(runner, steps(run)[-1])
        check_consistency(runner, steps(run)[-1])
        runner.close()
        assert len(list((run / "checkpoints" / consistency_check.FOLDER).glob("*.json"))) == number


async def test_a_restart_that_computes_something_else_with_the_same_weights_is_refused(run: Path) -> None:
    shutil.rmtree(steps(run)[1])
    first = pool_of(run)
    await first.ready()
    assert first.problems == {}
    content = json.loads(record(run).read_text())
    again = pool_of(run)
    await again.ready()
    assert again.problems == {}
    content["generate"]["values"] = [-value for value in content["generate"]["values"]]
    record(run).write_text(json.dumps(content))
    odd = pool_of(run)
    await odd.ready()
    assert odd.models() == []
    assert str(record(run)) in odd.problems["gan"]
    record(run).unlink()
    fresh = pool_of(run)
    await fresh.ready()
    assert fresh.problems == {}


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"generate": 3}', b'{"generate": {"level": 0, "values": []}}', b"\xff" * 99])
def test_a_record_that_cannot_be_read_keeps_nothing_from_being_served(run: Path, content: bytes) -> None:
    newest = steps(run)[-1]
    runner = Runner.load(newest, device="cpu")
    check_consistency(runner, newest)
    record(run).write_bytes(content)
    check_consistency(runner, newest)
    runner.close()


def test_where_nothing_can_be_written_a_model_is_compared_with_itself(run: Path) -> None:
    newest = steps(run)[-1]
    (newest.parent / consistency_check.FOLDER).write_text("a file stands where the folder would be")
    runner = Runner.load(newest, device="cpu")
    check_consistency(runner, newest)
    runner.close()


def test_the_first_of_two_records_counts_and_old_ones_go(tmp_path: Path) -> None:
    one, two = {"generate": Sample(0.1, [1])}, {"generate": Sample(0.1, [9])}
    assert consistency_check.first(tmp_path / "a.json", one) == one
    assert consistency_check.first(tmp_path / "a.json", two) == one
    for number in range(40):
        consistency_check.first(tmp_path / f"{number}.json", one)
    assert len(list(tmp_path.iterdir())) == 16
    assert (tmp_path / "39.json").exists()


def test_rounding_is_no_difference() -> None:
    made = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    whole = Sample.of(made)
    assert whole.agrees(Sample.of(made + 1 / 300))
    assert not whole.agrees(Sample.of(made + 1 / 60))
    turned = made.flatten().clone()
    turned[0] = 0.0
    assert whole.agrees(Sample.of(turned))
    assert not whole.agrees(Sample.of(made[:2]))
    assert Sample.of(torch.zeros(3)).agrees(Sample.of(torch.zeros(3)))
