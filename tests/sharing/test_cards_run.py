"""The code of every card runs as it stands, in the folder that it is in, without this library."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from genlib import companions
from genlib.sharing.card import Facts, write_card
from genlib.task import Task
from tests.models.stages import built_untrained
from tests.sharing import run_cards

DIFFUSERS = ("autoencoder_kl", "autoencoder_vq", "ddpm", "ddpm_unconditional", "inpainting", "som", "clip_vit_b32")
LATENT = ("ldm_tiny", "sdxl_tiny", "sd3_tiny")


def written(task: Task, folder: Path, recipe: str) -> list[Path]:
    """An export with its cards; its folders."""
    image = folder / "held_out.png"
    folder.mkdir()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (32, 32, 3), np.uint8)).save(image)
    facts = Facts(recipe=recipe, stage="train", parameters=1, data=task.data, data_name="shapes", captions=["a 'red' circle", 'a "blue" one'])
    formats = companions.export(task, folder / "export")
    assert formats
    for form in formats:
        write_card(facts, form, folder / "export", picture=image, image=image)
    return [folder / "export" / form.folder for form in formats]


def run(folders: Sequence[Path], *sites: Path) -> str:
    """What the cards print; with further packages on the path."""
    path = os.pathsep.join([*map(str, sites), sysconfig.get_paths()["purelib"]])  # -S leaves out what a .pth file names: the project itself
    environment = {**os.environ, "PYTHONPATH": path, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-S", run_cards.__file__, *map(str, folders)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("recipes", [DIFFUSERS, LATENT], ids=["one pass", "latent"])
def test_cards_of_diffusers_and_transformers_run(recipes: Sequence[str], tmp_path: Path) -> None:
    folders: list[Path] = []
    for recipe in recipes:
        folders += written(list(built_untrained(recipe).values())[-1], tmp_path / recipe, recipe)
    folders = [folder for folder in folders if folder.name != "open_clip"]
    said = run(folders)
    assert said.count("== ") == len(folders)
    assert {"diffusers", "diffusers-refiner"} <= {folder.name for folder in folders} or "transformers" in {folder.name for folder in folders}


@pytest.fixture(scope="module")
def torchvision(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with torchvision alone, of the version that belongs to this PyTorch; never part of the project's environment."""
    folder = tmp_path_factory.mktemp("torchvision")
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", "--dest", str(folder), "torchvision==0.28.0"]
    if subprocess.run(command, capture_output=True).returncode:
        pytest.skip("pip finds no torchvision 0.28.0 here")
    (wheel,) = folder.glob("torchvision-*.whl")
    zipfile.ZipFile(wheel).extractall(folder / "site")
    return folder / "site"


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["clip_tiny", "clip_vit_b32"])
def test_cards_of_open_clip_run_with_a_whole_torchvision(recipe: str, torchvision: Path, tmp_path: Path) -> None:
    """And with it transformers takes its other image processor."""
    folders = written(built_untrained(recipe)["train"], tmp_path / recipe, recipe)
    said = run(folders, torchvision)
    assert said.count("a 'red' circle") == len(folders)
    shares = [line.split("%")[0] for line in said.splitlines() if "%" in line]
    assert shares[:2] == (shares[2:] or shares[:2]), "both libraries say the same"


def test_code_is_taken_from_a_card_as_it_stands(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("a\n\n```sh\npip\n```\n\n```python\nx = 1\n```\n\n```python\nprint(x)\n```\n")
    assert run_cards.code_of(tmp_path) == "x = 1\nprint(x)"


@pytest.mark.slow
def test_code_that_fails_is_heard_of(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("\n```python\nimport genlib\n```\n")
    with pytest.raises(AssertionError, match="No module named 'genlib'"):
        run([tmp_path])
