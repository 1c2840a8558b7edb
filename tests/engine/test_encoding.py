"""Encoding on the fly or ahead of the first step gives the same weights; `auto` says what it chose."""

from __future__ import annotations

import errno
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tokenizers import normalizers

from genlib import checkpoint
from genlib.data.encoded_set import EncodedShards
from genlib.data.source import ShardSource, open_source
from genlib.encoded_batch import encode, encoded
from genlib.engine.encoding import EncodingCosts, frozen_state, identity, should_keep
from genlib.engine.evaluate import evaluate
from genlib.engine.fit import fit, fresh_task
from genlib.engine.listener import Listener
from genlib.engine.same_run import check_same_settings, completed
from genlib.engine.stop import Interrupted
from genlib.engine.strategies import strategy_of
from genlib.metrics.held_out import mean_values
from genlib.nn import text_cleaning
from genlib.nn.tokenizer import TextTokenizer, train_bpe
from genlib.recipe import Stage
from genlib.storage import StorageError
from genlib.task import Task
from genlib.types import Batch
from jobs.encoder import EncodingWork
from tests.encoders import OnEyes, stages
from tests.processes import run_ranks
from tests.tiny import ArraySource

CPU = torch.device("cpu")
STEPS, SHARDS = 10, 6  # of 400 samples: two epochs and a half of 1,442


def source() -> ShardSource:
    return open_source(stages()[0].data)


def train(root: Path, name: str, stage: Stage, **options: object) -> Path:
    one = replace(stage, train=replace(stage.train, encoded_dir=str(root / "encoded")))
    upstream = {"eyes": root / "eyes" / "checkpoints" / checkpoint.step_name(2)}
    return fit(one, recipe="encoders", source=source(), folder=root / name, device=CPU, upstream=upstream, **options)


@pytest.fixture(scope="module")
def eyes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("eyes")
    fit(stages()[0], recipe="encoders", source=source(), folder=root / "eyes", device=CPU)
    return root


@pytest.fixture
def root(eyes: Path, tmp_path: Path) -> Path:
    """A folder in which the eyes are trained, and nothing is encoded."""
    shutil.copytree(eyes / "eyes", tmp_path / "eyes")
    (tmp_path / "calls").mkdir()
    return tmp_path


def second(root: Path, **train: object) -> Stage:
    return stages(str(root / "calls"), **train)[1]


def slow(stage: Stage) -> Stage:
    """So slow to encode that keeping it is worth the while."""
    return replace(stage, task=replace(stage.task, repeats=20))


def without_dropout(stage: Stage) -> Stage:
    """Dropout is another one on every rank."""
    return replace(stage, task=replace(stage.task, dropout=0.0))


def calls(root: Path) -> list[int]:
    """Samples that were encoded since the last question, each as often as it was."""
    found = [int(word) for path in (root / "calls").iterdir() for word in path.read_text().split()]
    for path in (root / "calls").iterdir():
        path.unlink()
    return found


def kept(root: Path) -> EncodedShards | None:
    """What there is of encoded samples."""
    folders = list((root / "encoded").glob("*"))
    assert len(folders) <= 1
    return source().encoded_set(folders[0].name, str(root / "encoded")) if folders else None


def missing(root: Path) -> list[int]:
    found = kept(root)
    return list(range(SHARDS)) if found is None else found.missing()


def assert_equal(one: Path, other: Path) -> None:
    """To the bit."""
    expected, found = checkpoint.load_weights(one), checkpoint.load_weights(other)
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def assert_same(one: Path, other: Path) -> None:
    """But for the order of sums over ranks."""
    expected, found = checkpoint.load_weights(one), checkpoint.load_weights(other)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, atol=1e-6, rtol=0)


def test_both_ways_give_the_same_weights_and_encode_as_often_as_they_say(root: Path, capsys: pytest.CaptureFixture) -> None:
    fly = train(root, "fly", second(root, encode="fly"))
    assert len(calls(root)) == STEPS * 400
    assert kept(root) is None
    ahead = train(root, "ahead", second(root, encode="ahead"))
    assert sorted(calls(root)) == list(range(1442))
    folder = kept(root).folder  # type: ignore[union-attr]
    said = rf"encoding ahead, kept in {folder}: 6 of 6 shards are missing\nencoded 6 of 6 shards in \d+ s, kept in {folder}\n"
    assert re.search(said, capsys.readouterr().out)
    again = train(root, "again", second(root, encode="auto"))
    assert calls(root) == []
    assert lines(capsys) == [f"encoding ahead, kept in {folder}: the samples were there"]
    for other in (ahead, again):
        assert_equal(fly, other)


def train_by_two(root: Path) -> None:
    for way in ("fly", "ahead"):
        train(root, f"{way}-two", without_dropout(second(root, encode=way)))


