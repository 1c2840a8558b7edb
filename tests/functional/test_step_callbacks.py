"""Watching loops from outside: every step once, in order, and nobody else's."""

from __future__ import annotations

import itertools
import threading

import pytest
import torch
from torch import Tensor

from genlib.functional import gibbs, samplers, step_callbacks
from genlib.functional.grids import flow_grid
from genlib.functional.inpainting import inpaint, visit_order

Seen = list[tuple[int, int]]


def denoiser(x: Tensor, time: Tensor) -> Tensor:
    return x / 2


def steps_of(run) -> Seen:
    seen: Seen = []
    with step_callbacks.step_callback(lambda step, steps, x, x0: seen.append((step, steps))):
        run()
    return seen


@pytest.mark.parametrize("sampler", [samplers.ddim, samplers.heun, samplers.dpm_solver_pp_2m, samplers.flow_euler, samplers.invert])
def test_each_step_of_a_sampler_once(sampler) -> None:
    grid = flow_grid(9)
    part = grid.part(3, 8)
    assert steps_of(lambda: sampler(denoiser, torch.ones(2, 3), part)) == [(step, 5) for step in range(5)]


def test_what_is_seen_is_what_the_sampler_has() -> None:
    grid, x = flow_grid(4), torch.randn(2, 3)
    seen, told = [], []
    with step_callbacks.step_callback(lambda step, steps, x, x0: seen.append((x.clone(), x0.clone()))):
        last = samplers.ddim(denoiser, x, grid, on_step=lambda step, x, x0: told.append((x.clone(), x0.clone())))
    assert all(torch.equal(a, b) for one, other in zip(seen, told, strict=True) for a, b in zip(one, other, strict=True))
    assert torch.equal(seen[-1][0], last)


def test_resampling_counts_all_its_steps() -> None:
    grid = flow_grid(6)
    points = visit_order(6, 2, 3)
    forward = sum(b > a for a, b in itertools.pairwise(points))
    x, noise = torch.zeros(1, 1, 2, 2), lambda call: torch.randn(1, 1, 2, 2)
    keep = torch.tensor([[[[True, False], [False, True]]]])
    assert forward > 6
    assert steps_of(lambda: inpaint(denoiser, x, grid, image=x, keep=keep, noise=noise, jump=2, passes=3)) == [(n, forward) for n in range(forward)]


def test_gibbs_chains() -> None:
    rbm = gibbs.RBMParams(gibbs.BernoulliUnits(), torch.zeros(3, 2), torch.zeros(3), torch.zeros(2))
    assert steps_of(lambda: gibbs.gibbs(rbm, torch.full((1, 2), 0.5), 3, gibbs.Draw(torch.zeros(1, dtype=torch.int64)))) == [
        (0, 3),
        (1, 3),
        (2, 3),
    ]


def test_parts_of_parts() -> None:
    def run() -> None:
        with step_callbacks.part(10, 20), step_callbacks.part(3, 5):
            step_callbacks.after_step(1, 2, torch.zeros(1))

    assert steps_of(run) == [(14, 20)]
    run()  # unwatched


def test_an_observer_ends_the_loop_and_is_gone_after() -> None:
    def stop(step: int, steps: int, x: Tensor, x0: Tensor | None) -> None:
        if step == 2:
            raise KeyError("enough")

    calls: Seen = []
    with pytest.raises(KeyError, match="enough"), step_callbacks.step_callback(stop):
        samplers.ddim(lambda x, time: calls.append((0, 0)) or x, torch.ones(1), flow_grid(9))
    assert len(calls) == 3
    samplers.ddim(denoiser, torch.ones(1), flow_grid(9))


def test_other_threads_and_inner_watchers_see_their_own() -> None:
    def run() -> None:
        samplers.ddim(denoiser, torch.ones(1), flow_grid(2))

    def both() -> None:
        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
        assert steps_of(run) == [(0, 2), (1, 2)]
        with step_callbacks.step_callback(None):
            run()

    assert steps_of(both) == []
