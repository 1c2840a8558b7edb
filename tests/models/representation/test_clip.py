"""CLIP's published sizes, its temperature, its transform, what it can do, and how it is scored."""

from __future__ import annotations

import math
import pickle
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from genlib import companions, registry
from genlib.data.transforms.augment import CaptionAugmentation, ImageAugmentation
from genlib.engine.optim import decays
from genlib.engine.trace import FakeTask, flops_per_sample
from genlib.models.representation.base.clip_towers import ResidualNetwork, TextTransformer, VisionTransformer
from genlib.models.representation.clip import CLIP, CLIPConfig, ClipTransform
from genlib.types import Batch, DataSpec, Samples, Step, Transform

NAMES = [f"{color} {shape}" for color in ("red", "green", "blue") for shape in ("circle", "square", "cross", "star")]
VIT = VisionTransformer(image_size=16, patch_size=8, width=32, layers=1, heads=2)
TEXT = TextTransformer(context_length=12, vocab_size=600, width=32, layers=1, heads=2)


class Pairs:
    """Twelve captioned images in memory, of which every `broken` one cannot be read; all of them are held out too."""

    spec = DataSpec(channels=3, image_size=16, has_captions=True, num_samples=len(NAMES), validation_name="pairs")

    def __init__(self, broken: Sequence[int] = ()) -> None:
        self.images = np.random.default_rng(0).integers(0, 256, (len(NAMES), 16, 16, 3), dtype=np.uint8)
        self.broken = broken

    def samples(self, rows: Sequence[int], seed: int = 0) -> Samples:
        fields = {"image": [self.images[i] for i in rows], "text": [NAMES[i] for i in rows]}
        return Samples(np.array(rows), [str(i) for i in rows], fields, np.isin(rows, self.broken), seed)

    def batches(
        self, split: str, size: int, *, rank: int = 0, world: int = 1, seed: int = 0, start: int = 0, transform: Transform | None = None
    ) -> Iterator[Batch]:
        assert transform is not None
        for low in range(start, len(NAMES), size):
            samples = self.samples(range(low, min(low + size, len(NAMES))))
            yield {**transform(samples), "valid": torch.from_numpy(~samples.failed)}

    def captions(self, split: str, limit: int) -> Iterator[str]:
        return iter(NAMES[:limit])

    def keys(self, split: str, positions: Sequence[int], size: int, *, seed: int = 0) -> list[str]:
        return [str(i) for i in positions]


def made(source: Pairs | None = None, **options: object) -> CLIP:
    torch.manual_seed(0)
    source = source or Pairs()
    task = CLIPConfig(**{"image": VIT, "text": TEXT, "embed_dim": 16, **options}).build(source.spec, {})  # type: ignore[arg-type]
    assert isinstance(task, CLIP)
    task.prepare(source)
    return task


@pytest.mark.parametrize(("recipe", "parameters"), [("clip_vit_b32", 151_277_313), ("clip_vit_l14", 427_616_513)])
def test_published_number_of_parameters(recipe: str, parameters: int) -> None:
    (stage,) = registry.load(recipe).stages
    with torch.device("meta"):
        task = stage.task.build(DataSpec(has_captions=True), {})
    assert sum(p.numel() for p in task.parameters()) == parameters
    assert stage.train.global_batch == 32_768
    assert isinstance(stage.task, CLIPConfig)
    assert stage.task.text.vocab_size == 49_408
    assert stage.task.text.context_length == 77


def test_operations_of_a_training_step() -> None:
    """ViT-B/32: twice the multiplications of both towers, three times for backward."""
    (stage,) = registry.load("clip_vit_b32").stages
    flops = flops_per_sample(FakeTask(lambda: stage.task.build(DataSpec(has_captions=True), {})), 2, "fp32")
    assert flops == pytest.approx(44.1e9, rel=0.03)


def test_scale_starts_at_the_temperature_and_stays_below_100() -> None:
    net = made(temperature=0.07).net
    images, tokens = torch.randn(4, 3, 16, 16), torch.ones(4, 8, dtype=torch.int64)
    assert net.logit_scale.shape == (1,)
    assert net(images, tokens)[2].item() == pytest.approx(1 / 0.07)
    net.logit_scale.data.fill_(math.log(100.0) + 1)
    scale = net(images, tokens)[2]
    assert scale.item() == pytest.approx(100.0)
    for direction in (1.0, -1.0):  # held, it moves no further up, and down again when the loss says so
        (gradient,) = torch.autograd.grad((-direction * scale).sum(), net.logit_scale, retain_graph=True)
        assert (gradient.item() == 0.0) == (direction > 0)


def test_decay_spares_gains_biases_and_temperature() -> None:
    task = made(image=ResidualNetwork(image_size=32, width=8, heads=2))
    free = {name for name, p in task.named_parameters() if not decays(p)}
    assert {"net.logit_scale", "net.image.stem.bias", "net.image.stem.gain"} <= free
    assert not any(name.endswith((".bias", ".gain")) for name in {name for name, _ in task.named_parameters()} - free)


