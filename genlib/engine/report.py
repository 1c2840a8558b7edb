"""What a run tells: `metrics.jsonl` (the source of truth, one row a step), one live line, trackers.

Values stay on the device until the next line is due; then all rows since the last one are averaged over ranks at once.
"""

from __future__ import annotations

import json
import math
import os
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from genlib import distributed

Row = dict[str, Any]

PEAK_BF16_FLOPS = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12, "A10": 125e12, "L4": 121e12, "V100": 125e12}
"""Dense half-precision rate by device name, from the vendor's data sheets (V100: fp16)."""


def cut_after(path: Path, step: int) -> None:
    """Drops the rows after `step` (they are done again), and a last line that a kill cut off."""
    if not path.exists():
        return
    kept = [line for line in path.read_text().splitlines() if _step_of(line) <= step]
    partial = path.with_suffix(".partial")
    partial.write_text("".join(line + "\n" for line in kept))
    os.replace(partial, path)


def _step_of(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError, TypeError):
        return math.inf


def refuse_missing_trackers(names: tuple[str, ...]) -> None:
    """ValueError naming the first tracker whose package is not installed."""
    for name in names:
        if find_spec(name) is None:
            raise ValueError(f"train.trackers has {name}, but that package is not installed; `pip install {name}`, or leave it out")


class Trackers:
    """accelerate's trackers (TensorBoard, W&B, MLflow), on rank 0, started with the first row."""

    def __init__(self, names: tuple[str, ...], folder: Path, run: str, config: dict, first_step: int) -> None:
        from accelerate.state import PartialState
        from accelerate.tracking import LOGGER_TYPE_TO_CLASS

        PartialState(cpu=not torch.cuda.is_available())
        self.trackers = []
        for name in names:
            # Rows after the checkpoint are written again: TensorBoard hides the old ones from this step on.
            arguments = {"logging_dir": str(folder / "tensorboard"), "purge_step": first_step} if name == "tensorboard" else {}
            tracker = LOGGER_TYPE_TO_CLASS[name]("." if name == "tensorboard" else run, **arguments)
            tracker.start()
            if name != "tensorboard":
                tracker.store_init_configuration(config)
            self.trackers.append(tracker)

    def log(self, row: Row) -> None:
        """One row, under its step."""
        values = {name: value for name, value in row.items() if name != "step" and value is not None}
        for tracker in self.trackers:
            tracker.log(values, step=row["step"])

    def close(self) -> None:
        """Writes what is left."""
        for tracker in self.trackers:
            tracker.finish()


class Report:
    """Collects rows on every rank; rank 0 writes and prints them.

    Ranks must flush together, but their clocks differ: rank 0 decides at each flush after how many steps the next one comes,
    and the number travels with the averaged values.
    """

    def __init__(
        self,
        folder: Path,
        *,
        steps: int,
        first_step: int,
        batch: int,
        seconds_between: float,
        trackers: tuple[str, ...],
        config: dict,
        flops_per_sample: float | None,
    ) -> None:
        self.path = folder / "metrics.jsonl"
        self.steps, self.batch, self.seconds_between, self.flops_per_sample = steps, batch, seconds_between, flops_per_sample
        self.lead = distributed.rank() == 0
        self.rows: list[Row] = []
        self.last_flush, self.next_flush = time.perf_counter(), first_step + 1
        self.session_rate: float | None = None
        self.trackers = None
        if self.lead:
            cut_after(self.path, first_step)
            if trackers:
                self.trackers = Trackers(trackers, folder, folder.name, config, first_step + 1)

    def add(self, step: int, values: dict[str, Tensor | float]) -> Row | None:
        """A row for the step with that many steps done. The line's row, averaged, on rank 0 when a line was due, else None."""
        self.rows.append({"step": step, "samples_seen": step * self.batch, **values})
        return self.flush() if step >= self.next_flush else None

    def flush(self) -> Row | None:
        """Averages the rows over ranks and writes them; all ranks call it at the same step. The last row, on rank 0."""
        if not self.rows:
            return None
        seconds = time.perf_counter() - self.last_flush
        wanted = max(1.0, min(len(self.rows) * self.seconds_between / max(seconds, 1e-9), 8.0 * len(self.rows)))
        rows = self._averaged(wanted if self.lead else 0.0)
        rate = len(rows) * self.batch / seconds
        self.last_flush = time.perf_counter()
        if not self.lead:
            return None
        line = self._summary(rows, rate, seconds)
        with open(self.path, "a") as file:
            file.write("".join(json.dumps(row) + "\n" for row in rows))
        if self.trackers:
            self.trackers.log(line)
        print(self.live_line(line), flush=True)
        return line

    def _averaged(self, wanted_steps: float) -> list[Row]:
        fixed = ("step", "samples_seen")
        names = [(i, name) for i, row in enumerate(self.rows) for name in row if name not in fixed]
        flat = [self.rows[i][name] for i, name in names]
        device = next((value.device for value in flat if isinstance(value, Tensor)), torch.device("cpu"))
        values = torch.stack(
            [torch.as_tensor(value, dtype=torch.float64, device=device) for value in [*flat, wanted_steps * distributed.world_size()]]
        )
        averaged = distributed.mean_over_ranks(values).tolist()
        self.next_flush = self.rows[-1]["step"] + int(averaged.pop())
        rows, self.rows = self.rows, []
        for (i, name), value in zip(names, averaged, strict=True):
            rows[i][name] = value if math.isfinite(value) else None
        return rows

    def _summary(self, rows: list[Row], rate: float, seconds: float) -> Row:
        """The last row with what is known of the time since the last line; written into it."""
        line = rows[-1]
        line["samples_per_second"] = rate
        line["samples_per_second_per_gpu"] = rate / distributed.world_size()
        line["data_share"] = min(1.0, sum(row["data_time"] or 0.0 for row in rows) / seconds)
        if torch.cuda.is_available():
            line["gpu_memory_peak_gb"] = torch.cuda.max_memory_allocated() / 1e9
            peak = next((flops for name, flops in PEAK_BF16_FLOPS.items() if name in torch.cuda.get_device_name()), None)
            if self.flops_per_sample and peak:
                line["mfu"] = self.flops_per_sample * line["samples_per_second_per_gpu"] / peak
        return line

    def live_line(self, row: Row) -> str:
        """What a person reads: step, samples, speed, data share, loss, learning rate, time left."""
        losses = {name: value for name, value in row.items() if name.startswith("train/") and name.endswith("loss")}
        texts = [f"{name.removeprefix('train/')} {'nan' if value is None else format(value, '.4f')}" for name, value in losses.items()]
        left = (self.steps - row["step"]) * self.batch / row["samples_per_second"]
        memory = f"  {row['gpu_memory_peak_gb']:.1f} GB" if "gpu_memory_peak_gb" in row else ""
        mfu = f"  MFU {row['mfu']:.0%}" if "mfu" in row else ""
        return (
            f"step {row['step']:>{len(str(self.steps))}}/{self.steps}  {row['samples_seen']:>9,} samples  {row['samples_per_second']:>7,.0f}/s "
            f"({row['samples_per_second_per_gpu']:,.0f} per worker)  data {row['data_share']:.0%}  {'  '.join(texts)}  "
            f"lr {row['train/lr']:.2e}{memory}{mfu}  ETA {int(left // 3600)}:{int(left // 60) % 60:02d}:{int(left) % 60:02d}"
        )

    def close(self) -> None:
        """Writes what is left."""
        if self.trackers:
            self.trackers.close()
