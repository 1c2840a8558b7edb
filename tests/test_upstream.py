"""Trained tasks of earlier stages are frozen inside a later one: part of its state and of nothing else."""

from __future__ import annotations

import copy
import hashlib

import pytest
import torch
from torch import nn

from genlib.recipe import Stage
from genlib.task import Task
from tests.encoders import OnEyesConfig
from tests.models.stages import built_untrained

NAMES = {
    "dbn": {"layer2": (12, "5bbd4916b97a5901"), "classifier": (18, "c6609b0713e042eb")},
    "inpainting": {"train": (112, "ed6bbf2cc6b23627")},
    "ldm_tiny": {"denoiser": (419, "1029f6ec6ca38d2e")},
    "rectified_flow": {"reflow": (224, "a15341fcf7aa22ab")},
    "resampling": {"fill": (112, "8c1e32acac48065d")},
    "sd3_tiny": {"denoiser": (385, "74e944d33824e47b")},
    "sdxl_tiny": {"denoiser": (491, "1531f603c34da44e"), "refiner": (704, "6afc4e2c92d39d61")},
}
"""How many entries the state dicts of smoke stages have, and a digest of their sorted names: those in checkpoints."""


class Earlier(Task):
    def __init__(self, upstream: dict[str, Task] | None = None) -> None:
        super().__init__(upstream)
        self.net = nn.Sequential(nn.Linear(2, 3), nn.Dropout(0.5))
        self.register_buffer("scale", torch.ones(1))


class Later(Earlier):
    upstream_prefix = "held."


def nested() -> Later:
    return Later({"middle": Earlier({"first": Earlier()})})


@pytest.mark.parametrize("recipe", NAMES)
def test_names_in_the_state_dict_are_those_of_checkpoints(recipe: str) -> None:
    tasks = built_untrained(recipe)
    for stage, (count, digest) in NAMES[recipe].items():
        names = sorted(tasks[stage].state_dict())
        assert len(names) == count, stage
        assert hashlib.sha256("\n".join(names).encode()).hexdigest()[:16] == digest, stage


def test_no_walk_over_modules_or_weights_meets_them() -> None:
    task = nested()
    own = list(task.net.modules())
    assert list(task.modules()) == [task, *own]
    assert list(task.children()) == [task.net]
    assert [name for name, _ in task.named_parameters()] == ["net.0.weight", "net.0.bias"]
    assert [name for name, _ in task.named_buffers()] == ["scale"]


def test_they_stay_in_eval_mode_and_without_gradients() -> None:
    task = nested().train().requires_grad_(True)
    for earlier in (task.upstream["middle"], task.upstream["middle"].upstream["first"]):
        assert not any(module.training for module in earlier.modules())
        assert not any(weight.requires_grad for weight in earlier.parameters())


def test_they_move_along() -> None:
    task = nested().to("meta").to(torch.float64)
    for earlier in (task.upstream["middle"], task.upstream["middle"].upstream["first"]):
        assert all(value.is_meta and value.dtype == torch.float64 for value in earlier.state_dict().values())


def test_their_state_comes_back_out_of_that_of_the_later_task() -> None:
    task, other = nested(), nested()
    state = {name: value.clone() for name, value in task.state_dict().items()}
    assert {"held.middle.net.0.weight", "held.middle.first.scale", "net.0.bias"} <= state.keys()
    other.load_state_dict(state)
    assert all(torch.equal(value, state[name]) for name, value in other.state_dict().items())
    assert torch.equal(other.upstream["middle"].upstream["first"].net[0].weight, task.upstream["middle"].upstream["first"].net[0].weight)  # type: ignore[index]


@pytest.mark.parametrize(("change", "message"), [("lacks", "Missing"), ("adds", "Unexpected"), ("cuts", "size mismatch")])
def test_a_state_that_does_not_fit_them_is_refused(change: str, message: str) -> None:
    task = nested()
    state = dict(task.state_dict())
    if change == "lacks":
        del state["held.middle.first.scale"]
    state |= {"adds": {"held.middle.first.odd": torch.ones(1)}, "cuts": {"held.middle.first.scale": torch.ones(2)}}.get(change, {})
    with pytest.raises(RuntimeError, match=message):
        task.load_state_dict(state)


def test_a_copy_has_copies_of_them() -> None:
    task = nested()
    made = copy.deepcopy(task)
    assert made.upstream["middle"] is not task.upstream["middle"]
    made.load_state_dict({name: torch.zeros_like(value) for name, value in made.state_dict().items()})
    assert task.upstream["middle"].scale == 1


def test_a_stage_without_a_role_that_its_task_needs_is_refused() -> None:
    with pytest.raises(ValueError, match="OnEyesConfig needs a stage for the role 'eyes'; it was given eye"):
        Stage(task=OnEyesConfig(), needs={"eye": "first"})
