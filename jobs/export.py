"""Writes what others load: `python jobs/export.py runs/clip --onnx --license mit --push-to-hub me/clip`.

Each format of the field has a folder with its card, code that runs there, scores and a picture; `--onnx` adds ONNX files, compared with the
trained network as they are written; `--push-to-hub` makes a repository of it all.
"""

from __future__ import annotations

if __name__ == "__main__":  # before imports that take a second
    from cluster.quiet import ends_quietly

    ends_quietly()

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from genlib import checkpoint, program
from genlib.sharing import hub, onnx_files
from jobs.evaluate import located, stages_of
from jobs.exit_codes import exit_code
from jobs.model_export import EXPORT, Exported, for_strangers, set_license, write_export
from jobs.option_errors import Arguments
from jobs.run_copy import copied, run_argument
from jobs.run_folder import read_json


def parsed(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    parser = Arguments(prog=program.command("export"), description=main.__doc__)
    parser.add_argument("folder", type=run_argument, help="a run's folder or address, that of one of its stages (else the last), or a checkpoint")
    parser.add_argument("--onnx", action="store_true", help="ONNX files too, of towers, decoders, generators that draw at once and classifiers")
    parser.add_argument("--license", metavar="ID", help="licence of the weights, such as mit or apache-2.0; kept for later exports of the run")
    parser.add_argument("--push-to-hub", metavar="OWNER/NAME", help="make it a repository on the Hugging Face hub, or a new commit of one")
    parser.add_argument("--private", action="store_true", help="the repository is private, where --push-to-hub makes one")
    return parser.parse_args(arguments)


def place(folder: Path, results: Path) -> Path:
    """Where the export is: the last stage's is that of the run."""
    stages = stages_of(folder) or stages_of(results.parent)
    return (results.parent if stages and results.name == stages[-1] else results) / EXPORT


def main(arguments: Sequence[str]) -> int:
    """Exports an evaluated run again, with ONNX files by --onnx, and pushes it by --push-to-hub."""
    options = parsed(arguments)
    if options.push_to_hub:
        hub.check_ready(options.push_to_hub)
    if options.onnx:
        onnx_files.check_installed()
    copy, bring_up = copied(options.folder)
    final, results = located(copy)
    metrics = read_json(results / "metrics.json")
    if metrics is None:
        raise ValueError(f"{options.folder} has no scores yet, which its card shows; `python jobs/evaluate.py {options.folder}` takes them")
    if options.license:
        set_license(results, options.license)
    manifest, task = checkpoint.read_manifest(final), checkpoint.load_task(final)
    made = write_export(task, manifest, results, metrics, out=place(copy, results), onnx=options.onnx)
    if not made.formats:
        raise ValueError(f"{type(task).__name__} has no format of the field to be written in; --onnx may have one")
    bring_up()
    for form in made.formats:
        print(made.folder / form.folder)
    if options.push_to_hub:
        push(made, options.push_to_hub, private=options.private, manifest=manifest if task.export_is_a_model else None)
    return 0


def push(made: Exported, repository: str, *, private: bool, manifest: checkpoint.Manifest | None) -> None:
    """Makes the export a repository; with a manifest it can be opened by this library from there, too."""
    with tempfile.TemporaryDirectory(dir=made.folder.parent, prefix=".hub-") as name:
        folder = Path(name)
        hub.lay_out(made.facts, made.formats, made.folder, repository, folder)
        if manifest is not None:
            checkpoint.seal_export(folder, for_strangers(manifest))
        pushed = hub.push(folder, repository, private=private, message=f"{made.facts.recipe}, exported by genlib")
    if pushed.existed:
        print(f"{repository} was there: its files of the same names are replaced by a new commit, and the old ones stay in its history")
    if not made.facts.license:
        print("the card says that no licence is set; give one with --license", file=sys.stderr)
    print(pushed.url)


if __name__ == "__main__":
    sys.exit(exit_code(lambda: main(sys.argv[1:])))
