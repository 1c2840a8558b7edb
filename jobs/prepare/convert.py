"""A conversion: which parts there are, which are done, who writes the others, and what came of it.

The folder keeps a manifest of its job. The same command again writes the parts that are not whole; another one is refused.
"""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from cluster.parallel import parallel_map
from genlib.data.importers.convert import CONVERT_VERSION, ConversionInput, ConversionPlan, InputPart, PartRecord, finished, part_samples, write_part
from genlib.data.shards.shard_set import ShardSet
from genlib.data.shards.writer import UNFINISHED, write_facts
from genlib.files import read_regular, write_atomically
from genlib.json_text import json_text
from genlib.plurals import counted
from jobs.prepare.show import draw_sheet

_MANIFEST_BYTES = 64 << 20
_FEW_SAMPLES = 1000  # that are written sooner than Ray starts


@dataclass(frozen=True, kw_only=True, slots=True)
class Output:
    """Where samples go, and how."""

    out: Path
    """Folder for the shards, train-*.tar and validation-*.tar, for dataset.json and for contact_sheet.png."""
    size: int = 0
    """Pixels of the shorter side to which larger images shrink; 0 keeps every image as it is."""
    shard_mb: float = 256
    """Megabytes (2**20 bytes) after which a shard ends."""
    validation_share: float = 0.0
    """Share of samples that are held out, by a hash of their names."""

    def __post_init__(self) -> None:
        if self.size and not 4 <= self.size <= 8192:
            raise ValueError(f"--size {self.size} is out of range; choose 4 to 8192 pixels, or 0 to keep images as they are")
        if not 0 < self.shard_mb <= 1 << 20:
            raise ValueError(f"--shard-mb {self.shard_mb:g} is out of range; the usual is 256")
        if not 0 <= self.validation_share < 1:
            raise ValueError(f"--validation-share {self.validation_share:g} is out of range; it is a share like 0.01")


def convert(verb: str, source: ConversionInput, output: Output) -> str:
    """Writes what is not written yet, on Ray where there is much, and says in one line what came of it all."""
    out = output.out.absolute()
    with only_one(out):
        shard_bytes = round(output.shard_mb * 2**20)
        samples = begin(out, verb, source, output, shard_bytes)
        for left_over in out.glob(UNFINISHED):
            left_over.unlink(missing_ok=True)
        plan = ConversionPlan(out=out, read=source.read, size=output.size, shard_bytes=shard_bytes, validation_share=output.validation_share)
        total, resumed = run(plan, source, samples)
        if not sum(total.samples.values()):
            raise ValueError(f"{out}: none of the samples can be used: {bad_in_words(total)}")
        write_facts(out, **source.facts, **({"taken": source.said} if source.said else {}), samples=total.samples, bad=total.bad)
    draw_sheet(ShardSet.open([out / name for name in sorted(total.shards)]), out / "contact_sheet.png", 192)
    return in_words(total, resumed, source, out)


def run(plan: ConversionPlan, source: ConversionInput, samples: int) -> tuple[PartRecord, int]:
    """Writes the missing parts; what came of all of them, and how many were there before."""
    records: dict[int, PartRecord] = {}

    def todo() -> Iterator[InputPart]:
        for number, content in enumerate(source.cut(samples)):
            if record := finished(plan.out, number):
                records[number] = record
            else:
                yield InputPart(number, content)

    total = -(-source.total // samples) if source.total is not None else None
    before = sum(1 for _ in plan.out.glob("job/part-*.json"))
    label = f"writing {plan.out.name}"
    small = source.total is not None and source.total <= _FEW_SAMPLES
    todo_total = total and max(0, total - before)
    written = list(parallel_map(partial(numbered, plan), todo(), label=label, total=todo_total, local_below=1 << 30 if small else 2))
    resumed = len(records)
    records.update(written)
    result = PartRecord()
    for _, record in sorted(records.items()):
        result.add(record)
    return result, resumed


def numbered(plan: ConversionPlan, part: InputPart) -> tuple[int, PartRecord]:
    """Writes a part."""
    return part.number, write_part(plan, part)


def begin(out: Path, verb: str, source: ConversionInput, output: Output, shard_bytes: int) -> int:
    """Checks the folder's manifest, or writes it; the samples a part. ValueError where the folder holds something else."""
    path = out / "job" / "manifest.json"
    job = {
        "verb": verb, "version": CONVERT_VERSION, "size": output.size, "shard_mb": output.shard_mb,
        "validation_share": output.validation_share, "input": source.identity,
    }  # fmt: skip
    if path.is_file():
        return known(path, json.loads(json.dumps(job)))
    if any(out.glob("*.tar")):
        raise ValueError(f"{out} holds shards of another origin; give another --out")
    samples = part_samples(source, output.size, shard_bytes)
    write_atomically(path, json_text({**job, "samples_a_part": samples}, indent=1).encode() + b"\n")
    return samples


def known(path: Path, job: Mapping[str, Any]) -> int:
    """The samples a part of the job that the manifest tells of, where it is this one."""
    out = path.parent.parent
    try:
        manifest = json.loads(read_regular(path, _MANIFEST_BYTES))
        samples = int(manifest["samples_a_part"])
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{path} is not a manifest; delete {out}, or give another --out") from None
    for name, value in job.items():
        if manifest.get(name) != value:
            what = "the input has changed" if name == "input" else f"{name} was {manifest.get(name)} and is {value}"
            raise ValueError(f"{out} holds the output of another job ({what}); give another --out, or delete the folder")
    return samples


@contextmanager
def only_one(out: Path) -> Iterator[None]:
    """Holds the folder. ValueError where another process of this machine does."""
    (out / "job").mkdir(parents=True, exist_ok=True)
    with (out / "job" / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"another process writes to {out}; wait for it, or give another --out") from None
        yield


def bad_in_words(total: PartRecord) -> str:
    """Each reason with its count and first sample."""
    return "; ".join(f"{count:,} {reason}, first {total.first.get(reason, '?')}" for reason, count in sorted(total.bad.items()))


def in_words(total: PartRecord, resumed: int, source: ConversionInput, out: Path) -> str:
    """The one line of counts: samples seen are those that were written and those that are bad."""
    seen = sum(total.samples.values()) + sum(total.bad.values())
    samples = " and ".join(f"{count:,} {split}" for split, count in total.samples.items())
    shards, last = counted(len(total.shards), "shard"), [*total.samples.values()][-1:]
    megabytes = sum(total.shards.values()) / 1e6
    line = f"{samples} {'sample' if last == [1] else 'samples'} in {shards}, {megabytes:,.1f} MB; bad: {bad_in_words(total) or 'none'}"
    line += f"; {counted(seen, 'sample')} seen = {sum(total.samples.values()):,} used + {sum(total.bad.values()):,} bad"
    line += "".join(f"; {name}: {words}" for name, words in source.said.items())
    if resumed:
        line += f"; {counted(resumed, 'part was', 'parts were')} there already"
    return f"{line}; picture: {out / 'contact_sheet.png'}"
