"""Encoding on the fly, kept in the first epoch or made before training gives the same weights; `auto` says what it chose."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from genlib import checkpoint
from genlib.data.caches.encoded import EncodedStore
from genlib.data.source import ShardSource, open_source
from genlib.engine.encoding import Ahead, EncodingCosts, frozen_state, identity, keep, should_keep
from genlib.engine.evaluate import evaluate
from genlib.engine.fit import fit, plan_encoding
from genlib.engine.strategies import strategy_of
from genlib.metrics.held_out import mean_values
from genlib.recipe import Stage
from genlib.task import Task, encode, encoded
from genlib.types import Batch
from jobs.encoder import restored
from tests.encoders import OnEyes, stages
from tests.processes import run_ranks
from tests.tiny import ArraySource

CPU = torch.device("cpu")
STEPS = 10  # of 400 samples: two epochs and a half of 1,442


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


def fill(work: Ahead) -> None:
    """As jobs/encode.py does, here."""
    there, task = source(), restored(work)
    store = there.encoded(work.identity, work.stage.train.encoded_dir)
    for batch in there.once(np.arange(there.num_samples("train")), 64, task.transform(train=True)):
        keep(store, batch, encode(task, batch))


def second(root: Path, **train: object) -> Stage:
    return stages(str(root / "calls"), **train)[1]


def without_dropout(stage: Stage) -> Stage:
    """Dropout is another one on every rank."""
    return replace(stage, task=replace(stage.task, dropout=0.0))


def calls(root: Path) -> list[int]:
    """Samples that were encoded since the last question, each as often as it was."""
    found = [int(word) for path in (root / "calls").iterdir() for word in path.read_text().split()]
    for path in (root / "calls").iterdir():
        path.unlink()
    return found


def stores(root: Path) -> list[EncodedStore]:
    return [EncodedStore(folder, 1442) for folder in (root / "encoded").glob("*")]


def assert_same(one: Path, other: Path) -> None:
    expected, found = checkpoint.load_weights(one), checkpoint.load_weights(other)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, atol=1e-6, rtol=0)


def test_every_way_gives_the_same_weights_and_encodes_as_often_as_it_says(root: Path) -> None:
    fly = train(root, "fly", second(root, encode="fly"))
    assert len(calls(root)) == STEPS * 400
    assert not stores(root)
    cached = train(root, "cache", second(root, encode="cache"))
    first = calls(root)
    assert sorted(set(first)) == list(range(1442))
    assert len(first) <= 8 * 400  # four batches hold them all, and as many may have been read ahead before those were there
    again = train(root, "again", second(root, encode="cache"))
    assert calls(root) == []
    shutil.rmtree(root / "encoded")
    ahead = train(root, "ahead", second(root, encode="ahead"), encode_ahead=fill)
    assert sorted(calls(root)) == list(range(1442))
    for other in (cached, again, ahead):
        assert_same(fly, other)


def train_by_two(root: Path) -> None:
    for way in ("fly", "cache", "ahead"):
        train(root, f"{way}-two", without_dropout(second(root, encode=way)), encode_ahead=fill)


def test_two_processes_equal_one_either_way(root: Path) -> None:
    run_ranks(2, train_by_two, root)
    alone = train(root, "alone", without_dropout(second(root, encode="fly")))
    for way in ("fly", "cache", "ahead"):
        assert_same(alone, root / f"{way}-two" / "checkpoints" / checkpoint.step_name(STEPS))


def test_a_run_goes_on_from_what_is_kept_and_in_another_way(root: Path) -> None:
    whole = train(root, "whole", second(root, encode="fly"))
    for before, after in (("cache", "cache"), ("cache", "fly"), ("fly", "cache")):
        folder = root / f"{before}-{after}"
        shutil.rmtree(root / "encoded", ignore_errors=True)
        train(root, folder.name, second(root, encode=before, keep_checkpoints=9))
        calls(root)
        shutil.rmtree(folder / "checkpoints" / checkpoint.step_name(STEPS))
        final = train(root, folder.name, second(root, encode=after))
        assert all(torch.equal(value, checkpoint.load_weights(final)[name]) for name, value in checkpoint.load_weights(whole).items())
        assert (calls(root) == []) == ((before, after) == ("cache", "cache"))


def test_damaged_records_are_made_again(root: Path) -> None:
    one = train(root, "one", second(root, encode="cache"))
    for path in (root / "encoded").glob("*/*/*"):
        data = np.fromfile(path, np.uint8)
        data[::1000] ^= 1
        data.tofile(path)
    calls(root)
    assert_same(one, train(root, "two", second(root, encode="cache")))
    assert calls(root)
    train(root, "three", second(root, encode="cache"))
    assert calls(root) == []


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


def test_memory_order_is_that_of_what_is_read_from_a_store() -> None:
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


def test_encoders_restore_the_task_without_what_it_trains(root: Path) -> None:
    upstream = {"eyes": root / "eyes" / "checkpoints" / checkpoint.step_name(2)}
    stage = second(root)
    work = plan_encoding(stage, recipe="encoders", source=source(), folder=root / "run", upstream=upstream)
    assert work is not None
    task, batch = restored(work), next(source().batches("train", 8))
    assert identity(task, stage, source().spec) == work.identity
    assert all(parameter.is_meta for parameter in task.player("net").parameters())
    other = built(root)
    other.prepare(source())
    assert torch.equal(task.encode(batch)["code"], other.encode(batch)["code"])
    assert plan_encoding(stages()[0], recipe="encoders", source=source(), folder=root / "run", upstream={}) is None


MEASURED = EncodingCosts(
    encode_ms=4.0, write_ms=1.0, read_ms=0.1, record_bytes=1000, free_bytes=10**9, samples_left=10_000, num_samples=1000, share=0.0
)  # fmt: skip


@pytest.mark.parametrize(
    ("change", "kept", "words"),
    [
        ({}, True, "4 ms to encode, 1 ms to write and 0.1 ms to read; the run sees each 10.0 times, keeping all takes 0.00 of 1.00 GB free"),
        ({"samples_left": 1000}, False, "sees each sample 1.0 times"),
        ({"samples_left": 1100}, False, "sees each sample 1.1 times"),
        ({"samples_left": 1100, "share": 0.9}, True, "1.1 times"),
        ({"read_ms": 4.0}, False, "reading is no faster than encoding"),
        ({"write_ms": 40.0}, False, "40 ms to write"),
        ({"free_bytes": 10**6}, False, "keeping it takes 0.00 GB and the disk has 0.00 GB free"),
        ({"free_bytes": 10**6, "share": 0.5}, True, ""),
    ],
)
def test_auto_weighs_what_it_measured(change: dict, kept: bool, words: str) -> None:
    found, why = should_keep(replace(MEASURED, **change))
    assert found == kept
    assert words in why


def lines(capsys: pytest.CaptureFixture) -> list[str]:
    return [line for line in capsys.readouterr().out.splitlines() if line.startswith("encoding ")]


def test_auto_says_what_it_chose_and_why(root: Path, capsys: pytest.CaptureFixture) -> None:
    slow = second(root, steps=STEPS)
    slow = replace(slow, task=replace(slow.task, repeats=20))
    final = train(root, "auto", slow)
    (line,) = lines(capsys)
    (store,) = stores(root)
    assert line.startswith(f"encoding once, kept in {store.folder}: a sample takes ")
    assert "the run sees each 2.8 times, keeping all takes 0.00 of " in line
    assert store.share() == 1
    assert_same(train(root, "fly", replace(slow, train=replace(slow.train, encode="fly"))), final)
    capsys.readouterr()
    train(root, "more", slow)
    assert lines(capsys) == [f"encoding once, kept in {store.folder}: the samples were there"]


def test_auto_encodes_on_the_fly_where_nothing_can_be_kept(root: Path, capsys: pytest.CaptureFixture) -> None:
    (root / "encoded").write_text("no folder")
    kept = train(root, "kept", second(root))
    (line,) = lines(capsys)
    assert line.startswith(f"encoding on the fly: nothing can be kept in {root / 'encoded'}")
    assert_same(kept, train(root, "fly", second(root, encode="fly")))


def test_auto_encodes_on_the_fly_what_it_sees_once(root: Path, capsys: pytest.CaptureFixture) -> None:
    train(root, "once", second(root, steps=3))
    assert lines(capsys) == ["encoding on the fly: the run sees 1,200 of 1,442 samples, each once"]
    assert not stores(root)


def test_auto_takes_away_what_it_tried_in_vain(root: Path, capsys: pytest.CaptureFixture) -> None:
    train(root, "nearly_once", second(root, steps=4))
    (line,) = lines(capsys)
    assert line.startswith("encoding on the fly: the run sees each sample 1.1 times; a sample takes ") or "reading is no faster" in line
    assert not stores(root)


def auto_by_two(root: Path) -> None:
    slow = second(root)
    train(root, "auto-two", replace(slow, task=replace(slow.task, repeats=20)))


def test_all_ranks_do_what_one_chose(root: Path) -> None:
    run_ranks(2, auto_by_two, root)
    (store,) = stores(root)
    assert store.share() == 1


def test_no_way_to_keep_is_a_sentence_where_one_was_asked_for(root: Path, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(ValueError, match=r"train\.encode is ahead, but only jobs/train\.py can encode before training; use fly"):
        train(root, "ahead", second(root, encode="ahead"))

    class Pictures(ArraySource):
        def batches(self, *arguments: object, **options: object):
            for batch in super().batches(*arguments, **options):  # type: ignore[arg-type]
                yield {**batch, "image": batch.pop("x").view(-1, 1, 8, 4).repeat(1, 1, 1, 2), "label": batch["position"] % 10}

    stage, upstream = second(root, encode="cache", steps=2), {"eyes": root / "eyes" / "checkpoints" / checkpoint.step_name(2)}
    where = {"recipe": "encoders", "source": Pictures(), "folder": root / "toy", "device": CPU, "upstream": upstream}
    with pytest.raises(ValueError, match=r"train\.encode is cache, but the samples of this source have no numbers"):
        fit(stage, **where)
    fit(replace(stage, train=replace(stage.train, encode="auto")), **where)
    assert lines(capsys) == ["encoding on the fly: the samples of this source have no numbers by which to keep what they are encoded to"]


def test_a_failure_ahead_reaches_every_rank(root: Path) -> None:
    def broken(work: Ahead) -> None:
        raise OSError("no encoder answers")

    with pytest.raises(OSError, match="no encoder answers"):
        train(root, "broken", second(root, encode="ahead"), encode_ahead=broken)
    assert_same(train(root, "broken", second(root, encode="ahead"), encode_ahead=fill), train(root, "fly", second(root, encode="fly")))


def test_rows_say_the_same_either_way(root: Path) -> None:
    rows = []
    for way in ("fly", "cache"):
        train(root, way, second(root, encode=way, evaluate_every_steps=2))
        lines = [json.loads(line) for line in (root / way / "metrics.jsonl").read_text().splitlines()]
        rows.append([{name: value for name, value in line.items() if name.startswith(("train/", "val/"))} for line in lines])
    assert rows[0] == rows[1]
    assert "val/code" in rows[0][1]


def test_held_out_scores_are_of_the_very_values_that_the_engine_evaluates(root: Path) -> None:
    stage, task = second(root), built(root).eval()
    strategy = strategy_of("single", CPU)
    strategy.setup(task, stage.train)
    expected = evaluate(task, strategy, source(), stage.train)["val/code"]
    assert mean_values(task.eval(), source())[f"{source().spec.validation_name}/code"] == pytest.approx(expected, rel=1e-7)
