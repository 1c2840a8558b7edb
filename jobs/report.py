"""A run on one page: `python jobs/report.py runs/clip` writes runs/clip/report.html, which opens without a server or a network.

Curves, pictures of the end and of the way there, scores, data, command, machine, what time went to, checkpoints. With two runs
(`python jobs/report.py runs/a runs/b`) curves lie over each other, pictures beside each other, and it says in which options they differ.
"""

from __future__ import annotations

if __name__ == "__main__":  # before imports that take a second
    from cluster.quiet import ends_quietly

    ends_quietly()

import sys
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, get_type_hints

from genlib import program, registry
from genlib.engine.same_run import differences
from genlib.plurals import counted
from genlib.storage import why
from jobs import offline_page as page
from jobs.evaluate import table
from jobs.exit_codes import RunStopped, exit_code
from jobs.goodput import PARTS, goodput
from jobs.launches import BEFELL
from jobs.option_errors import Arguments
from jobs.run_copy import at_hand, run_argument
from jobs.run_curves import drawn, is_main, panels
from jobs.run_folder import described
from jobs.run_record import RunRecord, StageRecord, read_run

PAGE = "report.html"
_MOST_PICTURES = 12
"""On the way, on the page; more of them are taken evenly."""


def main(arguments: Sequence[str]) -> int:
    """Writes the page of a run, or of two beside each other."""
    parser = Arguments(prog=program.command("report"), description=main.__doc__)
    parser.add_argument("run", type=run_argument, help="a run's folder, like runs/clip, or its address in a store")
    parser.add_argument("other", type=run_argument, nargs="?", help="another run, to lay beside it")
    parser.add_argument("--out", type=Path, help=f"file to write (default RUN/{PAGE}, of two runs RUN/report-OTHER.html)")
    options = parser.parse_args(list(arguments))
    runs = [read_run(at_hand(where, weights=False).absolute()) for where in (options.run, options.other) if where]
    out = options.out or runs[0].folder / (PAGE if len(runs) == 1 else f"report-{runs[1].name}.html")
    write(runs, out)
    print(out)
    return 0


def write(runs: Sequence[RunRecord], out: Path) -> None:
    """Writes the page. RunStopped where it cannot be."""
    names = named(runs)
    body = "".join([_heading(runs, names), _pictures(runs, names), _curves(runs, names), _scores(runs, names), _rest(runs, names)])
    try:
        page.write_page(out, " and ".join(names) if len(runs) > 1 else f"Run {names[0]}: {runs[0].recipe}", body)
    except OSError as error:
        raise RunStopped(f"{why(out, error)}; name another file with --out") from None


def named(runs: Sequence[RunRecord]) -> list[str]:
    """Names of the runs that tell them apart."""
    names = [run.name for run in runs]
    return names if len(set(names)) == len(names) else [f"{run.folder.parent.name}/{run.name}" for run in runs]


def _heading(runs: Sequence[RunRecord], names: Sequence[str]) -> str:
    said = []
    for run, name in zip(runs, names, strict=True):
        about = registry.describe(run.recipe).partition("\n")[0] if run.recipe in registry.recipes() else ""
        said.append(page.paragraph(f"{f'{name} ({run.recipe}): ' if len(runs) > 1 else ''}{about} {run.status}.".strip()))
    return "".join(said) + (_differing(runs, names) if len(runs) > 1 else "")


def _differing(runs: Sequence[RunRecord], names: Sequence[str]) -> str:
    """In which options two runs differ."""
    one, other = ({stage.name: stage.config for stage in run.stages} for run in runs)
    found = [(name, _word(a), _word(b)) for name, a, b in differences(one, other)]
    if not found:
        return page.section("What differs", page.paragraph("Nothing in their options."))
    single = all(len(run.stages) == 1 for run in runs)
    rows = [(name.partition(".")[2] if single else name, a, b) for name, a, b in found]
    return page.section("What differs", page.table(rows, ["option", *names]))


def _word(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_word(one)}" for name, one in value.items()) or "none"
    if isinstance(value, list | tuple):
        return " ".join(map(_word, value)) or "none"
    return "no such option" if value is None else "none" if value == "" else str(value)


def _curves(runs: Sequence[RunRecord], names: Sequence[str]) -> str:
    stages = list(dict.fromkeys(stage.name for run in runs for stage in run.stages))
    parts = []
    for stage in stages:
        series = {name: found.series for run, name in zip(runs, names, strict=True) if (found := _stage(run, stage))}
        every = panels(sorted({value for one in series.values() for value in one}))
        goal = objective(runs, stage)
        main, more = ("".join(page.drawing(drawn(some, series)) for some in every if is_main(some, goal) == wanted) for wanted in (True, False))
        inside = page.grid(main) + page.folded("More curves", page.grid(more))
        parts.append(page.heading(f"Stage {stage}" if len(stages) > 1 and inside else "") + inside)
    return page.section("Curves", *parts) or page.section("Curves", page.paragraph("Nothing was logged yet."))


