"""`python -m cluster VERB`, the same as `genlib cluster VERB`."""

from __future__ import annotations

if __name__ == "__main__":  # before imports that take a second
    from cluster.quiet import ends_quietly

    ends_quietly()
    import genlib.phases  # noqa: F401 whose clock begins

import sys

from cluster.command import main
from cluster.local import NotStarted
from cluster.signals import interruptible


def code(words: list[str]) -> int:
    """The exit code; what the user did wrong is a sentence on stderr and 2, a head that does not come up the same and 1."""
    try:
        return main(words)
    except (ValueError, NotStarted) as error:
        print(error, file=sys.stderr)
        return 2 if isinstance(error, ValueError) else 1


if __name__ == "__main__":
    sys.exit(interruptible(lambda: code(sys.argv[1:])))
