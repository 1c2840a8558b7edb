"""What options are called in sentences, which one a wrong word is near, and which words give a configuration again."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest

from genlib import registry
from genlib.config import Config
from genlib.recipe import Stage
from jobs.command_form import as_commanded, form_of
from jobs.command_line import parse
from jobs.options import flags, nearest_option, with_options
from jobs.run_options import RunOptions
from jobs.saved_config import line_of

KNOWN = ["--workers", "--train.steps", "--train.optim.beta1", "--task.steps", "--task.network.width", "--data.image-size", "--data.train"]
STAGES = ["--workers", "--one.train.steps", "--two.train.steps", "--two.data.image-size", "--two.train.optim.beta1"]


@dataclass(frozen=True)
class TrainingSettings:
    """Of which a sentence may be."""

    steps: int = 1
    train: str = ""
    noise: float = 0.0


@pytest.mark.parametrize(
    ("sentence", "said"),
    [
        ("data.image_size 30 is not divisible", "--data.image-size 30 is not divisible"),
        ("give --data.image_size, or data.train='data.train'", "give --data.image-size, or --data.train='data.train'"),
        ("image_size is 3", "--data.image-size is 3"),
        ("steps is 3, and training has steps", "steps is 3, and training has steps"),
        ("`train.steps` in /a/train.steps and train.steps.json", "`train.steps` in /a/train.steps and train.steps.json"),
        ("network.width fits Inception's width, see train.steps.", "--task.network.width fits Inception's width, see --train.steps."),
    ],
)
def test_only_what_is_surely_a_field_becomes_an_option(sentence: str, said: str) -> None:
    assert with_options(sentence, KNOWN) == said


def test_a_configurations_own_fields_need_no_dots() -> None:
    def said(sentence: str) -> str:
        return with_options(sentence, KNOWN, "train", TrainingSettings)

    assert said("TrainingSettings.steps is -1") == "--train.steps is -1"
    assert said("steps 3 is no train of few steps; raise steps") == "--train.steps 3 is no train of few steps; raise --train.steps"
    assert said("noise of data.image_size") == "noise of --data.image-size", "there is no option of that name"


def test_in_a_stage_options_have_its_name_in_front() -> None:
    assert with_options("train.steps of data.image_size", STAGES, "two") == "--two.train.steps of --two.data.image-size"
    assert with_options("train.steps of data.image_size", STAGES) == "train.steps of --two.data.image-size", "which stage's steps nobody knows"
    assert with_options("train.steps is 0 for beta1 2", STAGES, "two.train.optim") == "--two.train.steps is 0 for beta1 2"


@pytest.mark.parametrize(
    ("word", "near"),
    [
        ("--train.stesp", "--train.steps"), ("--task.stesp=3", "--task.steps"), ("--task.network.witdh", "--task.network.width"),
        ("--task.netwrok.width", "--task.network.width"), ("--train.optim.steps", "--train.steps"), ("--trian.steps", "--train.steps"),
        ("--data.image_sise", "--data.image-size"), ("--width", "--task.network.width"), ("--train.width", "--task.network.width"),
        ("--wrkers", "--workers"),
    ],
)  # fmt: skip
def test_the_nearest_is_of_the_same_group(word: str, near: str) -> None:
    assert nearest_option(word, KNOWN) == f" Did you mean {near!r}?"


def test_where_nothing_is_near_nothing_is_proposed() -> None:
    assert nearest_option("--qqqq", KNOWN) == ""


def otherwise(config: Any) -> Any:
    """The configuration with another value in each field that takes one."""
    change: dict[type, Callable[[Any], Any]] = {
        bool: lambda value: not value,
        int: lambda value: value + 1,
        float: lambda value: value / 2,
        str: lambda value: value,
    }
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        new = otherwise(value) if isinstance(value, Config) else change.get(type(value), lambda value: value)(value)
        if new != value:
            try:
                config = replace(config, **{field.name: new})
            except ValueError:  # what does not go together
                continue
    return config


def changed(stage: Stage) -> Stage:
    data = replace(otherwise(stage.data), train="-odd; name '$x'", weights=(), filters=("width>=3", "aspect<2"))
    return replace(stage, task=otherwise(stage.task), train=otherwise(stage.train), data=data)


@pytest.mark.parametrize("name", ["vae", "clip_tiny", "dcgan", "som", "sdxl_tiny"])
def test_the_line_of_any_configuration_gives_it_again(name: str) -> None:
    stages = tuple(map(changed, registry.load(name).stages))
    assert stages != registry.load(name).stages
    options = RunOptions(run="a b", workers="1:4", score_features=("x", "y z"), retries=-1)
    *_, first, second = [None, *shlex.split(line_of("train", name, stages, options))[:2]]
    assert (first, second) == ("python", "jobs/train.py")
    again = parse(shlex.split(line_of("train", name, stages, options))[2:])
    assert (again.stages, again.options) == (stages, options)


def test_the_recipes_own_values_need_no_words() -> None:
    assert line_of("train", "vae", as_commanded(registry.load("vae").stages), RunOptions()) == "python jobs/train.py vae"
    assert line_of("train", "vae", as_commanded(registry.load("vae").smoke), RunOptions(smoke=True)) == "python jobs/train.py vae --smoke"


def test_each_option_is_one_of_the_form() -> None:
    stages = registry.load("sdxl_tiny").stages
    form = form_of(stages, RunOptions())()
    assert len(set(flags(form))) == len(flags(form))
    assert {"--workers", "--denoiser.task.unet.head-dim", "--text.train.optim.beta1"} <= set(flags(form))
