"""Pixel diffusion: what it learns, that few steps draw as well as many, and that diffusers draws the same from what is exported."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from genlib import checkpoint, companions, registry
from genlib.config import DataConfig
from genlib.data.source import open_source
from genlib.engine.fit import fit
from genlib.engine.trace import FakeTask, flops_per_sample
from genlib.metrics.fid import Moments, frechet_distance
from genlib.models.diffusion.base.pixels import PixelUNet
from genlib.models.diffusion.base.process import DiscreteConfig
from genlib.models.diffusion.ddpm import ClassDDPM, ClassDDPMConfig, DDPMConfig, PixelDiffusion, ddpm, ddpm_cifar10
from genlib.models.diffusion.ddpm_assess import assess
from genlib.models.diffusion.ddpm_export import export, fixed_to_label
from genlib.types import DataSpec, Step
from jobs.precision import fitting_precision

SMALL = PixelUNet(widths=(16, 16), norm_groups=4)
DIGITS = DataSpec(channels=1, image_size=8, class_names=tuple("0123456789"))
CPU = torch.device("cpu")


def made(config: DDPMConfig, data: DataSpec = DIGITS) -> PixelDiffusion:
    """A task with weights that say something: the last layer starts at zero."""
    torch.manual_seed(0)
    task = config.build(data, {}).eval()
    with torch.no_grad():
        for p in task.parameters():
            p.add_(0.05 * torch.randn_like(p))
    return task


@pytest.mark.parametrize(
    ("config", "channels"),
    [
        (DDPMConfig(unet=SMALL), 1),
        (DDPMConfig(unet=SMALL, clip=True), 3),
        (DDPMConfig(unet=SMALL, process=DiscreteConfig(beta_schedule="scaled_linear", prediction="v", zero_terminal_snr=True)), 1),
        (DDPMConfig(unet=SMALL, process=DiscreteConfig(beta_schedule="cosine", prediction="x0", timesteps=200)), 3),
    ],
)
def test_diffusers_draws_the_same_from_the_exported_folder(config: DDPMConfig, channels: int, tmp_path: Path) -> None:
    from diffusers import DDIMPipeline, DDPMPipeline

    task = made(config, replace(DIGITS, channels=channels))
    export(task, tmp_path)
    seeds = [3, 2**33]
    for pipeline, sampler, more in ((DDIMPipeline, "ddim", {"use_clipped_model_output": config.clip}), (DDPMPipeline, "ancestral", {})):
        theirs = pipeline.from_pretrained(tmp_path / "diffusers")
        theirs.set_progress_bar_config(disable=True)
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        pictures = torch.from_numpy(theirs(2, generators, num_inference_steps=10, output_type="np", **more).images).permute(0, 3, 1, 2)
        ours = task.generate(seed=seeds, steps=10, sampler=sampler)
        assert ours.shape == (2, channels, 8, 8)
        torch.testing.assert_close(ours, pictures, atol=1e-3, rtol=0)
        assert pictures.std() > 0.1


def test_a_network_of_classes_is_exported_with_them_and_without(tmp_path: Path) -> None:
    from diffusers import DDIMPipeline, UNet2DModel

    task = made(ClassDDPMConfig(unet=SMALL))
    assert isinstance(task, ClassDDPM)
    export(task, tmp_path)
    assert not (tmp_path / "diffusers" / "model_index.json").exists()  # its pipeline could not call it
    net = UNet2DModel.from_pretrained(tmp_path / "diffusers" / "unet")
    x, when, label = torch.randn(4, 1, 8, 8), torch.tensor([0, 10, 500, 999]), torch.tensor([0, 9, 10, 3])
    torch.testing.assert_close(net(x, when, label).sample, task.predict(x, when, label))
    torch.testing.assert_close(fixed_to_label(task.net, 3)(x, when).sample, task.predict(x, when, torch.full((4,), 3)))
    blind = DDIMPipeline.from_pretrained(tmp_path / "diffusers_no_class")
    blind.set_progress_bar_config(disable=True)
    pictures = torch.from_numpy(blind(1, torch.Generator().manual_seed(5), num_inference_steps=5, output_type="np").images).permute(0, 3, 1, 2)
    torch.testing.assert_close(task.sample(task.of_no_class, [5], 5), pictures, atol=1e-3, rtol=0)
    other = ClassDDPMConfig(unet=SMALL).build(DIGITS, {})
    companions.load_pretrained(other, tmp_path / "diffusers")
    assert torch.equal(other.predict(x, when, label), task.predict(x, when, label))


def test_adopting_another_network_is_refused(tmp_path: Path) -> None:
    export(made(DDPMConfig(unet=SMALL)), tmp_path)
    with pytest.raises(ValueError, match="another architecture"):
        companions.load_pretrained(DDPMConfig(unet=replace(SMALL, layers=2)).build(DIGITS, {}), tmp_path / "diffusers")
    with pytest.raises(ValueError, match=r"has no config\.json"):
        companions.load_pretrained(DDPMConfig(unet=SMALL).build(DIGITS, {}), tmp_path)


def test_a_picture_belongs_to_its_seed_and_class_alone() -> None:
    task = made(ClassDDPMConfig(unet=SMALL))
    assert isinstance(task, ClassDDPM)
    options: dict = {"steps": 4, "guidance_scale": 2.0, "guidance_rescale": 0.5}
    for sampler in ("ddim", "ancestral", "heun", "dpm_solver_pp_2m"):
        many = task.generate(seed=[1, 2, 3], label=[0, 5, 9], sampler=sampler, **options)
        torch.testing.assert_close(task.generate(seed=[2], label=[5], sampler=sampler, **options)[0], many[1], atol=1e-4, rtol=0)
        assert not torch.equal(many, task.generate(seed=[1, 2, 3], label=[5, 5, 5], sampler=sampler, **options))


def test_guidance_of_no_weight_is_no_class_and_of_weight_one_the_class() -> None:
    task = made(ClassDDPMConfig(unet=SMALL))
    assert isinstance(task, ClassDDPM)
    x, when = torch.randn(2, 1, 8, 8), torch.tensor([100, 700])
    torch.testing.assert_close(task.guided([1, 2], 2, 0.0)(x, when), task.of_no_class(x, when))
    torch.testing.assert_close(task.guided([1, 2], 2, 1 + 1e-9)(x, when), task.guided([1, 2], 2, 1.0)(x, when))


def test_labels_are_dropped_as_often_as_said() -> None:
    """With labels that all embed alike but none, the loss tells which samples were dropped."""
    task = made(ClassDDPMConfig(unet=SMALL, label_dropout=0.25))
    batch = {**companions.example(task, 2048), "label": torch.zeros(2048, dtype=torch.int64)}
    kept = PixelDiffusion.loss(task, "train", batch, Step(0, 1))[0]
    changed = (task.loss("train", batch, Step(0, 1))[0] - kept).abs() > 1e-7
    assert changed.float().mean().item() == pytest.approx(0.25, abs=0.03)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"seed": [1, 2], "label": [1]}, "label has 1 entry for 2 seeds"),
        ({"seed": [1], "label": [10]}, "label 10 is not between 0 and 9"),
        ({"seed": [1], "label": [1], "steps": 0}, "use 1 or more"),
        ({"seed": [1], "label": [1], "steps": 2000}, "use at most 1000"),
        ({"seed": [1], "label": [1], "guidance_rescale": 2.0, "guidance_scale": 2.0}, "is not a share"),
        ({"seed": [1], "label": [1], "sampler": "magic"}, "there is no sampler 'magic'"),
        ({"seed": [1], "label": [1], "guidance_scale": 2.0}, "trained with label_dropout 0"),
    ],
)
def test_refuses_to_draw_in_a_sentence(arguments: dict, sentence: str) -> None:
    dropout = 0.0 if "label_dropout 0" in sentence else 0.1
    task = made(ClassDDPMConfig(unet=SMALL, label_dropout=dropout))
    assert isinstance(task, ClassDDPM)
    with pytest.raises(ValueError, match=sentence):
        task.generate(**arguments)


def test_refuses_data_that_it_cannot_draw() -> None:
    with pytest.raises(ValueError, match="the data names none"):
        ClassDDPMConfig().build(replace(DIGITS, class_names=()), {})
    with pytest.raises(ValueError, match="draws pictures of one size, and the data has none"):
        DDPMConfig().build(replace(DIGITS, image_size=0), {})
    with pytest.raises(ValueError, match=r"give --data\.image-size 28"):
        DDPMConfig().build(replace(DIGITS, image_size=29), {})
    with pytest.raises(ValueError, match=r"multiples of unet\.norm_groups"):
        PixelUNet(widths=(12,))
    with pytest.raises(ValueError, match="names a level that is not among"):
        PixelUNet(attention=(3,))


def test_the_published_model_has_its_published_size() -> None:
    with torch.device("meta"):
        task = ddpm_cifar10().stages[0].task.build(DataSpec(channels=3, image_size=32), {})
    assert sum(p.numel() for p in task.parameters()) == 35_746_307
    fake = FakeTask(lambda: ddpm_cifar10().stages[0].task.build(DataSpec(channels=3, image_size=32), {}))
    flops = flops_per_sample(fake, 2, "fp32")
    assert flops == pytest.approx(3 * 2 * 6.1e9, rel=0.03)  # 6.1 G multiply-adds a forward pass (Fang et al. 2023, arXiv:2305.10924, table 1)


def test_every_recipe_is_registered() -> None:
    assert {"ddpm", "ddpm_unconditional", "ddpm_cifar10"} <= registry.RECIPES.keys()


def test_an_assessment_is_a_loss_and_a_sheet(tmp_path: Path) -> None:
    source = open_source(DataConfig(train="digits"))
    for config in (DDPMConfig(unet=SMALL), ClassDDPMConfig(unet=SMALL)):
        scores = assess(config.build(source.spec, {}).eval(), source, tmp_path)
        assert scores["validation/loss"] == pytest.approx(1.0, abs=0.1)  # epsilon, by a network that says nothing
        assert (tmp_path / "contact_sheet.png").stat().st_size > 1000


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> PixelDiffusion:
    """Digits without classes by the epsilon loss, what one core learns in a minute."""
    task = DDPMConfig(unet=PixelUNet(widths=(48, 96)), process=DiscreteConfig(beta_schedule="cosine"))
    (stage,) = fitting_precision(ddpm().stages)
    stage = replace(stage, task=task, train=replace(stage.train, steps=300, trackers=(), evaluate_every_steps=0))
    final = fit(stage, recipe="ddpm", source=open_source(stage.data), folder=tmp_path_factory.mktemp("ddpm"), device=CPU)
    loaded = checkpoint.load_task(final)
    assert isinstance(loaded, PixelDiffusion)
    return loaded.eval()


def features(pictures: Tensor, basis: Tensor) -> Moments:
    """Moments of pictures (B, 1, 8, 8) in the plane of the data's first principal components."""
    moments = Moments(basis.shape[1])
    moments.add((pictures - 0.5).flatten(1).double() @ basis)
    return moments


@pytest.mark.slow
def test_d2_the_loss_is_below_half_of_saying_nothing(trained: PixelDiffusion, tmp_path: Path) -> None:
    assert assess(trained, open_source(DataConfig(train="digits")), tmp_path)["validation/loss"] < 0.5


@pytest.mark.slow
def test_d3_20_steps_draw_as_well_as_200(trained: PixelDiffusion) -> None:
    source = open_source(DataConfig(train="digits"))
    real = next(source.batches("train", 1442))["image"]
    basis = torch.linalg.svd((real - 0.5).flatten(1).double(), full_matrices=False).Vh[:32].T

    def drawn(steps: int) -> Moments:
        return features(torch.cat([trained.sample(trained.of_no_class, list(range(i, i + 250)), steps) for i in range(0, 1000, 250)]), basis)

    reference = features(real, basis)
    assert frechet_distance(drawn(20), reference) < 1.1 * frechet_distance(drawn(200), reference)
