"""What a run tells: `metrics.jsonl` (the source of truth, one row a step), one live line, trackers.

Values stay on the device until the next line is due; then all rows since the last one are averaged over ranks at once.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, SupportsFloat

import torch
from torch import Tensor

from genlib import distributed
from genlib.engine.trackers import Trackers
from genlib.json_text import json_text
from genlib.storage import Held, LineFile, StorageError, cut_after, step_of

Row = dict[str, Any]

PEAK_BF16_FLOPS = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12, "A10": 125e12, "L4": 121e12, "V100": 125e12}
"""Dense half-precision rate by device name, from the vendor's data sheets (V100: fp16)."""


def metrics_file(folder: Path) -> LineFile:
    """The rows of a stage that trains in the folder."""
    return LineFile(folder / "metrics.jsonl", partial(print, flush=True))


def keep_rows(state: Path, rows: str) -> None:
    """Puts rows that could not be written yet into a checkpoint's state, for whoever goes on from it."""
    with open(_kept(state), "w") as file:
        file.write(rows)
        file.flush()
        os.fsync(file.fileno())


def kept_rows(state: Path) -> Path | None:
    """Where a checkpoint's state has such rows."""
    return path if (path := _kept(state)).exists() else None


def _kept(state: Path) -> Path:
    return state / "rows.jsonl"


def add_missing(file: LineFile, kept: Path) -> None:
    """Adds the rows that a checkpoint kept and that are not in the file."""
    there = file.path.read_bytes().splitlines() if file.path.exists() else []
    last = max((step for step in map(step_of, there) if step < math.inf), default=-math.inf)
    file.append("".join(f"{line}\n" for line in kept.read_text().splitlines() if last < step_of(line) < math.inf))


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
        kept: Path | None = None,
        since: float | None = None,
    ) -> None:
        """`kept` is where the checkpoint that the run goes on from keeps rows that could not be written before it; `since` is when its first step
        began, by `time.perf_counter`, by default now."""
        self.file = metrics_file(folder)
        self.steps, self.batch, self.seconds_between, self.flops_per_sample = steps, batch, seconds_between, flops_per_sample
        self.lead = distributed.rank() == 0
        self.rows: list[Row] = []
        self.last_flush, self.next_flush = time.perf_counter() if since is None else since, first_step + 1
        self.session_rate: float | None = None
        self.own: tuple[dict[str, float], int] | None = None
        self.trackers = None
        if self.lead:
            self.held = Held(folder)
            cut_after(self.file.path, first_step)
            if kept:
                add_missing(self.file, kept)
            if trackers:
                self.trackers = Trackers(trackers, folder, folder.name, config, first_step + 1)

    def add(self, step: int, values: Mapping[str, Tensor | SupportsFloat]) -> Row | None:
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
        written = self._write("".join(json_text(row) + "\n" for row in rows))
        if self.trackers:
            self.trackers.log(line, room=written)
        print(self.live_line(line), flush=True)
        return line

    def own_times(self) -> tuple[dict[str, float], int] | None:
        """Once after each flush: seconds of this rank by name, of all rows together, and how many these are."""
        own, self.own = self.own, None
        return own

    def _write(self, lines: str) -> bool:
        """Whether all lines are in the file; else they wait. StorageError where the run's folder is gone."""
        self.held.check()
        try:
            return self.file.append(lines)
        except FileNotFoundError:
            self.held.check()
            raise

    def picture(self, step: int, path: Path) -> None:
        """Shows trackers a picture of that step; on rank 0."""
        if self.trackers:
            self.trackers.picture(step, path)

    @property
    def waiting(self) -> str:
        """Rows that could not be written yet, as lines; on rank 0."""
        return self.file.waiting

    def _averaged(self, wanted_steps: float) -> list[Row]:
        fixed = ("step", "samples_seen")
        names = [(i, name) for i, row in enumerate(self.rows) for name in row if name not in fixed]
        found = (self.rows[i][name] for i, name in names)
        flat = [value if isinstance(value, Tensor) else float(value) for value in found]
        times: dict[str, float] = {}
        for (_, name), value in zip(names, flat, strict=True):
            if name.endswith("_time"):
                times[name] = times.get(name, 0.0) + float(value)
        self.own = times, len(self.rows)
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
        """Writes what is left, if it can be."""
        if not self.lead:
            return
        with self.held, suppress(StorageError, OSError):
            self._write("")
            if self.trackers:
                self.trackers.close()
