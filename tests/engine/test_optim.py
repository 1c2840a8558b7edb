"""Schedules, decay groups and clipping."""

import pytest
import torch
from torch import nn

from genlib.config import OptimConfig, TrainConfig
from genlib.engine.optim import clip_gradients, learning_rate, make_optimizer, parameter_groups
from tests.tiny import VAE, Task


def test_warmup_then_shape() -> None:
    cosine = OptimConfig(learning_rate=2.0, warmup_steps=4, schedule="cosine", final_fraction=0.1)
    assert [learning_rate(cosine, i, 104) for i in (0, 1, 3, 4)] == [0.5, 1.0, 2.0, 2.0]
    assert learning_rate(cosine, 54, 104) == pytest.approx(1.1)
    assert learning_rate(cosine, 103, 104) == pytest.approx(0.2, rel=0.01)
    linear = OptimConfig(learning_rate=1.0, schedule="linear")
    assert [learning_rate(linear, i, 10) for i in (0, 5, 9)] == pytest.approx([1.0, 0.5, 0.1])
    constant = OptimConfig(learning_rate=1.0, warmup_steps=2)
    assert [learning_rate(constant, i, 10) for i in (0, 2, 9)] == [0.5, 1.0, 1.0]


def test_gains_and_biases_do_not_decay() -> None:
    task = VAE()
    weights = dict(task.net.named_parameters())
    decayed, kept = parameter_groups(task, weights, OptimConfig(weight_decay=0.1))
    assert {id(p) for p in decayed["params"]} == {id(p) for name, p in weights.items() if name.endswith("weight")}
    assert (decayed["weight_decay"], kept["weight_decay"]) == (0.1, 0.0)
    assert len(parameter_groups(task, weights, OptimConfig())) == 1


def test_player_without_weights_is_refused() -> None:
    with pytest.raises(ValueError, match=r"no trainable weights; a task without training has phases = \(\)"):
        parameter_groups(Task(), {}, OptimConfig())


@pytest.mark.parametrize(("max_norm", "after"), [(0.0, 5.0), (10.0, 5.0), (1.0, 1.0)])
def test_clipping_returns_the_norm_before(max_norm: float, after: float) -> None:
    weight = nn.Parameter(torch.zeros(2))
    weight.grad = torch.tensor([3.0, 4.0])
    assert clip_gradients([weight], max_norm).item() == pytest.approx(5.0)
    assert weight.grad.norm().item() == pytest.approx(after, rel=1e-5)


def test_muon_moves_matrices_that_are_no_embeddings() -> None:
    class Words(Task):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.ModuleDict({"words": nn.Embedding(5, 4), "line": nn.Linear(4, 3), "conv": nn.Conv2d(1, 2, 3)})

    task = Words()
    names = {id(weight): name for name, weight in task.net.named_parameters()}
    groups = parameter_groups(task, dict(task.net.named_parameters()), OptimConfig(name="muon", weight_decay=0.1))
    found = {(group["name"], group["weight_decay"]): sorted(names[id(weight)] for weight in group["params"]) for group in groups}
    assert found == {
        ("muon", 0.1): ["line.weight"],
        ("adamw", 0.1): ["conv.weight", "words.weight"],
        ("adamw", 0.0): ["conv.bias", "line.bias"],
    }
    optimizer = make_optimizer(groups, OptimConfig(name="muon"))
    for weight in task.parameters():
        weight.grad = torch.randn_like(weight)
    before = task.net["line"].weight.clone()
    optimizer.step()
    update = (before - task.net["line"].weight.detach()) / 1e-3
    values = torch.linalg.svdvals(update.detach())
    assert values.min() > 0.3 * values.max(), "nearly orthogonal"
    assert 0.1 < update.square().mean().sqrt() < 0.5, "of the size of adamw's"
    kept = {names[id(weight)]: sorted(state) for weight, state in optimizer.state.items()}
    assert kept["line.weight"] == ["momentum_buffer"]
    assert kept["conv.weight"] == ["exp_avg", "exp_avg_sq", "step"]


@pytest.mark.parametrize("name", ["muon", "adafactor", "adamw_8bit"])
def test_whole_weights_do_not_go_with_offload(name: str) -> None:
    with pytest.raises(ValueError, match=f"train.offload optimizer does not go with {name}, which looks at whole weights; use adamw"):
        TrainConfig(strategy="zero2", offload="optimizer", optim=OptimConfig(name=name))


@pytest.mark.parametrize("name", ["adamw", "adam", "sgd", "rmsprop", "lion", "muon", "adafactor", "schedule_free_adamw"])
def test_every_optimizer_descends(name: str) -> None:
    weight = nn.Parameter(torch.ones(3, 1))
    optimizer = make_optimizer([{"params": [weight], "weight_decay": 0.0}], OptimConfig(name=name, learning_rate=0.1, momentum=0.5))
    for _ in range(20):
        optimizer.zero_grad()
        weight.square().sum().backward()
        optimizer.step()
    assert weight.abs().max() < 0.8
