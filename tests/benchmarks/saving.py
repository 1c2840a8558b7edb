"""Rows "saving": how long training stands still for a checkpoint under ZeRO-3, and how long it takes to be one, over an older commit.

Several ranks of this machine train an autoencoder of the size of `sharded_training`, with a moving average, and save every few steps; the first
save is not counted. The third row is what steps wait for in `Saver.save` over what they wait for in PyTorch's `async_save` of the same state.
BENCH_OLD is the older commit; BENCH_RANKS, BENCH_LAYERS, BENCH_WIDTH and BENCH_ROUNDS are the sizes.
"""

from __future__ import annotations

import json
import statistics
import tempfile
from pathlib import Path

from tests.benchmarks.measure import older_commit, report
from tests.benchmarks.sharded_training import LAYERS, RANKS, ROOT, ROUNDS, WIDTH, run

SAVES, EVERY = 4, 6


def of_runs(code: Path) -> dict[str, float]:
    """Median seconds that steps stood still for a save, and from its begin until it was sealed."""
    with tempfile.TemporaryDirectory() as folder:
        run("save_rank.py", code, folder, f"{folder}/run", LAYERS, WIDTH, SAVES, EVERY)
        stands = [max(one) for one in zip(*(json.loads(Path(folder, "run", f"{rank}.json").read_text()) for rank in range(RANKS)), strict=True)]
        timeline = Path(folder, "run", "timeline.jsonl")
        events = [json.loads(line) for line in timeline.read_text().splitlines()] if timeline.exists() else []
    seals = [event["seconds"] for event in events if event["what"] == "seal"] or [0.0] * SAVES  # before there were seals, a save was one
    counted = range(1, SAVES - 1)  # after the last one there are no steps
    return {
        "stands": statistics.median(stands[number] for number in counted),
        "sealed": statistics.median(stands[number] + seals[number] for number in counted),
    }


def beside_torch() -> dict[str, float]:
    """Median seconds that steps stand still, of the slowest rank, for a save of ours and of PyTorch's."""
    with tempfile.TemporaryDirectory() as folder:
        run("save_beside_torch.py", ROOT, folder, folder, LAYERS, WIDTH)
        found = [json.loads(Path(folder, f"{rank}.json").read_text()) for rank in range(RANKS)]
    return {name: statistics.median(map(max, zip(*(one[name] for one in found), strict=True))) for name in found[0]}


def main() -> None:
    """Prints the rows."""
    with older_commit() as old:
        pairs = [(of_runs(ROOT), of_runs(old)) for _ in range(ROUNDS)]
    for title, name, must in (("training stands still", "stands", 0.1), ("begin to seal", "sealed", 1.0)):
        ours, theirs = pairs[-1][0][name], pairs[-1][1][name]
        report(f"saving, {title}: over an older commit", [a[name] / b[name] for a, b in pairs], must=must, ours=ours, before=theirs)
    found = [beside_torch() for _ in range(ROUNDS)]
    values = [one["ours"] / one["torch"] for one in found]
    report("saving, training stands still: over torch.distributed.checkpoint.async_save", values, must=1.0, **found[-1])


if __name__ == "__main__":
    main()
