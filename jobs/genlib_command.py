"""`genlib VERB ...`, the same as `python jobs/VERB.py ...`: imports what the verb needs, and no more."""

from __future__ import annotations

from cluster.quiet import ends_quietly


def main() -> int:
    """Runs the verb that the command line names; the exit code."""
    ends_quietly()  # before imports that take a second
    import sys

    import genlib.phases  # noqa: F401 whose clock begins
    from cluster.signals import interruptible
    from genlib.program import PROGRAM, VERBS

    verb, *words = sys.argv[1:] or ["--help"]
    if verb in ("-h", "--help"):
        return interruptible(lambda: print(usage()) or 0)
    if verb not in VERBS:
        print(f"there is no command {verb!r}.{_nearest(verb)} `{PROGRAM} --help` shows all", file=sys.stderr)
        return 2
    from importlib import import_module

    if VERBS[verb].trains:
        from jobs.ahead import begin_training

        begin_training(words if words or verb != "train" else ["--help"])
    module, _, function = VERBS[verb].target.partition(":")
    main_of_verb = getattr(import_module(module), function)
    from jobs.exit_codes import exit_code

    return exit_code(lambda: main_of_verb(words) or 0)


def usage() -> str:
    """What `genlib --help` says."""
    from genlib.program import PROGRAM, VERBS

    width = max(map(len, VERBS))
    lines = [f"  {name:<{width}}  {verb.about}" for name, verb in VERBS.items()]
    return "\n".join([f"usage: {PROGRAM} COMMAND ...", "", *lines, "", f"  {PROGRAM} COMMAND --help  what it takes"])


def _nearest(word: str) -> str:
    from difflib import get_close_matches

    from genlib.program import VERBS

    near = get_close_matches(word, VERBS, n=1, cutoff=0.5)
    return f" Did you mean {near[0]!r}?" if near else ""
