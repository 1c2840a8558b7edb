#!/bin/sh
# torch 2.13.0 with onnx 1.23.2, onnxscript 0.7.2 and onnxruntime 1.32.0: torch.onnx.export(dynamo=True) of a normalisation with an epsilon of 1e-8,
# as StyleGAN and ProGAN have it.
#
# Guess: the file computes what the module does.
# Seen: the addition of 1e-8 is not in the file, so that a constant input, whose variance is 0, becomes NaN, and there is no warning. An epsilon of
# 1e-5 stays, and with `optimize=False` so does 1e-8.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet torch==2.13.0
"$folder/venv/bin/python" -m pip install --quiet onnx==1.23.2 onnxscript==0.7.2 onnxruntime==1.32.0 numpy
cd "$folder"
"$folder/venv/bin/python" -W ignore - <<'PY'
from importlib.metadata import version

import numpy as np
import onnx
import onnxruntime
import torch
from torch import nn


class Normalised(nn.Module):
    """The deviation of each row becomes 1."""

    def __init__(self, epsilon):
        super().__init__()
        self.epsilon = epsilon

    def forward(self, x):
        x = x - x.mean(1, keepdim=True)
        return x * (x.square().mean(1, keepdim=True) + self.epsilon).rsqrt()


def written(epsilon, optimize):
    """Additions in the file, and what it makes of a row of ones."""
    module, ones = Normalised(epsilon).eval(), torch.ones(2, 4)
    torch.onnx.export(module, (ones,), "n.onnx", dynamo=True, optimize=optimize, input_names=["x"], output_names=["y"], verbose=False)
    additions = sum(node.op_type == "Add" for node in onnx.load("n.onnx").graph.node)
    assert module(ones).abs().max() == 0
    (made,) = onnxruntime.InferenceSession("n.onnx").run(None, {"x": np.ones((2, 4), np.float32)})
    return additions, bool(np.isnan(made).all())


print(*(f"{name} {version(name)}" for name in ("torch", "onnx", "onnxscript", "onnxruntime")))
found = {(epsilon, optimize): written(epsilon, optimize) for epsilon in (1e-5, 1e-8) for optimize in (True, False)}
for (epsilon, optimize), (additions, nan) in found.items():
    print(f"epsilon {epsilon:g}, optimize={optimize}: {additions} additions in the file; of ones it makes {'NaN' if nan else '0'}")
assert found[1e-5, True] == found[1e-5, False] == found[1e-8, False] == (1, False)
assert found[1e-8, True] == (0, True)
PY
