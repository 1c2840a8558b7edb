"""The game of StyleGAN: when its penalties come and what they are, what moves after a step, what its actions draw."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from genlib import random
from genlib.config import OptimConfig
from genlib.engine.prefetcher import with_weight
from genlib.functional.adversarial import relativistic, squared_gradient
from genlib.models.adversarial.stylegan.labelled import LabelledStyleGANConfig
from genlib.models.adversarial.stylegan.projection import distance, nearest_styles
from genlib.models.adversarial.stylegan.recipes import lazy
from genlib.models.adversarial.stylegan.settings import StyleGame, StyleNetworks
from genlib.models.adversarial.stylegan.task import StyleGAN, StyleGANConfig
from genlib.models.base.health import Health
from genlib.types import Batch, DataSpec, Step

DATA = DataSpec(channels=1, image_size=16, class_names=("a", "b", "c"))
NETWORKS = StyleNetworks(latent_dim=8, style_dim=8, mapping_layers=2, channel_base=128, channel_max=16)
STEP = Step(0, 10, seed=3)


def made(game: StyleGame | None = None, networks: StyleNetworks = NETWORKS) -> StyleGAN:
    torch.manual_seed(0)
    return StyleGAN(networks, game or StyleGame(), Health(), DATA)


def batch(rows: int = 8, start: int = 0) -> Batch:
    torch.manual_seed(1)
    found = {"image": torch.rand(rows, 1, 16, 16), "position": torch.arange(rows) + start, "valid": torch.ones(rows, dtype=torch.bool)}
    return with_weight(found, rows)


def test_penalties_come_at_every_kth_step_with_k_times_the_weight() -> None:
    phases = {phase.name: phase for phase in made(StyleGame(penalty_every=16, path_every=4)).phases}
    assert list(phases) == ["discriminator", "penalty", "generator", "path"]
    for name, every in (("penalty", 16), ("path", 4)):
        assert phases[name].loss_weight == every
        assert [index for index in range(33) if phases[name].due(index)] == list(range(0, 33, every))
    assert {phase.name for phase in made(StyleGame(gamma=0, path_weight=0)).phases} == {"discriminator", "generator"}


def test_the_optimizer_of_a_lazy_penalty_goes_as_far_and_forgets_as_much() -> None:
    one = lazy(OptimConfig(name="adam", learning_rate=0.002, beta1=0.5, beta2=0.99), 16)
    assert one.learning_rate == pytest.approx(0.002 * 16 / 17)
    assert one.beta2**17 == pytest.approx(0.99**16)
    assert one.beta1**17 == pytest.approx(0.5**16)


def test_the_penalty_is_half_of_gamma_times_the_squared_gradient_at_data() -> None:
    task, rows = made(StyleGame(gamma=3.0)), batch()
    loss, values = task.loss("penalty", rows, STEP)
    image = (rows["image"] * 2 - 1).requires_grad_()
    (gradient,) = torch.autograd.grad(task.discriminator(image).sum(), image)
    squares = gradient.square().sum((1, 2, 3))
    assert torch.allclose(values["r1"], squares, rtol=1e-4)
    assert torch.allclose(loss, 1.5 * squares, rtol=1e-4)


def test_r2_is_the_same_at_fakes() -> None:
    task = made(StyleGame(gamma=3.0, penalise_fakes=True))
    loss, values = task.loss("penalty", batch(), STEP)
    assert torch.allclose(loss, 1.5 * (values["r1"] + values["r2"]), rtol=1e-4)
    assert (values["r2"] > 0).all()


def test_the_gradient_of_a_known_function_is_known() -> None:
    x = torch.randn(4, 3, requires_grad=True)
    assert torch.allclose(squared_gradient((x * torch.tensor([1.0, 2.0, 2.0])).sum(1), x), torch.full((4,), 9.0))


def test_relativistic_players_pull_a_pair_apart_and_together() -> None:
    real, fake = torch.tensor([[2.0]]), torch.tensor([[0.5]])
    assert relativistic(real, fake).item() == pytest.approx(torch.nn.functional.softplus(torch.tensor(-1.5)).item())
    assert relativistic(fake, real).item() == pytest.approx(torch.nn.functional.softplus(torch.tensor(1.5)).item())


def test_a_path_length_is_that_of_the_jacobian_on_average() -> None:
    """The mean squared length of J^T y over directions y of unit deviation is the sum of squares of J over the number of pixels."""
    task = made(StyleGame(style_mixing=0.0, path_share=1))
    rows = {name: value[:1].expand(512, *value.shape[1:]).clone() for name, value in batch(1).items()}
    rows["position"] = torch.arange(512)
    w = task.generator.mapping(task.noise({"position": torch.zeros(1, dtype=torch.long)}, STEP.seed, "path")).detach()

    def same_style(*_: object) -> Tensor:
        return task.generator.same_style(w).expand(512, -1, -1).clone().requires_grad_()

    task.styles = same_style  # type: ignore[method-assign]
    task.layer_noise = lambda *_: "none"  # type: ignore[method-assign, assignment, return-value]
    _, values = task.loss("path", rows, STEP)
    jacobian = torch.autograd.functional.jacobian(lambda ws: task.generator.drawn(ws, "none"), task.generator.same_style(w))
    expected = jacobian.square().sum() / (16 * 16) / task.generator.synthesis.num_ws
    assert values["path_length"].square().mean().item() == pytest.approx(expected.item(), rel=0.1)


def test_the_path_penalty_makes_lengths_alike() -> None:
    task = made(StyleGame(style_mixing=0.0, path_share=1, path_weight=2.0))
    generator = list(task.generator.parameters())
    optimizer, spreads = torch.optim.Adam(generator, 5e-3), []
    for index in range(80):
        optimizer.zero_grad()
        loss, values = task.loss("path", batch(16, 16 * index), Step(index, 80))
        loss.mean().backward()
        optimizer.step()
        with torch.no_grad():
            task.after_step(Step(index, 80))
        spreads.append((values["path_length"].std() / values["path_length"].mean()).item())
    assert sum(spreads[-10:]) < 0.8 * sum(spreads[:10])


@pytest.mark.parametrize("share", [1, 2, 3])
def test_some_rows_stand_for_all(share: int) -> None:
    task = made(StyleGame(path_share=share))
    chosen, counts, factor = task.some_rows(batch(8))
    assert counts.all()
    assert chosen.tolist() == list(range(0, 8, share))
    assert factor * len(chosen) == 8


def test_the_mean_of_styles_moves_slowly_to_that_of_a_step() -> None:
    task = made()
    task.loss("generator", batch(), STEP)
    with torch.no_grad():
        task.after_step(STEP)
    noise = random.normal(torch.arange(8), (8,), seed=3, stream="latents of the generator")
    expected = task.generator.mapping(noise).mean(0) * (1 - 0.998)
    assert torch.allclose(task.generator.mapping.w_avg, expected, atol=1e-6)
    with torch.no_grad():
        task.after_step(STEP)
    assert torch.allclose(task.generator.mapping.w_avg, expected, atol=1e-6), "nothing was seen since"


def test_a_step_that_is_not_finite_moves_no_mean() -> None:
    task = made()
    task.generator.mapping.fc0.weight.data[0, 0] = float("nan")  # type: ignore[union-attr, index]
    task.loss("generator", batch(), STEP)
    with torch.no_grad():
        task.after_step(STEP)
    assert not task.generator.mapping.w_avg.any()


def test_styles_are_mixed_in_the_share_that_is_asked_for() -> None:
    task = made(StyleGame(style_mixing=0.6))
    ws = task.styles({"position": torch.arange(4000), "valid": torch.ones(4000, dtype=torch.bool)}, STEP, "discriminator")
    mixed = (ws[:, 0] != ws[:, -1]).any(1)
    assert mixed.float().mean().item() == pytest.approx(0.6, abs=0.03)
    crossovers = (ws[mixed] == ws[mixed][:, :1]).all(2).sum(1)
    assert set(crossovers.tolist()) == set(range(1, task.generator.synthesis.num_ws))


def test_half_of_the_images_are_mirrored() -> None:
    task = made(StyleGame(mirror=True))
    rows = batch(1)
    rows = {name: value.expand(1000, *value.shape[1:]) for name, value in rows.items()} | {"position": torch.arange(1000)}
    seen, real = task.seen(rows, STEP), task.real(rows)
    as_is, mirrored = (
        torch.tensor([torch.equal(one, other) for one, other in zip(seen, real.flip(flip) if flip else real, strict=True)]) for flip in ((), 3)
    )
    assert (as_is ^ mirrored).all()
    assert mirrored.float().mean().item() == pytest.approx(0.5, abs=0.05)


def test_truncation_to_nothing_is_the_mean_image_for_all() -> None:
    task = made()
    task.generator.mapping.w_avg.copy_(torch.randn(8))
    images = task.generate(seed=[1, 2, 3], truncation=0.0)
    assert torch.allclose(images[0], images[1])
    assert torch.allclose(images[0], images[2])


def test_noise_of_a_seed_is_its_own_whoever_stands_beside_it() -> None:
    task = made()
    for name, weight in task.generator.named_parameters():
        if name.endswith("noise_strength"):
            weight.data.fill_(0.5)
    together = task.generate(seed=[4, 5], layer_noise="random")
    assert torch.allclose(together[1:], task.generate(seed=[5], layer_noise="random"), atol=1e-5)
    assert not torch.allclose(together, task.generate(seed=[4, 5]))


def test_mixing_from_a_layer_beyond_the_last_changes_nothing_and_further_ones_are_refused() -> None:
    task = made()
    count = task.generator.synthesis.num_ws
    assert torch.allclose(task.mix(seed=[1], style_seed=[2], style_layer=count), task.generate(seed=[1]), atol=1e-6)
    assert torch.allclose(task.mix(seed=[1], style_seed=[2], style_layer=0), task.generate(seed=[2]), atol=1e-6)
    with pytest.raises(ValueError, match=f"style_layer is {count + 1}; this generator takes styles at layers 0 to {count - 1}"):
        task.mix(seed=[1], style_seed=[2], style_layer=count + 1)


def test_a_projected_image_is_drawn_again() -> None:
    task = made()
    image = task.generate(seed=[100, 101])
    start = task.draw(code=nearest_styles(task.generator, image * 2 - 1))
    found = task.draw(code=task.project(image=image, steps=40))
    far, near = (distance(one, image) for one in (start, found))
    assert (near < 0.7 * far).all()
    alone = task.draw(code=task.project(image=image[1:], steps=40))
    assert torch.allclose(alone, found[1:], atol=1e-3)


def test_a_projection_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match=r"images of shape \(1, 8, 8\) are given, and the networks know \(1, 16, 16\); scale or convert them"):
        made().project(image=torch.rand(1, 1, 8, 8))


def test_labels_of_data_without_any_are_refused() -> None:
    with pytest.raises(ValueError, match="the data names none; take a set with labels such as digits, or the recipe stylegan2"):
        LabelledStyleGANConfig(network=NETWORKS).check_data(replace(DATA, class_names=()))


def test_data_without_a_size_is_refused() -> None:
    with pytest.raises(ValueError, match="StyleGAN needs images of one size, and the samples have none"):
        StyleGANConfig().check_data(DataSpec())


@pytest.mark.parametrize("augment", ["ada", "diff"])
def test_augmented_fakes_and_data_still_teach_both_players(augment: str) -> None:
    task = made(StyleGame(augment=augment))  # type: ignore[arg-type]
    if task.augment:
        task.augment.strength.fill_(1.0)
    for phase in task.phases:
        task.zero_grad(set_to_none=True)
        loss, _ = task.loss(phase.name, batch(), STEP)
        loss.mean().backward()
        assert any(weight.grad is not None and weight.grad.any() for weight in task.player(phase.player).parameters())
