"""Pretrains SDXL-style latent diffusion (Podell et al. 2023, arXiv:2307.01952): `python jobs/sdxl_pretrain.py --run sdxl`.

Autoencoder, text encoders, base and refiner, each a stage of one run; `--recipe sdxl` is the published size, and every option of
jobs/train.py works here. Where there is a trained CLIP (`--judge RUN`, by default runs/clip if it exists) the pictures are scored by it
at the end: how well they fit their prompts against other prompts, and their Fréchet distance to real ones.
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
from pathlib import Path

from genlib import registry
from genlib.program import command
from jobs import evaluate, run_folder, train
from jobs.command_form import Typed
from jobs.command_line import named_run
from jobs.exit_codes import exit_code
from jobs.run_store import run_address
from jobs.saved_config import config_of

SCORED = "1000"
"""Pictures that are scored where the user does not say."""


def main(arguments: Sequence[str]) -> int:
    """jobs/train.py with an SDXL recipe and defaults for two workers, then the scores."""
    words, own = train_words(arguments), split(arguments)[0]
    if code := train.main(words, Typed("sdxl", tuple(arguments))):
        return code
    return score(words, own.judge, own.scored)


def train_words(arguments: Sequence[str]) -> list[str]:
    """The words of jobs/train.py that these stand for; what the user says comes later and wins."""
    own, rest = split(arguments)
    return [*([] if config_of(rest) else [own.recipe, *defaults(own.recipe)]), *named_run(rest, "sdxl"), *rest]


def split(arguments: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """The options of this job alone, and the other words."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--recipe", default="sdxl_tiny")
    parser.add_argument("--judge", default=None)
    parser.add_argument("--scored", default=SCORED)
    return parser.parse_known_args(list(arguments))


def defaults(recipe: str) -> list[str]:
    """What stands before the user's words."""
    stages = registry.load(recipe).stages
    undecided = [stage.name for stage in stages if stage.train.strategy == "auto"]
    return ["--workers", "2", *(word for name in undecided for word in (f"--{name}.train.strategy", "zero1"))]


def score(words: Sequence[str], judge: str | None, scored: str) -> int:
    """CLIP score and Fréchet distance of the finished run's pictures; says so where nothing can judge them."""
    asked = train.parse(words)
    if asked.options.dry_run:
        return 0
    address = run_address(asked.options.run, asked.options.run_dir, asked.recipe)
    if address and not judge:
        print(f"the pictures are not scored; name a CLIP's run by --judge, or score them by {command('evaluate')} {address} --clip RUN")
        return 0
    run = address or str(run_folder.run_folder(asked.options.run, asked.options.run_dir, asked.recipe))
    clip = Path(judge) if judge else run_folder.runs_root() / "clip"
    if not (clip / "checkpoints").is_dir():
        if judge:
            raise ValueError(f"--judge {judge} is no run with checkpoints; train one with `python jobs/clip_pretrain.py`")
        print(f"no CLIP in {clip}, so the pictures are not scored; train one with `{command('clip')}`, then give this command again")
        return 0
    try:
        last = f"{run}/{asked.stages[-1].name}"
        return evaluate.scored(evaluate.parsed([last, "--clip", str(clip), "--features", str(clip), "--samples", scored]))
    except ValueError as error:  # a judge that the user did not name may be of other pictures
        if judge:
            raise
        print(f"the pictures are not scored: {error}")
        return 0


if __name__ == "__main__":
    sys.exit(exit_code(lambda: main(sys.argv[1:])))
