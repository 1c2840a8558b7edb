"""Pretrains CLIP (Radford et al. 2021, arXiv:2103.00020): `python jobs/clip_pretrain.py --workers 2 --train.strategy zero2`.

`--recipe clip_vit_b32` and the like choose a larger one; every option of jobs/train.py works here.
"""

from __future__ import annotations

if __name__ == "__main__":  # before imports that take a second
    from cluster.quiet import ends_quietly

    ends_quietly()
    import sys

    import genlib.phases  # noqa: F401 whose clock begins
    from jobs.ahead import begin_training

    begin_training(sys.argv[1:])

import argparse
import sys
from collections.abc import Sequence

from jobs import train
from jobs.command_form import Typed
from jobs.exit_codes import exit_code
from jobs.saved_config import config_of

DEFAULTS = ("--workers", "2", "--train.strategy", "zero2")


def main(arguments: Sequence[str]) -> int:
    """jobs/train.py with a CLIP recipe and defaults for two workers."""
    return train.main(train_words(arguments), Typed("clip", tuple(arguments)))


def train_words(arguments: Sequence[str]) -> list[str]:
    """The words of jobs/train.py that these stand for; what the user says comes later and wins."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--recipe", default="clip_tiny")
    own, rest = parser.parse_known_args(list(arguments))
    return rest if config_of(rest) else [own.recipe, *DEFAULTS, *rest]


if __name__ == "__main__":
    sys.exit(exit_code(lambda: main(sys.argv[1:])))
