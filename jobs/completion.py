"""What makes a shell complete `genlib`: commands, recipes, and the options of each recipe. `genlib completion bash|zsh|fish` prints it.

The script has all words in itself, so that a press of the key starts no Python. It is of the recipes that there are now.
"""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module

from genlib.config import nearest
from genlib.program import PROGRAM, VERBS

RECIPE_VERBS = ("train", "tune", "encode", "plan")
"""Take a recipe's name and its options."""
HEADLINES = {"clip": ("--recipe",), "sdxl": ("--recipe",), "stylegan": ("--recipe", "--preset", "--judge")}
"""Options that a headline job takes beside those of its recipe."""
USAGE = f"""usage: {PROGRAM} completion bash | zsh | fish

  {PROGRAM} completion bash > ~/.local/share/bash-completion/completions/{PROGRAM}
  {PROGRAM} completion zsh > ~/.zfunc/_{PROGRAM}    a folder of $fpath
  {PROGRAM} completion fish > ~/.config/fish/completions/{PROGRAM}.fish"""


@dataclass(frozen=True, slots=True)
class Case:
    """Words that complete a line whose words so far, two at most, are one of `after`; a star at its end stands for anything."""

    after: tuple[str, ...]
    words: tuple[str, ...]


def main(arguments: Sequence[str]) -> int:
    """Prints the script of a shell."""
    shell = "".join(arguments)
    if shell in ("", "-h", "--help"):
        print(USAGE)
        return 0
    if shell not in SCRIPTS:
        raise ValueError(f"there is no completion for {' '.join(arguments)!r}.{nearest(shell, list(SCRIPTS))} There is one for {', '.join(SCRIPTS)}")
    print(SCRIPTS[shell](by_verb(), by_recipe()))
    return 0


def by_verb() -> list[Case]:
    """What follows each verb, whatever the recipe."""
    from genlib import registry
    from jobs import prepare_data
    from jobs.options import flags
    from jobs.run_options import RunOptions
    from jobs.tune_options import TuneOptions

    run, recipes = tuple(flags(RunOptions())), (*sorted(registry.recipes()), "--list", "--config")
    cases = [Case(("",), (*VERBS, "--help")), Case(RECIPE_VERBS, recipes)]
    cases += [Case(tuple(f"{verb} *" for verb in RECIPE_VERBS if verb != "tune"), run), Case(("tune *",), tuple(flags(TuneOptions())))]
    cases += [Case(("data",), (*prepare_data.VERBS, "--help"))]
    cases += [Case((f"data {verb}",), tuple(prepare_data.options_of(verb))) for verb in prepare_data.VERBS]
    cases += [Case(("cluster",), ("start", "status", "submit", "validate")), Case(("completion",), tuple(SCRIPTS))]
    done = {word for case in cases for one in case.after for word in one.split(" ")[:1]}
    return cases + [Case((verb, f"{verb} *"), (*HEADLINES.get(verb, ()), *said_by(verb))) for verb in VERBS if verb not in done]


def by_recipe() -> list[Case]:
    """The options of each recipe's own fields."""
    from genlib import registry
    from jobs.command_form import form_of
    from jobs.options import flags

    @dataclass(frozen=True)
    class Nothing:
        """In place of a job's options."""

    return [
        Case(tuple(f"{verb} {name}" for verb in RECIPE_VERBS), tuple(flags(form_of(registry.load(name).stages, Nothing())())))
        for name in sorted(registry.recipes())
    ]


def said_by(verb: str) -> tuple[str, ...]:
    """The options in the help of a verb."""
    module, _, function = VERBS[verb].target.partition(":")
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.suppress(SystemExit):
        getattr(import_module(module), function)(["--help"])
    return tuple(dict.fromkeys(re.findall(r"(?<![\w`-])--[a-z][\w.-]*\w", said.getvalue())))


def _shell_function(verbs: Sequence[Case], recipes: Sequence[Case]) -> str:
    """For bash and zsh: prints the words that may follow."""

    def case(one: Case) -> str:
        after = "|".join(f"'{text[:-1]}'*" if text.endswith("*") else f"'{text}'" for text in one.after)
        return f"    {after}) echo '{' '.join(one.words)}' ;;"

    blocks = "\n".join("\n".join(['  case "$1" in', *map(case, cases), "  esac"]) for cases in (verbs, recipes))
    return f"_{PROGRAM}_words() {{\n{blocks}\n}}"


def bash(verbs: Sequence[Case], recipes: Sequence[Case]) -> str:
    """For bash: `complete` calls a function that reads COMP_WORDS."""
    return f"""{_shell_function(verbs, recipes)}
_{PROGRAM}() {{
  local before=$((COMP_CWORD > 2 ? 2 : COMP_CWORD - 1))
  COMPREPLY=($(compgen -W "$(_{PROGRAM}_words "${{COMP_WORDS[*]:1:before}}")" -- "${{COMP_WORDS[COMP_CWORD]}}"))
}}
complete -o default -F _{PROGRAM} {PROGRAM}"""


def zsh(verbs: Sequence[Case], recipes: Sequence[Case]) -> str:
    """For zsh: a file of $fpath, or sourced after compinit."""
    return f"""#compdef {PROGRAM}
{_shell_function(verbs, recipes)}
_{PROGRAM}() {{
  local -a before=("${{(@)words[2,CURRENT-1]}}")
  local found="$(_{PROGRAM}_words "${{before[1,2]}}")"
  compadd -- ${{(z)found}} || _files
}}
if [[ $funcstack[1] = _{PROGRAM} ]]; then _{PROGRAM} "$@"; else compdef _{PROGRAM} {PROGRAM}; fi"""


def fish(verbs: Sequence[Case], recipes: Sequence[Case]) -> str:
    """For fish."""

    def case(one: Case) -> str:
        return f"    case {' '.join(repr(text) for text in one.after)}\n      string split -- ' ' '{' '.join(one.words)}'"

    blocks = "\n".join("\n".join(['  switch "$before"', *map(case, cases), "  end"]) for cases in (verbs, recipes))
    return f"""function __{PROGRAM}_words
  set -l typed (commandline -opc)
  set -l before (string join ' ' $typed[2..3])
{blocks}
end
complete -c {PROGRAM} -a '(__{PROGRAM}_words)'"""


SCRIPTS: Mapping[str, Callable[[Sequence[Case], Sequence[Case]], str]] = {"bash": bash, "zsh": zsh, "fish": fish}
