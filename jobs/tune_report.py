"""What a search found: a table of trials, what mattered, pictures of it, the command that trains the best, and one HTML file with it all.

Read from the trials' own folders, which outlive whatever was killed.
"""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from genlib import program
from genlib.plurals import counted
from jobs import offline_page as page
from jobs.exit_codes import RunStopped
from jobs.tune_schedulers import distributions, in_words
from jobs.tune_trials import TrialResult, ranked, results, short_names, shown, trial_command
from tune_spaces.base import defaults

if TYPE_CHECKING:
    from jobs.tune import SearchSpec

_SHOWN = 10


def common_step(found: Sequence[TrialResult]) -> int:
    """The last step at which half of the trials, and four at least, were scored: there they can be compared."""
    steps = sorted({step for one in found for step, _ in one.curve}, reverse=True)
    return next((step for step in steps if sum(step in dict(one.curve) for one in found) >= max(4, len(found) / 2)), 0)


def importances(spec: SearchSpec, found: Sequence[TrialResult]) -> dict[str, float]:
    """Share of the metric's spread at `common_step` that each hyperparameter explains, by Optuna's fANOVA; {} where trials are too few to say."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    step = common_step(found)
    scored = [(one.values, dict(one.curve)[step]) for one in found if step in dict(one.curve)]
    scored = [(values, value) for values, value in scored if math.isfinite(value)]
    if len(scored) < max(4, 2 * len(spec.space)) or len({value for _, value in scored}) < 2:
        return {}
    study, known = optuna.create_study(), distributions(spec)
    for values, value in scored:
        study.add_trial(optuna.trial.create_trial(params=in_words(spec, values), distributions=known, value=value))
    return optuna.importance.get_param_importances(study, evaluator=optuna.importance.FanovaImportanceEvaluator(seed=0))


def finish(spec: SearchSpec, run: Path) -> str:
    """Writes trials.csv, pictures, report.html and the best trial's scores; what to tell the user. RunStopped where no trial gave a value."""
    found = results(spec, run)
    write_csv(run / "trials.csv", spec, found)
    best = next(iter(ranked(spec, found)), None)
    if best is None:
        raise RunStopped(without_value(spec, found, run))
    mattered = importances(spec, found)
    draw(spec, found, mattered, run)
    score_best(best, run)
    headline = f"{counted(len(found), 'trial')}, {sum(one.status == 'stopped' for one in found)} stopped early; {words_of(spec, found, best)}"
    what_next = closing(spec, found, best, mattered, run)
    write_html(spec, found, best, [headline, *what_next], run)
    return "\n".join([headline, *table(spec, found), *what_next])


def without_value(spec: SearchSpec, found: Sequence[TrialResult], run: Path) -> str:
    """Why there is no best trial, and what to do."""
    reasons = "; ".join(f"T{one.number}: {one.reason}" for one in [one for one in found if one.reason][:3])
    return (
        f"none of {counted(len(found), 'trial')} gave a value of {spec.metric.removeprefix('val/')}{f' ({reasons})' if reasons else ''}; "
        f"all stand in {run / 'trials.csv'}: give other ranges with --space and another name with --run, or more --trials"
    )


def write_csv(path: Path, spec: SearchSpec, found: Sequence[TrialResult]) -> None:
    """One row a trial."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["trial", "folder", "status", "reason", "step", spec.metric, "seconds", *spec.space, "command"])
        for one in found:
            values = [one.values.get(name) for name in spec.space]
            again = trial_command(spec, one.values, f"{spec.command.recipe}-{one.folder.name}")
            writer.writerow([one.number, one.folder.name, one.status, one.reason, one.step, one.value, round(one.seconds, 1), *values, again])


def score_best(best: TrialResult, run: Path) -> None:
    """Scores, pictures and exports of the best trial, which the link `best` names."""
    import torch

    from genlib import checkpoint
    from genlib.config import DataConfig, from_json
    from genlib.data.source import open_source
    from jobs.evaluate import evaluate

    link = run / "best"
    link.unlink(missing_ok=True)
    link.symlink_to(os.path.relpath(best.folder, run))
    final = checkpoint.find(best.folder)
    if final and not (best.folder / "metrics.json").exists():
        manifest = checkpoint.read_manifest(final)
        source = open_source(from_json(DataConfig, manifest.data), run / "data", needs=manifest.blueprint.config_class().fields)
        evaluate(final, source, best.folder, torch.device("cuda" if torch.cuda.is_available() else "cpu"))


def words_of(spec: SearchSpec, found: Sequence[TrialResult], best: TrialResult) -> str:
    """The best trial, and how the recipe's own values did."""
    words = f"the best is T{best.number} with {spec.metric.removeprefix('val/')} {shown(best.value)}"
    own = defaults(spec.stage, spec.space)
    mine = next((one for one in found if own and all(one.values.get(name) == value for name, value in own.items())), None)
    if mine is None or mine.value is None:
        return words
    if mine.number == best.number:
        return f"{words}: the recipe's own values, the search found none better"
    if shown(mine.value) == shown(best.value):
        return f"{words}; the recipe's own values, T{mine.number}, are as good"
    stopped = "" if mine.status == "finished" else f" when stopped at step {mine.step:,}"
    return f"{words}; the recipe's own values, T{mine.number}: {shown(mine.value)}{stopped}"


