"""Trains a StyleGAN2 (Karras et al. 2020, arXiv:1912.04958): `python jobs/stylegan_train.py --run stylegan`.

On icons of 32 pixels by default; `--data.train fashion_mnist`, `emoji` or shards of an image folder (jobs/prepare_data.py); `--recipe
stylegan2_256` and so on, which may be called `--preset` here, for GPUs; every option of jobs/train.py works. Pictures are scored while it
trains, by `--judge RUN`: a classifier, a CLIP or Inception's weights. Without one the job first trains a small SimCLR on the same images, in
the run's folder `judge`.
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
import tempfile
from collections.abc import Sequence
from pathlib import Path

from genlib.config import DataConfig
from jobs import run_folder, train
from jobs.command_form import Typed
from jobs.command_line import named_run
from jobs.evaluations import evaluations
from jobs.exit_codes import exit_code
from jobs.run_folder import read_json, write_json
from jobs.run_options import RunOptions
from jobs.saved_config import config_of

JUDGE = "judge"
"""Folder of the judge in that of the run."""
DEFAULTS = ("--workers", "2", "--train.strategy", "ddp")


def main(arguments: Sequence[str]) -> int:
    """jobs/train.py with a StyleGAN recipe and defaults for two workers, and a judge."""
    typed, own, words = Typed("stylegan", tuple(arguments)), split(arguments)[0], train_words(arguments)
    asked = train.parse(words, typed)
    if asked.options.dry_run or asked.options.plan:
        return train.main(words, typed)
    run = run_folder.run_folder(asked.options.run, asked.options.run_dir, asked.recipe)
    judge = Path(own.judge) if own.judge else run / JUDGE
    if not own.judge:
        with asked.naming_options(), tempfile.TemporaryDirectory() as unused:
            train.check_start(asked, run)  # what the StyleGAN cannot do is refused before a judge is trained
            train.check_draws(asked.stages[-1].task)
            train.spec_of_data(asked.stages[-1], Path(unused), train.few)
        if code := train.main(judge_command(judge, asked.stages[-1].data, asked.options)):
            return code
    if code := train.main(train_words(arguments, ["--score-features", str(judge), "--score-against", "train"]), typed):
        return code
    summarise(run)
    return 0


def train_words(arguments: Sequence[str], more: Sequence[str] = ()) -> list[str]:
    """The words of jobs/train.py that these stand for, `more` among the defaults; what the user says comes later and wins."""
    own, rest = split(arguments)
    return [*([] if config_of(rest) else [own.recipe, *DEFAULTS]), *named_run(rest, "stylegan"), *more, *rest]


def split(arguments: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """The options of this job alone, and the other words."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--recipe", "--preset", default="stylegan2")
    parser.add_argument("--judge", default=None)
    return parser.parse_known_args(list(arguments))


def judge_command(folder: Path, data: DataConfig, options: RunOptions) -> list[str]:
    """What trains a feature network on the same images, with as many workers."""
    words = ["simclr", "--run-dir", str(folder), "--workers", options.workers, "--train.strategy", "ddp", "--data.train", data.train]
    words += ["--data.image-size", str(data.image_size), "--data.background", data.background]
    return [*words, "--smoke"] if options.smoke else [*words, "--train.steps", "300"]


def summarise(run: Path) -> None:
    """Adds to the run's metrics, by the names that StyleGAN's users know: `fid` and `kid` of its end and of its best, and `s_per_kimg`."""
    metrics, rows = read_json(run / "metrics.json") or {}, evaluations(run)
    if speed := metrics.get("samples_per_second"):
        metrics["s_per_kimg"] = 1000 / speed
    if rows:
        fid = next(name for name in rows[-1] if name.startswith("fid_"))
        best, judge = min(rows, key=lambda row: row[fid]), fid.removeprefix("fid_")
        metrics |= {"fid": rows[-1][fid], "kid": rows[-1][f"kid_{judge}"], "best_fid": best[fid], "best_kimg": best["kimg"], "judge": judge}
    write_json(run / "metrics.json", metrics)


if __name__ == "__main__":
    sys.exit(exit_code(lambda: main(sys.argv[1:])))
