"""What a user names, and what is served of it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from serve.models.sources import model_sources


def run(folder: Path, steps: tuple[int, ...] = (10,), *, stages: tuple[str, ...] = (), finished: bool = True) -> Path:
    """A run's folder as far as finding it looks."""
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps({"stages": {stage: {} for stage in stages or ("train",)}}))
    for part in stages or ("",):
        for step in steps:
            (folder / part / "checkpoints" / f"step_{step:08d}").mkdir(parents=True)
            (folder / part / "checkpoints" / f"step_{step:08d}" / "manifest.json").touch()
    if finished:
        (folder / "metrics.json").touch()
    return folder


def test_without_names_every_finished_run_is_served(tmp_path: Path) -> None:
    run(tmp_path / "clip", (10, 200))
    run(tmp_path / "sdxl", stages=("autoencoder", "denoiser"))
    run(tmp_path / "cut-off", finished=False)
    best = run(tmp_path / "tune-vae" / "trials" / "T3")
    (tmp_path / "tune-vae" / "best").symlink_to(best)
    found = {one.name: one for one in model_sources((), tmp_path)}
    assert set(found) == {"clip", "sdxl", "tune-vae"}
    assert found["clip"].newest() == tmp_path / "clip" / "checkpoints" / "step_00000200"
    assert found["sdxl"].newest() == tmp_path / "sdxl" / "denoiser" / "checkpoints" / "step_00000010"


def test_a_checkpoint_is_named_after_its_run_or_as_the_user_says(tmp_path: Path) -> None:
    folder = run(tmp_path / "clip", (10, 200)) / "checkpoints" / "step_00000010"
    (by_run,) = model_sources((str(folder),), tmp_path)
    assert (by_run.name, by_run.newest()) == ("clip", folder)
    (mine,) = model_sources((f"mine={folder}",), tmp_path)
    assert (mine.name, mine.newest()) == ("mine", folder)


def test_a_run_that_goes_on_is_served_at_its_newest(tmp_path: Path) -> None:
    (source,) = model_sources((str(run(tmp_path / "clip")),), tmp_path)
    (tmp_path / "clip" / "checkpoints" / "step_00000020").mkdir()
    assert source.newest() == tmp_path / "clip" / "checkpoints" / "step_00000020"


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ((), "there is no finished run in {0} to serve; train one, such as by `make clip`, or name a checkpoint's folder"),
        (("{0}/nothing",), "{0}/nothing holds no checkpoint; name the folder of a run, of one of its stages, or of a checkpoint"),
        (("a b={0}/one/clip",), "'a b' is no name for a model; write letters, digits, dots and dashes, as in mine={0}/one/clip"),
        (("{0}/one/clip", "{0}/two/clip"), "two checkpoints are called clip; name one of them otherwise, as in other={0}/one/clip"),
    ],
)
def test_what_cannot_be_served_is_one_sentence(given: tuple[str, ...], sentence: str, tmp_path: Path) -> None:
    run(tmp_path / "one" / "clip")
    run(tmp_path / "two" / "clip")
    with pytest.raises(ValueError, match=f"^{re.escape(sentence.format(tmp_path))}$"):
        model_sources(tuple(one.format(tmp_path) for one in given), tmp_path)
