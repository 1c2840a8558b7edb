"""Encoding before training by Ray Data, which goes on where it was cut off; a run finds what it made, with the same weights as on the fly."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from cluster.local import Head, local_head
from genlib import checkpoint
from genlib.data.encoded_set import EncodedShards
from genlib.data.source import open_source
from genlib.phases import PHASE
from tests.encoders import stages
from tests.jobs.runs import launch

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    with local_head(cpus=1, dashboard=False) as head:
        yield head


def weights(run: Path) -> dict[str, torch.Tensor]:
    return checkpoint.load_weights(max((run / "on_eyes" / "checkpoints").glob("step_*")))


def set_in(folder: Path) -> EncodedShards:
    (found,) = folder.iterdir()
    return open_source(stages()[0].data).encoded_set(found.name, str(folder))


@pytest.mark.slow
def test_encoding_by_itself_goes_on_and_a_run_finds_it(head: Head, tmp_path: Path) -> None:
    options = ("encoders", "--on_eyes.train.encoded_dir", str(tmp_path / "encoded"))
    code, out, err = launch("encode", *options, runs=tmp_path, RAY_ADDRESS=head.address)
    assert code == 2
    assert [line for line in out.splitlines() if not PHASE.fullmatch(line)] == []
    assert err == "stage eyes of run encoders is not trained, but others encode with it; train it first with `python jobs/train.py`\n"
    code, out, err = launch(*options, "--on_eyes.train.encode", "fly", runs=tmp_path, RAY_ADDRESS=head.address)
    assert (code, err) == (0, ""), out
    for shards in (6, 1):
        code, out, err = launch("encode", *options, runs=tmp_path, RAY_ADDRESS=head.address)
        assert (code, err) == (0, "")
        kept = set_in(tmp_path / "encoded")
        assert re.fullmatch(rf"encoded {shards} of 6 shards in \d+ s, kept in {kept.folder}", out.splitlines()[-1])
        assert kept.missing() == []
        if shards == 6:
            kept.path(1).unlink()
    code, out, err = launch("encode", *options, runs=tmp_path, RAY_ADDRESS=head.address)
    assert out.splitlines()[-1] == f"all samples are encoded already, in {kept.folder}"
    code, out, err = launch(*options, "--run", "again", runs=tmp_path, RAY_ADDRESS=head.address)
    assert (code, err) == (0, ""), out
    assert f"encoding ahead, kept in {kept.folder}: the samples were there" in out
    for name, value in weights(tmp_path / "encoders").items():
        torch.testing.assert_close(weights(tmp_path / "again")[name], value, atol=1e-6, rtol=0)
