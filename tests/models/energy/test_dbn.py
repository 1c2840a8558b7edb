"""Deep belief networks: a greedy stack, samples down through it, and the start that it gives a classifier."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from genlib import companions, registry
from genlib.data.transforms.vectors import VectorShape
from genlib.models.energy.dbn import DBN, DBNConfig, StackedRBM, StackedRBMConfig, sigmoid_network, stack_of
from genlib.models.energy.rbm import RBM, RBMConfig
from genlib.types import DataSpec
from tests.models.energy.learning import digits, start, train, trained_rbm

SPEC = DataSpec(channels=1, image_size=8, class_names=tuple("0123456789"))
TRAIN, HIDDEN, LAYERS = 1400, 100, 4
SETTINGS = {"hidden": HIDDEN, "initial_weight": 0.1}


def stacked(x: Tensor, *, layers: int, steps: int, seed: int) -> RBM:
    """The top of a stack trained on x, layer after layer."""
    top = trained_rbm(RBMConfig(**SETTINGS), x, steps=steps, learning_rate=0.2, seed=seed)
    top.shape = VectorShape((1, 8, 8))
    for _ in range(layers - 1):
        torch.manual_seed(seed)
        top = StackedRBMConfig(**SETTINGS).build(SPEC, {"below": top})
        start(top, x)
        train(top, torch.optim.SGD(top.net.parameters(), 0.2, momentum=0.5), x, steps=steps, seed=seed)
    return top


def fine_tuned(top: RBM, config: DBNConfig, rows: Tensor, *, steps: int, seed: int) -> DBN:
    """A classifier of these rows of the digits."""
    (x, label), task = digits(), built(top, config, seed=seed)
    train(task, torch.optim.Adam(task.net.parameters(), 3e-3), x[rows], label[rows], steps=steps, seed=seed)
    return task


STACK, RANDOM, SCALED = DBNConfig(), DBNConfig(from_stack=False), DBNConfig(from_stack=False, gain=4.0)


def built(top: RBM, config: DBNConfig = STACK, *, seed: int = 0) -> DBN:
    torch.manual_seed(seed)
    return config.build(SPEC, {"top": top})


def held_out_error(task: DBN) -> float:
    x, label = digits()
    batch = {"x": x[TRAIN:], "label": label[TRAIN:], "valid": torch.ones(len(x) - TRAIN, dtype=torch.bool)}
    return task.evaluate(batch)["error"].mean().item()


def few_labels(each: int) -> Tensor:
    """Rows of the first training digits of each class."""
    label = digits()[1][:TRAIN]
    return torch.cat([(label == number).nonzero()[:each, 0] for number in range(10)])


@pytest.fixture(scope="module")
def stacks() -> dict[int, RBM]:
    """Stacks of four layers by seed, trained when they are asked for."""

    class Made(dict):
        def __missing__(self, seed: int) -> RBM:
            self[seed] = stacked(digits()[0][:TRAIN], layers=LAYERS, steps=4000, seed=seed)
            return self[seed]

    return Made()


@pytest.mark.slow
def test_a_stack_is_a_better_start_than_random_weights(stacks: dict[int, RBM]) -> None:
    rows, errors = torch.arange(TRAIN), {}
    for seed in range(3):
        errors[seed] = [held_out_error(fine_tuned(stacks[seed], start, rows, steps=300, seed=seed)) for start in (STACK, RANDOM, SCALED)]
    assert all(stack < random for stack, random, _ in errors.values()), errors
    assert sum(stack - scaled for stack, _, scaled in errors.values()) < 0, errors  # also on average than weights made for sigmoids


@pytest.mark.slow
def test_codes_help_where_labels_are_few(stacks: dict[int, RBM]) -> None:
    rows, gains = few_labels(20), []
    for seed in range(3):
        scratch = held_out_error(fine_tuned(stacks[seed], RANDOM, rows, steps=600, seed=seed))
        gains.append(scratch - probe_error(stacks[seed], rows, seed))
    assert sum(gains) / 3 >= 0.05, gains


def probe_error(top: RBM, rows: Tensor, seed: int) -> float:
    """Held-out error of a linear classifier on the chances of all layers' hidden units, which saw no label."""
    x, label = digits()
    with torch.no_grad():
        codes = torch.cat([rbm.codes(x) for rbm in stack_of(top)], 1)
    torch.manual_seed(seed)
    probe = nn.Linear(codes.shape[1], 10)
    optimizer = torch.optim.LBFGS(probe.parameters(), max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = nn.functional.cross_entropy(probe(codes[rows]), label[rows]) + 1e-3 * probe.weight.square().sum()
        value.backward()
        return value

    optimizer.step(loss)
    return (probe(codes[TRAIN:]).argmax(1) != label[TRAIN:]).float().mean().item()


@pytest.fixture(scope="module")
def small() -> RBM:
    return stacked(digits()[0][:TRAIN], layers=2, steps=60, seed=0)


def test_the_network_starts_as_the_stack_read_upwards(small: RBM) -> None:
    x, task = digits()[0][:5], built(small)
    torch.testing.assert_close(task.embed(image=x), small.embed(image=x))
    assert not torch.allclose(built(small, RANDOM).embed(image=x), small.embed(image=x))
    sizes = [tuple(p.shape) for p in built(small, RANDOM).net.parameters()]
    assert sizes == [tuple(p.shape) for p in task.net.parameters()]
    assert task.classify(image=x).sum(1).tolist() == pytest.approx([1] * 5)


def test_codes_of_a_stack_are_codes_of_codes(small: RBM) -> None:
    assert isinstance(small, StackedRBM)
    x, lowest = digits()[0][:5], stack_of(small)[0]
    torch.testing.assert_close(small.embed(image=x), small.params().hidden_chance(lowest.embed(image=x)))
    code = torch.rand(5, HIDDEN)
    torch.testing.assert_close(small.decode(code=code), lowest.decode(code=small.params().visible_mean(code)))
    assert small.encode({"x": x})["code"].shape == (5, HIDDEN)


def test_layers_below_stay_as_they_are(small: RBM) -> None:
    lowest = stack_of(small)[0]
    before = {name: value.clone() for name, value in small.state_dict().items()}
    task = built(small)
    x, label = digits()
    train(task, torch.optim.Adam(task.net.parameters(), 3e-3), x[:200], label[:200], steps=3)
    assert all(torch.equal(value, before[name]) for name, value in small.state_dict().items())
    assert not any(p.requires_grad for p in (*small.parameters(), *lowest.parameters()))
    assert {name.split(".")[0] for name, _ in task.named_parameters()} == {"net"}


def test_samples_come_down_from_the_top(small: RBM) -> None:
    task = built(small)
    made = task.generate(seed=[3, 4, 5], steps=20)
    assert made.shape == (3, 1, 8, 8)
    assert 0 <= made.min() < made.max() <= 1
    torch.testing.assert_close(task.generate(seed=[4], steps=20)[0], made[1])
    assert not torch.equal(made[0], made[1])


def test_samples_have_the_means_of_the_data(small: RBM) -> None:
    made = small.generate(seed=list(range(300)), steps=50).flatten(1)
    mean = digits()[0][:TRAIN].mean(0)
    assert torch.stack([made.mean(0), mean]).corrcoef()[0, 1] > 0.95


def test_what_does_not_fit_is_refused(small: RBM) -> None:
    with pytest.raises(ValueError, match="role `below`"):
        StackedRBMConfig().build(SPEC, {})
    with pytest.raises(ValueError, match=r"role `top` and no task\.layers"):
        DBNConfig().build(SPEC, {})
    with pytest.raises(ValueError, match="learns from labels"):
        DBNConfig().build(replace(SPEC, class_names=()), {"top": small})
    with pytest.raises(ValueError, match=r"task\.layers"):
        DBNConfig(layers=(3, 0))
    random = DBNConfig(layers=(5, 4)).build(SPEC, {})
    assert [layer.out_features for layer in random.net[::2]] == [5, 4, 10]
    with pytest.raises(ValueError, match="cannot draw"):
        random.generate(seed=[0])


@pytest.mark.parametrize(("gain", "low", "high"), [(1.0, 0.0, 0.02), (4.0, 0.05, 1.0)])
def test_a_gain_of_four_keeps_the_spread_of_what_goes_through(gain: float, low: float, high: float) -> None:
    torch.manual_seed(0)
    net = sigmoid_network([200, 200, 200, 200, 10], gain)
    x = torch.rand(500, 200)
    for layer in net[:-1]:
        x = layer(x)
    assert low < x.std(0).mean() < high


def test_scores_and_pictures(small: RBM, tmp_path: Path) -> None:
    from genlib.config import DataConfig
    from genlib.data.source import open_source

    scores = companions.assess(built(small).eval(), open_source(DataConfig(train="digits")), tmp_path)
    assert set(scores) == {"validation/error", "validation/cross_entropy"}
    assert 0 <= scores["validation/error"] <= 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["filters.png", "guesses.png", "samples.png"]


def test_the_recipe_is_four_layers_and_a_classifier() -> None:
    stages = registry.load("dbn").stages
    assert [stage.name for stage in stages] == ["layer1", "layer2", "layer3", "layer4", "classifier"]
    assert [dict(stage.needs) for stage in stages[1:3]] == [{"below": "layer1"}, {"below": "layer2"}]
    assert stages[-1].needs == {"top": "layer4"}
