"""From words on the command line to a recipe's stages: typed overrides, `--help` on every field, one sentence for what is wrong."""

from __future__ import annotations

import dataclasses
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, TypeVar

from cluster.local import NotStarted
from cluster.screen import LogFormat
from cluster.signals import GRACE_SECONDS, check_grace, interruptible
from genlib import registry
from genlib.config import nearest
from genlib.recipe import Stage
from genlib.storage import StorageError, lacks_room, stopped
from jobs.control import Stopped

USAGE = """usage: python jobs/{script} RECIPE [options] [--task.FIELD VALUE] [--train.FIELD VALUE] [--data.FIELD VALUE]

  python jobs/{script} --list            all recipes
  python jobs/{script} RECIPE --help     every field of that recipe, its type and default"""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunOptions:
    """Where and how a run runs; none of it changes what is learnt."""

    workers: str = "1"
    """Worker processes: a number, or MIN:MAX to use what the cluster has and to go on with fewer."""
    cpus_per_worker: float = 1.0
    """CPUs a worker reserves; on a machine without GPUs also its threads."""
    gpus_per_worker: float | None = None
    """GPUs a worker reserves; by default one where the cluster has any, else none."""
    run: str = ""
    """Name of the run: it lives in runs/NAME, or in $GENLIB_RUNS/NAME. Empty is the recipe's name."""
    run_dir: str = ""
    """Folder of the run itself, in place of a name; every worker must see it under this path."""
    retries: int = 3
    """Times a run whose workers were lost goes on from its newest checkpoint before it gives up; -1 is always."""
    grace_seconds: float = GRACE_SECONDS
    """In which a run that is stopped (SIGTERM, Ctrl-C) saves a checkpoint; a second signal ends it at once."""
    log_format: LogFormat = "auto"
    """How a run tells of itself: lines, on a terminal with a bar (auto), lines everywhere (text), or an object a line (json)."""
    score_features: tuple[str, ...] = ()
    """Feature networks, runs of a classifier or CLIP or Inception's weights, by which pictures of checkpoints are scored while the run goes on:
    FID, KID, precision and recall. The checkpoint with the lowest FID by the first is kept in the folder `best`."""
    score_every_images: int = 10_000
    """Training images from one scored checkpoint to the next, at least."""
    score_samples: int = 1000
    """Pictures that each of them makes."""
    score_against: Literal["auto", "train", "validation"] = "auto"
    """Real pictures that they are compared with; auto takes the held-out ones where there are any."""
    smoke: bool = False
    """The recipe's smallest size, which trains in seconds."""
    dry_run: bool = False
    """Print what would run, and stop."""
    plan: bool = False
    """Print what the run needs on the GPUs that `gpus` and the next three tell of, and stop: memory by part and strategy, hours."""
    gpus: int = 1
    """GPUs to plan for."""
    gpu_memory_gb: float = 80.0
    """Memory of each."""
    gpu_tflops: float = 790.0
    """Peak of each, in 10^12 operations a second, in the precision of the run: 790 is what bf16 matrix products reach on an H100."""
    mfu: float = 0.4
    """Share of the peak that the plan takes training to reach."""

    def __post_init__(self) -> None:
        low, high = self.worker_range
        if not 1 <= low <= high:
            raise ValueError(f"workers is {self.workers!r}; use a number from 1, or MIN:MAX like 1:4")
        if not 0 < self.cpus_per_worker < float("inf"):
            raise ValueError(f"cpus_per_worker is {self.cpus_per_worker:g}; it must be above 0, for example 0.5")
        if self.gpus_per_worker is not None and not 0 <= self.gpus_per_worker < float("inf"):
            raise ValueError(f"gpus_per_worker is {self.gpus_per_worker:g}; it must be at least 0")
        check_grace(self.grace_seconds)
        for name in ("score_every_images", "score_samples"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        for name in ("gpus", "gpu_memory_gb", "gpu_tflops", "mfu"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ValueError(f"{name} is {getattr(self, name):g}; it must be above 0")
        if self.mfu > 1:
            raise ValueError(f"mfu is {self.mfu:g}; it is a share of the peak, for example 0.4")

    @property
    def worker_range(self) -> tuple[int, int]:
        """Fewest and most workers."""
        if not re.fullmatch(r"\d+(:\d+)?", self.workers):
            raise ValueError(f"workers is {self.workers!r}; use a number from 1, or MIN:MAX like 1:4")
        numbers = [int(part) for part in self.workers.split(":")]
        return numbers[0], numbers[-1]


Options = TypeVar("Options")


@dataclass(frozen=True, slots=True)
class Command(Generic[Options]):
    """What the user asked for."""

    recipe: str
    stages: tuple[Stage, ...]
    options: Options


def parse(arguments: Sequence[str]) -> Command[RunOptions]:
    """Reads `RECIPE [options]` of train.py. ValueError says in one sentence what is wrong; SystemExit(0) after --help or --list."""
    return parsed(arguments, RunOptions(), "train.py")


def parsed(arguments: Sequence[str], options: Options, script: str) -> Command[Options]:
    """As `parse`, for a script with other options, of which these are the defaults."""
    if list(arguments) == ["--list"]:
        print(listing())
        raise SystemExit(0)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(USAGE.format(script=script))
        raise SystemExit(0)
    name, *rest = arguments
    if name.startswith("-"):
        raise ValueError(f"the recipe comes first, before {name}: `python jobs/{script} RECIPE ...`; `--list` shows all")
    recipe = registry.load(name)
    stages = holding_out(recipe.smoke if "--smoke" in rest else recipe.stages)
    form = form_of(stages, options)
    values = read(form, rest, f"python jobs/{script} {name}", registry.describe(name))
    return Command(name, one_place(tuple(filled(stages, values))), values.options)


HELD_OUT_SHARE = 0.1
"""Of data without held-out samples, unless the user says another one."""


def holding_out(stages: Sequence[Stage]) -> tuple[Stage, ...]:
    """The stages as commands have them: a set without held-out samples gives some."""
    return tuple(replace(stage, data=replace(stage.data, hold_out=HELD_OUT_SHARE)) for stage in stages)


def listing() -> str:
    """All recipes with the first line of what they say of themselves."""
    names = sorted(registry.recipes())
    width = max(map(len, names))
    return "\n".join(f"{name:<{width}}  {registry.describe(name).partition(chr(10))[0]}" for name in names)


def form_of(stages: Sequence[Stage], options: Any) -> type:
    """A dataclass with the script's options and every stage's fields: `task`, `train`, `data`, under the stage's name where there are several."""
    import tyro

    own = ("options", Annotated[type(options), tyro.conf.arg(name="")], dataclasses.field(default=options))
    if len(stages) == 1:
        return dataclasses.make_dataclass("Run", [own, *parts_of(stages[0])], frozen=True, kw_only=True)
    parts = []
    for stage in stages:
        form = dataclasses.make_dataclass(stage.name, parts_of(stage), frozen=True, kw_only=True)
        parts.append((stage.name, form, dataclasses.field(default=form())))
    return dataclasses.make_dataclass("Run", [own, *parts], frozen=True, kw_only=True)


def parts_of(stage: Stage) -> list[tuple[str, type, Any]]:
    """Name, type and default of the configurations a user may change."""
    return [(name, type(value), dataclasses.field(default=value)) for name in ("task", "train", "data") for value in [getattr(stage, name)]]


def filled(stages: Sequence[Stage], values: Any) -> Iterator[Stage]:
    """The stages with the values of the form."""
    for stage in stages:
        given = values if len(stages) == 1 else getattr(values, stage.name)
        yield replace(stage, task=given.task, train=given.train, data=given.data)


def one_place(stages: tuple[Stage, ...]) -> tuple[Stage, ...]:
    """The stages, of which those that name no data read what the last one reads that does: naming it once is enough."""
    named = next((stage.data for stage in reversed(stages) if stage.data.train), None)
    if named is None:
        return stages
    place = {"train": named.train, "validation": named.validation}
    return tuple(stage if stage.data.train else replace(stage, data=replace(stage.data, **place)) for stage in stages)


def read(form: type, arguments: Sequence[str], program: str, description: str) -> Any:
    """The form filled in from the arguments, by tyro; ValueError with our sentence in place of tyro's box."""
    import tyro
    from tyro import _errors  # tyro is pinned: its hook for errors is not yet public

    known = flags(form())
    with _errors.on_parse_error(parse_error_hook(known)):
        return tyro.cli(form, args=[spelled(argument) for argument in arguments], prog=program, description=description, use_underscores=True)


def spelled(argument: str) -> str:
    """`--dry-run` as `--dry_run`; values stay as they are."""
    flag, equals, value = argument.partition("=")
    return flag.replace("-", "_").replace("__", "--", 1) + equals + value if flag.startswith("--") else argument


def flags(form: Any, prefix: str = "") -> list[str]:
    """Every `--a.b` that a form filled with its defaults takes."""
    found = []
    for field in dataclasses.fields(form):
        value = getattr(form, field.name)
        if isinstance(value, Mapping):
            found += [flag for name, inner in value.items() for flag in flags(inner, f"{prefix}{field.name}.{name}.")]
        elif dataclasses.is_dataclass(value):
            found += flags(value, prefix if field.name == "options" else f"{prefix}{field.name}.")
        else:
            found.append(f"--{prefix}{field.name}")
    return found


def parse_error_hook(known: list[str]) -> Callable[[Any], None]:
    """What to raise for each of tyro's reasons to reject the arguments."""

    def hook(event: Any) -> None:
        kind = type(event).__name__
        if kind == "UnrecognizedArgs":
            word = event.tokens[0]
            raise ValueError(f"there is no option {word}.{nearest(word, known)} `--help` shows all")
        argument = getattr(event, "argument", None)
        name = argument.lowered.name_or_flags[-1] if argument is not None else ""
        if kind == "InvalidChoice":
            raise ValueError(f"{name} is {event.value!r}; it must be one of {', '.join(event.choices)}")
        if kind == "BadValue":
            raise ValueError(f"{name} needs a value")
        raise ValueError(in_words(name, plain(getattr(event, "message", kind))))

    return hook


def in_words(name: str, message: str) -> str:
    """A failed conversion in the user's words; a sentence of our own configurations as it is."""
    for pattern, wanted in ((r"invalid literal for int\(\).*: (.+)", "a whole number"), (r"could not convert string to float: (.+)", "a number")):
        if found := re.search(pattern, message):
            return f"{name} is {found[1]}; it must be {wanted}"
    return f"{name}: {message}" if name and name not in message else message


def plain(message: Any) -> str:
    """tyro's message as one line of text."""
    text = message if isinstance(message, str) else message.as_str_no_ansi() if hasattr(message, "as_str_no_ansi") else str(message)
    return " ".join(re.sub(r"\x1b\[[0-9;]*m", "", text).split())


class RunStopped(Exception):
    """A run ended before its end; the message is for the user."""


def exit_code(work: Callable[[], int]) -> int:
    """Runs it; what the user did wrong becomes its sentence on stderr and exit code 2, a run that stopped the same and 1.

    A signal ends it as `cluster.signals` says.
    """
    return interruptible(lambda: _exit_code(work))


def _exit_code(work: Callable[[], int]) -> int:
    try:
        return work()
    except Stopped:
        return 1
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    except (RunStopped, NotStarted, StorageError) as error:
        print(error, file=sys.stderr)
        return 1
    except Exception as error:
        if not lacks_room(error):
            raise
        print(stopped(error, Path.cwd()), file=sys.stderr)
        return 1
