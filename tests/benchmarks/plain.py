"""The engine on the benchmark's recipe in this process, without Ray: the reference of submit_to_first_step.py."""

import os
from pathlib import Path

import torch

from genlib.data.source import open_source
from genlib.engine.fit import fit
from tests.benchmarks.steps import recipe

if __name__ == "__main__":
    (stage,) = recipe().stages
    fit(stage, recipe="steps", source=open_source(stage.data), folder=Path(os.environ["GENLIB_RUNS"]) / "plain", device=torch.device("cpu"))
