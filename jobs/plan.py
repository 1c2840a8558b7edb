"""What a recipe needs before it runs: `python jobs/train.py RECIPE --plan --gpus 64 --gpu-memory-gb 80`.

For each stage a table: memory per GPU by part under each strategy, and the peaks of a run, on its host too, at birth, at a save and at a resume;
then the first strategy that fits, the largest micro-batch, the hours of the run at a stated share of the GPUs' peak (MFU), and the best interval
between checkpoints. It builds on fake tensors: no Ray, no GPU, no weights, no shards. For several numbers of GPUs see `jobs.plan_scale`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace

from genlib.config import TrainConfig
from genlib.engine.frozen import lower
from genlib.engine.memory_plan import PARALLELISMS, PARTS, MemoryEstimate, ModelElements, Parallelism, estimate_memory
from genlib.engine.save_interval import best_interval, lost_share
from genlib.engine.step_traffic import StepTraffic, step_traffic
from genlib.engine.trace import FakeTask
from genlib.plurals import counted
from genlib.recipe import Stage, strategy_refusal
from genlib.task import Task
from genlib.types import DataSpec
from jobs.command_form import Command, Typed
from jobs.command_line import parse
from jobs.run_options import RunOptions
from jobs.step_time import Fit, SaveTime, StepTime, link_gb_per_second, save_time, seconds_between_losses, step_time

USABLE = 0.95
"""Share of a GPU's memory that the allocator can hand out; the rest is for the CUDA context, NCCL and gaps. An assumption."""
MOST_GPUS = 2**16
_SHORT = {"optimizer": "+opt", "all": "+all"}


def main(arguments: Sequence[str]) -> int:
    """`genlib plan RECIPE`: what `train RECIPE --plan` prints."""
    command = parse(
        [*arguments, "--plan"] if len(arguments) and arguments[0] not in ("--list", "-h", "--help") else arguments, Typed("plan", tuple(arguments))
    )
    with command.naming_options():
        print(planned(command))
    return 0


def planned(command: Command) -> str:
    """The plan of all stages. ValueError, in a sentence, where the GPUs cannot hold one of them."""
    if len(command.options.gpu_counts) > 1:
        from jobs.plan_scale import scaled

        return scaled(command)
    stages = {stage.name: stage for stage in command.stages}
    return "\n\n".join(stage_plan(stage, stages, command.options) for stage in command.stages)


def stage_plan(stage: Stage, stages: Mapping[str, Stage], options: RunOptions) -> str:
    """Head, table and conclusions of one stage."""
    spec, origin = assumed_spec(stage)
    fake = FakeTask(lambda: as_trained(stage, stages, spec))
    title = f"{stage.name}: {type(fake.task).__name__}, {fake.trained:,} parameters to train and {fake.frozen:,} frozen"
    if not fake.task.phases or not stage.train.steps:
        return f"{title}; taken as it is, nothing is trained"
    (gpus,) = options.gpu_counts
    micro_batch = math.ceil(stage.train.global_batch / stage.train.accumulation / gpus)
    view = estimate_memory(fake, stage.train, micro_batch, stage.data)
    parallelisms = parallelisms_for(stage, gpus)
    fit = first_fit(view, parallelisms, stage, gpus, options)
    if fit is None:
        raise ValueError(refusal(stage.name, view, parallelisms_for(stage, 2), gpus, options))
    head = f"{title}\ndata: {origin}\n{counted(gpus, 'GPU')} of {options.gpu_memory_gb:g} GB, {counted(micro_batch, 'sample')} each at once:"
    train = replace(stage.train, accumulation=fit.accumulation)
    traffic = {one: step_traffic(fake, train, one.strategy, gpus) for one in parallelisms}
    sends = {one: each.sent_bytes(gpus) for one, each in traffic.items()}
    lines = [
        *conclusions(view, fit, stage, options, traffic[fit.parallelism]), *frozen_words(view.model, fake.task, fit, options),
        *accumulation_words(fake.task, fit, stage),
    ]  # fmt: skip
    return "\n".join([head, table(view, parallelisms, micro_batch, options, sends), *lines])


