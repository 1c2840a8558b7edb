"""The published presets have the published sizes, counted without memory."""

from __future__ import annotations

import pytest

from genlib.engine.trace import flops_per_sample
from tests.models.stages import built_on_meta, without_values

PUBLISHED = {
    "sdxl": {"autoencoder": 83_653_863, "text": 123_060_480, "text_2": 694_659_840, "denoiser": 2_567_463_684, "refiner": 2_259_526_660},
    "ldm_sd2": {"autoencoder": 83_653_863, "text": 340_387_840, "denoiser": 865_910_724},
    "sd3_medium": {
        "autoencoder": 83_819_683, "text": 123_650_304, "text_2": 694_659_840, "text_3": 4_762_310_656, "denoiser": 2_028_328_000,
    },
}  # fmt: skip


@pytest.mark.parametrize("recipe", PUBLISHED)
def test_every_component_has_the_published_number_of_parameters(recipe: str) -> None:
    for name, task in built_on_meta(recipe).items():
        network = task.text_model if hasattr(task, "text_model") else task.net
        assert sum(p.numel() for p in network.parameters()) == PUBLISHED[recipe][name], name


@pytest.mark.slow
def test_operations_of_a_step_are_counted_at_full_size() -> None:
    """SDXL's U-Net on latents of 128 x 128 is about 6 trillion operations forward (Podell et al. 2023 give no number; 3 times that a step)."""
    assert 1.7e13 < flops_per_sample(without_values("sdxl", "denoiser"), 1, "bf16") < 2.2e13


def test_the_middle_of_a_unet_is_as_deep_as_the_last_resolution_that_reads_text() -> None:
    refiner = built_on_meta("sdxl")["refiner"].net.model
    assert len(refiner.mid_block.attentions[0].transformer_blocks) == 4
    assert refiner.config.transformer_layers_per_block == 4, "as the published config.json has it"
