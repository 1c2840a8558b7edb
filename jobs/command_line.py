"""From words on the command line to a recipe's stages: typed overrides, `--help` on every field, one sentence for what is wrong."""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
import shlex
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, NoReturn, TypeVar

from cluster.local import NotStarted
from cluster.screen import LogFormat
from cluster.signals import GRACE_SECONDS, check_grace, interruptible
from genlib import program, registry
from genlib.config import from_json, to_json
from genlib.recipe import Stage
from genlib.storage import StorageError, lacks_room, stopped
from jobs.control import Stopped
from jobs.options import UNPREFIXED, flags, nearest_option, option, with_options, words_between
from jobs.precision import fitting_precision

USAGE = """usage: {program} RECIPE [options] [--task.FIELD VALUE] [--train.FIELD VALUE] [--data.FIELD VALUE]

  {program} --list                 all recipes
  {program} RECIPE --help          every field of that recipe, its type and default
  {program} --config RUN/run.json  the recipe and all values of a run, under those that are given here"""


HEADLINES = ("clip", "sdxl", "stylegan")
"""Verbs that are `train` with a recipe and defaults of their own."""


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
    config: str = ""
    """run.json of another run, whose recipe and values are taken for what is not given here."""
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

    def to_keep(self) -> dict[str, Any]:
        """What another run takes over by --config."""
        own = ("run", "run_dir", "config", "dry_run", "plan", "gpus", "gpu_memory_gb", "gpu_tflops", "mfu")
        return {name: value for name, value in to_json(self).items() if name not in own}

    @property
    def worker_range(self) -> tuple[int, int]:
        """Fewest and most workers."""
        if not re.fullmatch(r"\d+(:\d+)?", self.workers):
            raise ValueError(f"workers is {self.workers!r}; use a number from 1, or MIN:MAX like 1:4")
        numbers = [int(part) for part in self.workers.split(":")]
        return numbers[0], numbers[-1]


Options = TypeVar("Options")


@dataclass(frozen=True, slots=True)
class Typed:
    """What the user typed: a verb and the words behind it."""

    verb: str
    words: tuple[str, ...]

    @property
    def program(self) -> str:
        """What stands in front of the words."""
        return program.command(self.verb)

    @property
    def line(self) -> str:
        """All of it, for a shell."""
        return f"{self.program} {shlex.join(self.words)}".strip()


@dataclass(frozen=True, slots=True)
class Command(Generic[Options]):
    """What the user asked for."""

    recipe: str
    stages: tuple[Stage, ...]
    options: Options
    again: str = ""
    """The line for a shell that asks for the same."""

    @contextmanager
    def naming_options(self, stage: Stage | None = None) -> Iterator[None]:
        """Inside, a ValueError on fields, of that stage where it is known, becomes one on options."""
        known = flags(form_of(self.stages, self.options)())
        try:
            yield
        except ValueError as error:
            raise ValueError(with_options(str(error), known, stage.name if stage and len(self.stages) > 1 else "")) from error


def parse(arguments: Sequence[str], typed: Typed | None = None) -> Command[RunOptions]:
    """Reads `RECIPE [options]` of train.py. ValueError says in one sentence what is wrong; SystemExit(0) after --help or --list."""
    return parsed(arguments, RunOptions(), typed or Typed("train", tuple(arguments)))


def parsed(arguments: Sequence[str], options: Options, typed: Typed) -> Command[Options]:
    """As `parse`, for a job with other options, of which these are the defaults; `typed` is what stands for the arguments."""
    if list(arguments) == ["--list"]:
        print(listing())
        raise SystemExit(0)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(USAGE.format(program=typed.program))
        raise SystemExit(0)
    name, rest = recipe_of(arguments, typed)
    recipe = registry.load(name)
    stages = as_commanded(recipe.smoke if "--smoke" in rest else recipe.stages)
    if file := config_of(rest):
        if "--smoke" in rest:
            raise ValueError(f"--config {file} says how large all is, so leave --smoke out")
        stages, options = restored(file, name, options)
    shown = f"{typed.program} {name}" if typed.words[:1] == (name,) else typed.program
    values = read(form_of(stages, options), rest, shown, registry.describe(name))
    command = Command(name, one_place(tuple(filled(stages, values))), values.options)
    return replace(command, again=again(command, typed) if file else typed.line)


def recipe_of(arguments: Sequence[str], typed: Typed) -> tuple[str, list[str]]:
    """The recipe, which is the first word or that of the run whose configuration is taken, and the other words."""
    name, *rest = arguments
    if not name.startswith("-"):
        return name, rest
    if file := config_of(arguments):
        return str(saved(file)["recipe"]), list(arguments)
    raise ValueError(f"the recipe comes first, before {name}: `{typed.program} RECIPE ...`; `--list` shows all")


