"""The training loop: for each step, for each due phase, one weight update; then what moves without gradient, the moving
average, the report, the checkpoint. It knows no family and no data set.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from itertools import islice
from pathlib import Path

import torch

from genlib import checkpoint, distributed, phases
from genlib.checkpoint import Blueprint, DataState, History, Manifest, Mirror, StoredHistory
from genlib.config import to_json
from genlib.encoded_batch import encoded, widened
from genlib.engine.ema import Ema
from genlib.engine.encoding import encoded_source
from genlib.engine.evaluate import evaluate
from genlib.engine.frozen import FrozenNetworks
from genlib.engine.initial_task import InitialTask
from genlib.engine.iterate_average import IterateAverage
from genlib.engine.listener import Evaluated, Listener
from genlib.engine.optim import learning_rate, schedule_change
from genlib.engine.pictures import RunPictures, drop_after
from genlib.engine.prefetcher import Prefetcher
from genlib.engine.report import Report, Row, add_missing, kept_rows, metrics_file
from genlib.engine.same_run import check_same_run, from_weights, is_of_run
from genlib.engine.saver import Saver
from genlib.engine.skipped_updates import SkippedUpdates
from genlib.engine.state import load_optimizers
from genlib.engine.stop import Interrupted, Vote
from genlib.engine.strategies import strategy_of
from genlib.engine.strategy import optim_of
from genlib.engine.timeline import Timeline, machine
from genlib.engine.trace import FakeTask, flops_per_sample
from genlib.engine.trackers import check_trackers_installed
from genlib.plurals import counted
from genlib.recipe import Stage, chosen_strategy, strategy_refusal
from genlib.storage import Held
from genlib.task import Task
from genlib.types import Batch, DataSource, Step

_SAVE_AGAIN_SECONDS = 5.0
"""After the last step, which has no next one to wait for."""


def fit(
    stage: Stage,
    *,
    recipe: str,
    source: DataSource,
    folder: Path,
    device: torch.device,
    upstream: Mapping[str, Path] | None = None,
    listener: Listener | None = None,
    mirror: Mirror | None = None,
) -> Path:
    """Trains the stage to its end in `folder`, from the newest valid checkpoint there, and returns the final checkpoint.

    upstream: final checkpoints of the stages it needs, by role. All ranks of the process group, if there is one, call it together and
    see the same `folder`; with `mirror`, a store in which checkpoints are kept and found, each node may have its own. ValueError where the
    checkpoint there is of another run, or the settings do not fit the workers; StorageError where checkpoints cannot be written, several
    times in a row, or encoded samples, or the folder is gone; Interrupted, with a checkpoint of the step it came to, where the listener asks
    to stop.
    """
    training = Training(stage, recipe, source, folder, device, upstream or {}, listener or Listener(), mirror)
    with training.held:
        return training.run()


def fresh_task(stage: Stage, *, recipe: str, source: DataSource, folder: Path, upstream: Mapping[str, Path]) -> tuple[Task, Blueprint]:
    """The task as it is before the first step of a training in `folder`, and how it is built; in one process."""
    training = Training(stage, recipe, source, folder, torch.device("cpu"), upstream, Listener())
    initial = InitialTask(stage, source, upstream)
    initial.prepare()
    return initial.task, training.blueprint


class Training:
    """One run of `fit`."""

    def __init__(
        self, stage: Stage, recipe: str, source: DataSource, folder: Path, device: torch.device, upstream: Mapping[str, Path], listener: Listener,
        mirror: Mirror | None = None,
    ) -> None:  # fmt: skip
        self.stage, self.recipe, self.source, self.folder, self.device, self.listener = stage, recipe, source, folder, device, listener
        self.config, self.began = stage.train, time.perf_counter()
        self.checkpoints = folder / "checkpoints"
        self.checkpoints.mkdir(parents=True, exist_ok=True)
        self.held = Held(folder, self.checkpoints)
        self.timeline = Timeline(folder)
        self.unwritten: Callable[[], str] = lambda: ""
        blueprints = {role: checkpoint.read_manifest(path).blueprint for role, path in upstream.items()}
        self.blueprint = Blueprint.of(stage.task, source.spec, blueprints)
        self.upstream = upstream
        self.history = history_of(self.checkpoints, lambda manifest: is_of_run(manifest, recipe, stage, source.spec), mirror)
        self.skipped = SkippedUpdates(source, self.config)
        self.seconds = 0.0
        self.evaluated: Evaluated | None = None
        self.flops_per_sample: float | None = None

    def run(self) -> Path:
        found = self.history.agreed()
        if found:
            check_same_run(found[1], self.recipe, self.stage, self.source.spec, self.folder)
        refusal = strategy_refusal(self.stage.task, self.config.strategy, distributed.world_size())
        if not refusal:
            self.strategy = strategy_of(self.config.strategy, self.device)
        initial = InitialTask(self.stage, self.source, self.upstream, None if refusal else self.strategy.sharded_init)
        self.task = initial.task
        self.steps = self.config.steps if self.task.phases else 0
        kept = kept_rows(found[0] / "state") if found else None
        if found and found[1].step >= self.steps:
            if kept and distributed.rank() == 0:
                add_missing(metrics_file(self.folder), kept)
            return found[0]
        if refusal:
            raise ValueError(refusal)
        first = self.start(initial, *found) if found else self.begin(initial)
        with Saver(
            self.checkpoints, self.strategy, self.average, history=self.history, keep=self.config.keep_checkpoints,
            held=self.held, listener=self.listener, timeline=self.timeline,
        ) as self.saver:  # fmt: skip
            final = self.trained(first, kept)
        return self.history.whole(final)

    def trained(self, first: int, kept: Path | None) -> Path:
        """From step `first` to the final checkpoint; kept: rows of metrics that the checkpoint has which it goes on from."""
        if not self.steps:  # a task without training is its upstream and its actions
            return self.last_save(None)
        check_trackers_installed(self.config.trackers)
        if distributed.rank() == 0:
            phases.phase(self.in_words())
        prefetcher = Prefetcher(self.batches(first), self.micro_batch, self.device)
        with ExitStack() as closing:
            closing.callback(prefetcher.close)
            return self.loop(prefetcher, first, lambda since: closing.enter_context(self.reported(first, since, kept)))

    @contextmanager
    def reported(self, first: int, since: float, kept: Path | None) -> Iterator[Report]:
        """Inside, the run that goes on from step `first` tells of itself, and of its speed since that time."""
        self.timeline.start(
            first, time.perf_counter() - self.began, world=distributed.world_size(), strategy=type(self.strategy).__name__,
            versions=checkpoint.versions(), git_commit=checkpoint.git_commit(), machine=machine(self.device),
        )  # fmt: skip
        if distributed.rank() == 0:
            drop_after(self.folder, first)
        report = Report(
            self.folder,
            steps=self.steps,
            first_step=first,
            batch=self.config.global_batch,
            seconds_between=self.config.log_every_seconds,
            trackers=self.config.trackers,
            config=to_json(self.config),
            flops_per_sample=self.flops_per_sample,
            kept=kept,
            since=since,
        )
        self.unwritten = lambda: report.waiting
        try:
            yield report
        finally:
            report.close()

    def in_words(self) -> str:
        """The model and how it trains: `model: CLIP, 3,141,592 weights; ddp, chosen by auto for 2 workers`."""
        world, wanted = distributed.world_size(), self.config.strategy
        name, count = chosen_strategy(wanted, world), sum(shape.numel() for shape in self.shapes.values())
        by = f", chosen by {wanted} for {counted(world, 'worker')}" if name != wanted else ""
        stage = "" if self.stage.name == "train" else f" of stage {self.stage.name}"
        return f"model{stage}: {type(self.task).__name__}, {count:,} weights; {name}{by}"

    @property
    def micro_batch(self) -> int:
        """Samples of one micro-batch over all ranks."""
        return self.config.global_batch // self.config.accumulation

    def begin(self, initial: InitialTask) -> int:
        """A fresh run: what depends on the data, then the strategy."""
        initial.prepare()
        self.use_strategy(initial, 0)
        return 0

    def start(self, initial: InitialTask, folder: Path, manifest: Manifest) -> int:
        """From a checkpoint: weights before the strategy shards them, optimizer state after."""
        initial.fill(folder)
        self.use_strategy(initial, manifest.step)
        load_optimizers(self.strategy, (folder / "state").glob("rank_*.safetensors"), manifest.updates)
        if self.ema:
            self.ema.load(folder)
        self.skipped.count, self.seconds = manifest.skipped, manifest.seconds
        if distributed.rank() == 0:
            cut_off = "".join(f"; the checkpoint of step {step} was cut off" for step in self.history.cut_off())
            print(
                f"resumed from {folder.name}: step {manifest.step} of {manifest.steps}, {counted(manifest.samples_seen, 'sample')} seen{cut_off}",
                flush=True,
            )
            optims = [optim_of(self.config, player) for player in self.task.players()]
            elsewhere = from_weights(self.stage.name, self.folder)
            if words := schedule_change(optims, manifest.step, manifest.steps, self.steps, elsewhere):
                print(words, flush=True)
        return manifest.step

    def use_strategy(self, initial: InitialTask, first: int) -> None:
        """From plain weights to those that train, from step `first` on."""
        self.task.train()
        name = initial.encoded_name()
        self.shapes = {name: p.shape for name, p in self.task.named_parameters()}  # ZeRO-3 leaves none
        if self.device.type == "cuda":
            self.flops_per_sample = self.counted_flops()  # before ZeRO-3 takes the weights apart
        self.frozen = FrozenNetworks(self.task, self.device)
        self.frozen.leave_unasked()
        self.strategy.setup(self.task, self.config)
        self.ema = (
            Ema(self.strategy, self.config.ema_halflife_samples, self.config.ema_rampup, self.task.averaged)
            if self.config.ema_halflife_samples
            else None
        )
        self.average = self.ema or IterateAverage.of(self.strategy, self.task, self.config)
        self.encoded = encoded_source(
            self.stage, self.task, self.source, self.device, name=name, first=first, stop_asked=self.listener.stop_asked
        )  # fmt: skip
        sharded = self.strategy.sharded_init
        self.frozen.settle(ahead=self.encoded is not None, sharded=sharded.small if sharded else None)

    def counted_flops(self) -> float | None:
        """Operations of a step for one sample, for the share of the device's peak; None where they cannot be counted, or become more."""
        if self.task.grows:
            return None
        try:
            return flops_per_sample(FakeTask.of(self.task), max(1, self.micro_batch // distributed.world_size()), self.config.precision)
        except ValueError:
            return None

    def batches(self, first: int) -> Iterator[Batch]:
        """This rank's micro-batches from step `first` on."""
        return (self.encoded or self.source).batches(
            "train", self.micro_batch, rank=distributed.rank(), world=distributed.world_size(), seed=self.config.seed,
            start=first * self.config.global_batch, transform=self.task.transform(train=True),
        )  # fmt: skip

    def as_learnt(self, batch: Batch) -> Batch:
        """The batch as `loss` gets it, whose samples were encoded ahead or are now."""
        return widened(batch) if self.encoded else encoded(self.task, batch)

    def loop(self, prefetcher: Prefetcher, first: int, reported: Callable[[float], Report]) -> Path:
        vote = Vote(self.listener.stop_asked, lambda: self.saver.idle, self.device, first)
        row, report, since = None, None, time.perf_counter()
        pictures = RunPictures(self.folder, self.task, self.blueprint, self.source, self.config, self.device)
        for index in range(first, self.steps):
            begin, waited = time.perf_counter(), prefetcher.wait_seconds
            micro_batches = list(islice(prefetcher, self.config.accumulation))
            values = self.step(Step(index, self.steps, self.config.seed), [self.as_learnt(batch) for batch in micro_batches])
            if report is None:  # until here nothing of the run that is there has changed
                self.listener.on_start()
                if distributed.rank() == 0:
                    phases.phase("first step")
                report = reported(since)
            done = index + 1
            self.listener.on_step(done)
            if due(done, self.config.evaluate_every_steps, self.steps):
                values |= self.evaluate(done)
            spent = time.perf_counter() - begin
            self.seconds += spent
            new = report.add(done, {**values, "batch_time": spent, "data_time": prefetcher.wait_seconds - waited})
            agreed = vote(done)
            if agreed.saved:
                self.saver.settle()
            stop = agreed.stop and done < self.steps
            checkpoint_due = stop or done == self.steps or due(done, self.config.checkpoint_every_steps, self.steps)
            if checkpoint_due:
                # first the rows, then the checkpoint: a run that resumes from it would never write them again
                new = report.flush() or new
            if own := report.own_times():
                self.listener.on_times(*own)
            if new:
                row = new
                self.listener.on_log(row)
            if pictures.due(done):  # before the checkpoint: a run that resumes from it would never draw it again
                self.draw(pictures, done, report)
            if checkpoint_due and done < self.steps:
                self.save(done, row)
            if stop:
                raise Interrupted(done, self.steps, self.saver.settle())
        return self.last_save(row)

    def draw(self, pictures: RunPictures, done: int, report: Report) -> None:
        """A picture of what is learnt so far; all ranks gather the weights as for a checkpoint, rank 0 draws."""
        with self.timeline.timed("picture", done):
            state = (self.average or self.strategy).whole_state()
            if distributed.rank() == 0 and (path := pictures.draw(done, state)):
                report.picture(done, path)

    def evaluate(self, done: int) -> dict[str, float]:
        """Scores of the held-out samples; says what is wrong with them when it first is."""
        with self.timeline.timed("evaluate", done), self.frozen.present():
            values = evaluate(self.task, self.strategy, self.source, self.config)
        trouble = self.task.divergence_reason({name.removeprefix("val/"): value for name, value in values.items()})
        if trouble and trouble != (self.evaluated.trouble if self.evaluated else "") and distributed.rank() == 0:
            print(f"step {done}: {trouble}", flush=True)
        self.evaluated = Evaluated(done, values, trouble)
        return values

    def step(self, step: Step, micro_batches: list[Batch]) -> dict:
        """All due phases, then what moves without gradient."""
        values: dict = {}
        for number, phase in enumerate(self.task.phases):
            if not phase.due(step.index):
                continue
            # Dropout and the like are a function of (seed, step, phase, rank): nothing to save, nothing to restore.
            seed_generators(((self.config.seed * 1_000_003 + step.index) * 97 + number) * 65_537 + distributed.rank(), self.device)
            update = self.strategy.run_phase(phase, micro_batches, step)
            prefix = "train/" if len(self.task.phases) == 1 else f"train/{phase.name}/"
            values |= {prefix + name: value for name, value in update.metrics.items()} | {f"{prefix}grad_norm": update.grad_norm}
            self.skipped.note(update, phase, step, micro_batches)
            if type(self.task).observe is not Task.observe:
                self.task.observe(phase.name, distributed.mean_over_ranks(update.metrics["loss"]), update.grad_norm)
        self.strategy.after_step(step)
        if self.ema:
            self.ema.update((step.index + 1) * self.config.global_batch, self.config.global_batch)
        values |= {f"{part}_time": laps for part, laps in self.strategy.watch.read().items()}
        player = self.task.phases[0].player
        return {**values, "train/lr": learning_rate(optim_of(self.config, player), step.index, step.total), "train/skipped": self.skipped.count}

    def last_save(self, row: Row | None) -> Path:
        """The final checkpoint, tried as often as others are in a row."""
        while True:
            self.save(self.steps, row)
            if final := self.saver.settle():
                return final
            time.sleep(_SAVE_AGAIN_SECONDS)

    def save(self, done: int, row: Row | None) -> None:
        """Begins a checkpoint of the step that is done."""
        manifest = self.manifest(done)
        told = {"step": done, "samples_seen": manifest.samples_seen, **(row or {})}
        self.saver.save(manifest, told, self.evaluated, self.unwritten())

    def manifest(self, done: int) -> Manifest:
        seen = done * self.config.global_batch
        spec = self.source.spec
        return Manifest(
            recipe=self.recipe,
            stage=self.stage.name,
            blueprint=self.blueprint,
            train=to_json(self.config),
            data=to_json(self.stage.data),
            data_state=DataState(
                digest=spec.digest,
                order_version=spec.order_version,
                seed=self.config.seed,
                global_batch=self.config.global_batch,
                micro_batch=self.micro_batch,
                position=seen,
                epoch=seen // max(1, spec.num_samples),
            ),
            step=done,
            steps=self.steps,
            samples_seen=seen,
            updates=dict(self.strategy.updates),
            skipped=self.skipped.count,
            seconds=self.seconds,
            strategy=type(self.strategy).__name__,
            world=distributed.world_size(),
            versions=checkpoint.versions(),
            git_commit=checkpoint.git_commit(),
        )


def history_of(folder: Path, ours: Callable[[Manifest], bool], mirror: Mirror | None) -> History | StoredHistory:
    """The checkpoints of a training in a folder, or of one that is kept in a store."""
    return StoredHistory(mirror, folder, ours) if mirror else History(folder, ours)


def seed_generators(seed: int, device: torch.device) -> None:
    """Seeds the CPU's generator and the device's; torch.manual_seed would note a traceback for each absent device, 2 ms a step."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)


def due(done: int, every: int, steps: int) -> bool:
    """Whether something that happens every so many steps, and at the end, happens after this one; 0 is never."""
    return bool(every) and (done % every == 0 or done == steps)
