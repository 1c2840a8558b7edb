"""What is wrong with words on a command line, in one sentence that names options as the user types them."""

from __future__ import annotations

import argparse
import dataclasses
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

from jobs.options import nearest_option, option, with_options


class WrongWord(ValueError):
    """What the user typed cannot be read; the message is for the user."""


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
