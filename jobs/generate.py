"""Makes many pictures from a checkpoint over all workers: `python jobs/generate.py runs/sdxl --prompts prompts.txt --out pictures`.

The prompt file has a prompt a line, or in a .jsonl an object a line: {"prompt": ..., "seed": ...} or {"label": ..., "seed": ...}. Picture
i is a function of its prompt, its seed and the options alone, whoever makes it; what is there already is not made again, so the same
command goes on after any kill. `--format shards` writes WebDataset tars that training reads.
"""

from __future__ import annotations

if __name__ == "__main__":  # before imports that take a second
    from cluster.quiet import ends_quietly

    ends_quietly()
    import genlib.phases  # noqa: F401 whose clock begins

import argparse
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import torch

from cluster.parallel import once_connected, parallel_map
from cluster.signals import keeps
from genlib import checkpoint
from genlib.data.shards.writer import ShardWriter, png
from genlib.files import write_atomically
from genlib.inference import TYPES, Inference
from genlib.json_text import json_text
from genlib.metrics.conditions import drawing, sampler_options
from genlib.phases import phase
from genlib.plurals import counted
from genlib.program import command
from genlib.task import Task
from jobs.command_form import Typed
from jobs.evaluate import located, whole_number
from jobs.exit_codes import exit_code
from jobs.option_errors import Arguments
from jobs.run_copy import Named, at_hand, run_argument
from jobs.run_folder import only_one, read_json, write_json

PORTS = {"prompt": "texts", "label": "label", "seed": "seeds"}
"""What lines of the prompt file say, and the kinds of ports that take it."""
NOTE = "generate.json"
"""In the output: what the pictures are of."""