def test_two_processes_equal_one_either_way(root: Path) -> None:
    run_ranks(2, train_by_two, root)
    fly, ahead = (root / f"{way}-two" / "checkpoints" / checkpoint.step_name(STEPS) for way in ("fly", "ahead"))
    assert_equal(fly, ahead)
    assert_same(train(root, "alone", without_dropout(second(root, encode="ahead"))), ahead)


def test_a_run_goes_on_in_another_way(root: Path) -> None:
    whole = train(root, "whole", second(root, encode="fly", keep_checkpoints=9))
    for before, after in (("ahead", "fly"), ("fly", "ahead")):
        folder = root / f"{before}-{after}"
        shutil.copytree(root / "whole", folder) if before == "fly" else train(root, folder.name, second(root, encode=before, keep_checkpoints=9))
        shutil.rmtree(folder / "checkpoints" / checkpoint.step_name(STEPS))
        assert_equal(whole, train(root, folder.name, second(root, encode=after)))


def test_a_run_goes_on_whose_way_of_encoding_is_none_today(root: Path) -> None:
    manifest = checkpoint.read_manifest(train(root, "run", second(root, encode="fly", steps=1)))
    old = {name: value for name, value in manifest.train.items() if name != "offload"} | {"encode": "cache"}
    assert completed(second(root).train, old) == {**manifest.train, "encode": "auto"}
    check_same_settings(replace(manifest, train=old), "encoders", second(root))


class Killed(Exception):
    """As a kill would end it."""


@pytest.mark.parametrize("shard", range(0, SHARDS, 2))
def test_a_run_that_ends_while_it_encodes_goes_on(root: Path, monkeypatch: pytest.MonkeyPatch, shard: int) -> None:
    write = EncodedShards.write

    def write_until(self: EncodedShards, number: int, made) -> None:
        if number == shard:
            raise Killed
        write(self, number, made)

    with monkeypatch.context() as patch:
        patch.setattr(EncodedShards, "write", write_until)
        with pytest.raises(Killed):
            train(root, "run", second(root, encode="ahead", steps=2))
    assert missing(root) == list(range(shard, SHARDS))
    calls(root)
    train(root, "run", second(root, encode="ahead", steps=2))
    assert sorted(calls(root)) == list(range(256 * shard, 1442))


def test_a_run_stops_between_two_shards(root: Path) -> None:
    class After(Listener):
        asked = 0

        def stop_asked(self) -> bool:
            self.asked += 1
            return self.asked == 3

    with pytest.raises(Interrupted):
        train(root, "run", second(root, encode="ahead"), listener=After())
    assert missing(root) == [3, 4, 5]


def test_a_damaged_shard_is_made_again(root: Path) -> None:
    one = train(root, "one", second(root, encode="ahead"))
    path = kept(root).path(2)  # type: ignore[union-attr]
    path.write_bytes(path.read_bytes()[:-2000])
    calls(root)
    assert_equal(one, train(root, "two", second(root, encode="ahead")))
    assert sorted(calls(root)) == list(range(512, 768))


def broken_on_one_rank(root: Path) -> None:
    write = EncodedShards.write

    def write_but(self: EncodedShards, number: int, made) -> None:
        if number == 3:
            raise ValueError("shard 3 is unlucky")
        write(self, number, made)

    EncodedShards.write = write_but  # type: ignore[method-assign]
    with pytest.raises(ValueError, match=r"^shard 3 is unlucky$"):
        train(root, "broken", second(root, encode="ahead"))


def test_a_failure_on_one_rank_ends_all_with_its_sentence(root: Path) -> None:
    run_ranks(2, broken_on_one_rank, root)
    assert missing(root) == [3, 4, 5]


def full(self: EncodedShards, shard: int, made) -> None:
    raise OSError(errno.ENOSPC, "No space left on device", str(self.path(shard)))


