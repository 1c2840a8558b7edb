"""Frozen networks inside a task that trains: in which type they are, where, and for how long."""

from __future__ import annotations

import errno
import re
import shutil
import tempfile
import weakref
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from genlib import checkpoint, distributed, registry
from genlib.config import TrainConfig
from genlib.encoded_batch import encode, encoded
from genlib.engine import zero
from genlib.engine.encoding import frozen_state, identity
from genlib.engine.fit import Training, fit, fresh_task
from genlib.engine.frozen import FrozenBytes, FrozenNetworks, lower, whole_value
from genlib.engine.prefetcher import with_weight
from genlib.engine.sharded_init import ShardedInit
from genlib.engine.step_traffic import step_traffic
from genlib.engine.trace import FakeTask
from genlib.models.autoencoders.base.image import ImageAutoencoder
from genlib.recipe import Stage
from genlib.task import Task
from genlib.types import DataSpec, Step
from genlib.upstream import every_upstream
from jobs.command_line import parse
from jobs.encoder import EncodingWork
from jobs.plan import built, planned
from tests.encoders import Eyes, OnEyes, OnEyesConfig, stages
from tests.models.stages import CPU, built_untrained, metrics, source_of, train_stages
from tests.peak import heap_bytes
from tests.processes import run_ranks

ENCODING = [("sdxl_tiny", "denoiser"), ("sd3_tiny", "denoiser"), ("text_gan", "pictures"), ("rectified_flow", "reflow")]


def smoke(recipe: str, name: str, **train: object) -> Stage:
    (stage,) = (stage for stage in registry.load(recipe).smoke if stage.name == name)
    return replace(stage, train=replace(stage.train, trackers=(), **train))


def prepared(recipe: str, name: str) -> tuple[Task, dict[str, torch.Tensor]]:
    """The task as it is before training, and a batch of its samples."""
    task, stage = built_untrained(recipe)[name], smoke(recipe, name)
    return task, next(iter(source_of(stage).batches("train", 16, transform=task.transform(train=True))))


@pytest.mark.parametrize(("recipe", "name"), ENCODING)
def test_encodings_in_bf16_are_within_two_hundredths_of_their_spread(recipe: str, name: str) -> None:
    task, batch = prepared(recipe, name)
    whole, own = encode(task, batch), {key: value.clone() for key, value in task.state_dict().items() if key not in frozen_state(task)}
    lower(task)
    apart = 0.0
    for key, value in encode(task, batch).items():
        assert value.dtype == whole[key].dtype
        if not value.is_floating_point() or "latent" in key:
            assert torch.equal(value, whole[key]), key
            continue
        error = (value.float() - whole[key].float()).square().mean().sqrt() / whole[key].float().std()
        apart = max(apart, error.item())
    assert 1e-5 < apart < 0.02
    assert all(torch.equal(task.state_dict()[key], value) and value.dtype == task.state_dict()[key].dtype for key, value in own.items())


def test_image_autoencoders_stay_whole_and_layers_of_all_others_take_half() -> None:
    task = built_untrained("sdxl_tiny")["refiner"]
    lower(task)
    for one in every_upstream(task):
        types = {weight.dtype for weight in one.parameters()}
        assert types == ({torch.float32} if isinstance(one, ImageAutoencoder) else {torch.float32, torch.bfloat16})


def test_frozen_networks_follow_the_precision_unless_they_are_told() -> None:
    lowers = {(p, f): TrainConfig(precision=p, frozen_precision=f).lowers_frozen for p in ("fp32", "bf16") for f in ("auto", "fp32", "bf16")}  # type: ignore[arg-type]
    assert [key for key, low in lowers.items() if low] == [("fp32", "bf16"), ("bf16", "auto"), ("bf16", "bf16")]


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_stages("rectified_flow", tmp_path_factory.mktemp("teacher"), ["flow"])["flow"]


def reflow(folder: Path, teacher: Path, **train: object) -> Path:
    """Trains the small reflow; its final checkpoint."""
    stage = smoke(
        "rectified_flow", "reflow", checkpoint_every_steps=2, keep_checkpoints=9, steps=4, encoded_dir=str(folder.parent / "encoded"), **train
    )
    return fit(stage, recipe="rectified_flow", source=source_of(stage), folder=folder, device=CPU, upstream={"teacher": teacher})


def assert_away(task: Task) -> None:
    for one in every_upstream(task):
        assert all(weight.is_meta for weight in one.parameters())


