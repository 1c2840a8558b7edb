"""Writing a checkpoint: beside its name, every rank its own part, fsynced, renamed."""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from genlib.checkpoint.history import checkpoints, clear, remove, set_aside
from genlib.checkpoint.manifest import DIGEST, EMA, FORMAT, MANIFEST, WEIGHTS, Manifest, sha256, step_name, verify, write_manifest
from genlib.checkpoint.place import Place
from genlib.checkpoint.stored import StoredHistory
from genlib.checkpoint.tensor_files import Extent, FileLayout, Shard, files_to_write
from genlib.config import TaskConfig, TrainConfig, to_json
from genlib.distributed import Sideline
from genlib.storage import share

_CHUNK_BYTES = 64 << 20
"""Of what ranks send each other, in the memory of both."""


@dataclasses.dataclass(frozen=True, slots=True)
class Snapshot:
    """One rank's part of a checkpoint, in memory of the host that nothing changes until it is saved."""

    manifest: Manifest
    tensors: Mapping[str, Tensor]
    """The task's full state dict, of which types and shapes alone are used."""
    weights: Sequence[Shard]
    ema: Sequence[Shard] | None
    state: Sequence[Shard]
    """Of the optimizers, each named for the tensor of which it is a piece."""
    rows: Callable[[Path], None]
    """Keeps rows of metrics that have no other place yet in a folder."""


def save(folder: Path, snapshot: Snapshot, ranks: Sideline, stored: StoredHistory | None = None) -> tuple[Path, Manifest]:
    """Writes checkpoint `step_XXXXXXXX` into `folder`, which all ranks see, and returns it with its manifest; all ranks call it, each with its part.

    stored: the store that the checkpoint is brought into beside that; ranks may then have folders of their own, and what each is left with there
    may lack files of other nodes. OSError on every rank if any rank could not write; what was written is removed. ValueError where weights are
    not finite.
    """
    return _Save(folder, snapshot, ranks, stored).run()


class _Save:
    def __init__(self, folder: Path, snapshot: Snapshot, ranks: Sideline, stored: StoredHistory | None = None) -> None:
        self.folder, self.snapshot, self.ranks, self.stored = folder, snapshot, ranks, stored
        self.place = stored.place if stored else Place(tuple(range(ranks.world)), ranks.rank, ranks.world)
        self.final = folder / step_name(snapshot.manifest.step)
        self.partial = folder / f".{self.final.name}.partial"
        self.weights = [
            (FileLayout(snapshot.tensors, stem), shards) for stem, shards in ((WEIGHTS, snapshot.weights), (EMA, snapshot.ema)) if shards is not None
        ]
        pieces = {f"{shard.name}@{shard.offset}": shard.tensor for shard in snapshot.state}
        self.state = FileLayout(pieces, f"state/rank_{ranks.rank:05d}"), [Shard(name, 0, tensor) for name, tensor in pieces.items()]
        self.digests: dict[str, str] = {}

    def run(self) -> tuple[Path, Manifest]:
        if refusal := next(filter(None, self.ranks.gather(not_finite(self.snapshot.weights))), ""):
            raise ValueError(refusal)
        for work in (self.create, self.write, self.exchange, self.digest, self.upload, self.seal, self.keep):
            problems = self.ranks.gather(_attempt(work))
            if any(problems):
                if self.place.lead:
                    clear(self.partial)
                where = self.stored.store if self.stored else self.folder
                raise OSError(f"checkpoint {self.final.name} could not be written to {where}: {next(filter(None, problems))}")
        return self.final, self.manifest

    def create(self) -> None:
        """The folder, and where rank 0 is the files of weights, which have no values yet."""
        if not self.place.lead:
            return
        clear(self.partial)
        for folder in (self.partial, self.partial / "state"):
            folder.mkdir(exist_ok=True)  # without parents: the folder of a run that was removed is not made again
        if self.place.first:
            for layout, _ in self.weights:
                layout.create(self.partial)
        if self.stored and not self.ranks.rank:
            self.stored.begin(self.final.name)

    def write(self) -> None:
        """This rank's part, as far as its file is in this rank's folder."""
        self.state[0].create(self.partial)
        for layout, shards in (*(self.weights if self.place.first else ()), self.state):
            layout.write(self.partial, shards)
        self.snapshot.rows(self.partial / "state")

    def exchange(self) -> None:
        """Brings pieces of weights from ranks that do not see the folder of rank 0 into the files there, one rank after the other."""
        pieces = [] if self.place.first else [piece for layout, shards in self.weights for piece in layout.extents(shards)]
        if self.place.whole:
            return
        everyones = self.ranks.gather([extent for extent, _ in pieces])
        if not self.place.first:
            for values in in_chunks(pieces):
                self.ranks.send(values, 0)
        elif not self.ranks.rank:
            receive_pieces(self.partial, everyones, self.ranks)

    def digest(self) -> None:
        """Every rank hashes its share of the files that it sees."""
        self.digests = _digests(self.partial, self.place.share(_files(self.partial)))

    def upload(self) -> None:
        """Every rank brings up what it has hashed."""
        if self.stored:
            self.stored.upload(self.partial, self.final.name, list(self.digests))

    def seal(self) -> None:
        """The manifest, and the name under which the checkpoint is one."""
        files = {name: digest for one in self.ranks.gather(self.digests) for name, digest in one.items()}
        self.manifest = dataclasses.replace(self.snapshot.manifest, files=dict(sorted(files.items())))
        if self.stored:
            if self.place.lead:
                share(self.partial)
                write_manifest(self.partial, self.manifest)
            if not self.ranks.rank:
                self.stored.seal(self.partial, self.final.name)
        elif not self.ranks.rank:
            _seal(self.partial, self.final, self.manifest)

    def keep(self) -> None:
        """What of a checkpoint in a store stays here."""
        if self.stored and self.place.lead:
            self.stored.keep_here(self.partial, self.final)


