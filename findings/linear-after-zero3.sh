#!/bin/sh
# deepspeed 0.19.8 with torch 2.13.0, in one process: an engine of ZeRO stage 3 is made and destroyed, then another model is used.
#
# Guess: what the engine changed goes with it (`destroy()`), and it concerned its own model alone.
# Seen: `torch.nn.functional.linear` stays replaced for the whole process, by a torch.autograd.Function without a forward mode. A plain
# nn.Linear of a model that DeepSpeed never saw no longer takes `torch.func.jvp`; and whatever looks at operations as they are run
# (a count of FLOPs, of recomputed layers) finds no gradients recorded inside of a linear layer's forward pass.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet torch==2.13.0
"$folder/venv/bin/python" -m pip install --quiet deepspeed==0.19.8
cd "$folder"
DS_ACCELERATOR=cpu LOCAL_RANK=0 "$folder/venv/bin/python" -W ignore - <<'PY'
from importlib.metadata import version

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode


class Recorded(TorchDispatchMode):
    """Whether gradients are recorded where matrices are multiplied."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if "mm" in str(function):
            self.found = torch.is_grad_enabled()
        return function(*args, **(kwargs or {}))


def looked_at():
    """What becomes of a forward-mode derivative of a plain linear layer, and whether its product records gradients."""
    layer, x = nn.Linear(4, 2), torch.ones(3, 4)
    with Recorded() as mode:
        layer(x)
    try:
        torch.func.jvp(layer, (x,), (x,))
    except NotImplementedError as error:
        return str(error), mode.found
    return "a derivative", mode.found


before, linear = looked_at(), F.linear
import deepspeed

setattr(deepspeed.ops, "__compatible_ops__", {})  # else a helper of its own is compiled first
dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
net = nn.Sequential(nn.Linear(4, 4))
engine, *_ = deepspeed.initialize(
    model=net, optimizer=torch.optim.AdamW(net.parameters()), config={"train_batch_size": 1, "zero_optimization": {"stage": 3}}, dist_init_required=False
)
engine.destroy()
after = looked_at()
print(f"torch {version('torch')}, deepspeed {version('deepspeed')}")
print(f"before: {before}\nafter:  {after}; functional.linear is {F.linear.__name__}")
assert before == ("a derivative", True)
assert F.linear is not linear
assert "jvp function" in after[0]
assert after[1] is False
PY
