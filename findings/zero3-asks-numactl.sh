#!/bin/sh
# deepspeed 0.19.8 with torch 2.13.0, in one process on the CPU, ZeRO stages 1 to 3, several layers and small buckets of gradients.
#
# Guess: how many devices a machine has is found out once; a training step starts no other program.
# Seen: stage 3 runs `numactl --hardware`, a process of its own, for every bucket of gradients in every backward pass, whether that program
# is installed or not, unless the variable LOCAL_SIZE is set, as DeepSpeed's own launcher does and torchrun does not. Stages 1 and 2 run none.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet torch==2.13.0
"$folder/venv/bin/python" -m pip install --quiet deepspeed==0.19.8
cd "$folder"
unset LOCAL_SIZE
DS_ACCELERATOR=cpu LOCAL_RANK=0 "$folder/venv/bin/python" -W ignore - <<'PY'
import os
import subprocess
from importlib.metadata import version

import deepspeed
import torch
import torch.distributed as dist
from torch import nn

setattr(deepspeed.ops, "__compatible_ops__", {})  # else a helper of its own is compiled first
dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
LAYERS, WIDTH = 4, 64
started = []
run = subprocess.check_output


def noted(command, *arguments, **options):
    started.append(command)
    return run(command, *arguments, **options)


subprocess.check_output = noted


def programs(stage):
    """What is started in each of three steps after the first."""
    net = nn.Sequential(*(nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(LAYERS)))
    settings = {
        "train_batch_size": 1,
        "zero_optimization": {"stage": stage, "reduce_bucket_size": WIDTH * WIDTH},
        "zero_allow_untested_optimizer": True,
    }
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    engine, *_ = deepspeed.initialize(model=net, optimizer=optimizer, config=settings, dist_init_required=False)
    counts = []
    for _ in range(4):
        started.clear()
        engine.backward(engine(torch.ones(1, WIDTH)).square().mean())
        engine.step()
        counts.append(len(started))
        assert all(command == ["numactl", "--hardware"] for command in started)
    return counts[1:]


print(f"torch {version('torch')}, deepspeed {version('deepspeed')}")
found = {stage: programs(stage) for stage in (1, 2, 3)}
for stage, counts in found.items():
    print(f"stage {stage}: `numactl --hardware` started {counts} times in three steps of {LAYERS} layers, a bucket each")
os.environ["LOCAL_SIZE"] = "1"
told = programs(3)
print(f"stage 3 with LOCAL_SIZE=1: {told}")
assert found[1] == found[2] == [0, 0, 0]
assert min(found[3]) >= LAYERS, found
assert told == [0, 0, 0]
PY
