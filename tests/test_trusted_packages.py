"""A family of another package does what one of ours does; one that nobody allowed is refused before anything of it is imported."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from genlib import checkpoint, registry, trusted_packages
from genlib.config import Search
from jobs.command_line import listing, parse
from serve.models.runner import Runner
from tests.models.stages import train_stage
from tests.outside import write_package
from tune_spaces.base import space_of

ROOT = Path(__file__).parents[1]


def loaded() -> list[str]:
    return [name for name in sys.modules if name.partition(".")[0] == "skylib"]


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    """What a test imports of the package, the next one does not find."""
    yield
    for name in loaded():
        del sys.modules[name]


@pytest.fixture(params=["named", "installed"])
def outside(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A package on the search path, allowed in one of two ways."""
    monkeypatch.syspath_prepend(write_package(tmp_path / "site", installed=request.param == "installed"))
    monkeypatch.setenv(trusted_packages.VARIABLE, "skylib" if request.param == "named" else "")
    return request.param


def trained(folder: Path, steps: int = 6) -> Path:
    (stage,) = registry.load("cloud").smoke
    return train_stage("cloud", replace(stage, train=replace(stage.train, steps=steps)), folder, {})


@pytest.mark.usefixtures("outside")
def test_it_trains_goes_on_and_is_opened_and_served(tmp_path: Path) -> None:
    final = trained(tmp_path / "whole")
    before = checkpoint.load_weights(final)
    shutil.rmtree(final)
    again = checkpoint.load_weights(trained(tmp_path / "whole"))
    assert all(torch.equal(again[name], value) for name, value in before.items())
    drawn = checkpoint.load_task(final).generate(seed=[3, 4])  # type: ignore[operator]
    assert drawn.shape == (2, 1, 8, 8)
    runner = Runner.load(final, device="cpu")
    assert "generate" in runner.actions
    runner.close()


@pytest.mark.usefixtures("outside")
def test_it_is_listed_described_and_read_from_the_command_line() -> None:
    assert "cloud" in listing()
    command = parse(["cloud", "--smoke", "--task.width", "2"])
    assert command.stages[0].task.width == 2  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match=r"there is no recipe 'clout'\. Did you mean 'cloud'"):
        registry.load("clout")


@pytest.mark.parametrize("spaces", [True, False])
def test_a_search_looks_where_its_package_or_its_fields_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spaces: bool) -> None:
    monkeypatch.syspath_prepend(write_package(tmp_path / "site", spaces=spaces))
    (stage,) = registry.load("cloud").stages
    found = space_of("cloud", stage)
    assert found.keys() == ({"task.width"} if spaces else {"task.width", "train.optim.learning_rate"})
    assert found["task.width"] == (Search(0.5, 2.0, log=True) if spaces else Search(0.1, 10.0, log=True))


def test_what_nobody_allowed_is_not_imported_and_the_way_to_allow_it_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(write_package(tmp_path / "site", installed=False))
    monkeypatch.setenv(trusted_packages.VARIABLE, "skylib")
    final = trained(tmp_path / "run")
    (stage,) = registry.load("cloud").smoke
    monkeypatch.setenv(trusted_packages.VARIABLE, "sky, skylib2 ,skylib.other")
    with pytest.raises(ValueError, match=r"the task is of 'skylib.clouds:CloudConfig', .*GENLIB_FAMILIES=skylib"):
        train_stage("cloud", stage, tmp_path / "other", {})
    for name in loaded():
        del sys.modules[name]
    with pytest.raises(ValueError, match=r"the checkpoint is of 'skylib.clouds:CloudConfig', .*GENLIB_FAMILIES=skylib.* 'genlib.recipes'"):
        checkpoint.load_task(final)
    assert not loaded()
    monkeypatch.setenv(trusted_packages.VARIABLE, "skylib")
    assert checkpoint.load_task(final).net["mean"].shape == (64,)


