"""Whether a model is of any use, and whether it gives here what it gave where it ran before.

Its actions are run on made-up arguments, and what they give is written down beside the checkpoint: another replica, or the same one after
a restart, that has the same weights, code and kind of device must give the same but for the rounding of its arithmetic. A checkpoint
itself is never changed; where nothing can be written beside it, a model is compared with itself alone.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import logging
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

import genlib
from genlib.actions import Action
from genlib.files import write_atomically
from genlib.json_text import json_text
from serve import private
from serve.backend import ModelCard
from serve.models.runner import Runner

LOG = logging.getLogger("serve.models.consistency_check")
ROWS = 2
"""Of the examples that actions are tried with."""
FOLDER = ".consistency_checks"
"""Beside a checkpoint's folder."""
LEVELS = {"fp32": 1, "fp16": 2, "bf16": 4}
"""By which two replicas may differ, whose devices are of one kind and add up in another order."""
_VALUES, _LEVELS = 512, 255
"""Numbers that are kept of what an action gives, and to what part of the largest."""
_KEPT = 16
"""Records beside the checkpoints of one run."""


@dataclass(frozen=True, slots=True)
class Sample:
    """Some of the numbers that an action gives, in whole levels."""

    level: float
    values: list[int]

    def __post_init__(self) -> None:
        """ValueError where it cannot be one: it may come from a file."""
        if not (isinstance(self.level, float) and 0 < self.level < float("inf") and all(type(value) is int for value in self.values)):
            raise ValueError("this is no sample of numbers")

    @staticmethod
    def of(made: Tensor) -> Sample:
        """Of finite numbers, evenly chosen."""
        flat = made.detach().flatten().double().cpu()
        flat = flat[:: max(1, len(flat) // _VALUES)][:_VALUES]
        level = max(float(flat.abs().max()) / _LEVELS, 1e-9) if len(flat) else 1.0
        return Sample(level, (flat / level).round().long().tolist())

    def agrees(self, other: Sample, levels: int = 1) -> bool:
        """Whether all but one in a hundred are within so many levels: rounding may turn a coin that a model tosses, and no more."""
        return len(self.values) == len(other.values) and self.beyond(other, levels) <= len(self.values) // 100

    def beyond(self, other: Sample, levels: int) -> int:
        """How many of as many values are further away; half a level of each is rounding."""
        scale = other.level / self.level
        return sum(abs(one * scale - mine) > levels + 1 for mine, one in zip(self.values, other.values, strict=True))


def check_consistency(runner: Runner, checkpoint: Path) -> None:
    """Checks a checkpoint's model, beside all requests, in the caller's thread; warm afterwards. ValueError says how it fails."""
    name, made, levels = runner.card().name, samples(runner), LEVELS[runner.inference.precision]
    if not agree(made, samples(runner), levels):
        raise ValueError(f"the consistency check of {name} does not give the same twice; this machine or its device is not to be trusted")
    path = record_of(runner, checkpoint)
    known = recorded(path, made)
    if not agree(known, made, levels):
        raise ValueError(
            f"the consistency check of {name} differs from what the same weights gave before, which is in {path}; "
            "if that machine was the faulty one, delete the file"
        )


@torch.no_grad()
def samples(runner: Runner) -> dict[str, Sample]:
    """What actions give for made-up arguments, those whose results are no numbers but choices left out.

    Every action that can be tried, but of those that go step by step only the first. ValueError where something cannot be right.
    """
    found: dict[str, Sample] = {}
    walked = False
    for name, known in runner.actions.items():
        if walked and runner.steps(name):
            continue
        walked = walked or runner.steps(name)
        try:
            made = runner.compute(getattr(runner.task, name), **known.taken(known.example(runner.card().sizes, ROWS)))
        except ValueError:
            continue  # this form of the model has no such action, or takes no examples
        check(made, known, runner.card())
        if made.is_floating_point():
            found[name] = Sample.of(made)
    return found


def check(made: Tensor, known: Action, card: ModelCard) -> None:
    """ValueError where what an action gave is not what its result's port promises."""
    if problem := known.result.problem(made, card.sizes, None if known.joint else ROWS):
        raise ValueError(f"{known.name} of {card.name} gives what {problem}; its weights are of no use")


def agree(one: Mapping[str, Sample], other: Mapping[str, Sample], levels: int = 1) -> bool:
    """Whether all actions give the same, within so many levels."""
    return one.keys() == other.keys() and all(one[name].agrees(other[name], levels) for name in one)


def record_of(runner: Runner, checkpoint: Path) -> Path:
    """Where such a model's record lies: of the same weights, code, kind of device and arithmetic."""
    device = next((weight.device for weight in runner.task.parameters()), torch.device("cpu"))
    kind = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    key = hashlib.sha256("\0".join([runner.card().sha256, code(), torch.__version__, kind, str(runner.inference)]).encode()).hexdigest()
    return checkpoint.parent / FOLDER / f"{key[:32]}.json"


@functools.cache
def code() -> str:
    """A digest of what models are computed by."""
    root = Path(genlib.__file__).parent
    digest = hashlib.sha256()
    for path in [Path(__file__), *sorted(root.rglob("*.py"))]:
        digest.update(path.read_bytes())
    return digest.hexdigest()


def recorded(path: Path, made: Mapping[str, Sample]) -> Mapping[str, Sample]:
    """What the record says; `made` where there is none yet, which becomes the record."""
    for one in (path.parent, path):
        private.tighten(one)
    try:
        return {name: Sample(**values) for name, values in json.loads(path.read_bytes()).items()}
    except FileNotFoundError:
        with contextlib.suppress(OSError):  # beside a checkpoint that is only to be read
            return first(path, made)
    except (OSError, ValueError, TypeError, AttributeError) as error:
        LOG.warning("the record %s cannot be read (%s) and is passed over", path, type(error).__name__)
    return made


def first(path: Path, made: Mapping[str, Sample]) -> Mapping[str, Sample]:
    """Writes a record, and says what it is: of several replicas that write one at a time the first counts. Deletes the oldest of many."""
    mine = path.with_suffix(f".{os.getpid()}.{id(made)}")
    private.make_folder(path.parent)
    write_atomically(mine, json_text({name: asdict(sample) for name, sample in made.items()}).encode(), private.FILE)
    try:
        os.link(mine, path)
    except FileExistsError:
        return recorded(path, made)
    finally:
        mine.unlink()
    for old in sorted(path.parent.glob("*.json"), key=lambda one: one.stat().st_mtime, reverse=True)[_KEPT:]:
        old.unlink(missing_ok=True)
    return made
