"""Ten billion samples in a million shards over 4,096 ranks: what the order and the planning of reads cost.

The order and the choice of rows are the real code; the store is counted and not read. A shard holds 10,000 samples of 100 kB.
Mixing is the variance of a mean over batches, over that of as many uniform draws, for a quantity that is constant within a shard
(the worst case: a set sorted by class). It is compared with a reader that goes through shuffled shards, one a rank at a time, behind
a buffer of 5,000 samples, as webdataset's users do.

    OMP_NUM_THREADS=1 python -m tests.benchmarks.scale
"""

from __future__ import annotations

import pickle
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from itertools import islice
from pathlib import Path

import numpy as np

from genlib.data.index import shard_index
from genlib.data.index.storage_path import PathList
from genlib.data.order.sample_order import SampleOrder, block_samples
from genlib.data.shards.shard_set import ShardSet
from genlib.data.split import Split
from genlib.remote.remote_file import RemoteFile
from tests.data.shards import picture, write_tar

SHARDS, PER_SHARD, SAMPLE_BYTES = 10**6, 10**4, 10**5
WORLD, GLOBAL_BATCH = 4096, 4096 * 32
RANKS, STEPS = 8, 16  # looked at
BUFFER, BATCHES = 5_000, 100


def counted_set() -> ShardSet:
    """A set of that size whose indices are never asked for."""
    paths = PathList(RemoteFile(f"s3://bucket/set/{number:06d}.tar") for number in range(SHARDS))
    return ShardSet(
        paths=paths,
        filters=(),
        parts=[SHARDS],
        fields=["image", "text"],
        kinds={"image": "image", "text": "text"},
        stored=["image", "text"],
        common=["image", "text"],
        captions=None,
        json_texts=[],
        starts=np.arange(SHARDS + 1, dtype=np.int64) * PER_SHARD,
        num_bytes=SHARDS * PER_SHARD * SAMPLE_BYTES,
        bad=Counter(),
        first_bad={},
        joined={},
        filtered=0,
        seen=2 * SHARDS * PER_SHARD,
        unused=Counter(),
        endings=Counter(),
        channels=Counter(),
        sizes=[],
        highest_label=-1,
        digests=np.zeros(SHARDS, np.uint64),
        digest="",
    )


def resident_mb() -> float:
    """Memory of this process now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 1e6


def memory_mb(shards: ShardSet) -> float:
    """What the set adds to a fresh process that has the modules."""
    with tempfile.NamedTemporaryFile() as file:
        pickle.dump(shards, file)
        file.flush()
        done = subprocess.run([sys.executable, "-m", "tests.benchmarks.scale", file.name], check=True, capture_output=True, text=True)
        return float(done.stdout)


def mine(rank: int) -> slice:
    """A rank's rows of a global batch."""
    rows = -(-GLOBAL_BATCH // WORLD)
    return slice(rank * rows, (rank + 1) * rows)


def seconds_to_rows(split: Split, start: int) -> float:
    """Until a rank knows what to read, from nothing."""
    begin = time.perf_counter()
    next(split.rows(GLOBAL_BATCH, mine(77), start, 0))
    return time.perf_counter() - begin


def requests(split: Split) -> tuple[float, float]:
    """Segments that a rank asks for in a step, and bytes of them over bytes of its samples."""
    block, asked, used = split.order.block, 0, 0
    for rank in range(0, WORLD, WORLD // RANKS):
        segments: set[int] = set()
        for rows in islice(split.rows(GLOBAL_BATCH, mine(rank), 10**6 * GLOBAL_BATCH, 0), STEPS):
            segments |= set((rows.samples // block).tolist())
            used += len(rows.samples)
        asked += len(segments)
    return asked / (RANKS * STEPS), asked * block / used


def sidecar_mb() -> float:
    """A shard's index, which a rank reads as a whole to find any of its samples."""
    with tempfile.TemporaryDirectory() as folder:
        image = picture(kind="jpeg")
        samples = (((f"{number:09d}.jpg", image), (f"{number:09d}.txt", b"a caption")) for number in range(PER_SHARD))
        path = write_tar(Path(folder, "000000.tar"), [entry for sample in samples for entry in sample])
        shard_index.build(path)
        return path.with_name(f"{path.name}.idx").stat().st_size / 1e6


def load(split: Split) -> tuple[int, int]:
    """Distinct shards that one step of all ranks touches, and the most blocks that it wants of one shard."""
    samples = split.samples(np.arange(GLOBAL_BATCH), 0, GLOBAL_BATCH)
    blocks = Counter((np.unique(samples // split.order.block) * split.order.block // PER_SHARD).tolist())
    return len(blocks), max(blocks.values())


def spread(shards_of: np.ndarray) -> float:
    """Variance of the mean of a quantity that is constant within a shard, over that of uniform draws."""
    counts = np.bincount(np.unique(shards_of, return_inverse=True)[1])
    return float((counts.astype(np.float64) ** 2).sum() / counts.sum())


def ours(split: Split, batches: int) -> float:
    return spread(split.samples(np.arange(batches * GLOBAL_BATCH), 0, GLOBAL_BATCH) // PER_SHARD)


def buffered(batches: int) -> float:
    """Ranks that each read their own shuffled shards behind a shuffle buffer."""
    rng, each = np.random.default_rng(0), GLOBAL_BATCH // WORLD
    needed = BUFFER + batches * each
    own = rng.permutation(SHARDS)[: WORLD * -(-needed // PER_SHARD)].reshape(WORLD, -1)
    seen = []
    for shards in own:
        stream = np.repeat(shards, PER_SHARD)
        buffer = stream[:BUFFER].copy()
        for number in range(batches * each):
            place = rng.integers(BUFFER)
            seen.append(buffer[place])
            buffer[place] = stream[BUFFER + number]
    return spread(np.array(seen))


def main() -> None:
    shards = counted_set()
    split = Split("", shards, None, SampleOrder(len(shards), block_samples(len(shards), shards.num_bytes)))  # type: ignore[arg-type]
    touched, most = load(split)
    asked, amplified = requests(split)
    rows = {
        "memory of the set, MB a process": memory_mb(shards),
        "time to the first batch's rows, s": seconds_to_rows(split, 0),
        "time to seek to sample 4e9, s": seconds_to_rows(split, 4 * 10**9),
        "samples a block": split.order.block,
        "requests a rank and step": asked,
        "bytes fetched over bytes used": amplified,
        "index of a shard, MB": (sidecar := sidecar_mb()),
        "indices a rank reads for a step, MB": asked * sidecar,
        "requests a second at one step a second, all ranks": asked * WORLD,
        "distinct shards a step, all ranks": touched,
        "most blocks of one shard a step": most,
        "mixing of one batch, ours (1 is uniform)": ours(split, 1),
        "mixing of one batch, shuffle buffer": buffered(1),
        f"mixing of {BATCHES} batches, ours": ours(split, BATCHES),
        f"mixing of {BATCHES} batches, shuffle buffer": buffered(BATCHES),
    }
    for name, value in rows.items():
        print(f"{name:<55} {value:12,.3f}")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        before = resident_mb()
        kept = pickle.loads(Path(sys.argv[1]).read_bytes())
        print(resident_mb() - before)
    else:
        main()
