"""Scores of real little generators by real little networks, in one process and over two."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from genlib import checkpoint, distributed
from genlib.config import DataConfig, to_json
from genlib.data.source import open_source
from genlib.engine.fit import fit
from genlib.metrics import features
from genlib.metrics.conditions import Conditions, conditions, sampler_options, spread
from genlib.metrics.generative import Measurement, Outcome, measure
from genlib.models.representation.classifier import classifier
from genlib.models.representation.clip import clip_tiny
from genlib.recipe import Stage
from genlib.types import Batch
from tests.metrics import painter
from tests.processes import run_ranks
from tests.tiny import ArraySource

CPU = torch.device("cpu")
DIGITS, SHAPES = DataConfig(train="digits"), DataConfig(train="shapes", image_size=32)


def trained(folder: Path, stage: Stage, recipe: str) -> Path:
    one = replace(stage, train=replace(stage.train, trackers=(), checkpoint_every_steps=0))
    fit(one, recipe=recipe, source=open_source(one.data), folder=folder, device=CPU)
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier of digits, a CLIP of shapes, and painters of both, in folders by those names."""
    root = tmp_path_factory.mktemp("runs")
    for recipe in (classifier, clip_tiny):
        trained(root / recipe.__name__, recipe().smoke[0], recipe.__name__)
    trained(root / "nothing", painter.stage("nothing", DIGITS), "painter")
    trained(root / "label", painter.stage("label", DIGITS), "painter")
    trained(root / "prompt", painter.stage("prompt", SHAPES), "painter")
    return root


def painter_of(runs: Path, by: str) -> painter.Painter:
    task = checkpoint.load_task(checkpoint.find(runs / by))
    assert isinstance(task, painter.Painter)
    return task


def digits(side: int, split: str = "validation") -> Iterator[Batch]:
    return open_source(DIGITS).batches(split, 100, rank=distributed.rank(), world=distributed.world_size())


def scored(runs: Path, by: str = "nothing", count: int = 100, **changes: object) -> Outcome:
    task = painter_of(runs, by)
    asked = Measurement(generator="painter", conditions=conditions(task, open_source(DIGITS), "validation", count), **changes)
    return measure(task, asked, digits, networks=[features.load(runs / "classifier")])


def values(outcome: Outcome) -> dict[str, float]:
    return {card.score: card.value for card in outcome.cards}


def test_scores_carry_their_network(runs: Path) -> None:
    found = scored(runs).metrics()
    digest = checkpoint.read_manifest(checkpoint.find(runs / "classifier")).files["weights.safetensors"]
    assert set(found) == {f"{score}_classifier-{digest[:8]}" for score in ("fid", "kid", "precision", "recall", "is")}


def test_batches_change_nothing(runs: Path) -> None:
    one, other = values(scored(runs)), values(scored(runs, batch=7))
    assert one == pytest.approx(other, rel=1e-5)


def test_other_seeds_and_sampler_settings_are_other_pictures_in_the_card(runs: Path) -> None:
    first, other = scored(runs), scored(runs, seed=1000, sampler={"spread": 0.3})
    assert values(first) != values(other)
    card = other.cards[0]
    assert (card.seed, card.sampler, card.n_generated, card.image_size) == (1000, {"spread": 0.3}, 100, 8)
    assert card.n_reference == open_source(DIGITS).num_samples("validation")
    assert card.reference_digest == first.cards[0].reference_digest
    assert torch.equal(other.pictures[0], scored(runs, count=4, seed=1000, sampler={"spread": 0.3}).pictures[0])


def test_the_real_pictures_themselves_are_perfect(runs: Path) -> None:
    """A painter of the held-out digits, in an order of its own: FID and KID are nothing, precision and recall all."""
    real = torch.cat([batch["image"][batch["valid"]] for batch in digits(8)])

    class Copies(painter.Painter):
        @painter.action
        def generate(self, *, seed: painter.Seeds) -> painter.Image:
            """Held-out digits, from the last."""
            return real[[-1 - one for one in seed]]

    task = Copies(open_source(DIGITS).spec)
    asked = Measurement(generator="copies", conditions=Conditions({}, [""] * len(real)))
    found = values(measure(task, asked, digits, networks=[features.load(runs / "classifier")]))
    assert found["fid"] == pytest.approx(0, abs=1e-8)
    assert abs(found["kid"]) < 1e-2
    assert (found["precision"], found["recall"]) == (1, 1)


def test_the_reference_is_known_by_its_pictures_whatever_their_order(runs: Path) -> None:
    asked = Measurement(generator="painter", conditions=Conditions({}, [""] * 10))
    networks = [features.load(runs / "classifier")]

    def reference(batches: list[Batch]) -> str:
        return measure(painter_of(runs, "nothing"), asked, lambda side: batches, networks=networks).cards[0].reference_digest

    batches = list(digits(8))
    assert reference(batches) == reference(batches[::-1])
    changed = {**batches[0], "image": batches[0]["image"].clone()}
    changed["image"][5, 0, 3, 3] += 0.1
    assert reference([changed, *batches[1:]]) != reference(batches)
    assert reference(batches[:-1]) != reference(batches)


def score_on_rank(runs: Path, folder: Path) -> None:
    outcome = scored(runs, by="label", count=101, batch=16)
    (folder / f"{distributed.rank()}.json").write_text(json.dumps([to_json(card) for card in outcome.cards]))