def objective(runs: Sequence[RunRecord], stage: str) -> str:
    """The held-out value by which runs of the stage are compared; empty where the recipe is none that is known here."""
    for run in runs:
        for one in registry.load(run.recipe).stages if run.recipe in registry.recipes() else ():
            if one.name == stage:
                return get_type_hints(type(one.task).build)["return"].objective[0]
    return ""


def _stage(run: RunRecord, name: str) -> StageRecord | None:
    return next((stage for stage in run.stages if stage.name == name), None)


def _pictures(runs: Sequence[RunRecord], names: Sequence[str]) -> str:
    if len(runs) > 1:
        return _pairs(runs, names)
    (run,) = runs
    end = "".join(page.figure(path, path.stem.replace("_", " ")) for path in run.final_pictures)
    parts = [page.section("What it makes", page.grid(end, large=True))]
    for stage in run.stages:
        chosen = _evenly(stage.pictures)
        shown = "".join(page.figure(path, f"after {counted(step, 'step')}") for path, step in chosen)
        title = f"While stage {stage.name} trained" if len(run.stages) > 1 else "While it trained"
        kept = f"{len(chosen)} of {counted(len(stage.pictures), 'picture')}; all are in {stage.folder / 'pictures'}."
        words = page.paragraph(kept if len(chosen) < len(stage.pictures) else "")
        parts.append(page.section(title, *([words, f'<div class="strip" tabindex="0">{shown}</div>'] if shown else [])))
    return "".join(parts)


def _pairs(runs: Sequence[RunRecord], names: Sequence[str]) -> str:
    """Pictures of the same name, and of the steps that both have, beside each other; where they share none, those of their own steps in order."""
    ends = [{path.stem: path for path in run.final_pictures} for run in runs]
    rows = [[(one[stem], f"{name}: {stem.replace('_', ' ')}") if stem in one else None for one, name in zip(ends, names, strict=True)]
            for stem in dict.fromkeys([*ends[0], *ends[1]])]  # fmt: skip
    ways = [{step: path for path, step in run.stages[-1].pictures} for run in runs]
    shared = [step for step in ways[0] if step in ways[1]]
    columns = [_evenly(shared or sorted(way)) for way in ways]
    on_the_way = []
    for place in range(max(map(len, columns), default=0)):
        on_the_way.append([
            (way[steps[place]], f"{name}: after {counted(steps[place], 'step')}") if place < len(steps) else None
            for way, steps, name in zip(ways, columns, names, strict=True)
        ])  # fmt: skip
    return page.section("What they make", _beside(rows, names)) + page.section("While they trained", _beside(on_the_way, names))


def _beside(rows: Sequence[Sequence[tuple[Path, str] | None]], names: Sequence[str]) -> str:
    cells = [
        page.figure(*one) if one else page.paragraph(f"{name} has no such picture.")
        for row in rows for one, name in zip(row, names, strict=True)
    ]  # fmt: skip
    return f'<div class="pairs">{"".join(cells)}</div>' if cells else ""


def _evenly(found: Sequence[Any]) -> list[Any]:
    """At most so many of them, with the first and the last."""
    if len(found) <= _MOST_PICTURES:
        return list(found)
    return [found[round(place * (len(found) - 1) / (_MOST_PICTURES - 1))] for place in range(_MOST_PICTURES)]


def _scores(runs: Sequence[RunRecord], names: Sequence[str]) -> str:
    """Final scores, without what the run cost, which stands elsewhere."""
    keys = [key for key in dict.fromkeys(key for run in runs for key in run.metrics) if key.rpartition("/")[2] not in _ELSEWHERE]
    rows = [[_score_name(key), *(_score(run.metrics, key) for run in runs)] for key in keys]
    return page.section("Scores", page.table(rows, ["score", *names] if len(runs) > 1 else ()))


_ELSEWHERE = {"steps", "seconds", "workers", "strategy"}


def _score_name(key: str) -> str:
    return key.replace("_", " ")


def _score(metrics: Mapping[str, Any], key: str) -> str:
    return table({key: metrics[key]}).split(maxsplit=1)[1].strip() if key in metrics else "not measured"


def _rest(runs: Sequence[RunRecord], names: Sequence[str]) -> str:
    parts = [(name, _data(run), _goodput(run), _machine(run), _options(run), _kept(run)) for run, name in zip(runs, names, strict=True)]
    titles = ("Data", "Where the time went", "Command and machine", "Options", "Checkpoints kept")
    sections = []
    for number, title in enumerate(titles, 1):
        inside = [page.heading(part[0] if len(runs) > 1 else "") + part[number] for part in parts if part[number]]
        sections.append(page.section(title, *inside))
    return "".join(sections)


