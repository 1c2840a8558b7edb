"""A search while it runs: one table of where it stands, on the terminal, and what became of each trial, in its folder."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ray.tune import Callback

from jobs.run_folder import read_json, write_json
from jobs.trial import Trials, evaluations
from tune_spaces.base import is_integer, points

if TYPE_CHECKING:
    from ray.tune.experiment import Trial

    from jobs.tune import Asked

_SECONDS_BETWEEN = 10.0
_SHOWN = 5
_WORDS = {"finished": "finished", "stopped": "stopped early", "failed": "failed"}


class Follower(Callback):
    """In the driver: writes each trial's outcome, and says now and then how far the search is."""

    def __init__(self, asked: Asked, trials: Trials, concurrent: int) -> None:
        self.asked, self.trials, self.concurrent = asked, trials, concurrent
        self.begin, self.said = time.monotonic(), 0.0
        self.ended: list[float] = []
        """Seconds that each trial took which ended since this start."""
        self.started: dict[str, float] = {}

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        self.started.setdefault(trial.trial_id, time.monotonic())
        write_json(self.trials.folder(trial.trial_id) / "number.json", {"number": trials.index(trial)})

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        self.note(trial, *self.outcome(trial))

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        refused = read_json(self.trials.folder(trial.trial_id) / "refused.json") or {}
        self.note(trial, "failed", refused.get("why") or first_line(str(trial.get_error() or "its process ended")))

    def on_step_end(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        if time.monotonic() - self.said >= _SECONDS_BETWEEN:
            self.said = time.monotonic()
            print(self.table(trials), flush=True)

    def outcome(self, trial: Trial) -> tuple[str, str]:
        """Whether it was trained to the end, and why not."""
        last, steps = trial.last_result or {}, self.asked.stage.train.steps
        if last.get("trouble"):
            return "stopped", f"at step {last.get('step')}: {last['trouble']}"
        if last.get("step", 0) >= steps:
            return "finished", ""
        why = "time budget is over" if self.over() else f"behind the best third at step {last.get('step', 0)}"
        return "stopped", why

    def over(self) -> bool:
        """Whether the time budget is used up."""
        from jobs.tune import seconds

        budget = seconds(self.asked.options.time_budget)
        return budget is not None and time.monotonic() - self.begin >= budget

    def note(self, trial: Trial, status: str, reason: str) -> None:
        """Writes down what became of a trial."""
        began = self.started.pop(trial.trial_id, None)
        if began is not None:
            self.ended.append(time.monotonic() - began)
        folder, value = self.trials.folder(trial.trial_id), self.value(trial)
        if folder.is_dir():
            write_json(folder / "outcome.json", {"status": status, "reason": reason})
            if value is not None:
                tell_tensorboard(folder / "tensorboard", trial.config, self.asked.metric, value)

    def table(self, trials: Sequence[Trial]) -> str:
        """Where the search stands: counts, the best so far, what runs, and how long it may still take."""
        became, running = [self.became(trial) for trial in trials], sum(trial.status == "RUNNING" for trial in trials)
        words = [f"{running} running"]
        words += [f"{became.count(name)} {word}" for name, word in _WORDS.items() if name in became]
        done, total = sum(map(bool, became)), self.total()
        lines = [f"{done} of {total} trials done: {', '.join(words)}{self.left(total - done)}"]
        ranked = sorted((trial for trial in trials if self.value(trial) is not None), key=lambda trial: self.rank(self.value(trial)))
        chosen = ranked[:_SHOWN] + [trial for trial in ranked[_SHOWN:] if trial.status == "RUNNING"]
        return "\n".join([*lines, *(self.line(trial, trials) for trial in chosen)])

    def line(self, trial: Trial, trials: Sequence[Trial]) -> str:
        """A trial: its number, where it is, what it reached, with which values."""
        state = "running" if trial.status == "RUNNING" else self.became(trial) or "waits"
        step, value = (trial.last_result or {}).get("step", 0), self.value(trial)
        values = " ".join(f"{short(name)}={shown(value)}" for name, value in trial.config.items())
        return f"  T{trials.index(trial):<3} {state:<8} step {step:>6,}  {self.asked.metric.removeprefix('val/')} {shown(value):<10} {values}"

    def became(self, trial: Trial) -> str:
        """finished, stopped or failed; empty while it is none of them."""
        return (read_json(self.trials.folder(trial.trial_id) / "outcome.json") or {}).get("status", "")

    def total(self) -> int:
        """Trials in all."""
        options, stage = self.asked.options, self.asked.stage
        if options.search != "grid":
            return options.trials
        return math.prod(len(points(one, options.grid_points, is_integer(stage, name))) for name, one in self.asked.space.items())

    def left(self, waiting: int) -> str:
        """How long so many trials may still take, from how long others took."""
        if not self.ended or waiting <= 0:
            return ""
        seconds = waiting * sum(self.ended) / len(self.ended) / self.concurrent
        return f", about {seconds:,.0f} s left" if seconds < 120 else f", about {seconds / 60:,.0f} min left"

    def value(self, trial: Trial) -> float | None:
        """What it reached last."""
        found = (trial.last_result or {}).get(self.asked.metric)
        if found is None:
            rows = evaluations(self.trials.folder(trial.trial_id))
            found = rows[-1].get(self.asked.metric) if rows else None
        return found

    def rank(self, value: float | None) -> float:
        """Less is better."""
        assert value is not None
        return value if self.asked.mode == "min" else -value

    def __getstate__(self) -> Mapping[str, Any]:
        return {**self.__dict__, "started": {}, "ended": []}


def tell_tensorboard(folder: Path, values: Mapping[str, Any], metric: str, value: float) -> None:
    """Adds the trial to TensorBoard's table of hyperparameters, beside its curves."""
    from torch.utils.tensorboard import SummaryWriter

    plain = {name: one if isinstance(one, bool | int | float | str) else str(one) for name, one in values.items()}
    with SummaryWriter(str(folder)) as writer:
        writer.add_hparams(plain, {f"search/{metric.removeprefix('val/')}": value}, run_name=".")


def short(name: str) -> str:
    """The last part of a dotted name, where it says enough."""
    return name.rpartition(".")[2]


def shown(value: Any) -> str:
    """A value for people."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def first_line(text: str) -> str:
    """The last line of a traceback: what was raised."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else text