def assumed_spec(stage: Stage) -> tuple[DataSpec, str]:
    """What the stage's data is like, and where that is known from; shards are never read."""
    from genlib.data.builtin.catalog import BUILTIN
    from genlib.data.source import open_source

    size, step = stage.data.image_size, stage.data.bucket_step
    if stage.data.train in BUILTIN:
        own_size = BUILTIN[stage.data.train][1]
        with suppress(ValueError, OSError):  # at its own size: drawing it anew at a large one takes minutes, and a plan needs none of the pictures
            spec = open_source(replace(stage.data, image_size=own_size, bucket_step=0)).spec
            return replace(spec, image_size=spec.image_size and (size or spec.image_size), bucket_step=step), f"the built-in set {stage.data.train}"
    names = tuple(map(str, range(1000)))
    spec = DataSpec(image_size=size, class_names=names, has_captions=True, num_samples=1_000_000, bucket_step=step)
    return spec, f"assumed to be {f'{size} px' if size else 'of many sizes'}, 3 channels, with captions and 1,000 classes"


def built(stage: Stage, stages: Mapping[str, Stage], spec: DataSpec) -> Task:
    """The stage's task with its upstream tasks, all with fresh weights, and a vocabulary where one would be trained."""
    from genlib.nn.tokenizer import TextTokenizer, train_bpe

    upstream = {role: built(stages[name], stages, spec) for role, name in stage.needs.items()}
    task = stage.task.build(spec, upstream)
    for module in task.modules():
        if isinstance(module, TextTokenizer) and not module.tokenizer:
            module.use(train_bpe(["a word"], 514))
    return task


def as_trained(stage: Stage, stages: Mapping[str, Stage], spec: DataSpec) -> Task:
    """The same with its upstream tasks in the types in which they are kept while it trains."""
    task = built(stage, stages, spec)
    if stage.train.lowers_frozen:
        lower(task)
    return task


def parallelisms_for(stage: Stage, gpus: int) -> list[Parallelism]:
    """What such a stage can be trained by on so many GPUs, from the fastest."""
    usable = [one for one in PARALLELISMS if not strategy_refusal(stage.task, one.strategy, gpus) and is_taken(stage.train, one)]
    return [one for one in usable if gpus > 1 or one.strategy != "ddp"]


def is_taken(train: TrainConfig, parallelism: Parallelism) -> bool:
    """Whether the other settings go with it: some optimizers do not with offload."""
    try:
        replace(train, strategy=parallelism.strategy, offload=parallelism.offload, deepspeed="")
    except ValueError:
        return False
    return True


def first_fit(view: MemoryEstimate, parallelisms: Sequence[Parallelism], stage: Stage, gpus: int, options: RunOptions) -> Fit | None:
    """The first parallelism that holds the step as it is configured, else the first that does with more micro-batches; None where none does."""
    budget, batch = USABLE * options.gpu_memory_gb * 1e9, stage.train.global_batch
    micro_batch = math.ceil(batch / stage.train.accumulation / gpus)
    for parallelism in parallelisms:
        if view.at(parallelism, gpus, micro_batch).device_bytes <= budget:
            return Fit(parallelism, micro_batch, stage.train.accumulation)
    for parallelism in parallelisms:
        most = replace(view, accumulation=2).largest_micro_batch(parallelism, gpus, budget)
        shares = (k for k in range(stage.train.accumulation + 1, batch + 1) if batch % k == 0 and math.ceil(batch / k / gpus) <= most)
        if most and (accumulation := next(shares, 0)):
            return Fit(parallelism, math.ceil(batch / accumulation / gpus), accumulation)
    return None


def refusal(name: str, view: MemoryEstimate, parallelisms: Sequence[Parallelism], gpus: int, options: RunOptions) -> str:
    """What the smallest hardware is that can hold one sample a GPU."""

    def least_gb(gpus: int) -> float:
        return min(view.at(parallelism, gpus, 1).device_bytes for parallelism in parallelisms) / USABLE / 1e9

    here = f"stage {name} does not fit {counted(gpus, 'GPU')} of {options.gpu_memory_gb:g} GB, not even one sample at once with everything offloaded"
    memory = f"{counted(gpus, 'GPU')} of {math.ceil(least_gb(gpus)):,} GB"
    if least_gb(MOST_GPUS) > options.gpu_memory_gb:
        return f"{here}, and no number of them can hold it; the smallest that can: {memory}, or more GPUs of {math.ceil(least_gb(MOST_GPUS)):,} GB"
    low, high = gpus, MOST_GPUS
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if least_gb(middle) <= options.gpu_memory_gb else (middle, high)
    return f"{here}; the smallest that can: {memory}, or {high:,} GPUs of {options.gpu_memory_gb:g} GB"


