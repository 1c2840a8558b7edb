"""Rows "reader" and "index building" of the performance table: CPU seconds a sample, ours over each peer, on the same tars in one run.

Peers that are not installed are passed over with a line; mosaicml-streaming wants an older numpy and gets an environment of its own,
made once in the cache folder. data_peers.py says what every side does. Rounds of all sides in turn.

    OMP_NUM_THREADS=1 python -m tests.benchmarks.data [index] [64] [256]
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

from genlib.data.shards.shard_set import ShardSet
from genlib.files import cache_folder
from tests.benchmarks import data_sets
from tests.benchmarks.measure import report

ROOT = Path(__file__).parents[2]
ROUNDS = int(os.environ.get("BENCH_ROUNDS", "3"))
SAMPLES = {64: 16_000, 256: 4_000}
SHARDS = 8
INDEX_SAMPLES_PER_CPU_SECOND = 40_000
PEERS = {"webdataset": "webdataset", "huggingface": "datasets", "ray_data": "ray"}
"""Side and the package it needs."""
MUST = {(64, "webdataset"): 1 / 4, (256, "webdataset"): 1 / 2}
"""The reader's goals by size and peer; ahead of all others."""
MDS = ("torch==2.13.0", "numpy<2.2", "pillow", "brotli", "python-snappy", "tqdm", "xxhash<4", "zstd<2", "catalogue<3", "transformers<5")


def say(words: str) -> None:
    """A line for who waits."""
    print(words, file=sys.stderr, flush=True)


def mds_python() -> str | None:
    """Python of the environment with mosaicml-streaming, made where there is none. Without its stores, which local shards do not need."""
    folder = cache_folder() / "bench-mds"
    python = folder / "bin" / "python"
    if not (folder / "ready").exists():
        pip = [str(python), "-m", "pip", "install", "--quiet"]
        try:
            subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True, stdout=sys.stderr)
            subprocess.run([*pip, *MDS], check=True, stdout=sys.stderr)
            subprocess.run([*pip, "--no-deps", "mosaicml-streaming==0.13.0"], check=True, stdout=sys.stderr)
            (folder / "ready").touch()
        except (OSError, subprocess.CalledProcessError) as error:
            say(f"mds: passed over, its environment could not be made: {error}")
            return None
    return str(python)


def run(python: str, side: str, folder: Path, pixels: int) -> float | None:
    """CPU seconds a sample of one side; None where it failed."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore", "GENLIB_CACHE": str(folder.parent / "cache")}
    command = [python, "-m", "tests.benchmarks.data_peers", side, str(folder), str(pixels)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    rows = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    if not rows:
        say(f"{side}: passed over: {(done.stderr.strip().splitlines() or ['no output'])[-1]}")
        return None
    return rows[0]["cpu_seconds"] / rows[0]["samples"]


def pythons() -> dict[str, str]:
    """Which Python runs each side that can run here."""
    found = dict.fromkeys(("ours", "ours_readers", "ours_cached"), sys.executable)
    for side, package in PEERS.items():
        if find_spec(package):
            found[side] = sys.executable
        else:
            say(f"{side}: passed over, {package} is not installed; pip install 'genlib[bench]' has it")
    if python := mds_python():
        found["mds"] = python
    return found


def readers(temporary: Path, pixels: int) -> None:
    """One row for each of ours over each peer."""
    folder = data_sets.write(temporary / f"{pixels}", pixels, SAMPLES[pixels], SHARDS)
    data_sets.write(folder / "warm", pixels, SAMPLES[pixels] // SHARDS, 2)
    ShardSet.open(sorted(folder.glob("*.tar")))  # the index has a row of its own
    sides = pythons()
    rounds: list[dict[str, float]] = []
    for _ in range(ROUNDS):
        taken = {side: run(python, side, folder, pixels) for side, python in sides.items()}
        rounds.append({side: seconds for side, seconds in taken.items() if seconds})
        sides = {side: python for side, python in sides.items() if taken[side]}
    for mine in (side for side in sides if side.startswith("ours")):
        for peer in (side for side in sides if not side.startswith("ours")):
            rates = {name: round(1 / min(each[side] for each in rounds)) for name, side in (("ours", mine), ("reference", peer))}
            facts = {f"{name}_samples_per_cpu_second": rate for name, rate in rates.items()}
            ratios = [each[mine] / each[peer] for each in rounds]
            report(f"reader {pixels} px, {mine} over {peer}", ratios, must=MUST.get((pixels, peer), 1.0), **facts)
    shutil.rmtree(folder)


def indexing(temporary: Path) -> None:
    """Indexing of new shards against the wanted rate."""
    for name, form in (("ustar", tarfile.USTAR_FORMAT), ("PAX", tarfile.PAX_FORMAT)):
        folder = data_sets.write(temporary / name, 64, SAMPLES[64], SHARDS, form)
        paths, rates = sorted(folder.glob("*.tar")), []
        for _ in range(max(ROUNDS, 3)):
            for sidecar in folder.glob("*.idx"):
                sidecar.unlink()
            start = time.process_time()
            assert len(ShardSet.open(paths)) == SAMPLES[64]
            rates.append(SAMPLES[64] / (time.process_time() - start))
        name = f"index building, {name}: CPU seconds over {INDEX_SAMPLES_PER_CPU_SECOND:,} samples a second"
        report(name, [INDEX_SAMPLES_PER_CPU_SECOND / rate for rate in rates], must=1.0, samples_per_cpu_second=round(max(rates)))
        shutil.rmtree(folder)


def main(words: list[str]) -> None:
    """Prints the rows that are named, or all."""
    with tempfile.TemporaryDirectory() as temporary:
        if not words or "index" in words:
            indexing(Path(temporary))
        for pixels in SAMPLES:
            if not words or str(pixels) in words:
                readers(Path(temporary), pixels)


if __name__ == "__main__":
    main(sys.argv[1:])