def config_of(arguments: Sequence[str]) -> Path | None:
    """The file that --config names."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--config", type=Path)
    try:
        return parser.parse_known_args(list(arguments))[0].config
    except argparse.ArgumentError:
        raise ValueError("--config needs a value: the run.json of a run") from None


def named_run(arguments: Sequence[str], name: str) -> list[str]:
    """The words that give a run its name, where the user gives it none."""
    given = {argument.partition("=")[0].replace("_", "-") for argument in arguments}
    return [] if given & {"--run", "--run-dir"} else ["--run", name]


def saved(file: Path) -> dict[str, Any]:
    """What a run, a search or `--dry-run` wrote of its configuration. ValueError where it is no such file."""
    try:
        found = json.loads(file.read_text())
        if isinstance(found["recipe"], str) and all({"task", "train", "data"} <= parts.keys() for parts in found["stages"].values()):
            return found
    except OSError as error:
        raise ValueError(f"--config {file} cannot be read: {error.strerror}; name the run.json of a run") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        pass
    raise ValueError(f"--config {file} holds no configuration; name the run.json of a run, or what --dry-run printed")


def restored(file: Path, recipe: str, options: Options) -> tuple[tuple[Stage, ...], Options]:
    """The recipe's stages with the file's values, and the options with the file's. ValueError where it does not fit the recipe."""
    found = saved(file)
    if found["recipe"] != recipe:
        raise ValueError(f"--config {file} is of recipe {found['recipe']}, not {recipe}; leave the recipe out, or the file")
    given = found.get("options", {})
    known = registry.load(recipe)
    base = known.smoke if given.get("smoke") else known.stages
    if [stage.name for stage in base] != list(found["stages"]):
        raise ValueError(f"--config {file} has the stages {', '.join(found['stages'])}, and the recipe {', '.join(stage.name for stage in base)}")
    try:
        stages = tuple(
            replace(stage, **{part: from_json(type(getattr(stage, part)), values) for part, values in found["stages"][stage.name].items()})
            for stage in base
        )
        of_run = isinstance(options, RunOptions) and "space" not in found
        return stages, from_json(type(options), given if of_run else {"smoke": given.get("smoke", False)})
    except ValueError as error:
        raise ValueError(f"--config {file}: {error}; it was written by another version of genlib, or changed: correct it there") from None


def again(command: Command, typed: Typed) -> str:
    """The line that asks for what a command with --config does, though the file may go: the recipe and what differs from it."""
    verb = "train" if typed.verb in HEADLINES else typed.verb
    try:
        return line_of(verb, command.recipe, command.stages, replace(command.options, config=""))
    except ValueError:
        return typed.line


def line_of(verb: str, recipe: str, stages: Sequence[Stage], options: Any) -> str:
    """The line that asks for these stages and options. ValueError where none does, as of an optimizer that the recipe does not have."""
    known = registry.load(recipe)
    base = form_of(as_commanded(known.smoke if options.smoke else known.stages), type(options)())
    return Typed(verb, (recipe, *words_between(base(), form_of(stages, options)()))).line


HELD_OUT_SHARE = 0.1
"""Of data without held-out samples, unless the user says another one."""


def as_commanded(stages: Sequence[Stage]) -> tuple[Stage, ...]:
    """A recipe's stages as commands have them: a set without held-out samples gives some, and the precision fits this machine."""
    return tuple(replace(stage, data=replace(stage.data, hold_out=HELD_OUT_SHARE)) for stage in fitting_precision(stages))


def listing() -> str:
    """All recipes with the first line of what they say of themselves."""
    names = sorted(registry.recipes())
    width = max(map(len, names))
    return "\n".join(f"{name:<{width}}  {registry.describe(name).partition(chr(10))[0]}" for name in names)


def form_of(stages: Sequence[Stage], options: Any) -> type:
    """A dataclass with the script's options and every stage's fields: `task`, `train`, `data`, under the stage's name where there are several."""
    import tyro

    own = (UNPREFIXED, Annotated[type(options), tyro.conf.arg(name="")], dataclasses.field(default=options))
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


class WrongWord(ValueError):
    """What the user typed cannot be read; the message is for the user."""


def read(form: type, arguments: Sequence[str], shown: str, description: str) -> Any:
    """The form filled in from the arguments, by tyro; ValueError with our sentence in place of tyro's box. `shown`: the program, in its help."""
    import tyro

    with one_sentence(flags(form()), arguments):
        return tyro.cli(form, args=list(arguments), prog=shown, description=program.as_called(description), config=(tyro.conf.CascadeSubcommandArgs,))