@dataclass(frozen=True, slots=True)
class PictureOrder:
    """All pictures that are to be made."""

    final: Path
    """The checkpoint."""
    out: Path
    shards: bool
    asked: tuple[dict[str, Any], ...]
    """What each line of the prompt file says: `prompt` or `label`, and perhaps `seed`."""
    each: int
    """Pictures of each line."""
    seed: int
    options: tuple[tuple[str, Any], ...]
    block: int
    """Pictures that are made at a time, and lie in a shard."""
    inference: Inference

    def __len__(self) -> int:
        return len(self.asked) * self.each

    def facts(self, number: int) -> dict[str, Any]:
        """What picture `number` is made of."""
        line = self.asked[number // self.each]
        return {**line, "seed": line.get("seed", self.seed) + (number % self.each if "seed" in line else number)}

    @property
    def blocks(self) -> range:
        """All blocks."""
        return range(-(-len(self) // self.block))

    def numbers(self, block: int) -> range:
        """The pictures of a block."""
        return range(block * self.block, min(len(self), (block + 1) * self.block))

    def path(self, number: int) -> Path:
        """Where a picture goes in a folder."""
        return self.out / f"{number:08d}.png"

    def shard(self, block: int) -> Path:
        """Where a block goes in shards."""
        return self.out / f"train-{block:05d}.tar"

    def missing(self, block: int) -> list[int]:
        """The pictures of a block that are not there."""
        if self.shards:
            return [] if self.shard(block).exists() else list(self.numbers(block))
        return [number for number in self.numbers(block) if not self.path(number).exists()]


@lru_cache(1)
def loaded(final: Path, inference: Inference) -> Task:
    """The checkpoint's task, once a process."""
    task, device = checkpoint.load_task(final, ema=True), "cuda" if torch.cuda.is_available() else "cpu"
    inference.prepare(task, device)
    return task.to(device)


def make(block: int, order: PictureOrder) -> int:
    """Makes and writes the pictures of a block that are not there; how many."""
    numbers = order.missing(block)
    task, facts = loaded(order.final, order.inference), [order.facts(number) for number in numbers]
    draw = drawing(task)
    arguments = {draw.named(PORTS[name]): [fact[name] for fact in facts] for name in facts[0]}
    pictures = order.inference.apply(task.device, task.generate, **arguments, **dict(order.options))  # type: ignore[arg-type]
    files = [png((picture.permute(1, 2, 0).clamp(0, 1) * 255 + 0.5).byte().cpu().numpy()) for picture in pictures]
    if order.shards:
        write_shard(order, block, files, facts)
    else:
        for number, content, fact in zip(numbers, files, facts, strict=True):
            write_atomically(order.path(number).with_suffix(".json"), (json_text(fact) + "\n").encode())
            write_atomically(order.path(number), content)
    return len(files)


def write_shard(order: PictureOrder, block: int, files: Sequence[bytes], facts: Sequence[dict[str, Any]]) -> None:
    """A tar of the block, which gets its name once it is whole."""
    hidden = order.out / f".{order.shard(block).stem}"
    shutil.rmtree(hidden, ignore_errors=True)
    writer = ShardWriter(hidden, "block", max_count=len(files), max_bytes=1 << 40)
    for number, content, fact in zip(order.numbers(block), files, facts, strict=True):
        text = {"txt": fact["prompt"].encode()} if "prompt" in fact else {"cls": str(fact["label"]).encode()} if "label" in fact else {}
        writer.write(f"{number:08d}", {"png": content, **text, "json": json_text(fact).encode()})
    (written,) = writer.commit()
    os.replace(written, order.shard(block))
    shutil.rmtree(hidden, ignore_errors=True)


def read_prompts(path: Path, kind: str) -> list[dict[str, Any]]:
    """The lines of a prompt file as `prompt` or `label`, whatever the model takes. ValueError names the first line that is wrong."""
    try:
        text = path.read_bytes().decode("utf-8-sig").replace("\r", "\n")
        lines = [(number, line.strip()) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"--prompts {path} cannot be read ({type(error).__name__}); name a text file with a prompt a line") from None
    if not lines:
        raise ValueError(f"--prompts {path} is empty; write a prompt a line")
    return [one_line(line, number, path, kind) for number, line in lines]


def one_line(line: str, number: int, path: Path, kind: str) -> dict[str, Any]:
    """What one line asks for."""
    if path.suffix == ".jsonl":
        try:
            values = json.loads(line)
        except ValueError:
            values = None
        if not isinstance(values, dict) or kind not in values or not set(values) <= {kind, "seed"} or type(values.get("seed", 0)) is not int:
            raise ValueError(f'{path}, line {number}: {line[:60]!r} is no object like {{"{kind}": ..., "seed": 0}}')
    else:
        values = {kind: line}
    if kind == "prompt" and not (isinstance(values[kind], str) and values[kind].strip()):
        raise ValueError(f"{path}, line {number}: the prompt is {json.dumps(values[kind])[:60]}; it must be a text that is not empty")
    if kind == "label" and not str(values[kind]).isdecimal():
        raise ValueError(f"{path}, line {number}: {values[kind]!r} is no label; this model makes pictures of the numbers of classes")
    return {**values, kind: int(values[kind]) if kind == "label" else str(values[kind])}


def ordered(options: argparse.Namespace) -> PictureOrder:
    """What the command line asks for. ValueError in one sentence where it cannot be done."""
    final, _ = located(at_hand(options.folder))
    inference = Inference(options.precision, options.compile)
    task = loaded(final, inference)
    draw = drawing(task)
    kind = next((name for name in ("prompt", "label") if draw.named(PORTS[name])), "")
    if kind and options.prompts is None:
        raise ValueError(f"{type(task).__name__} makes pictures by {kind}; name a file with one a line with --prompts")
    if options.prompts is not None and not kind:
        raise ValueError(f"{type(task).__name__} makes pictures of nothing in particular, so it takes no --prompts; say how many with --each")
    asked = read_prompts(options.prompts, kind) if options.prompts else [{}]
    chosen = sampler_options(task, options.sampler)
    return PictureOrder(
        final.absolute(), options.out.absolute(), options.format == "shards", tuple(asked), options.each, options.seed, tuple(chosen.items()),
        options.block, inference,
    )  # fmt: skip


def note(order: PictureOrder) -> dict[str, Any]:
    """What must not change between a run and its resumption."""
    manifest = checkpoint.read_manifest(order.final)
    return {
        "weights": manifest.weights_digest,
        "prompts": hashlib.sha256(json.dumps(order.asked, sort_keys=True).encode()).hexdigest(), "each": order.each, "seed": order.seed,
        "format": "shards" if order.shards else "folder", "block": order.block, "options": dict(order.options),
        "precision": order.inference.precision,
    }  # fmt: skip


def check_same_order(order: PictureOrder, now: dict[str, Any], again: str) -> None:
    """Notes what the folder holds, and the command. ValueError where it holds pictures of something else."""
    before = read_json(order.out / NOTE)
    if before is None:
        if any(order.out.glob("*.png")) or any(order.out.glob("*.tar")):
            raise ValueError(f"{order.out} holds pictures of which nothing is known; give another --out")
        write_json(order.out / NOTE, {**now, "command": again})
        return
    noted = {"precision": "fp32", **before}
    if changed := next((name for name in now if noted.get(name) != now[name]), None):
        was = f"{noted.get(changed)!r}, now {now[changed]!r}"
        raise ValueError(f"{order.out} holds pictures of another {changed} ({was}); restore it or give another --out")


def parsed(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    parser = Arguments(prog=command("generate"), description=main.__doc__)
    parser.add_argument("folder", type=run_argument, help="a run's folder or address, that of a stage (else the last), a checkpoint, or an export")
    parser.add_argument("--out", type=Path, required=True, help="folder of the pictures")
    parser.add_argument("--prompts", type=Path, help="file with a prompt (or label) a line, or .jsonl")
    parser.add_argument("--each", type=whole_number, default=1, help="pictures of each prompt (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the first picture; the others follow (default %(default)s)")
    parser.add_argument("--format", choices=("folder", "shards"), default="folder", help="PNGs with JSON beside them, or WebDataset tars")
    parser.add_argument("--block", type=whole_number, default=64, help="pictures at a time, and in a shard (default %(default)s)")
    parser.add_argument("--precision", choices=tuple(TYPES), default="fp32", help="in which networks compute (default %(default)s)")
    parser.add_argument("--compile", action="store_true", help="compile networks with torch.compile, at the first pictures")
    parser.add_argument("--sampler", nargs="+", default=[], metavar="NAME=VALUE", help="arguments of the task's generate, such as steps=30")
    return parser.parse_args(arguments)


def kept(order: PictureOrder) -> str:
    """What there is when a signal has ended it."""
    made = sum(name.endswith(".tar" if order.shards else ".png") and not name.startswith(".") for name in os.listdir(order.out))
    whole, what = (len(order.blocks), "shards") if order.shards else (len(order), "pictures")
    return f"stopped: {made:,} of {whole:,} {what} are kept in {order.out}; the same command makes the others"


def with_checkpoint(arguments: Sequence[str], folder: Named, final: Path) -> tuple[str, ...]:
    """The words with the checkpoint in place of the run, which may train on."""
    at = next(at for at, word in enumerate(arguments) if run_argument(word) == folder)
    whole = final if isinstance(folder, Path) or final.name == folder.name else f"{folder}/{final.relative_to(at_hand(folder))}"
    return (*arguments[:at], str(whole), *arguments[at + 1 :])


def main(arguments: Sequence[str]) -> int:
    """Makes pictures from the newest checkpoint of a run over all workers of the cluster, or in this process where they are few."""
    options = parsed(arguments)
    phase("environment", aside=True)
    order = ordered(options)
    phase(f"model: {type(loaded(order.final, order.inference)).__name__} of {order.final.name}", aside=True)
    again = Typed("generate", with_checkpoint(arguments, options.folder, order.final)).line
    order.out.mkdir(parents=True, exist_ok=True)
    with only_one(order.out), keeps(partial(kept, order)):
        check_same_order(order, note(order), again)
        print(f"command: {again}", file=sys.stderr)
        missing = {block: len(order.missing(block)) for block in order.blocks}
        blocks = [block for block, count in missing.items() if count]
        if done := len(order) - sum(missing.values()):
            print(f"{done:,} of {counted(len(order), 'picture is', 'pictures are')} there already", file=sys.stderr)
        work = partial(make, order=order)
        if len(blocks) > 1:
            with once_connected():
                import ray

                phase("Ray", aside=True)
                gpus = 1.0 if ray.cluster_resources().get("GPU") else 0.0
                made = sum(parallel_map(work, blocks, label="block", local_below=2, gpus=gpus))
        else:
            made = sum(map(work, blocks))
    phase("pictures", aside=True)
    print(f"{counted(made, 'picture')} made, {len(order):,} in {order.out}")
    return 0


if __name__ == "__main__":
    from jobs import generate  # Ray's workers find what they call in a module, not in a script

    sys.exit(exit_code(lambda: generate.main(sys.argv[1:])))