def test_a_package_that_is_gone_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as here:
        here.syspath_prepend(write_package(tmp_path / "site", installed=False))
        here.setenv(trusted_packages.VARIABLE, "skylib")
        final = trained(tmp_path / "run")
    for name in loaded():
        del sys.modules[name]
    monkeypatch.setenv(trusted_packages.VARIABLE, "skylib")
    with pytest.raises(
        ValueError, match=r"the checkpoint is of 'skylib\.clouds:CloudConfig', which cannot be imported: ModuleNotFoundError: No module"
    ):
        checkpoint.load_task(final)
    with pytest.raises(ValueError, match="GENLIB_FAMILIES names 'skylib', which cannot be imported"):
        registry.load("cloud")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("raise RuntimeError('no licence')", "GENLIB_FAMILIES names 'skylib', which cannot be imported: RuntimeError: no licence; install or repair"),
        ("RECIPES = ['cloud']", r"skylib.RECIPES is \['cloud'\]; write a dictionary"),
        ("RECIPES = {'cloud': 3}", r"skylib.RECIPES is \{'cloud': 3\}; write a dictionary"),
        ("RECIPES = {'cloud': 'skylib.rain:cloud'}", "recipe 'cloud' is skylib.rain:cloud, which cannot be imported: ModuleNotFoundError"),
        ("RECIPES = {'cloud': 'skylib.clouds:rain'}", "recipe 'cloud' is skylib.clouds:rain, but skylib.clouds has no rain; repair"),
    ],
)
def test_a_broken_package_is_told_of_in_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str, said: str) -> None:
    site = write_package(tmp_path / "site", installed=False)
    (site / "skylib" / "__init__.py").write_text(content)
    monkeypatch.syspath_prepend(site)
    monkeypatch.setenv(trusted_packages.VARIABLE, "skylib")
    with pytest.raises(ValueError, match=said):
        registry.load("cloud")


@pytest.mark.parametrize("text", ["sky/lib", "sky lib", "../skylib", "skylib:cloud", ".sky"])
def test_a_name_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv(trusted_packages.VARIABLE, text)
    with pytest.raises(ValueError, match=r"GENLIB_FAMILIES has .*, which is no name of a package"):
        trusted_packages.names()


def test_two_recipes_of_one_name_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("skylib", "cloudlib"):
        monkeypatch.syspath_prepend(write_package(tmp_path / package, package))
    with pytest.raises(ValueError, match=r"two packages have a recipe 'cloud', .*lib.clouds:cloud and .*lib.clouds:cloud"):
        registry.recipes()


def test_a_name_of_ours_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = write_package(tmp_path / "site")
    points = site / "skylib-1.0.dist-info" / "entry_points.txt"
    points.write_text(points.read_text().replace("cloud =", "vae ="))
    monkeypatch.syspath_prepend(site)
    with pytest.raises(ValueError, match=r"skylib.clouds:cloud is a recipe named 'vae', as one of genlib's is"):
        registry.load("vae")


def launch(script: str, *words: str, runs: Path, site: Path) -> str:
    """What a command says that finds the package by its entry points."""
    environment = {**os.environ, trusted_packages.VARIABLE: "", "GENLIB_RUNS": str(runs), "PYTHONPATH": f"{ROOT}{os.pathsep}{site}"}
    done = subprocess.run([sys.executable, script, *words], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.ray
def test_workers_of_ray_train_see_it(tmp_path: Path) -> None:
    launch("jobs/train.py", "cloud", runs=tmp_path / "runs", site=write_package(tmp_path / "site"))
    manifest = json.loads((tmp_path / "runs" / "cloud" / "checkpoints" / "step_00000006" / "manifest.json").read_text())
    assert manifest["blueprint"]["kind"] == "skylib.clouds:CloudConfig"


@pytest.mark.slow
@pytest.mark.ray
def test_a_search_of_it_runs(tmp_path: Path) -> None:
    said = launch("jobs/tune.py", "cloud", "--trials", "2", runs=tmp_path / "runs", site=write_package(tmp_path / "site"))
    assert (tmp_path / "runs" / "tune-cloud" / "best").exists(), said