def test_two_ranks_equal_one(runs: Path, tmp_path: Path) -> None:
    run_ranks(2, score_on_rank, runs, tmp_path)
    one = [to_json(card) for card in scored(runs, by="label", count=101).cards]
    for rank in range(2):
        found = json.loads((tmp_path / f"{rank}.json").read_text())
        for ours, theirs in zip(one, found, strict=True):
            assert theirs.pop("value") == pytest.approx(ours["value"], rel=1e-5)
            assert theirs == {name: value for name, value in ours.items() if name != "value"}


def test_pictures_by_their_captions_score_above_others(runs: Path) -> None:
    """A CLIP that has learnt for 8 steps, and red pictures where captions say red: the scores are those of its own directions."""
    task, source, clip = painter_of(runs, "prompt"), open_source(SHAPES), features.load_clip(runs / "clip_tiny")
    asked = Measurement(generator="painter", conditions=conditions(task, source, "validation", 40), batch=16)
    outcome = measure(task, asked, lambda side: [], text_network=clip)
    captions = asked.conditions.captions
    pictures = task.generate(seed=list(range(40)), prompt=captions).mul(255).round() / 255
    cosine = clip.task.embed_image(image=pictures) @ clip.task.embed_text(text=captions).T
    others = torch.tensor([[a != b for b in captions] for a in captions])
    shuffled = ((cosine * others).sum(1) / others.sum(1)).mean().item()
    assert values(outcome) == pytest.approx({"clip_score": 100 * cosine.diagonal().mean().item(), "clip_score_shuffled": 100 * shuffled}, rel=1e-4)
    assert len(outcome.pictures) == 40
    assert outcome.captions == captions
    assert outcome.cards[0].n_reference == 0


def test_conditions_are_spread_over_the_split(runs: Path) -> None:
    source = open_source(DIGITS)
    by_label = conditions(painter_of(runs, "label"), source, "validation", 100)
    assert set(by_label.arguments["label"]) == set(range(10))
    assert by_label.captions == [source.spec.class_names[label] for label in by_label.arguments["label"]]
    by_prompt = conditions(painter_of(runs, "prompt"), open_source(SHAPES), "train", 30)
    assert len(set(by_prompt.captions)) > 10
    assert conditions(painter_of(runs, "nothing"), source, "validation", 3) == Conditions({}, ["", "", ""])
    assert spread([1, 2, 3], 7) == [1, 2, 3, 1, 2, 3, 1]
    assert spread(list(range(100)), 4) == [0, 25, 50, 75]


def test_options_of_the_sampler(runs: Path) -> None:
    task = painter_of(runs, "nothing")
    assert sampler_options(task, ["spread=0.5"]) == {"spread": 0.5}
    with pytest.raises(ValueError, match=r"'spred=0.5' sets nothing of ByNothing.generate; it has spread. Did you mean 'spread'"):
        sampler_options(task, ["spred=0.5"])
    with pytest.raises(ValueError, match="spread=much is refused: it must be a number"):
        sampler_options(task, ["spread=much"])
    with pytest.raises(ValueError, match="'seed=1' sets nothing"):
        sampler_options(task, ["seed=1"])


def test_what_cannot_be_measured_is_refused_before_any_picture_is_made(runs: Path) -> None:
    task, network, clip = painter_of(runs, "nothing"), features.load(runs / "classifier"), features.load_clip(runs / "clip_tiny")
    none: Conditions = Conditions({}, [""] * 3)
    asked = Measurement(generator="painter", conditions=none, sampler={"no": "such argument"})
    with pytest.raises(ValueError, match="need more than 3 pictures, 3 are asked for"):
        measure(task, asked, digits, networks=[network])
    with pytest.raises(ValueError, match="leave --clip out"):
        measure(task, asked, digits, text_network=clip)
    with pytest.raises(ValueError, match="ByPrompt makes pictures by prompt, but the validation samples have no captions"):
        conditions(painter_of(runs, "prompt"), ArraySource(), "validation", 10)
    with pytest.raises(ValueError, match="Classifier makes no pictures"):
        conditions(network.task, open_source(DIGITS), "validation", 10)


def test_networks_that_do_not_fit_are_refused(runs: Path) -> None:
    with pytest.raises(ValueError, match="is a ByNothing, which names no features of pictures; name a classifier or a CLIP"):
        features.load(runs / "nothing")
    with pytest.raises(ValueError, match="is no CLIP of ours"):
        features.load_clip(runs / "classifier")
    with pytest.raises(ValueError, match=r"classifier-\w{8} sees pictures of 1 channel, these have 3"):
        features.load(runs / "classifier")(torch.zeros(2, 3, 8, 8, dtype=torch.uint8))
    with pytest.raises(ValueError, match="no real pictures to compare with"):
        measure(painter_of(runs, "nothing"), Measurement(generator="p", conditions=Conditions({}, [""] * 9)), lambda side: [],
                networks=[features.load(runs / "classifier")])  # fmt: skip


def test_pictures_that_are_not_finite_are_refused(runs: Path) -> None:
    task = painter_of(runs, "nothing")
    with torch.no_grad():
        task.net["mean"][0, 0, 0] = torch.nan
    with pytest.raises(ValueError, match="made pictures with values that are not finite"):
        measure(task, Measurement(generator="p", conditions=Conditions({}, [""] * 9)), digits, networks=[features.load(runs / "classifier")])