def test_a_sample_is_transformed_by_its_position_alone() -> None:
    source = Pairs()
    config = {"augmentation": ImageAugmentation(min_scale=0.7, degrees=20), "captions": CaptionAugmentation(drop_words=0.4)}
    transform = pickle.loads(pickle.dumps(made(source, **config).transform(train=True)))
    assert isinstance(transform, ClipTransform)
    whole, part = transform(source.samples(range(12))), transform(source.samples([7, 2]))
    assert torch.equal(part["image"], whole["image"][[7, 2]])
    length = part["tokens"].shape[1]
    assert torch.equal(part["tokens"], whole["tokens"][[7, 2], :length])
    assert not torch.equal(transform(source.samples(range(12), seed=1))["image"], whole["image"])


def test_images_of_any_size_are_fitted() -> None:
    task, images = made(), [np.full((40, 90, 3), 200, np.uint8), np.full((300, 20, 3), 200, np.uint8)]
    samples = Samples(np.arange(2), ["a", "b"], {"image": images, "text": ["red circle", "blue star"]}, np.zeros(2, bool))
    for train in (True, False):
        batch = task.transform(train)(samples)
        assert batch["image"].shape == (2, 3, 16, 16)
        torch.testing.assert_close(task.pixels(batch["image"]), torch.full((2, 3, 16, 16), 200 / 255))


def test_vocabulary_is_trained_on_the_captions_or_loaded(tmp_path: Path) -> None:
    trained = made()
    assert trained.tokenizer.tokenizer is not None
    trained.tokenizer.tokenizer.save(str(tmp_path / "tokenizer.json"))
    loaded = made(tokenizer_file=str(tmp_path / "tokenizer.json"))
    assert torch.equal(loaded.tokenizer.encode(NAMES), trained.tokenizer.encode(NAMES))
    with pytest.raises(ValueError, match=r"the tokenizer has \d+ tokens, task.text.vocab_size is 520"):
        made(tokenizer_file=str(tmp_path / "tokenizer.json"), text=TextTransformer(context_length=12, vocab_size=520, width=32, layers=1, heads=2))


@pytest.mark.parametrize(
    ("options", "spec", "words"),
    [
        ({}, DataSpec(), "CLIP learns from captions, but the samples have none"),
        ({"mean": (0.1, 0.2)}, DataSpec(has_captions=True), "task.mean and task.std have 2 and 3 values"),
    ],
)
def test_unfit_data_is_refused(options: dict, spec: DataSpec, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        CLIPConfig(image=VIT, text=TEXT, **options).build(spec, {})


def test_a_patch_must_divide_the_image() -> None:
    with pytest.raises(ValueError, match="image_size 30 is not divisible by patch_size 8; use 24"):
        VisionTransformer(image_size=30, patch_size=8)


def test_directions_and_classes() -> None:
    task, images = made().eval(), torch.rand(5, 3, 33, 50)
    for directions in (task.embed_image(image=images), task.embed_text(text=NAMES)):
        torch.testing.assert_close(directions.norm(dim=1), torch.ones(len(directions)))
    chances = task.classify(image=images, labels=NAMES, templates=("a {}", "the {} {0.__class__}"))
    assert chances.shape == (5, len(NAMES))
    torch.testing.assert_close(chances.sum(1), torch.ones(5))
    one, two = (task.embed_text(text=[text]) for text in ("a star", "my star"))
    mean = torch.nn.functional.normalize(one + two, dim=1)
    torch.testing.assert_close(task.label_directions(["star"], ("a {}", "my {}")), mean)
    with pytest.raises(ValueError, match="there is no text to embed"):
        task.embed_text(text=[])


def test_scores_of_a_model_that_learnt_its_pairs(tmp_path: Path) -> None:
    source = Pairs()
    task = made(source, mean=(0.5,), std=(0.25,))
    batch = next(source.batches("train", 12, transform=task.transform(train=False)))
    before = companions.assess(task.eval(), source, tmp_path)
    optimizer = torch.optim.AdamW(task.parameters(), 3e-3)
    for i in range(60):
        optimizer.zero_grad()
        task.loss("train", batch, Step(i, 60))[0].mean().backward()
        optimizer.step()
    after = companions.assess(task, source, tmp_path)
    retrieval = {f"pairs/{way}_R@{k}" for way in ("image_to_text", "text_to_image") for k in (1, 5, 10)}
    assert set(after) == retrieval | {"pairs-zeroshot-val-top1", "pairs-zeroshot-val-top5"}
    assert before["pairs/image_to_text_R@1"] < 0.5
    assert set(after.values()) == {1.0}
    with Image.open(tmp_path / "contact_sheet.png") as sheet:
        assert sheet.width > 8 * 128
        assert len(sheet.convert("RGB").resize((64, 64)).getcolors(64 * 64) or []) > 20


def test_samples_that_cannot_be_read_do_not_count(tmp_path: Path) -> None:
    whole, less = (companions.assess(made(source := Pairs(broken)).eval(), source, tmp_path) for broken in ((), (1, 5)))
    assert set(less) == set(whole)
    assert all((value * 10).is_integer() for value in less.values())
