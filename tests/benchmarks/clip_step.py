"""One training step of a CLIP with 10 M parameters against open_clip's; one thread.

Ours is the engine's step: loss, backward, gradient norm, fused AdamW. open_clip's is its own CLIP, loaded from our export so that
the two have one shape, its ClipLoss, and the AdamW it trains with.

    OMP_NUM_THREADS=1 python -m tests.benchmarks.clip_step
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from genlib import companions
from genlib.config import OptimConfig, TrainConfig
from genlib.engine.single import SingleDevice
from genlib.models.representation.base.clip_towers import TextTransformer, VisionTransformer
from genlib.models.representation.clip import CLIP, CLIPConfig
from genlib.nn.tokenizer import train_bpe
from genlib.types import DataSpec, Step
from tests.benchmarks.measure import ratios, report
from tests.open_clip_stub import open_clip

PAIRS, SIDE, CONTEXT, VOCABULARY = 64, 64, 32, 4000


def made() -> CLIP:
    torch.manual_seed(0)
    image = VisionTransformer(image_size=SIDE, patch_size=8, width=256, layers=6, heads=4)
    text = TextTransformer(context_length=CONTEXT, vocab_size=VOCABULARY, width=256, layers=5, heads=4)
    task = CLIPConfig(image=image, text=text, embed_dim=256).build(DataSpec(has_captions=True), {})
    task.tokenizer.use(train_bpe(["heart"], 600))
    return task


def pairs() -> tuple[Tensor, Tensor]:
    """Random images and texts of full length."""
    tokens = torch.randint(1, VOCABULARY - 1, (PAIRS, CONTEXT))
    tokens[:, -1] = VOCABULARY - 1  # the end mark, where both read
    return torch.randn(PAIRS, 3, SIDE, SIDE), tokens


def our_step(precision: str) -> Callable[[], object]:
    task, strategy = made().train(), SingleDevice(torch.device("cpu"))
    strategy.setup(task, TrainConfig(precision=precision, optim=OptimConfig(learning_rate=1e-4, weight_decay=0.2)))
    image, tokens = pairs()
    batch = {
        "image": image,
        "tokens": tokens,
        "position": torch.arange(PAIRS),
        "valid": torch.ones(PAIRS, dtype=torch.bool),
        "weight": torch.ones(PAIRS),
    }
    return lambda: strategy.run_phase(task.phases[0], [batch], Step(0, 10))


def their_step(precision: str) -> Callable[[], object]:
    with tempfile.TemporaryDirectory() as folder:
        companions.export(made(), Path(folder))
        model = open_clip().create_model(f"local-dir:{folder}/open_clip").train()
    loss, optimizer = open_clip().loss.ClipLoss(), torch.optim.AdamW(model.parameters(), 1e-4, weight_decay=0.2)
    image, tokens = pairs()

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            loss(*model(image, tokens)).backward()
        optimizer.step()

    return step


def main() -> None:
    torch.set_num_threads(1)
    parameters = sum(p.numel() for p in made().net.parameters())
    ours, theirs = ({precision: make(precision) for precision in ("fp32", "bf16")} for make in (our_step, their_step))
    for mine, other, must in (("fp32", "fp32", 1.0), ("bf16", "fp32", 0.7), ("bf16", "bf16", 1.0)):
        report(f"CLIP step, {mine} over open_clip {other}", ratios(ours[mine], theirs[other], 9), must=must, parameters=parameters)


if __name__ == "__main__":
    main()
