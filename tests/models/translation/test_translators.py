"""What each translator's loss is made of, what it refuses, and that a picture of two sizes or a set without partners ends in one sentence."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from genlib import registry
from genlib.data.source import open_source
from genlib.models.translation.base.pictures import PictureConfig, TranslationTransform, random_crop
from genlib.models.translation.base.translator import Patches, decibels
from genlib.models.translation.cyclegan import CycleGAN, CycleGANConfig
from genlib.models.translation.pix2pix import Pix2Pix, Pix2PixConfig
from genlib.models.translation.unit import UNIT, UNITConfig
from genlib.task import Task
from genlib.types import Batch, DataSpec, Samples, Step

SMALL = Patches(width=8, layers=1)
SPEC = DataSpec(channels=3, image_size=16, num_samples=64, has_source=True, has_other=True)


def batch_of(rows: int = 4, seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    pictures = {name: 2 * torch.rand(rows, 3, 16, 16, generator=generator) - 1 for name in ("a", "b")}
    return {**pictures, "position": torch.arange(rows), "valid": torch.ones(rows, dtype=torch.bool), "weight": torch.ones(rows)}


def tiny(recipe: str, **changes: object) -> Task:
    torch.manual_seed(0)
    return replace(registry.load(recipe).smoke[0].task, **changes).build(SPEC, {}).train()


def test_cyclegan_asks_for_the_four_terms_of_the_paper_and_identity() -> None:
    task, batch = tiny("cyclegan", identity_weight=0.0, cycle_weight=10.0), batch_of()
    assert isinstance(task, CycleGAN)
    g, f = task.translators["B"], task.translators["A"]
    a, b = batch["a"], batch["b"]
    four = (
        (task.discriminators["B"](g(a)) - 1).square().mean((1, 2, 3)),
        (task.discriminators["A"](f(b)) - 1).square().mean((1, 2, 3)),
        10 * (f(g(a)) - a).abs().mean((1, 2, 3)),
        10 * (g(f(b)) - b).abs().mean((1, 2, 3)),
    )
    loss, terms = task.loss("translators", batch, Step(0, 1))
    torch.testing.assert_close(loss, four[0] + four[1] + four[2] + four[3])
    assert set(terms) == {"adversarial_A", "adversarial_B", "cycle_A", "cycle_B"}
    with_identity, _ = tiny("cyclegan", identity_weight=0.5, cycle_weight=10.0).loss("translators", batch, Step(0, 1))
    identity = 5 * ((g(b) - b).abs() + (f(a) - a).abs()).mean((1, 2, 3))
    torch.testing.assert_close(with_identity, loss + identity)


def test_cyclegans_discriminators_halve_both_distances_and_see_the_pool() -> None:
    task, first, second = tiny("cyclegan", pool_size=4), batch_of(), {**batch_of(seed=1), "position": torch.arange(4, 8)}
    assert isinstance(task, CycleGAN)
    task.loss("discriminators", first, Step(0, 2))
    kept = task.pools["B"].pictures.clone()  # type: ignore[union-attr, operator]
    torch.testing.assert_close(kept, task.translated(first["a"], "B").detach())
    loss, _ = task.loss("discriminators", second, Step(1, 2))
    seen = {domain: torch.where(task_swaps(task, domain)[:, None, None, None], 1.0, 0.0) for domain in "AB"}
    assert any(one.any() for one in seen.values()), "some rows are of the pool"
    fresh = task.eval().loss("discriminators", second, Step(1, 2))[0]
    by_hand = sum(
        0.5
        * ((task.discriminators[one](second[real]) - 1).square() + task.discriminators[one](task.translated(second[given], one)).square()).mean(
            (1, 2, 3)
        )
        for one, given, real in (("A", "b", "a"), ("B", "a", "b"))
    )
    torch.testing.assert_close(fresh, torch.as_tensor(by_hand))
    assert not torch.allclose(loss, fresh)


def task_swaps(task: CycleGAN, domain: str) -> torch.Tensor:
    from genlib import random

    return random.uniform(torch.arange(4, 8), seed=0, stream=f"swaps in the pool of {domain}") < 0.5


def test_pix2pix_asks_the_map_of_patches_and_l1() -> None:
    task, batch = tiny("pix2pix"), batch_of()
    assert isinstance(task, Pix2Pix)
    made = task.generator(batch["a"], batch["position"], 0)
    logits = task.discriminator(torch.cat([batch["a"], made], 1))
    assert logits.shape[1:] == (1, 6, 6), "a map, not a number"
    expected = -logits.sigmoid().log().mean((1, 2, 3)) + 100 * (made - batch["b"]).abs().mean((1, 2, 3))
    torch.testing.assert_close(task.loss("generator", batch, Step(0, 1))[0], expected)
    true = task.discriminator(torch.cat([batch["a"], batch["b"]], 1))
    halves = -0.5 * (true.sigmoid().log() + (1 - logits.sigmoid()).log()).mean((1, 2, 3))
    torch.testing.assert_close(task.loss("discriminator", batch, Step(0, 1))[0], halves)


def test_pix2pix_goes_the_other_way_where_it_is_told() -> None:
    forwards, backwards, batch = tiny("pix2pix"), tiny("pix2pix", backwards=True), batch_of()
    turned = {**batch, "a": batch["b"], "b": batch["a"]}
    assert torch.equal(forwards.loss("generator", batch, Step(0, 1))[0], backwards.loss("generator", turned, Step(0, 1))[0])


def test_units_shared_layers_are_the_same_memory() -> None:
    task = tiny("unit")
    assert isinstance(task, UNIT)
    nets = task.translators
    for part, shared in ((nets.encoder, -1), (nets.generator, 0)):
        a, b = (list(part(domain)[shared].parameters()) for domain in "AB")
        assert a
        assert [one.data_ptr() for one in a] == [one.data_ptr() for one in b]
    own = (0, 1)
    for part, place in zip((nets.encoder, nets.generator), own, strict=True):
        a, b = ({one.data_ptr() for one in part(domain)[place].parameters()} for domain in "AB")
        assert not a & b


def test_unit_adds_up_the_papers_terms() -> None:
    task, batch = tiny("unit", adversarial_weight=10.0, rate_weight=0.1, distortion_weight=100.0), batch_of()
    assert isinstance(task, UNIT)
    nets, total = task.translators, torch.zeros(4)
    for own, other, name in (("A", "B", "a"), ("B", "A", "b")):
        x = batch[name]
        mean = nets.encoded(x, own)
        code = task.drawn(mean, batch, Step(0, 1), own)
        made = nets.generated(code, other)
        back_mean = nets.encoded(made, other)
        back = nets.generated(task.drawn(back_mean, batch, Step(0, 1), f"{own} and back"), own)
        normal = torch.distributions.Normal
        rates = [torch.distributions.kl_divergence(normal(one, 1.0), normal(0.0, 1.0)).mean((1, 2, 3)) for one in (mean, mean, back_mean)]
        distortion = (nets.generated(code, own) - x).abs().mean((1, 2, 3)) + (back - x).abs().mean((1, 2, 3))
        fooled = -task.discriminators[other](made).sigmoid().log().mean((1, 2, 3))
        total = total + 100 * distortion + 0.1 * (rates[0] + rates[1] + rates[2]) + 10 * fooled
    loss, terms = task.loss("translators", batch, Step(0, 1))
    torch.testing.assert_close(loss, total)
    priced, _ = tiny("unit", adversarial_weight=10.0, rate_weight=0.1, distortion_weight=100.0, code_weight=3.0).loss(
        "translators", batch, Step(0, 1)
    )
    torch.testing.assert_close(priced, total + 3 * (terms["code_A"] + terms["code_B"]))


@pytest.mark.parametrize(
    ("config", "change", "words"),
    [
        (Pix2PixConfig(downs=3, patches=SMALL), {"has_source": False}, "no second picture"),
        (Pix2PixConfig(downs=5), {}, "not divisible by 2\\*\\*downs = 32; use 32"),
        (CycleGANConfig(patches=SMALL), {"has_other": False}, "no domain B: name it with --data.other"),
        (UNITConfig(patches=SMALL), {"has_other": False}, "no domain B"),
        (CycleGANConfig(), {"image_size": 18}, "not a multiple of 4 from 8 on; use 20"),
        (CycleGANConfig(), {"image_size": 16}, "too small for a discriminator of 3 halvings; take at least 24"),
        (CycleGANConfig(), {"image_size": 0}, "no"),
    ],
)
def test_data_that_does_not_do_is_refused_in_a_sentence(config: CycleGANConfig, change: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words) as found:
        config.check_data(replace(SPEC, **change))
    assert "\n" not in str(found.value)


@pytest.mark.parametrize(
    ("recipe", "shape", "words"),
    [("pix2pix", (3, 16, 20), "16x16"), ("cyclegan", (3, 19, 16), "multiples of 2"), ("unit", (1, 16, 16), "3 channels")],
)
def test_a_picture_that_does_not_fit_is_refused_in_a_sentence(recipe: str, shape: tuple[int, ...], words: str) -> None:
    more = {"seed": [0]} if recipe == "pix2pix" else {}
    with pytest.raises(ValueError, match=words):
        tiny(recipe).translate(image=torch.rand(1, *shape), **more)  # type: ignore[operator]


def samples(rows: int, names: tuple[str, ...]) -> Samples:
    import numpy as np

    pictures = [np.random.default_rng(row).integers(0, 256, (16, 16, 3), dtype=np.uint8) for row in range(rows)]
    return Samples(np.arange(rows), [str(row) for row in range(rows)], dict.fromkeys(names, pictures), np.zeros(rows, np.uint8))


def test_both_pictures_of_a_pair_move_alike_and_those_of_two_sets_do_not() -> None:
    pictures = random_crop(16, 24)
    paired = TranslationTransform(pictures, 16, two_sets=False, train=True)(samples(32, ("image", "source")))
    assert torch.equal(paired["a"], paired["b"])
    both = samples(32, ("image",))
    both.partners["other"] = samples(32, ("image",))
    apart = TranslationTransform(pictures, 16, two_sets=True, train=True)(both)
    assert not torch.equal(apart["a"], apart["b"])
    still = TranslationTransform(pictures, 16, two_sets=True, train=False)(both)
    assert torch.equal(still["a"], still["b"])
    assert (apart["a"].min() >= -1) & (apart["a"].max() <= 1)


def test_random_crops_stay_inside_the_picture() -> None:
    white = samples(64, ("image", "source"))
    for values in white.fields.values():
        values[:] = [value * 0 + 255 for value in values]
    made = TranslationTransform(random_crop(16, 24), 16, two_sets=False, train=True)(white)
    assert made["a"].min().item() == pytest.approx(1, abs=1e-5)


def test_a_set_of_pairs_is_a_domain_too_whose_partners_only_scores_see() -> None:
    """CycleGAN on pix2pix's set: A are the sources, B the images, never those that belong together but in held-out scores."""
    stage = registry.load("cyclegan").smoke[0]
    source = open_source(replace(stage.data, train="shapes_edges", other="shapes_edges"))
    task = stage.task.build(source.spec, {}).eval()
    train = next(source.batches("train", 64, transform=task.transform(True)))
    assert "b_of_a" not in train
    assert source.spec.has_source
    held = next(source.batches("validation", 64, transform=task.transform(False)))
    outlined = held["a"] > held["b_of_a"] + 1e-4  # an outline is nowhere brighter than its shape
    assert not outlined.any()
    assert (held["a"] > held["b"] + 1e-4).any()
    with torch.no_grad():
        values = task.evaluate(held)
    torch.testing.assert_close(values["psnr_db"], decibels((task.translated(held["a"], "B") + 1) / 2, (held["b_of_a"] + 1) / 2))  # type: ignore[operator]


def test_defaults_are_pictures_as_they_are() -> None:
    assert TranslationTransform(PictureConfig(), 16, two_sets=False, train=True).augmentation is None
