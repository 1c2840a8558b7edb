"""Checkpointed activations, torch.compile and offload together.

`python -m tests.engine.combinations` trains each combination and writes the table in RESULTS.md.
"""

from __future__ import annotations

import tempfile
from contextlib import nullcontext
from functools import partial
from itertools import product
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from genlib import distributed
from genlib.config import OptimConfig, TrainConfig
from genlib.engine.strategies import strategy_of
from genlib.task import Task
from genlib.types import Batch, Metrics, Step
from tests.models.support import RESULTS
from tests.processes import run_ranks

BEGIN, END = "<!-- combinations: python -m tests.engine.combinations -->\n", "<!-- end of the combinations -->\n"
WAYS = (
    ("single", "none"), ("ddp", "none"), ("zero1", "none"), ("zero2", "none"), ("zero2", "optimizer"),
    ("zero3", "none"), ("zero3", "optimizer"), ("zero3", "all"),
)  # fmt: skip
OPTIONS = tuple(product((False, True), repeat=2))
"""Checkpointed, compiled."""
WIDTH, ROWS, STEPS = 16, 8, 3


class Deep(Task):
    """Blocks with a norm, whose activations may be computed again."""

    def __init__(self, checkpointing: bool) -> None:
        super().__init__()
        self.net = nn.ModuleList(nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.LayerNorm(WIDTH), nn.GELU()) for _ in range(3))
        self.checkpointing = checkpointing

    def loss(self, phase: str, batch: Batch, step: Step) -> tuple[Tensor, Metrics]:
        x = batch["x"]
        for block in self.net:
            x = x + (checkpoint(block, x, use_reentrant=False) if self.checkpointing else block(x))
        return (x - batch["x"].flip(1)).square().mean(1), {}


def trained(strategy: str, offload: str, checkpointing: bool, compile: bool) -> dict[str, Tensor]:
    """Weights after some steps; of the first rank."""
    torch.compiler.reset()
    torch.manual_seed(0)
    made = strategy_of(strategy, torch.device("cpu"))
    with getattr(made, "sharded_init", None) or nullcontext():
        task = Deep(checkpointing)
    optim = OptimConfig(name="adam", learning_rate=1e-2)
    made.setup(task.train(), TrainConfig(strategy=strategy, offload=offload, compile=compile, global_batch=ROWS, optim=optim))  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(1)
    for index in range(STEPS):
        x, share = torch.randn(ROWS, WIDTH, generator=generator), ROWS // distributed.world_size()
        mine = x[distributed.rank() * share :][:share]
        made.run_phase(task.phases[0], [{"x": mine, "valid": torch.ones(share, dtype=torch.bool), "weight": torch.ones(share)}], Step(index, STEPS))
    return made.whole_state()


def train_all(folder: Path, ways: tuple[tuple[str, str], ...]) -> None:
    """Writes the weights of each way; without a machine's compiler, which is not what is asked here."""
    torch.compile = partial(torch.compile, backend="aot_eager")  # type: ignore[assignment]
    for (strategy, offload), (checkpointing, compile) in product(ways, OPTIONS):
        weights = trained(strategy, offload, checkpointing, compile)
        if distributed.rank() == 0:
            torch.save(weights, folder / name_of(strategy, offload, checkpointing, compile))
        if distributed.world_size() > 1:
            dist.barrier()


def name_of(strategy: str, offload: str, checkpointing: bool, compile: bool) -> str:
    """Of its file."""
    return f"{strategy}-{offload}-{checkpointing}-{compile}.pt"


def distances() -> dict[tuple[str, str, bool, bool], float]:
    """How far each way's weights are from those of one process that does nothing of it."""
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root)
        run_ranks(1, train_all, folder, WAYS[:1])
        run_ranks(2, train_all, folder, WAYS[1:])
        usual = torch.load(folder / name_of("single", "none", False, False))
        found = {}
        for way in (((*way, *options)) for way, options in product(WAYS, OPTIONS)):
            weights = torch.load(folder / name_of(*way))
            found[way] = max(float((weights[name] - value).abs().max()) for name, value in usual.items())
        return found


def table(found: dict[tuple[str, str, bool, bool], float], tolerance: float = 1e-5) -> str:
    """Yes where the weights are those of one process without any of it."""
    heads = [" and ".join(name for name, on in zip(("checkpointed", "compiled"), options, strict=True) if on) or "neither" for options in OPTIONS]
    lines = [f"| strategy | offload | {' | '.join(heads)} |", "|---" * (2 + len(heads)) + "|"]
    for way in WAYS:
        lines.append(f"| {' | '.join(way)} | {' | '.join('yes' if found[(*way, *options)] <= tolerance else 'no' for options in OPTIONS)} |")
    return "\n".join([*lines, ""])


def parts() -> tuple[str, str, str]:
    """RESULTS.md before the table, the table, and what comes after."""
    before, _, rest = RESULTS.read_text().partition(BEGIN)
    inside, _, after = rest.partition(END)
    return before, inside, after


if __name__ == "__main__":
    from tests.engine import combinations

    before, _, after = parts()
    RESULTS.write_text(f"{before}{BEGIN}{table(combinations.distances())}{END}{after}")