def test_a_full_disk_is_a_sentence_ahead_and_on_the_fly_for_auto(root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    train(root, "run", second(root, encode="ahead", steps=1))
    path = kept(root).path(1)  # type: ignore[union-attr]
    path.unlink()
    with monkeypatch.context() as patch:
        patch.setattr(EncodedShards, "write", full)
        patch.setattr(EncodedShards, "trial", lambda *_: (1e-9, 1e-9, 1000))
        with pytest.raises(
            StorageError, match=rf"{path} cannot be written: No space left on device; .*; make room there, then the same command goes"
        ):
            train(root, "ahead", second(root, encode="ahead"))
        capsys.readouterr()
        fly = train(root, "auto", second(root))
        chosen, line = lines(capsys)
        assert chosen.startswith("encoding ahead, kept in ")
        assert line.startswith(f"encoding on the fly: {path.parent} cannot be written: No space left on device; the file system at ")
    assert missing(root) == [1]
    assert_equal(fly, train(root, "ahead", second(root, encode="ahead")))


def test_losses_get_what_is_encoded_and_no_more(root: Path) -> None:
    task, batch = built(root), next(source().batches("train", 8))
    kept = encode(task, batch)
    assert {name: value.dtype for name, value in kept.items()} == {"code": torch.float16, "label": torch.int64}
    seen = encoded(task, batch)
    assert set(seen) == {"code", "label", "position", "sample", "valid"}
    assert torch.equal(seen["code"], task.encode(batch)["code"].half().float())
    plain = stages()[0].task.build(source().spec, {})
    assert encoded(plain, batch) is batch


def test_large_values_stay_finite_and_wrong_ones_stay_wrong() -> None:
    class Loud(Task):
        def encode(self, batch: Batch) -> Batch:
            return {"code": torch.tensor([1e6, -1e6, torch.nan])}

    values = encode(Loud(), {})["code"].tolist()
    assert values[:2] == [65504.0, -65504.0]
    assert values[2] != values[2]


def test_memory_order_is_that_of_what_is_read_from_shards() -> None:
    class ChannelsLast(Task):
        def encode(self, batch: Batch) -> Batch:
            return {"code": torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last), "number": torch.arange(6).view(2, 3).T}

    task = ChannelsLast()
    assert [value.is_contiguous() for value in encode(task, {}).values()] == [True, True]


def built(root: Path) -> OnEyes:
    eyes = checkpoint.load_task(root / "eyes" / "checkpoints" / checkpoint.step_name(2))
    torch.manual_seed(0)
    task = second(root).task.build(source().spec, {"eyes": eyes})
    assert isinstance(task, OnEyes)
    return task


def test_identity_is_of_all_that_encoding_depends_on(root: Path) -> None:
    task, stage, spec = built(root), second(root), source().spec
    name = identity(task, stage, spec)
    assert name == identity(built(root), replace(stage, train=replace(stage.train, seed=5, steps=7)), replace(spec, validation_name="x"))
    with torch.no_grad():
        task.net[0].weight.add_(1)
        assert identity(task, stage, spec) == name
        task.scale.add_(1)
        assert identity(task, stage, spec) != name
        task.scale.sub_(1)
        next(task.eyes.parameters()).add_(1)
        assert identity(task, stage, spec) != name
    task = built(root)
    assert identity(task, replace(stage, task=replace(stage.task, repeats=1)), spec) != name
    assert identity(task, replace(stage, data=replace(stage.data, image_size=4)), spec) != name
    assert identity(task, replace(stage, data=replace(stage.data, cache_mb=4)), spec) == name
    assert identity(task, stage, replace(spec, digest="other")) != name
    assert set(frozen_state(task)) == {"eyes.net.0.weight", "eyes.net.0.bias", "scale"}