@contextmanager
def one_sentence(known: Sequence[str], arguments: Sequence[str]) -> Iterator[None]:
    """Inside, tyro's reasons to reject the arguments are sentences that name options as they are typed, of those that are known."""
    from tyro import _errors  # tyro is pinned: its hook for errors is not yet public

    try:
        with _errors.on_parse_error(parse_error_hook(known)):
            yield
    except WrongWord as error:
        raise ValueError(as_typed(str(error), arguments)) from None
    except ValueError as error:  # of fields without a name in front, which tyro lets through
        raise ValueError(as_typed(with_options(str(error), known, kind=refusing_class(error)), arguments)) from None


def as_typed(sentence: str, arguments: Sequence[str]) -> str:
    """Options with the underscores that the user wrote."""
    for flag in {argument.partition("=")[0] for argument in arguments if argument.startswith("--") and "_" in argument.partition("=")[0]}:
        sentence = re.sub(rf"{re.escape(flag.replace('_', '-'))}(?![\w.-])", flag, sentence)
    return sentence


def parse_error_hook(known: Sequence[str]) -> Callable[[Any], None]:
    """What to raise for each of tyro's reasons to reject the arguments."""

    def hook(event: Any) -> None:
        kind = type(event).__name__
        if unknown := getattr(event, "tokens", None) or getattr(event, "unrecognized_tokens", None):
            raise WrongWord(no_option(unknown[0], known))
        if kind == "MissingArgs":
            flags_or_names = [one.arg.lowered.name_or_flags[-1] for one in event.missing_arguments]
            missing = [name if name.startswith("-") else name.rpartition(".")[2].upper() for name in flags_or_names]
            raise WrongWord(f"{' and '.join(missing)} must be given; `--help` says what {'they are' if len(missing) > 1 else 'it is'}")
        argument = getattr(event, "argument", None)
        name = argument.lowered.name_or_flags[-1] if argument is not None else ""
        if kind == "InvalidChoice":
            raise WrongWord(f"{name} is {event.value!r}; it must be one of {', '.join(event.choices)}")
        if kind == "BadValue":
            raise WrongWord(f"{name} needs a value")
        message = plain(getattr(event, "message", kind))
        if name:
            raise WrongWord(in_words(name, message))
        if kind == "SubcommandConflict":
            raise WrongWord(f"{event.attempted} comes after {event.trigger_flag}, which is of {event.already_selected}; name it before its options")
        error = sys.exception()
        where, refusing = getattr(error, "arg", ""), refusing_class(error)
        group = where if isinstance(where, str) else ""
        own = [option(f"{group}.{field.name}") for field in dataclasses.fields(refusing)] if group and refusing else []
        raise WrongWord(with_options(message, [*dict.fromkeys([*known, *own])], group, refusing))

    return hook


def refusing_class(error: BaseException | None) -> type | None:
    """The class of the configuration that refused its values, where the error comes from one."""
    cause = error and (error.__context__ or error)
    for frame, _ in traceback.walk_tb(cause and cause.__traceback__):
        if dataclasses.is_dataclass(config := frame.f_locals.get("self")):
            return type(config)
    return None


def no_option(word: str, known: Sequence[str]) -> str:
    """What to say of a word that no option takes."""
    word = word.partition("=")[0]
    if not word.startswith("-"):
        return f"{word!r} belongs to no option; an option begins with --, and `--help` shows all"
    return f"there is no option {word}.{nearest_option(word, known)} `--help` shows all"


def in_words(name: str, message: str) -> str:
    """A failed conversion in the user's words."""
    for pattern, wanted in ((r"invalid literal for int\(\).*: (.+)", "a whole number"), (r"could not convert string to float: (.+)", "a number")):
        if found := re.search(pattern, message):
            return f"{name} is {found[1]}; it must be {wanted}"
    return f"{name}: {message}" if name and name not in message else message


def plain(message: Any) -> str:
    """tyro's message as one line of text."""
    text = message if isinstance(message, str) else message.as_str_no_ansi() if hasattr(message, "as_str_no_ansi") else str(message)
    return " ".join(re.sub(r"\x1b\[[0-9;]*m", "", text).split())


class Arguments(argparse.ArgumentParser):
    """argparse with one sentence, a ValueError, for what is wrong."""

    def parse_args(self, args: Sequence[str], namespace: Any = None) -> Any:  # type: ignore[override]
        """See argparse."""
        found, unknown = self.parse_known_args(args, namespace)
        if unknown:
            self.error(no_option(unknown[0], re.findall(r"--[\w.-]+", self.format_usage())))
        return found

    def error(self, message: str) -> NoReturn:
        """See argparse."""
        raise ValueError(message.removeprefix("argument "))


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
        print(program.as_called(str(error)), file=sys.stderr)
        return 2
    except (RunStopped, NotStarted, StorageError) as error:
        print(program.as_called(str(error)), file=sys.stderr)
        return 1
    except Exception as error:
        if not lacks_room(error):
            raise
        print(stopped(error, Path.cwd()), file=sys.stderr)
        return 1
