"""A search while it runs: one table of where it stands, on the terminal, and what became of each trial, in its folder."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ray.tune import Callback

from genlib.phases import phase
from genlib.plurals import counted
from genlib.storage import Held, StorageError, why
from jobs.evaluations import evaluations
from jobs.run_folder import read_json, write_json
from jobs.run_metrics import RunMetrics
from jobs.trial import NUMBER, Trials
from jobs.tune_schedulers import total
from jobs.tune_trials import TrialResult, ranked, results, short_names, shown, trial_command

if TYPE_CHECKING:
    from ray.tune.experiment import Trial

    from jobs.tune import SearchSpec

_SECONDS_BETWEEN = 10.0
_SHOWN = 5
_SPENT = "spent.json"
_WORDS = {"finished": "finished", "stopped": "stopped early", "failed": "failed"}


class Follower(Callback):
    """In the driver: writes each trial's outcome, and says now and then how far the search is."""

    def __init__(self, spec: SearchSpec, trials: Trials, concurrent: int, left_seconds: float | None) -> None:
        self.spec, self.trials, self.concurrent, self.left_seconds = spec, trials, concurrent, left_seconds
        self.begin, self.said, self.spent_before = time.monotonic(), 0.0, spent_seconds(trials.run)
        self.ended: list[float] = []
        """Seconds that each trial took which ended since this start."""
        self.started: dict[str, float] = {}
        folder = trials.run / "trials"
        folder.mkdir(exist_ok=True)
        self.held: Held | None = Held(trials.run, folder)
        self.problem = ""
        """Why a trial has no place to write to, which ends the search."""
        self.metrics: RunMetrics | None = None
        self.waiting: dict[Path, dict[str, Any]] = {}
        """What could not be written yet."""

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        if not self.started and not self.ended:
            phase(f"first trial: {self.concurrent} at a time")
        self.started.setdefault(trial.trial_id, time.monotonic())

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        self.note(trial, *self.outcome(trial))

    def on_trial_recover(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        self.problem = self.problem or no_place(error_of(trial))

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        error = error_of(trial)
        if problem := no_place(error):  # not noted: the same command goes on with this trial
            self.problem = problem
            return
        refused = read_json(self.trials.folder(trial.config) / "refused.json") or {}
        self.note(trial, "failed", refused.get("why") or error)

    def on_step_end(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        """StorageError where a trial's place or the search's own is gone or full."""
        if self.held:
            self.held.check()
        if self.problem:
            raise StorageError(f"the search stopped: {self.problem}")
        if time.monotonic() - self.said >= _SECONDS_BETWEEN:
            self.said = time.monotonic()
            self.write(self.trials.run / _SPENT, {"seconds": self.spent_before + self.said - self.begin})
            print(self.table(trials), flush=True)
            self.export(trials)

    def on_experiment_end(self, trials: list[Trial], **info: Any) -> None:
        self.write(self.trials.run / _SPENT, {"seconds": self.spent_before + time.monotonic() - self.begin})

    def write(self, path: Path, value: dict[str, Any]) -> None:
        """Writes a file of the search and those that wait; one that cannot be written waits for the next, which is said once."""
        known = bool(self.waiting)
        self.waiting[path] = value
        try:
            if self.held:
                self.held.check()
            for waiting in list(self.waiting):
                write_json(waiting, self.waiting[waiting])
                del self.waiting[waiting]
        except OSError as error:
            if not known:
                print(f"{why(path, error)}; the search goes on, and what it has to write waits", flush=True)
        except StorageError as error:  # not made again
            self.problem = str(error)

    def outcome(self, trial: Trial) -> tuple[str, str]:
        """Whether it was trained to the end, and why not."""
        last, steps = trial.last_result or {}, self.spec.stage.train.steps
        if not math.isfinite(value := last.get(self.spec.metric, 0.0)):
            trouble = f": {last['trouble']}" if last.get("trouble") else ""
            return "failed", f"at step {last.get('step')}: {self.spec.metric.removeprefix('val/')} is {value}{trouble}"
        if last.get("trouble"):
            return "stopped", f"at step {last.get('step')}: {last['trouble']}"
        if last.get("step", 0) >= steps:
            return "finished", ""
        why = "time budget is over" if self.over() else f"behind the best quarter at step {last.get('step', 0)}"
        return "stopped", why

    def over(self) -> bool:
        """Whether the time budget is used up."""
        return self.left_seconds is not None and time.monotonic() - self.begin >= self.left_seconds

    def note(self, trial: Trial, status: str, reason: str) -> None:
        """Writes down what became of a trial."""
        began = self.started.pop(trial.trial_id, None)
        if began is not None:
            self.ended.append(time.monotonic() - began)
        folder = self.trials.folder(trial.config)
        if not folder.is_dir():  # it was to stop before it began
            return
        values = {name: value for name, value in trial.config.items() if name != NUMBER}
        rows = evaluations(folder)
        if rows and self.spec.metric in rows[-1]:
            tell_tensorboard(folder / "tensorboard", values, self.spec.metric, rows[-1][self.spec.metric])
        again = trial_command(self.spec, values, f"{self.trials.recipe}-{folder.name}")
        self.write(folder / "outcome.json", {"status": status, "reason": reason, "command": again})

    def table(self, trials: Sequence[Trial]) -> str:
        """Where the search stands: counts, the best so far, what runs, and how long it may still take."""
        found, running = results(self.spec, self.trials.run), {trial.config[NUMBER] for trial in trials if trial.status == "RUNNING"}
        became = [one.status for one in found]
        words = [f"{len(running)} running", *(f"{became.count(name)} {word}" for name, word in _WORDS.items() if name in became)]
        done, all_of_them = sum(one.ended for one in found), total(self.spec)
        best = ranked(self.spec, found)
        chosen = best[:_SHOWN] + [one for one in best[_SHOWN:] if one.number in running]
        lines = [f"{done} of {counted(all_of_them, 'trial')} done: {', '.join(words)}{self.left(all_of_them - done)}"]
        return "\n".join([*lines, *(self.line(one, one.number in running) for one in chosen)])

    def export(self, trials: Sequence[Trial]) -> None:
        """The same for Prometheus."""
        self.metrics = self.metrics or RunMetrics(self.trials.run)
        found = results(self.spec, self.trials.run)
        became = [one.status for one in found if one.ended]
        for name in _WORDS:
            self.metrics.set("genlib_tune_trials", became.count(name), name)
        self.metrics.set("genlib_tune_trials", sum(trial.status == "RUNNING" for trial in trials), "running")
        if best := ranked(self.spec, found):
            self.metrics.set("genlib_tune_best_value", best[0].value)

    def line(self, one: TrialResult, running: bool) -> str:
        """A trial: its number, where it is, what it reached, with which values."""
        state = "running" if running and not one.ended else one.status if one.ended else "waits"
        names = short_names(one.values)
        values = " ".join(f"{names[name]}={shown(value)}" for name, value in one.values.items())
        return f"  T{one.number:<3} {state:<8} step {one.step:>6,}  {self.spec.metric.removeprefix('val/')} {shown(one.value):<10} {values}"

    def left(self, waiting: int) -> str:
        """How long so many trials may still take, from how long others took."""
        if not self.ended or waiting <= 0:
            return ""
        seconds = waiting * sum(self.ended) / len(self.ended) / self.concurrent
        return f", about {seconds:,.0f} s left" if seconds < 120 else f", about {seconds / 60:,.0f} min left"

    def __getstate__(self) -> Mapping[str, Any]:
        return {**self.__dict__, "started": {}, "ended": [], "held": None, "metrics": None}


def spent_seconds(run: Path) -> float:
    """What the search's earlier starts took of its time budget, to about ten seconds."""
    return (read_json(run / _SPENT) or {"seconds": 0.0})["seconds"]


def tell_tensorboard(folder: Path, values: Mapping[str, Any], metric: str, value: float) -> None:
    """Adds the trial to TensorBoard's table of hyperparameters, beside its curves."""
    from torch.utils.tensorboard import SummaryWriter

    from genlib.engine.trackers import hush_writers

    plain = {name: one if isinstance(one, bool | int | float | str) else str(one) for name, one in values.items()}
    hush_writers()
    with suppress(OSError), SummaryWriter(str(folder)) as writer:  # no room for it
        writer.add_hparams(plain, {f"search/{metric.removeprefix('val/')}": value}, run_name=".")


def error_of(trial: Trial) -> str:
    """What was raised in a trial, as this machine wrote it down: the search's own folder may be full."""
    path = trial.error_file
    try:
        return first_line(Path(path).read_text()) if path else "its process ended"
    except OSError:
        return "its process ended"


def no_place(error: str) -> str:
    """The sentence of a StorageError; empty where it was another error."""
    _, name, sentence = error.partition(f"{StorageError.__qualname__}: ")
    return sentence if name else ""


def first_line(text: str) -> str:
    """The last line of a traceback: what was raised."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else text