def closing(spec: SearchSpec, found: Sequence[TrialResult], best: TrialResult, mattered: dict[str, float], run: Path) -> list[str]:
    """What mattered, and what to do next."""
    names = short_names(spec.space)
    explained = ", ".join(f"{names[name]} {share:.0%}" for name, share in mattered.items())
    mattering = f"what mattered at step {common_step(found):,}: {explained}" if mattered else "too few trials to say what mattered"
    return [
        *([mattering] if len(spec.space) > 1 else []),
        *(["pbt changed its values while it trained: these are the last ones"] if spec.options.scheduler == "pbt" else []),
        f"train it again:  {trial_command(spec, best.values, f'{spec.command.recipe}-best')}",
        f"its checkpoint:  {run / 'best'} (for `{program.command('evaluate')}` and serving)",
        f"report:          {run / 'report.html'}",
    ]


def table(spec: SearchSpec, found: Sequence[TrialResult]) -> list[str]:
    """The best trials, one a line, and why the first ones failed."""
    rows = [["trial", spec.metric.removeprefix("val/"), "step", "status", *short_names(spec.space).values()]]
    for one in ranked(spec, found)[:_SHOWN]:
        rows.append([f"T{one.number}", shown(one.value), f"{one.step:,}", one.status, *(shown(one.values.get(name)) for name in spec.space)])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    failed = [f"  T{one.number} failed: {one.reason}" for one in found if one.status == "failed"]
    return lines + failed[:3]


def draw(spec: SearchSpec, found: Sequence[TrialResult], mattered: dict[str, float], run: Path) -> None:
    """curves.png, slices.png and importance.png."""
    from jobs.tune_plots import draw_curves, draw_importances, draw_slices

    draw_curves(spec, found, run / "curves.png")
    draw_slices(spec, ranked(spec, found), run / "slices.png")
    if mattered:
        draw_importances(mattered, run / "importance.png")


def write_html(spec: SearchSpec, found: Sequence[TrialResult], best: TrialResult, summary: Sequence[str], run: Path) -> None:
    """One file that needs no other: the summary, all trials, the pictures inside it."""
    names = list(spec.space)
    columns = ["trial", spec.metric.removeprefix("val/"), "step", "seconds", *short_names(names).values(), "what became of it"]
    rows = []
    for one in [*ranked(spec, found), *(one for one in found if one.value is None)]:
        values = [shown(one.values.get(name)) for name in names]
        value = "" if one.value is None else shown(one.value)
        rows.append([f"T{one.number}", value, f"{one.step:,}", f"{one.seconds:.0f}", *values, f"{one.status} {one.reason}".strip()])
    pictures = {"": [run / name for name in ("curves.png", "slices.png", "importance.png")], "best trial: ": sorted(best.folder.glob("*.png"))}
    figures = [page.figure(path, f"{of}{path.stem.replace('_', ' ')}") for of, paths in pictures.items() for path in paths if path.exists()]
    trials = page.section("Trials", page.table(rows, columns, marked=True))
    body = "".join([page.code("\n".join(summary)), trials, page.section("Pictures", *figures)])
    page.write_page(run / "report.html", f"Search {run.name}: {spec.command.recipe}", body)