@pytest.mark.parametrize(("recipe", "name"), [*ENCODING, ("sdxl_tiny", "refiner"), ("ldm_tiny", "denoiser"), ("dbn", "layer2")])
def test_a_loss_is_the_same_once_all_is_encoded_and_no_frozen_weight_is_alive(recipe: str, name: str) -> None:
    task, batch = prepared(recipe, name)
    task.train()
    batch = encoded(task, with_weight(batch, 16))
    whole = [task.loss(phase.name, batch, Step(0, 1))[0].detach() for phase in task.phases]
    alive = [weakref.ref(weight.untyped_storage()) for one in every_upstream(task) for weight in one.parameters()]
    state = {key: value.detach().clone() for key, value in frozen_state(task).items()}
    FrozenNetworks(task, CPU).settle(ahead=True)
    assert_away(task)
    assert alive
    assert not any(storage() for storage in alive)
    for phase, loss in zip(task.phases, whole, strict=True):
        assert torch.equal(task.loss(phase.name, batch, Step(0, 1))[0], loss)
    for key, value in frozen_state(task).items():
        assert torch.equal(whole_value(value, CPU), state[key]), key


def test_what_is_away_takes_no_memory_of_the_process() -> None:
    task = OnEyes(big_eyes(), OnEyesConfig())
    before = anonymous_bytes()
    FrozenNetworks(task, CPU).settle(ahead=True)
    assert before - anonymous_bytes() > 0.9 * 2 * 8000 * 8000


def big_eyes() -> Eyes:
    """With a layer of 128 MB: the C library gives back at once what is above 32 MB, and may keep less."""
    eyes = Eyes()
    eyes.large = torch.nn.Linear(8000, 8000, bias=False, dtype=torch.bfloat16)
    return eyes


