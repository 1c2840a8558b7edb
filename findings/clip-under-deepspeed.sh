#!/bin/sh
# transformers 5.23.0's CLIPModel under deepspeed 0.19.8 with torch 2.13.0, in one process. Its temperature, logit_scale, is a weight without an
# axis, as in OpenAI's and open_clip's CLIP.
#
# Guess: deepspeed.initialize takes the model, as it takes other models of transformers.
# Seen: under each of ZeRO's stages 0, 1 and 2 it raises "self.dim() cannot be 0 to view Float as Byte (different element sizes)" while it sends
# the weights round. With the same weight of shape (1,) the model is taken and trains.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet torch==2.13.0
"$folder/venv/bin/python" -m pip install --quiet deepspeed==0.19.8 transformers==5.23.0
cd "$folder"
DS_ACCELERATOR=cpu LOCAL_RANK=0 "$folder/venv/bin/python" -W ignore - <<'PY'
from importlib.metadata import version

import deepspeed
import torch
import torch.distributed as dist
from torch import nn
from transformers import CLIPConfig, CLIPModel

setattr(deepspeed.ops, "__compatible_ops__", {})  # else a helper of its own is compiled first
dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)


def model(axis):
    """A tiny CLIP; with `axis` its temperature has the shape (1,)."""
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    text, image = {**sizes, "vocab_size": 16, "max_position_embeddings": 4, "bos_token_id": 1, "eos_token_id": 2}, {**sizes, "image_size": 4, "patch_size": 4}
    made = CLIPModel(CLIPConfig(text_config=text, vision_config=image, projection_dim=4))
    assert made.logit_scale.shape == ()
    if axis:
        made.logit_scale = nn.Parameter(made.logit_scale.detach().reshape(1))
    return made


def taken(stage, axis):
    """What deepspeed raises, or that the loss is finite after a step."""
    net = model(axis)
    settings = {"train_batch_size": 1, "zero_optimization": {"stage": stage}, "zero_allow_untested_optimizer": True}
    try:
        engine, *_ = deepspeed.initialize(
            model=net, optimizer=torch.optim.SGD(net.parameters(), lr=0.1), config=settings, dist_init_required=False
        )
    except RuntimeError as error:
        return str(error)
    ids = torch.tensor([[1, 3, 4, 2], [1, 5, 6, 2]])
    loss = engine(input_ids=ids, pixel_values=torch.rand(2, 3, 4, 4), return_loss=True).loss
    engine.backward(loss)
    engine.step()
    return "trains" if loss.isfinite() else "is not finite"


print(f"torch {version('torch')}, deepspeed {version('deepspeed')}, transformers {version('transformers')}")
found = {(stage, axis): taken(stage, axis) for axis in (False, True) for stage in (0, 1, 2)}
for (stage, axis), words in found.items():
    print(f"stage {stage}, logit_scale of shape {'(1,)' if axis else '()'}: {words}")
assert all("cannot be 0 to view Float as Byte" in found[stage, False] for stage in (0, 1, 2))
assert all(found[stage, True] == "trains" for stage in (0, 1, 2))
PY