def table(
    view: MemoryEstimate, parallelisms: Sequence[Parallelism], micro_batch: int, options: RunOptions, sends: Mapping[Parallelism, float]
) -> str:  # fmt: skip
    """A row a part, a column a strategy: what lies on each GPU at the worst moment of a step, the peaks of a run, and what a whole step sends.

    The host's are of each worker, beside the bare process.
    """
    (gpus,) = options.gpu_counts
    memories = [view.at(parallelism, gpus, micro_batch) for parallelism in parallelisms]
    peaks = [view.peaks(parallelism, gpus, micro_batch) for parallelism in parallelisms]
    unit, scale = ("GB", 1e9) if max(memory.device_bytes for memory in memories) >= 1e9 else ("MB", 1e6)
    present = {part for memory in memories for part in memory.parts}
    rows = [[f"{unit} per GPU", *(parallelism.strategy + _SHORT.get(parallelism.offload, "") for parallelism in parallelisms)]]
    rows += [[part, *(digits(memory.parts.get(part, 0) / scale) for memory in memories)] for part in PARTS if part in present]
    rows.append(["total", *(digits(memory.device_bytes / scale) for memory in memories)])
    rows.append(["at birth", *(digits(one.birth.device / scale) for one in peaks)])
    rows.append(["at a resume", *(digits(one.resume.device / scale) for one in peaks)])
    rows.append(["on its host", *(digits(one.step.host / scale) for one in peaks)])
    rows.append(["its host at birth", *(digits(one.birth.host / scale) for one in peaks)])
    rows.append(["its host at a save", *(digits(one.save.host / scale) for one in peaks)])
    rows.append(["its host at a resume", *(digits(one.resume.host / scale) for one in peaks)])
    if gpus > 1:
        rows.append(["sent in a step", *(digits(sends[parallelism] / scale) for parallelism in parallelisms)])
    budget = USABLE * options.gpu_memory_gb * 1e9
    rows.append(["largest micro-batch", *(f"{view.largest_micro_batch(parallelism, gpus, budget):,}" for parallelism in parallelisms)])
    return "\n".join("  " + f"{row[0]:<20}" + "".join(f"{cell:>11}" for cell in row[1:]) for row in rows)


def digits(number: float) -> str:
    """Three digits; a dot for nothing."""
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}" if number >= 0.01 else "0.01" if number else "."


def conclusions(view: MemoryEstimate, fit: Fit, stage: Stage, options: RunOptions, traffic: StepTraffic) -> list[str]:
    """What to do, and what it takes."""
    train, (gpus,) = stage.train, options.gpu_counts
    words = [f"--train.strategy {fit.parallelism.strategy}"]
    words += [f"--train.offload {fit.parallelism.offload}"] if fit.parallelism.offload != "none" else []
    words += [f"--train.accumulation {fit.accumulation}"] if fit.accumulation != train.accumulation else []
    each, step, save = (
        view.flops_per_sample(fit.accumulation),
        step_time(view, fit, train, traffic, gpus, options),
        save_time(view, fit, gpus, options),
    )
    hours = train.steps * step.seconds / 3600
    return [
        f"first that fits: {fit.parallelism} with {counted(fit.micro_batch, 'sample')} a GPU at once ({' '.join(words)})",
        f"{each * train.global_batch:.3g} FLOPs a step of {counted(train.global_batch, 'sample')}, {each:.3g} a sample, recomputation included",
        f"at {options.mfu:.0%} of {options.gpu_tflops:g} TFLOP/s a GPU: {train.global_batch / step.seconds:,.0f} samples/s; "
        f"{counted(train.steps, 'step takes', 'steps take')} {digits(hours)} hours, {digits(hours * gpus)} GPU-hours",
        *traffic_words(traffic.sent_bytes(gpus), step, options),
        save_words(save, view.model.checkpoint_bytes, step.seconds, train.steps, options),
    ]


