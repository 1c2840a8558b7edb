"""What a user types, and the one sentence for what is wrong with it."""

import dataclasses

import pytest

from genlib import registry
from jobs.command_line import HELD_OUT_SHARE, RunOptions, exit_code, flags, form_of, parse


@pytest.fixture(autouse=True)
def recipes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "RECIPES", {"toy": "tests.jobs.toy:toy", "chain": "tests.jobs.toy:chain"})


def test_overrides_are_typed_and_everything_else_stays_the_recipes() -> None:
    command = parse(
        ["toy", "--train.steps", "7", "--task.hidden", "3", "--train.optim.learning_rate", "0.5", "--train.strategy", "zero2", "--workers", "1:4"]
    )
    (stage,), (base,) = command.stages, registry.load("toy").stages
    assert stage.train == dataclasses.replace(base.train, steps=7, strategy="zero2", optim=dataclasses.replace(base.train.optim, learning_rate=0.5))
    assert stage.task.hidden == 3
    assert stage.data == dataclasses.replace(base.data, hold_out=HELD_OUT_SHARE)
    assert parse(["toy", "--data.hold_out", "0"]).stages[0].data == base.data
    assert command.options.worker_range == (1, 4)


def test_later_words_win() -> None:
    assert parse(["toy", "--workers", "2", "--workers", "3"]).options.workers == "3"


def test_stages_have_their_names_in_front() -> None:
    first, second = parse(["chain", "--second.train.steps", "9"]).stages
    assert (first.train.steps, second.train.steps) == (60, 9)
    assert second.needs == {"base": "first"}


def test_data_named_for_one_stage_are_those_of_all_that_name_none() -> None:
    nothing = ("--first.data.train", "")
    stages = parse(["chain", *nothing, "--second.data.train", "shards", "--second.data.validation", "held-out"]).stages
    assert [(stage.data.train, stage.data.validation) for stage in stages] == [("shards", "held-out")] * 2
    first, second = parse(["chain", "--second.data.train", "shapes"]).stages
    assert (first.data.train, second.data.train) == ("digits", "shapes")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["toi"], "there is no recipe 'toi'. Did you mean 'toy'? `python jobs/train.py --list` shows all"),
        (["--workers", "2"], "the recipe comes first, before --workers"),
        (["toy", "--train.stpes", "3"], "there is no option --train.stpes. Did you mean '--train.steps'?"),
        (["toy", "--train.steps", "many"], "--train.steps is 'many'; it must be a whole number"),
        (["toy", "--train.optim.learning_rate", "low"], "--train.optim.learning_rate is 'low'; it must be a number"),
        (["toy", "--train.steps", "-1"], "TrainConfig.steps is -1; it must be at least 0"),
        (["toy", "--train.steps"], "--train.steps needs a value"),
        (["toy", "--train.encode", "cache"], "--train.encode is 'cache'; it must be one of auto, fly, ahead"),
        (["toy", "--train.strategy", "zero9"], "--train.strategy is 'zero9'; it must be one of auto, single, ddp, zero1, zero2, zero3"),
        (["toy", "--train.global_batch", "7", "--train.accumulation", "2"], "global_batch 7 is not divisible by accumulation 2"),
        (["toy", "--workers", "0"], "workers is '0'; use a number from 1, or MIN:MAX like 1:4"),
        (["toy", "--workers", "4:1"], "workers is '4:1'"),
        (["toy", "--workers", "two"], "workers is 'two'"),
        (["toy", "--cpus_per_worker", "0"], "cpus_per_worker is 0; it must be above 0"),
        (["chain", "--train.steps", "3"], "there is no option --train.steps. Did you mean '--first.train.steps'?"),
    ],
)
def test_what_is_wrong_is_one_sentence_and_exit_code_2(arguments: list[str], sentence: str, capsys: pytest.CaptureFixture) -> None:
    assert exit_code(lambda: 0 if parse(arguments) else 1) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert sentence in err
    assert err.count("\n") == 1


def test_list_shows_every_recipe_with_its_first_line(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit, match="0"):
        parse(["--list"])
    assert capsys.readouterr().out.splitlines() == ["chain  Two autoencoders, one after the other.", "toy    An autoencoder of digits."]


def test_help_explains_every_field(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit, match="0"):
        parse(["toy", "--help"])
    text = capsys.readouterr().out
    form = form_of(registry.load("toy").stages, RunOptions())()
    assert [flag for flag in flags(form) if flag not in text] == []
    for sentence in ("Hidden units.", "Peak learning rate.", "Optimizer steps.", "Folder of the run"):
        assert sentence in text.replace("\n", " ")


def test_options_say_what_they_are() -> None:
    assert RunOptions(workers="3").worker_range == (3, 3)
