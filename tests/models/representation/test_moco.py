"""MoCo: the queue is first in, first out; the momentum encoder follows by its rule; the loss is the paper's."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from genlib import checkpoint, companions, registry
from genlib.data.source import open_source
from genlib.engine.fit import fit
from genlib.models.representation.moco import MoCo, MoCoConfig
from genlib.types import Batch, Step
from tests.models.representation.test_simclr import SPEC, batch_of

SMALL = MoCoConfig(width=8, layers=(1, 1), hidden=16, embed_dim=8, queue=10, momentum=0.9)


def made(config: MoCoConfig = SMALL) -> MoCo:
    torch.manual_seed(0)
    return config.build(SPEC, {})


def rows(batch: Batch, start: int, end: int) -> Batch:
    return {name: value[start:end] for name, value in batch.items()}


def stepped(task: MoCo, *micro: Batch) -> torch.Tensor:
    """Takes a step on these micro-batches without an optimizer; the keys that they made."""
    keys = torch.cat([task.keys(batch["image"][:, 1]) for batch in micro])
    for batch in micro:
        task.loss("train", batch, Step(0, 1))
    with torch.no_grad():
        task.after_step(Step(0, 1))
    return keys


def test_the_queue_is_first_in_first_out() -> None:
    task, batch = made(), batch_of(12)
    start = task.queue.clone()
    torch.testing.assert_close(start.norm(dim=1), torch.ones(10))
    first = stepped(task, rows(batch, 0, 4))
    torch.testing.assert_close(task.queue, torch.cat([first, start[4:]]), atol=0, rtol=0)
    second = stepped(task, rows(batch, 4, 8))
    torch.testing.assert_close(task.queue, torch.cat([first, second, start[8:]]), atol=0, rtol=0)
    third = stepped(task, rows(batch, 8, 12))
    torch.testing.assert_close(task.queue, torch.cat([third[2:], first[2:], second, third[:2]]), atol=0, rtol=0)
    assert int(task.oldest) == 2
    assert task.arrived == []


def test_keys_of_micro_batches_come_in_the_order_of_their_samples_and_placeholders_not_at_all() -> None:
    one, two, batch = made(), made(), batch_of(8)
    batch["valid"][5] = False
    stepped(one, batch)
    stepped(two, rows(batch, 4, 8), rows(batch, 0, 4))
    torch.testing.assert_close(one.queue, two.queue)
    assert int(one.oldest) == int(two.oldest) == 7


def test_more_keys_than_the_queue_holds_leave_the_newest() -> None:
    task, batch = made(replace(SMALL, queue=3)), batch_of(12)
    keys = stepped(task, batch)
    torch.testing.assert_close(task.queue, keys[-3:], atol=0, rtol=0)


def test_the_momentum_encoder_is_exactly_the_moving_average() -> None:
    task, batch = made(), batch_of(4)
    before = {name: weight.detach().clone() for name, weight in task.net.named_parameters()}
    torch.testing.assert_close(task.keys(batch["image"][:, 0]), task.net(batch["image"][:, 0]).detach())
    with torch.no_grad():
        for weight in task.net.parameters():
            weight.add_(1.0)
    stepped(task, batch)
    follower = dict(task.momentum_net.named_buffers())
    assert list(follower) == list(before)
    for name, weight in task.net.named_parameters():
        torch.testing.assert_close(follower[name], 0.9 * before[name] + 0.1 * weight.detach())


def test_the_loss_is_that_of_naming_the_own_key_among_the_queue() -> None:
    task, batch = made(), batch_of(6)
    loss, metrics = task.loss("train", batch, Step(0, 1))
    queries, keys = task.net(batch["image"][:, 0]), task.keys(batch["image"][:, 1])
    choices = torch.cat([(queries * keys).sum(1, keepdim=True), queries @ task.queue.T], 1)
    torch.testing.assert_close(loss, F.cross_entropy(choices / 0.2, torch.zeros(6, dtype=torch.long), reduction="none"))
    torch.testing.assert_close(metrics["alignment"], choices[:, 0].detach())
    loss.mean().backward()
    assert all(weight.grad is not None for weight in task.net.parameters())
    assert {name.partition(".")[0] for name, _ in task.named_parameters()} == {"net"}


@pytest.mark.parametrize("values", [{"queue": 0}, {"momentum": 1.0}, {"momentum": -0.1}])
def test_impossible_settings_are_refused(values: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(values))):
        replace(SMALL, **values)


@pytest.mark.slow
def test_a_probe_of_what_it_learnt_is_far_ahead_of_one_of_an_untrained_encoder(tmp_path: Path) -> None:
    (stage,) = registry.load("moco").stages
    stage = replace(stage, train=replace(stage.train, checkpoint_every_steps=stage.train.steps, trackers=()))
    source = open_source(stage.data)
    fit(stage, recipe="moco", source=source, folder=tmp_path, device=torch.device("cpu"))
    scores = companions.assess(checkpoint.load_task(checkpoint.find(tmp_path)), source, tmp_path)
    assert scores["validation/linear_probe_accuracy"] >= scores["validation/untrained_linear_probe_accuracy"] + 0.15