def traffic_words(sends: float, step: StepTime, options: RunOptions) -> list[str]:
    """What the bytes that a GPU sends in a step do to its time; nothing where there is one GPU."""
    (gpus,) = options.gpu_counts
    if gpus == 1:
        return []
    hidden = "" if step.hidden == min(step.sending, step.computing) else f"{step.hidden:.3g} s of that "
    beside = f"{hidden}beside {step.computing:.3g} s of computing" if step.computes_longer else f"and computing no more than {step.computing:.3g} s"
    slow = "" if step.computes_longer else ": the interconnect sets the pace; larger micro-batches, or fewer of them, send less for each sample"
    return [
        f"a step sends {digits(sends / 1e9)} GB a GPU, which takes {step.sending:.3g} s at {link_gb_per_second(gpus, options):g} GB/s, {beside}{slow}"
    ]


def save_words(save: SaveTime, whole: int, step_seconds: float, steps: int, options: RunOptions) -> str:
    """How often to save a checkpoint of so many bytes in all, to lose the least time to saves and failures."""
    (gpus,) = options.gpu_counts
    apart = seconds_between_losses(gpus, options)
    every = best_interval(stall=save.stall, write=save.write, apart=apart, step_seconds=step_seconds, steps=steps)
    between = every * step_seconds
    lost = lost_share(stall=save.stall, write=save.write, apart=apart, between=between)
    if lost >= 1:
        return (
            f"a checkpoint of {digits(whole / 1e9)} GB is written in {save.write:.3g} s at {options.store_gb_per_second:g} GB/s, too long where a "
            f"failure comes every {digits(apart / 3600)} hours: the run would not get on; give a faster "
            "--store-gb-per-second, or longer --node-failure-hours"
        )
    return (
        f"a checkpoint of {digits(whole / 1e9)} GB: steps stand still for {save.stall:.3g} s at {options.host_gb_per_second:g} GB/s a GPU, and it is "
        f"written in {save.write:.3g} s at {options.store_gb_per_second:g} GB/s; with a failure every {digits(apart / 3600)} hours the "
        f"best is --train.checkpoint-every-steps {every} ({digits(between / 60)} minutes), which loses {lost:.2%} of the time"
    )


def frozen_words(model: ModelElements, task: Task, fit: Fit, options: RunOptions) -> list[str]:
    """What frozen networks of earlier stages take on a GPU, by type, and where the rest of them is; nothing where there are none."""
    found, sharded = model.upstream, fit.parallelism.strategy == "zero3"
    if not found.asked + found.unasked:
        return []
    rest = f"; {_bytes(found.unasked)} that nothing asks for while it trains are on none" if found.unasked else ""
    types = f"{_bytes(found.asked)} ({_bytes(found.fp32)} fp32, {_bytes(found.bf16)} bf16)"
    if model.ahead:
        return [f"frozen networks: {types} are on a GPU until everything is encoded ahead, then on none{rest}"]
    (gpus,) = options.gpu_counts
    held = found.held(gpus, ahead=False, sharded=sharded)
    ahead = "; --train.encode ahead keeps none there" if task.encodes else ""
    shards = f", in shards of {_bytes(held)}" if sharded and gpus > 1 else ""
    return [f"frozen networks: {types} are on {'the GPUs' if shards else 'each GPU'}{shards}{ahead}{rest}"]


def _bytes(count: int) -> str:
    return f"{digits(count / 1e9)} GB" if count >= 1e8 else f"{digits(count / 1e6)} MB" if count else "0 MB"


def accumulation_words(task: Task, fit: Fit, stage: Stage) -> list[str]:
    """What accumulation means for what is learnt; nothing where a step is one micro-batch."""
    if fit.accumulation == 1:
        return []
    head = (
        f"with accumulation {fit.accumulation} a step takes its {counted(stage.train.global_batch, 'sample')} in {fit.accumulation} micro-batches: "
    )
    joint = "; its loss looks at samples together, so their features come first and all but one micro-batch go through the networks twice"
    if task.accumulation_effect:
        return [f"{head}{task.accumulation_effect}"]
    return [f"{head}loss and gradient stay those of the whole batch{joint if any(phase.joint for phase in task.phases) else ''}"]