def anonymous_bytes() -> int:
    """Memory of this process that lies in no file."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon"))
    return 1024 * int(line.split()[1])


def test_what_nothing_asks_for_is_away_though_samples_are_encoded_on_the_fly() -> None:
    task, batch = prepared("sdxl_tiny", "refiner")
    whole = encode(task, batch)
    frozen = FrozenNetworks(task, CPU)
    frozen.leave_unasked()
    frozen.settle(ahead=False)
    base = task.upstream["base"]
    assert all(weight.is_meta for weight in base.parameters())
    assert all(weight.is_meta for weight in base.upstream["text"].parameters())
    assert not any(weight.is_meta for weight in base.upstream["autoencoder"].parameters())
    assert all(torch.equal(value, whole[key]) for key, value in encode(task, batch).items())


def test_a_run_has_no_frozen_network_once_all_is_encoded_but_where_it_is_evaluated(
    teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks, brought = [], []
    trained, bring = Training.trained, FrozenNetworks.bring
    monkeypatch.setattr(Training, "trained", lambda self, *given: (tasks.append(self.task), assert_away(self.task), trained(self, *given))[-1])
    monkeypatch.setattr(FrozenNetworks, "bring", lambda self: (brought.append(len(tasks)), bring(self))[-1])
    ahead = reflow(tmp_path / "ahead", teacher, encode="ahead", evaluate_every_steps=2, pictures_every_steps=2)
    assert brought == [0, 1, 1]  # to encode, and for two evaluations
    assert_away(tasks[0])
    assert (tmp_path / "ahead" / "pictures" / "step_00000002.png").exists()
    shutil.rmtree(tmp_path / "ahead" / "checkpoints" / checkpoint.step_name(4))
    brought.clear()
    again = reflow(tmp_path / "ahead", teacher, encode="ahead")
    assert brought == []
    with monkeypatch.context() as patch:
        patch.setattr(Training, "trained", trained)
        fly = reflow(tmp_path / "fly", teacher, encode="fly", evaluate_every_steps=2)
    assert equal(ahead, again)
    assert equal(fly, ahead)
    scores = [[row["val/loss"] for row in metrics(tmp_path / name) if "val/loss" in row] for name in ("ahead", "fly")]
    assert scores[0][0] == scores[1][0]
    assert checkpoint.load_task(ahead).upstream["teacher"].generate(seed=[1], steps=2).isfinite().all()  # type: ignore[operator]


def test_a_full_disk_leaves_it_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(**_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    task = OnEyes(Eyes(), OnEyesConfig())
    weight = task.eyes.net[0].weight.clone()  # type: ignore[index]
    frozen = FrozenNetworks(task, CPU)
    frozen.settle(ahead=True)
    assert_away(task)
    with frozen.present():
        assert torch.equal(task.eyes.net[0].weight, weight)  # type: ignore[index]
    assert_away(task)


def on_eyes(root: Path, name: str, **train: Any) -> Path:
    """Trains what learns on frozen eyes, which are there already; its final checkpoint."""
    _, stage = stages(steps=4, evaluate_every_steps=2, encoded_dir=str(root / "encoded"), **train)
    stage = replace(stage, task=replace(stage.task, dropout=0.0))  # which is another one on every rank
    eyes = root / "eyes" / "checkpoints" / checkpoint.step_name(2)
    return fit(stage, recipe="encoders", source=source_of(stage), folder=root / name, device=CPU, upstream={"eyes": eyes})


def by_two(root: Path) -> None:
    for name in ("ddp", "zero3"):
        on_eyes(root, f"{name}-two", encode="ahead", strategy=name)


def test_two_processes_that_dropped_them_equal_one(tmp_path: Path) -> None:
    first, _ = stages()
    fit(first, recipe="encoders", source=source_of(first), folder=tmp_path / "eyes", device=CPU)
    run_ranks(2, by_two, tmp_path)
    one = checkpoint.load_weights(on_eyes(tmp_path, "one", encode="fly"))
    for name in ("ddp", "zero3"):
        found = checkpoint.load_weights(tmp_path / f"{name}-two" / "checkpoints" / checkpoint.step_name(4))
        for key, value in one.items():
            torch.testing.assert_close(found[key], value, atol=0 if "eyes" in key else 1e-6, rtol=0)
        rows, whole = metrics(tmp_path / f"{name}-two"), metrics(tmp_path / "one")
        assert rows[-1]["val/code"] == pytest.approx(whole[-1]["val/code"], rel=1e-5)


def check_gradient_through_shards() -> None:
    """As of a distance in the features of a frozen network."""
    task, gradients = OnEyes(Eyes(), OnEyesConfig()), []
    for sharded in (None, 8):
        FrozenNetworks(task, CPU).settle(ahead=False, sharded=sharded)
        image = torch.linspace(0, 1, 64).view(1, 1, 8, 8).requires_grad_()
        task.eyes.net(image).square().sum().backward()  # type: ignore[operator]
        gradients.append(image.grad)
    assert task.eyes.net[0].weight.is_meta  # type: ignore[index]
    assert torch.equal(*gradients)


def encodes_in_shards(folder: Path) -> None:
    """Whether what a rank encodes is the same with layers in shards, and how much of them it holds."""
    task, batch = prepared("sd3_tiny", "denoiser")
    lower(task)
    whole, held = encode(task, batch), FrozenNetworks(task, CPU)
    elements = sum(numel for one in held.weights if one.asked and (numel := one.now.numel()) >= 64)
    held.leave_unasked()
    held.settle(ahead=False, sharded=64)
    sharded = [one for one in held.weights if one.sharded]
    assert all(one.now.is_meta for one in sharded)
    assert all(torch.equal(value, whole[key]) for key, value in encode(task, batch).items())
    assert all(one.now.is_meta for one in sharded)
    check_gradient_through_shards()
    (folder / f"{distributed.rank()}").write_text(str(sum(one.shard.numel() for one in sharded if one.shard is not None) / elements))


def test_layers_that_encode_in_shards_give_the_same_and_each_rank_holds_its_share(tmp_path: Path) -> None:
    run_ranks(2, encodes_in_shards, tmp_path)
    assert all(0.45 < float((tmp_path / f"{rank}").read_text()) < 0.55 for rank in range(2))


def fly_by_two(root: Path) -> None:
    zero.ShardedInit = partial(ShardedInit, small_elements=8)  # the eyes are small
    trained = Training.trained

    def looked_at(self: Training, first: int, kept: Path | None) -> Path:
        assert self.task.upstream["eyes"].net[0].weight.is_meta  # type: ignore[index]
        return trained(self, first, kept)

    Training.trained = looked_at
    on_eyes(root, "two", encode="fly", strategy="zero3")


def test_a_run_whose_frozen_networks_are_sharded_equals_one_process(tmp_path: Path) -> None:
    first, _ = stages()
    fit(first, recipe="encoders", source=source_of(first), folder=tmp_path / "eyes", device=CPU)
    run_ranks(2, fly_by_two, tmp_path)
    one = checkpoint.load_weights(on_eyes(tmp_path, "one", encode="fly"))
    found = checkpoint.load_weights(tmp_path / "two" / "checkpoints" / checkpoint.step_name(4))
    for key, value in one.items():
        torch.testing.assert_close(found[key], value, atol=0 if "eyes" in key else 1e-6, rtol=0)


@pytest.mark.parametrize("low", [False, True])
def test_what_a_plan_says_of_them_is_within_a_tenth_of_what_they_take(low: bool) -> None:
    by_name = {stage.name: stage for stage in registry.load("sd3_tiny").stages}
    task = built(by_name["denoiser"], by_name, DataSpec(channels=3, image_size=32, has_captions=True, num_samples=1))
    if low:
        lower(task)
    found, frozen = FrozenBytes.of(task), FrozenNetworks(task, CPU)
    frozen.leave_unasked()
    frozen.settle(ahead=False)
    before = heap_bytes()
    frozen.drop()
    said = found.held(1, ahead=False, sharded=False) - found.held(1, ahead=True, sharded=False)
    assert said == pytest.approx(before - heap_bytes(), rel=0.1)
    assert (found.bf16 > 0.3 * found.asked) == low
    assert found.asked / 4 < found.held(4, ahead=False, sharded=True) < found.asked / 3


def test_a_plan_tells_their_types_and_where_they_are() -> None:
    words = ["rectified_flow", "--smoke", "--plan", "--gpus", "2"]
    said = {
        way: re.findall("^frozen networks: (.*)$|^  frozen +(.*)$", planned(parse([*words, *options])), re.MULTILINE)
        for way, options in (
            ("fly", []),
            ("bf16", ["--reflow.train.frozen-precision", "bf16"]),
            ("ahead", ["--reflow.train.encode", "ahead"]),
        )
    }  # fmt: skip
    rows = {way: [float(cell) for cell in found[0][1].replace(" .", " 0").split()] for way, found in said.items() if found[0][1]}
    assert said["fly"][-1][0].endswith("(0.275 MB fp32, 0 MB bf16) are on each GPU; --train.encode ahead keeps none there")
    assert "0 MB bf16" not in said["bf16"][-1][0]
    assert said["ahead"][-1][0].endswith("are on a GPU until everything is encoded ahead, then on none")
    assert rows["bf16"][0] < rows["fly"][0]
    assert "ahead" not in rows or max(rows["ahead"]) <= 0.01


def test_what_shards_send_is_counted() -> None:
    fake = FakeTask(lambda: OnEyes(big_eyes(), OnEyesConfig()))
    fly, ahead = (step_traffic(fake, TrainConfig(strategy="zero3", accumulation=2, encode=way), "zero3", 2) for way in ("fly", "ahead"))  # type: ignore[arg-type]
    assert fly.gathered - ahead.gathered == 2 * 2 * 8000 * 8000


def equal(one: Path, other: Path) -> bool:
    expected, found = checkpoint.load_weights(one), checkpoint.load_weights(other)
    return all(torch.equal(found[name], value) and found[name].dtype == value.dtype for name, value in expected.items())


def test_a_run_with_frozen_networks_in_bf16_goes_on_as_it_was_and_the_same_either_way(teacher: Path, tmp_path: Path) -> None:
    whole = reflow(tmp_path / "whole", teacher, frozen_precision="bf16", encode="fly")
    types = {value.dtype for name, value in checkpoint.load_weights(whole).items() if "teacher" in name}
    assert torch.bfloat16 in types
    assert {value.dtype for name, value in checkpoint.load_weights(whole).items() if name.startswith("net.")} == {torch.float32}
    shutil.copytree(tmp_path / "whole", tmp_path / "again")
    shutil.rmtree(tmp_path / "again" / "checkpoints" / checkpoint.step_name(4))
    assert equal(whole, reflow(tmp_path / "again", teacher, frozen_precision="bf16", encode="ahead"))
    assert not equal(whole, reflow(tmp_path / "fp32", teacher, encode="fly"))
    with pytest.raises(ValueError, match=r"was started with train\.frozen_precision = 'bf16', now it is 'fp32'"):
        reflow(tmp_path / "whole", teacher, frozen_precision="fp32")


def test_what_is_encoded_in_bf16_is_a_set_of_its_own_that_other_workers_make_too(teacher: Path, tmp_path: Path) -> None:
    names = {}
    for precision in ("fp32", "bf16"):
        stage = smoke("rectified_flow", "reflow", frozen_precision=precision)
        source = source_of(stage)
        task, blueprint = fresh_task(stage, recipe="rectified_flow", source=source, folder=tmp_path, upstream={"teacher": teacher})
        names[precision] = identity(task, stage, source.spec)
        work = EncodingWork.of(stage, task, blueprint, tmp_path, tmp_path)
        assert work.identity == names[precision]
        batch = next(iter(source.batches("train", 8, transform=task.transform(train=True))))
        there, here = encode(work.restored(), batch), encode(task.eval(), batch)
        assert all(torch.equal(there[name], value) for name, value in here.items())
    assert names["fp32"] != names["bf16"]
