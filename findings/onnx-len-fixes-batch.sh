#!/bin/sh
# torch 2.13.0 with onnx 1.23.2, onnxscript 0.7.2 and onnxruntime 1.32.0: torch.onnx.export(dynamo=True) with the batch as a `Dim`.
#
# Guess: `len(x)` in a forward pass is `x.shape[0]`, so both give a file for any batch; and where the exporter cannot keep a dimension that
# was asked to be dynamic, it says so.
# Seen: with `x.shape[0]` the file takes any batch. With `len(x)` it is written without an error, with the example's batch as a constant:
# onnxruntime refuses every other one.
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
import onnxruntime
import torch
from torch import nn


class Learned(nn.Module):
    """A constant for each row, as a generator's first layer has it, and the input."""

    def __init__(self, count):
        super().__init__()
        self.count, self.constant = count, nn.Parameter(torch.ones(4))

    def forward(self, x):
        return self.constant.expand(self.count(x), 4) + x


def rows_taken(name, count):
    """Which numbers of rows a written file takes, of an example of two."""
    example = (torch.zeros(2, 4),)
    shapes = ({0: torch.export.Dim("batch")},)
    torch.onnx.export(Learned(count).eval(), example, name, dynamo=True, dynamic_shapes=shapes, input_names=["x"], output_names=["y"], verbose=False)
    session, taken = onnxruntime.InferenceSession(name), []
    for rows in (1, 2, 3):
        try:
            taken.append(len(session.run(None, {"x": np.zeros((rows, 4), np.float32)})[0]))
        except Exception as error:  # of onnxruntime's own kind
            assert "Got invalid dimensions" in str(error)
    return taken


print(*(f"{name} {version(name)}" for name in ("torch", "onnx", "onnxscript", "onnxruntime")))
shape, length = rows_taken("shape.onnx", lambda x: x.shape[0]), rows_taken("len.onnx", len)
print(f"x.shape[0]: takes {shape} rows; len(x): takes {length}")
assert shape == [1, 2, 3]
assert length == [2]
PY