def test_captions_that_are_cleaned_otherwise_are_encoded_anew(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stage, spec, plain = second(root), source().spec, identity(built(root), second(root), source().spec)
    for frozen in (lambda task: task, lambda task: task.upstream["eyes"]):
        names = set()
        for cleans in (True, False):
            task = built(root)
            frozen(task).words = TextTokenizer(8, train_bpe(["a"], 514), cleans=cleans)
            names.add(identity(task, stage, spec))
            assert identity(task, stage, spec) in names
        for name, value in (("CLEANING_VERSION", 99), ("version", lambda package: "0"), ("rules", lambda: normalizers.NFC())):
            with monkeypatch.context() as changed:
                changed.setattr(text_cleaning, name, value)
                text_cleaning.cleaning.cache_clear()
                frozen(task).words.cleans = True
                names.add(identity(task, stage, spec))
            text_cleaning.cleaning.cache_clear()
        assert len(names) == 5
        assert plain not in names


def test_encoders_restore_the_task_without_what_it_trains(root: Path) -> None:
    upstream = {"eyes": root / "eyes" / "checkpoints" / checkpoint.step_name(2)}
    stage, batch = second(root), next(source().batches("train", 8))
    fresh, blueprint = fresh_task(stage, recipe="encoders", source=source(), folder=root / "run", upstream=upstream)
    work = EncodingWork.of(stage, fresh, blueprint, root / "run", root / "data")
    task = work.restored()
    assert identity(task, stage, source().spec) == work.identity
    assert all(parameter.is_meta for parameter in task.player("net").parameters())
    assert torch.equal(task.encode(batch)["code"], fresh.encode(batch)["code"])


MEASURED = EncodingCosts(
    encode_ms=4.0, write_ms=1.0, read_ms=0.1, record_bytes=1000, free_bytes=10**9, samples_left=10_000, num_samples=1000, share=0.0
)  # fmt: skip


@pytest.mark.parametrize(
    ("change", "ahead", "words"),
    [
        ({}, True, "4 ms to encode, 1 ms to write and 0.1 ms to read; the run sees each 10.0 times, keeping all takes 0.00 of 1.00 GB free"),
        ({"samples_left": 1200}, False, "sees each sample 1.2 times"),
        ({"samples_left": 1200, "share": 0.9}, True, "1.2 times"),
        ({"samples_left": 100, "share": 0.9}, False, "0.1 times"),
        ({"read_ms": 4.0}, False, "reading is no faster than encoding"),
        ({"write_ms": 40.0}, False, "40 ms to write"),
        ({"free_bytes": 10**6}, False, "keeping it takes 0.00 GB and the disk has 0.00 GB free"),
        ({"free_bytes": 10**6, "share": 0.5}, True, ""),
    ],
)
def test_auto_weighs_what_it_measured(change: dict, ahead: bool, words: str) -> None:
    found, why = should_keep(replace(MEASURED, **change))
    assert found == ahead
    assert words in why


def lines(capsys: pytest.CaptureFixture) -> list[str]:
    return [line for line in capsys.readouterr().out.splitlines() if line.startswith("encoding ")]


def test_auto_says_what_it_chose_and_why(root: Path, capsys: pytest.CaptureFixture) -> None:
    train(root, "auto", slow(second(root, steps=8)))
    (line,) = lines(capsys)
    assert line.startswith(f"encoding ahead, kept in {root / 'encoded'}/")
    assert ": a sample takes " in line
    assert "the run sees each 2.2 times, keeping all takes 0.00 of " in line
    assert missing(root) == []


def test_auto_encodes_on_the_fly_where_nothing_can_be_kept(root: Path, capsys: pytest.CaptureFixture) -> None:
    (root / "encoded").write_text("no folder")
    train(root, "kept", second(root, steps=4))
    assert lines(capsys) == [f"encoding on the fly: nothing can be kept in {root / 'encoded'}: File exists"]


def test_auto_encodes_on_the_fly_what_it_sees_once(root: Path, capsys: pytest.CaptureFixture) -> None:
    train(root, "once", second(root, steps=3))
    assert lines(capsys) == ["encoding on the fly: the run sees 1,200 of 1,442 samples, each once"]
    assert kept(root) is None
    train(root, "nearly_once", second(root, steps=4))
    (line,) = lines(capsys)
    assert line.startswith("encoding on the fly: the run sees each sample 1.1 times; a sample takes ") or "reading is no faster" in line
    assert kept(root) is None


def auto_by_two(root: Path) -> None:
    train(root, "auto-two", slow(second(root)))


def test_all_ranks_do_what_one_chose(root: Path) -> None:
    run_ranks(2, auto_by_two, root)
    assert missing(root) == []


def test_no_way_to_keep_is_a_sentence_where_one_was_asked_for(root: Path, capsys: pytest.CaptureFixture) -> None:
    class Pictures(ArraySource):
        def batches(self, *arguments: object, **options: object):
            for batch in super().batches(*arguments, **options):  # type: ignore[arg-type]
                yield {**batch, "image": batch.pop("x").view(-1, 1, 8, 4).repeat(1, 1, 1, 2), "label": batch["position"] % 10}

    stage, upstream = second(root, encode="ahead", steps=2), {"eyes": root / "eyes" / "checkpoints" / checkpoint.step_name(2)}
    where = {"recipe": "encoders", "source": Pictures(), "folder": root / "toy", "device": CPU, "upstream": upstream}
    with pytest.raises(ValueError, match=r"train\.encode is ahead, but the samples of this source have no numbers .*; use fly"):
        fit(stage, **where)
    fit(replace(stage, train=replace(stage.train, encode="auto")), **where)
    assert lines(capsys) == ["encoding on the fly: the samples of this source have no numbers by which to keep what they are encoded to"]


def test_rows_say_the_same_either_way(root: Path) -> None:
    rows = []
    for way in ("fly", "ahead"):
        train(root, way, second(root, encode=way, evaluate_every_steps=2, steps=4))
        lines = [json.loads(line) for line in (root / way / "metrics.jsonl").read_text().splitlines()]
        rows.append([{name: value for name, value in line.items() if name.startswith(("train/", "val/"))} for line in lines])
    assert rows[0] == rows[1]
    assert "val/code" in rows[0][1]


def test_held_out_scores_are_of_the_very_values_that_the_engine_evaluates(root: Path) -> None:
    stage, task = second(root), built(root).eval()
    strategy = strategy_of("single", CPU)
    strategy.setup(task, stage.train)
    expected = evaluate(task, strategy, source(), stage.train)["val/code"]
    assert mean_values(task.eval(), source())[f"{source().spec.validation_name}/code"] == pytest.approx(expected, rel=1e-6)
