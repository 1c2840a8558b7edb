#!/bin/sh
# deepspeed 0.19.8 with torch 2.13.0, in one process, without accumulation: a layer that the loss reaches in the first step alone, as with
# experts, dropped layers, or a head that is used now and then. Plain SGD, without momentum or decay, so that a gradient is all that moves it.
#
# Guess: in a step that does not reach it, the layer has no gradient, or zeros, and stays as it is, under every stage of ZeRO.
# Seen: under stages 1 and 2 it stays. Under stage 3 the gradient of the last step that reached it is applied again, and again in the next
# step: a weight of 1 with the gradient 0.25 goes to 0.75, then to 0.5, then to 0.25.
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


class Net(nn.Module):
    """One layer that is always used, and one that is used where `both` says so."""

    def __init__(self):
        super().__init__()
        self.always, self.sometimes = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
        for weight in self.parameters():
            nn.init.ones_(weight)

    def forward(self, x, both):
        return (self.always(x) + self.sometimes(x) if both else self.always(x)).sum()


def trained(stage):
    """The weight of the second layer after each of three steps; stage 0 is torch alone."""
    net, values, x = Net(), [], torch.full((1, 1), 0.25)
    optimizer = torch.optim.SGD(net.parameters(), lr=1.0)
    if stage:
        settings = {"train_batch_size": 1, "zero_optimization": {"stage": stage}, "zero_allow_untested_optimizer": True}
        engine, *_ = deepspeed.initialize(model=net, optimizer=optimizer, config=settings, dist_init_required=False)
    for both in (True, False, False):
        if stage:
            engine.backward(engine(x, both))
            engine.step()
        else:
            optimizer.zero_grad()
            net(x, both).backward()
            optimizer.step()
        with deepspeed.zero.GatheredParameters(list(net.parameters()), enabled=stage == 3):
            values.append(round(net.sometimes.weight.item(), 4))
    return values


found = {stage: trained(stage) for stage in range(4)}
print(f"torch {version('torch')}, deepspeed {version('deepspeed')}")
for stage, values in found.items():
    print(f"{f'ZeRO {stage}' if stage else 'torch'}: {values}")
assert found[0] == found[1] == found[2] == [0.75, 0.75, 0.75]
assert found[3] == [0.75, 0.5, 0.25]
PY
