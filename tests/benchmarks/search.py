"""What a search costs beside its training: over plain Optuna with a bare loop, and over the training function alone.

Random values of the VAE's space, whole trials, the same values on every side. The peer is two processes with an Optuna study each, images
in memory, the same networks in a plain loop that scores the held-out samples as often; it writes no checkpoint and can resume nothing.
Wall time, as waiting is the point: whole commands with all they start, and the seconds from one trial's start to the next.

    OMP_NUM_THREADS=1 python -m tests.benchmarks.search
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from genlib import registry
from genlib.data.source import open_source
from genlib.engine.fit import fit
from genlib.recipe import Stage
from tests.benchmarks.measure import report
from tune_spaces.base import defaults, drawn, is_integer, space_of, with_values

RECIPE, TRIALS, STEPS, EVALUATIONS, ROUNDS = "vae", 8, 300, 3, 3
BATCH = 256


def stages() -> list[Stage]:
    """The trials' stages."""
    stage = registry.load(RECIPE).stages[-1]
    every = -(-STEPS // EVALUATIONS)
    stage = replace(stage, train=replace(stage.train, steps=STEPS, evaluate_every_steps=every, checkpoint_every_steps=every))
    space = space_of(RECIPE, stage)
    found = [defaults(stage, space)]
    for number in range(1, TRIALS):
        generator = np.random.default_rng([0, number])
        found.append({name: drawn(one, generator, is_integer(stage, name)) for name, one in space.items()})
    return [with_values(stage, values) for values in found]


def ours(concurrent: int) -> tuple[float, list[float]]:
    """Seconds of the command, and from each trial's start to the next one's."""
    words = ["--scheduler", "none", "--search", "random", "--trials", str(TRIALS), "--concurrent", str(concurrent)]
    words += ["--train.steps", str(STEPS), "--evaluations", str(EVALUATIONS)]
    with tempfile.TemporaryDirectory() as folder:
        begin = time.monotonic()
        subprocess.run([sys.executable, "jobs/tune.py", RECIPE, "--run-dir", f"{folder}/run", *words], check=True, stdout=subprocess.DEVNULL)
        seconds = time.monotonic() - begin
        starts = sorted(json.loads(path.read_text())["started"] for path in Path(folder).glob("run/trials/T*/trial.json"))
        assert len(starts) == TRIALS
    return seconds, np.diff(starts).tolist()


def bare(part: list[Stage]) -> None:
    """Trains stages one after the other in a study of their own."""
    import optuna

    torch.set_num_threads(1)
    source, data = open_source(part[0].data), {}

    def objective(trial: optuna.Trial) -> float:
        stage = part[trial.number]
        task = stage.task.build(source.spec, {})
        if not data:
            data["train"] = next(iter(source.batches("train", source.spec.num_samples, transform=task.transform(train=False))))["x"]
            data["validation"] = torch.cat([batch["x"] for batch in source.batches("validation", 4096, transform=task.transform(train=False))])
        optimizer = torch.optim.Adam(task.parameters(), stage.train.optim.learning_rate, fused=True)
        size, value = stage.train.global_batch, float("nan")
        order = torch.randperm(len(data["train"]))
        for step in range(STEPS):
            x = data["train"][order[torch.arange(step * size, (step + 1) * size) % len(order)]]
            optimizer.zero_grad()
            elbo(task, x).mean().backward()
            optimizer.step()
            if (step + 1) % stage.train.evaluate_every_steps == 0 or step + 1 == STEPS:
                with torch.no_grad():
                    value = torch.cat([elbo(task, x) for x in data["validation"].split(BATCH)]).mean().item()
                trial.report(value, step + 1)
        return value

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    optuna.create_study(sampler=optuna.samplers.RandomSampler()).optimize(objective, n_trials=len(part))


def elbo(task: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    """The negative bound of each sample in nats, written plainly."""
    mean, log_variance = task.net.encoder(x).chunk(2, 1)
    logits = task.net.decoder(mean + torch.exp(log_variance / 2) * torch.randn_like(mean))
    distortion = torch.nn.functional.binary_cross_entropy_with_logits(logits, x, reduction="none").sum(1)
    return distortion + 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(1)


def theirs() -> float:
    """Seconds of two processes with half of the trials each, from nothing to the last value."""
    begin, every = time.monotonic(), stages()
    running = [multiprocessing.get_context("spawn").Process(target=bare, args=(every[side::2],)) for side in (0, 1)]
    for process in running:
        process.start()
    for process in running:
        process.join()
    assert not any(process.exitcode for process in running)
    return time.monotonic() - begin


def alone() -> list[float]:
    """Seconds of the training function for each trial, all in this process."""
    found, every = [], stages()
    source = open_source(every[0].data)
    for stage in every:
        begin = time.monotonic()
        with tempfile.TemporaryDirectory() as folder, open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
            fit(stage, recipe=RECIPE, source=source, folder=Path(folder), device=torch.device("cpu"))
        found.append(time.monotonic() - begin)
    return found


def main() -> None:
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"
    whole, beyond = [], []
    for _ in range(ROUNDS):
        seconds, _ = ours(2)
        whole.append(seconds / theirs())
    for _ in range(ROUNDS):
        _, gaps = ours(1)
        beyond.append(statistics.median(gaps[1:]) - statistics.median(alone()[1:]))
    report(f"search of {TRIALS} VAEs, {STEPS} steps, 2 at a time: whole command over plain Optuna and a bare loop", whole, must=3.0)
    report("a trial after the first: seconds beyond its training function", beyond, must=3.0)


if __name__ == "__main__":
    main()