def in_chunks(pieces: Sequence[tuple[Extent, memoryview]]) -> Iterator[Tensor]:
    """The bytes of all pieces one after the other, `_CHUNK_BYTES` at a time, the last time fewer; a chunk is to be used before the next one."""
    chunk, filled = np.empty(_CHUNK_BYTES, dtype=np.uint8), 0
    for (_, _, size), values in pieces:
        done = 0
        while done < size:
            step = min(size - done, _CHUNK_BYTES - filled)
            chunk[filled : filled + step] = values[done : done + step]
            filled, done = filled + step, done + step
            if filled == _CHUNK_BYTES:
                yield torch.from_numpy(chunk)
                filled = 0
    if filled:
        yield torch.from_numpy(chunk[:filled])


def receive_pieces(folder: Path, everyones: Sequence[Sequence[Extent]], ranks: Sideline) -> None:
    """Writes what each rank sends to the extents that it named. Where the disk takes no more, the rest is still heard, as ranks wait to send it."""
    problem: OSError | None = None
    with files_to_write(folder) as write:
        for sender, extents in enumerate(everyones):
            to_come, extent = iter(extents), ("", 0, 0)
            left = sum(size for _, _, size in extents)
            while left:
                chunk = torch.empty(min(left, _CHUNK_BYTES), dtype=torch.uint8)
                ranks.receive(chunk, sender)
                left, values = left - chunk.numel(), chunk.numpy().data
                while len(values):
                    file, begin, size = extent = extent if extent[2] else next(to_come)
                    step = min(size, len(values))
                    try:
                        write(extent, values[:step])
                    except OSError as error:
                        problem = problem or error
                    values, extent = values[step:], (file, begin + step, size - step)
    if problem:
        raise problem


def inherit(donor: Path, folder: Path, task: TaskConfig, train: TrainConfig) -> Path:
    """Makes a verified checkpoint of another run with other settings the newest of `folder`, as if it had been trained there with these.

    Weights, moving average, optimizer state and position stay; what was in `folder` goes. One process alone.
    """
    verify(donor)
    final, partial = folder / donor.name, folder / f".{donor.name}.partial"
    clear(partial)
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copytree(donor, partial)
    manifest = verify(partial)  # before the files are hashed anew: the donor's run goes on meanwhile, and a copy may go wrong
    blueprint = dataclasses.replace(manifest.blueprint, task=to_json(task))
    for name in (MANIFEST, DIGEST):
        (partial / name).unlink(missing_ok=True)
    for path in checkpoints(folder):
        remove(path)
    files = _digests(partial, _files(partial))
    _seal(partial, final, dataclasses.replace(manifest, blueprint=blueprint, train=to_json(train), format=FORMAT, files=files))
    return final


def _attempt(work: Callable[[], None]) -> str:
    """Empty, or what the file system said."""
    try:
        work()
    except OSError as error:
        return str(error) or type(error).__name__
    return ""


def seal_export(folder: Path, manifest: Manifest) -> None:
    """Makes an export verify as a checkpoint does, whose task `load_pretrained` fills: of the files that lie in its folder."""
    for name in (MANIFEST, DIGEST):
        (folder / name).unlink(missing_ok=True)
    share(folder)
    write_manifest(folder, dataclasses.replace(manifest, files=_digests(folder, _files(folder)), format=FORMAT))


def _files(folder: Path) -> list[str]:
    """Every file below it."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def _digests(folder: Path, names: Sequence[str]) -> dict[str, str]:
    """sha256 of the files."""
    with ThreadPoolExecutor() as pool:
        return dict(zip(names, pool.map(lambda name: sha256(folder / name), names), strict=True))


def _seal(partial: Path, final: Path, manifest: Manifest) -> None:
    """Manifest last, rename. What stands in the place, which no run would have left there, is kept under another name."""
    share(partial)
    write_manifest(partial, manifest)
    for path in (partial / MANIFEST, partial / DIGEST, partial / "state", partial):
        _sync(path)
    if os.path.lexists(final):
        set_aside(final, "a new checkpoint takes its place")
    os.rename(partial, final)
    _sync(final.parent)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def not_finite(weights: Iterable[Shard]) -> str:
    """A sentence naming the first weight with a value that is not finite; empty where all are finite."""
    for shard in weights:
        values = shard.tensor
        if values.is_floating_point() and values.numel() and not torch.stack(values.aminmax()).isfinite().all():
            return f"weight {shard.name} has values that are not finite, so the checkpoint is not saved; lower the learning rate or clip gradients"
    return ""
