"""What a user types, and the one sentence for what is wrong with it."""

import dataclasses
import re
import shlex
from pathlib import Path

import pytest

from genlib import registry
from jobs.command_form import HELD_OUT_SHARE, Typed, form_of
from jobs.command_line import parse, parsed
from jobs.exit_codes import exit_code
from jobs.options import flags
from jobs.run_folder import begin
from jobs.run_options import RunOptions
from jobs.train import asked
from jobs.tune_options import TuneOptions


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
        (["toy", "--task.stpes", "3"], "there is no option --task.stpes. Did you mean '--train.steps'?"),
        (["toy", "--trian.steps", "3"], "there is no option --trian.steps. Did you mean '--train.steps'?"),
        (["toy", "--wrokers", "3"], "there is no option --wrokers. Did you mean '--workers'?"),
        (["toy", "--hidden", "3"], "there is no option --hidden. Did you mean '--task.hidden'?"),
        (["toy", "more"], "'more' belongs to no option; an option begins with --"),
        (["toy", "--train.steps", "many"], "--train.steps is 'many'; it must be a whole number"),
        (["toy", "--train.optim.learning_rate", "low"], "--train.optim.learning_rate is 'low'; it must be a number"),
        (["toy", "--train.steps", "-1"], "--train.steps is -1; it must be at least 0"),
        (["toy", "--train.steps"], "--train.steps needs a value"),
        (["toy", "--train.encode", "cache"], "--train.encode is 'cache'; it must be one of auto, fly, ahead"),
        (["toy", "--train.strategy", "zero9"], "--train.strategy is 'zero9'; it must be one of auto, single, ddp, zero1, zero2, zero3"),
        (["toy", "--train.global_batch", "7", "--train.accumulation", "2"], "--train.global_batch 7 is not divisible by --train.accumulation 2"),
        (["toy", "--train.global-batch", "7", "--train.accumulation", "2"], "--train.global-batch 7 is not divisible by --train.accumulation 2"),
        (["toy", "--train.optim.beta1", "2"], "--train.optim.beta1 is 2.0; it must be below 1"),
        (["toy", "--data.bucket-step", "8"], "--data.bucket-step is 8, but --data.image-size is 0; give the side"),
        (["chain", "--second.train.optim.beta1", "2"], "--second.train.optim.beta1 is 2.0; it must be below 1"),
        (["chain", "--second.train.stpes", "2"], "Did you mean '--second.train.steps'?"),
        (["toy", "--workers", "0"], "--workers is '0'; use a number from 1, or MIN:MAX like 1:4"),
        (["toy", "--workers", "4:1"], "--workers is '4:1'"),
        (["toy", "--workers", "two"], "--workers is 'two'"),
        (["toy", "--cpus_per_worker", "0"], "--cpus_per_worker is 0; it must be above 0"),
        (["toy", "--cpus-per-worker", "0"], "--cpus-per-worker is 0; it must be above 0"),
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


@pytest.mark.parametrize("spelled", ["--train.global-batch", "--train.global_batch"])
def test_dashes_and_underscores_are_one(spelled: str) -> None:
    assert parse(["toy", spelled, "64"]).stages[0].train.global_batch == 64


def test_what_is_found_later_names_options_too() -> None:
    command = parse(["chain"])
    second = command.stages[1]
    for stage, said in (
        (second, "--second.data.image-size is 0; give --second.data.image-size"),
        (None, "data.image_size is 0; give --data.image-size"),
    ):
        with pytest.raises(ValueError, match="is 0") as error, command.naming_options(stage):
            raise ValueError("data.image_size is 0; give --data.image-size")
        assert str(error.value) == said, "which stage's it is nobody knows"
    with pytest.raises(ValueError, match=r"with --train\.global-batch = 3; --train\.start-from /r$"), parse(["toy"]).naming_options():
        raise ValueError("run r was started with train.global_batch = 3; --train.start_from /r")


def test_a_run_gives_its_command_again() -> None:
    assert parse(["toy", "--run", "my run", "--smoke"]).again == "python jobs/train.py toy --run 'my run' --smoke"


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """What a run of the second recipe wrote, with values of its own."""
    words = ["chain", "--first.task.hidden", "3", "--second.train.optim.learning-rate", "0.5", "--workers", "2", "--run", "mine", "--smoke"]
    command = parse(words)
    begin(tmp_path / "mine", command.recipe, command.stages, asked(command))
    return tmp_path / "mine" / "run.json"


def test_a_configuration_comes_back_under_what_is_given_on_top(saved: Path) -> None:
    command = parse(["--config", str(saved), "--run", "again", "--second.train.steps", "5"])
    before = parse(["chain", "--first.task.hidden", "3", "--second.train.optim.learning-rate", "0.5", "--smoke"])
    assert command.recipe == "chain"
    assert command.stages[0] == before.stages[0]
    assert command.stages[1] == dataclasses.replace(before.stages[1], train=dataclasses.replace(before.stages[1].train, steps=5))
    assert (command.options.workers, command.options.run, command.options.smoke) == ("2", "again", True)


def test_the_command_of_such_a_run_does_without_the_file(saved: Path) -> None:
    command = parse(["chain", f"--config={saved}", "--run", "again"])
    saved.unlink()
    program, script, *words = shlex.split(command.again)
    assert (program, script) == ("python", "jobs/train.py")
    again = parse(words)
    assert again.stages == command.stages
    assert again.options == dataclasses.replace(command.options, config="")


def test_a_search_goes_on_from_a_runs_values(saved: Path) -> None:
    command = parsed(["--config", str(saved), "--trials", "3"], TuneOptions(), Typed("tune", ()))
    assert (command.stages[0].task.hidden, command.options.trials, command.options.workers) == (3, 3, 1)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--config"], "--config needs a value: the run.json of a run"),
        (["--config", "nowhere.json"], "--config nowhere.json cannot be read: No such file or directory; name the run.json of a run"),
        (["--config", "jobs/train.py"], "--config jobs/train.py holds no configuration"),
        (["toy", "--config", "SAVED"], "is of recipe chain, not toy; leave the recipe out, or the file"),
        (["--config", "SAVED", "--smoke"], "says how large all is, so leave --smoke out"),
        (["--config", "CHANGED"], "TrainConfig.steps is -3; it must be at least 0; it was written by another version of genlib, or changed"),
    ],
)
def test_a_file_that_does_not_do(saved: Path, arguments: list[str], sentence: str) -> None:
    changed = saved.with_name("changed.json")
    changed.write_text(saved.read_text().replace('"steps": 60', '"steps": -3').replace('"steps": 20', '"steps": -3'))
    with pytest.raises(ValueError, match=re.escape(sentence)):
        parse([{"SAVED": str(saved), "CHANGED": str(changed)}.get(word, word) for word in arguments])
