"""Encoding before training by Ray Data: as part of a run that holds every CPU, and by itself; the same weights as on the fly."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from cluster.local import Head, local_head
from genlib import checkpoint
from genlib.data.caches.encoded import EncodedStore
from tests.jobs.runs import launch

pytestmark = pytest.mark.ray
SAMPLES = 1442
DONE = r"encoded 1,442 samples in \d+ s, kept in "


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    with local_head(cpus=1, dashboard=False) as head:
        yield head


def weights(run: Path) -> dict[str, torch.Tensor]:
    return checkpoint.load_weights(max((run / "on_eyes" / "checkpoints").glob("step_*")))


def assert_same(one: Path, other: Path) -> None:
    for name, value in weights(one).items():
        torch.testing.assert_close(weights(other)[name], value, atol=1e-6, rtol=0)


def store_in(folder: Path) -> EncodedStore:
    (found,) = folder.glob("*")
    return EncodedStore(found, SAMPLES)


@pytest.mark.slow
def test_a_run_encodes_ahead_where_it_holds_every_cpu(head: Head, tmp_path: Path) -> None:
    ahead = ("encoders", "--run", "ahead", "--on_eyes.train.encode", "ahead", "--on_eyes.train.encoded_dir", str(tmp_path / "encoded"))
    code, out, err = launch(*ahead, runs=tmp_path, RAY_ADDRESS=head.address)
    assert (code, err) == (0, ""), out
    assert re.search(DONE + re.escape(str(tmp_path / "encoded")), out)
    assert store_in(tmp_path / "encoded").read(np.arange(SAMPLES)) is not None
    code, out, err = launch("encoders", "--run", "fly", "--on_eyes.train.encode", "fly", runs=tmp_path, RAY_ADDRESS=head.address)
    assert (code, err) == (0, ""), out
    assert_same(tmp_path / "fly", tmp_path / "ahead")


@pytest.mark.slow
def test_encoding_by_itself_goes_on_and_a_run_finds_it(head: Head, tmp_path: Path) -> None:
    options = ("encoders", "--on_eyes.train.encoded_dir", str(tmp_path / "encoded"))
    code, out, err = launch("encode", *options, runs=tmp_path, RAY_ADDRESS=head.address)
    assert (code, out) == (2, "")
    assert err == "stage eyes of run encoders is not trained, but others encode with it; train it first with jobs/train.py\n"
    code, out, err = launch(*options, "--on_eyes.train.steps", "1", runs=tmp_path, RAY_ADDRESS=head.address)
    assert (code, err) == (0, ""), out
    for attempt in range(2):  # the second finds half of it
        code, out, err = launch("encode", *options, runs=tmp_path, RAY_ADDRESS=head.address)
        assert (code, err) == (0, "")
        assert re.match(DONE, out.splitlines()[-1])
        store = store_in(tmp_path / "encoded")
        assert store.read(np.arange(SAMPLES)) is not None
        if not attempt:
            (path,) = store.folder.glob("*/00000001")
            path.unlink()
    code, out, err = launch("encode", *options, runs=tmp_path, RAY_ADDRESS=head.address)
    assert out == f"all 1,442 samples are encoded already, in {store.folder}\n"
    code, out, err = launch(*options, runs=tmp_path, RAY_ADDRESS=head.address)
    assert (code, err) == (0, ""), out
    assert "encoding once, kept in" in out
    assert "the samples were there" in out
