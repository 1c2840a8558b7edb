#!/bin/sh
# deepspeed 0.19.8 with torch 2.13.0, in one process on the CPU, ZeRO stage 3, weights in fp32, with and without torch_autocast.
#
# Guess: where weights are fp32 and lie on the device that trains them, the optimizer moves them where they are. The source of stage 3 says
# that no other copy is needed then, and compares the device of a weight with its own to find out.
# Seen: there are two copies, so of one of 4 bytes a weight each rank holds 8. Stage 3 keeps its own device as text, and a torch.device equals
# no text, also of the same name, so the comparison is never true.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet torch==2.13.0
"$folder/venv/bin/python" -m pip install --quiet deepspeed==0.19.8
cd "$folder"
DS_ACCELERATOR=cpu LOCAL_RANK=0 "$folder/venv/bin/python" -W ignore - <<'PY'
from importlib.metadata import version

import deepspeed
import torch
import torch.distributed as dist
from torch import nn

setattr(deepspeed.ops, "__compatible_ops__", {})  # else a helper of its own is compiled first
dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)


def copies(autocast):
    """Whether what layers use, and what the optimizer moves, are two tensors of one type and device; and stage 3's own device."""
    net = nn.Linear(64, 64)
    settings = {
        "train_batch_size": 1,
        "zero_optimization": {"stage": 3},
        "zero_allow_untested_optimizer": True,
        "torch_autocast": {"enabled": autocast, "dtype": "bfloat16"},
    }
    optimizer = torch.optim.SGD(net.parameters(), lr=1.0)
    engine, *_ = deepspeed.initialize(model=net, optimizer=optimizer, config=settings, dist_init_required=False)
    zero = engine.optimizer
    used, moved = zero.fp16_partitioned_groups_flat[0], zero.fp32_partitioned_groups_flat[0]
    assert used.dtype == moved.dtype == torch.float32
    assert used.device == moved.device
    return used.data_ptr() != moved.data_ptr(), zero.device


found = {autocast: copies(autocast) for autocast in (False, True)}
print(f"torch {version('torch')}, deepspeed {version('deepspeed')}")
for autocast, (two, device) in found.items():
    print(f"torch_autocast {autocast}: {'two copies' if two else 'one copy'} of the weights; stage 3's device is {device!r}")
print(f"torch.device('cpu') == 'cpu': {torch.device('cpu') == 'cpu'}")
assert all(two and device == "cpu" and isinstance(device, str) for two, device in found.values())
assert torch.device("cpu") != "cpu"
PY