def _data(run: RunRecord) -> str:
    said = [(stage, stage.data) for stage in run.stages if stage.data]
    return "".join(page.heading(f"Stage {stage.name}" if len(run.stages) > 1 else "") + page.listed(facts) for stage, facts in said)


def _goodput(run: RunRecord) -> str:
    found = goodput(run)
    total = sum(found.values())
    if not total:
        return ""
    shown = {name: seconds for name, seconds in found.items() if seconds >= 0.001 * total}
    rows = [(PARTS[name], seconds / total, f"{seconds / total:.1%}, {duration(seconds)}") for name, seconds in shown.items()]
    launches = sum(line.get("what") == "launch" for line in run.launches)
    times = f", in {launches} launches" if launches > 1 else ""
    summary = f"{found['steps'] / total:.1%} of {duration(total)} was spent in training steps{times}."
    return page.paragraph(summary) + page.bars(rows) + _befell(run)


def _befell(run: RunRecord) -> str:
    """What befell the run's workers, and why they began again."""
    begun = next((line["time"] for line in run.launches if line.get("what") == "launch"), 0.0)
    rows = [(duration(line["time"] - begun), str(line.get("why", ""))) for line in run.launches if line.get("what") in BEFELL]
    return page.table(rows, ["after", "what befell its workers"]) if rows else ""


def duration(seconds: float) -> str:
    """A time for a person."""
    minutes, hours = seconds / 60, seconds / 3600
    return f"{seconds:.1f} s" if seconds < 60 else f"{minutes:.1f} min" if minutes < 60 else f"{hours:.1f} h"


def _machine(run: RunRecord) -> str:
    start = run.starts[-1] if run.starts else {}
    machine, manifest = start.get("machine", {}), next((stage.manifest for stage in reversed(run.stages) if stage.manifest), None)
    versions = start.get("versions") or (dict(manifest.versions) if manifest else {})
    workers, strategy = start.get("world") or (manifest.world if manifest else 0), start.get("strategy") or (manifest.strategy if manifest else "")
    memory = f", {machine['gpu_memory_gb']:g} GB" if "gpu_memory_gb" in machine else ""
    threads = f", {counted(machine['threads'], 'thread')} a worker" if "threads" in machine else ""
    begun = [line["time"] for line in run.launches if line.get("what") == "launch"] or [one["time"] for one in run.starts]
    return page.code(run.command) + page.facts({
        "Begun": f"{datetime.fromtimestamp(begun[0]):%Y-%m-%d %H:%M}" if begun else "",
        "Workers": f"{workers}{f', {_STRATEGIES.get(strategy, strategy)}' if strategy else ''}" if workers else "",
        "Processor": f"{machine['cpu']}, {machine['cpus']} of its CPUs{threads}" if "cpu" in machine else "",
        "GPU": f"{machine['gpu']}{memory}" if "gpu" in machine else "",
        "System": machine.get("system", ""),
        "Versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
        "Commit": start.get("git_commit") or (manifest.git_commit if manifest else ""),
    })  # fmt: skip


_STRATEGIES = {"SingleDevice": "one device", "DistributedDataParallel": "data parallel (DDP)", "Zero": "sharded (ZeRO)"}


def _options(run: RunRecord) -> str:
    """Those that are not the recipe's own, and all."""
    own = {stage.name: described(stage) for stage in registry.load(run.recipe).stages} if run.recipe in registry.recipes() else {}
    parts = []
    for stage in run.stages:
        if not stage.config:
            continue
        changed = differences(own.get(stage.name) or stage.config, stage.config)
        prefix = f"{stage.name}." if len(run.stages) > 1 else ""
        rows = [(f"--{prefix}{name}", _word(now), _word(before)) for name, before, now in changed]
        parts.append(page.table(rows, ["option", "this run", "the recipe's own"]))
        title = f"All options{f' of stage {stage.name}' if len(run.stages) > 1 else ''}"
        parts.append(page.folded(title, page.table(_flat(stage.config, f"--{prefix}"))))
    return "".join(parts)


def _flat(config: Mapping[str, Any], prefix: str) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for name, value in config.items():
        found += _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) and value else [(f"{prefix}{name}", _word(value))]
    return found


def _kept(run: RunRecord) -> str:
    rows = []
    for stage in run.stages:
        for path, step in stage.checkpoints:
            size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
            rows.append([f"{step:,}", f"{size / 1e6:,.1f} MB", str(path)])
    return page.table(rows, ["step", "size", "folder"])


if __name__ == "__main__":
    sys.exit(exit_code(lambda: main(sys.argv[1:])))
