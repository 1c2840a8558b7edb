"""Networks as ONNX files with a free batch axis, each compared with ours by onnxruntime as soon as it is written.

Needs the extra: `pip install 'genlib[onnx]'`.
"""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from genlib.json_text import json_text
from genlib.sharing.formats import Format, Graph, Graphs

FOLDER = "onnx"
TOLERANCE = 1e-3
"""Largest difference from ours that is still taken for rounding, as a share of the largest number that ours gives, or of 1."""
_COMPARED_ROWS = (1, 3)
_MOST_INLINE_BYTES = 1 << 30
"""Weights of more lie in a file beside the graph: a file of protocol buffers holds two gigabytes at most."""


def check_installed() -> None:
    """ValueError with the command that installs what is missing."""
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ValueError(f"ONNX files need {error.name}, which is not installed: pip install 'genlib[onnx]'") from None


def write_onnx(graphs: Graphs, export: Path) -> Format:
    """Writes the folder `onnx` of an export; its card says how far each file is from ours.

    ValueError where a file computes something else, or what it needs is not installed.
    """
    check_installed()
    folder = export / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for graph in graphs.graphs:
        write_graph(graph, folder / f"{graph.name}.onnx")
        difference = compared(graph, folder / f"{graph.name}.onnx")
        lines.append(f"| `{graph.name}.onnx` | {signature(graph)} | {graph.about} | {difference:.1e} |")
    if graphs.preprocessing:
        (folder / "preprocessor_config.json").write_text(json_text(graphs.preprocessing, indent=2) + "\n")
    if graphs.write:
        graphs.write(folder)
    table = "\n".join(["| file | inputs and output | what they are | largest difference from the trained network |", "|---|---|---|---|", *lines])
    return Format(
        folder=FOLDER, hub_folder=FOLDER, library="onnx", install=graphs.install, code=graphs.code, title=graphs.title,
        about=f"{graphs.about}\n\n{table}", task=graphs.task, tags=(*graphs.tags, "onnx"),
    )  # fmt: skip


def signature(graph: Graph) -> str:
    """Names, kinds and shapes, without the batch's size."""
    kinds = {torch.float32: "float32", torch.int64: "int64"}
    inputs = ", ".join(f"`{name}` {kinds[value.dtype]} (B, {', '.join(map(str, value.shape[1:]))})" for name, value in graph.inputs.items())
    with torch.no_grad():
        made = graph.compute(*graph.inputs.values())
    return f"{inputs} -> `{graph.output}` {kinds[made.dtype]} (B, {', '.join(map(str, made.shape[1:]))})"


class _Called(nn.Module):
    """A function of a module's weights as a module."""

    def __init__(self, owner: nn.Module, compute: Callable[..., Tensor]) -> None:
        super().__init__()
        self.owner, self.compute = owner, compute

    def forward(self, *inputs: Tensor) -> Tensor:
        """See the class."""
        return self.compute(*inputs)


def write_graph(graph: Graph, path: Path) -> None:
    """One file. ValueError in one sentence where PyTorch cannot write it."""
    module = _Called(graph.owner, graph.compute).eval()
    size = sum(value.numel() * value.element_size() for value in module.state_dict().values())
    axes = tuple({0: torch.export.Dim("batch")} for _ in graph.inputs)
    try:
        with torch.no_grad(), _quiet():
            torch.onnx.export(
                module, tuple(graph.inputs.values()), path, input_names=list(graph.inputs), output_names=[graph.output], dynamic_shapes=(axes,),
                dynamo=True, optimize=False,  # onnxscript 0.7.2 takes + 1e-8 for + 0, and what is normalised becomes NaN where it is constant
                external_data=size > _MOST_INLINE_BYTES, verbose=False,
            )  # fmt: skip
    except torch.onnx.errors.OnnxExporterError as error:
        reason = str(error.__cause__ or error).strip().splitlines()[0]
        raise ValueError(f"PyTorch {torch.__version__} cannot write {path.name} ({reason}); use the other formats of the export") from None


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's notes on operators that nobody asked for."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def compared(graph: Graph, path: Path) -> float:
    """The largest difference from ours, over several sizes of a batch. ValueError where it is more than rounding."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    if fixed := [value.name for value in session.get_inputs() if not isinstance(value.shape[0], str)]:
        raise ValueError(f"{path} takes batches of one size alone ({fixed[0]}); use the other formats of the export")
    worst = 0.0
    for rows in _COMPARED_ROWS:
        inputs = {name: torch.cat([value] * rows)[:rows] for name, value in graph.inputs.items()}
        (made,) = session.run([graph.output], {name: value.cpu().numpy() for name, value in inputs.items()})
        with torch.no_grad():
            ours = graph.compute(*inputs.values()).cpu()
        difference = (torch.from_numpy(made) - ours).abs().max().item()
        if not difference <= TOLERANCE * max(1.0, ours.abs().max().item()):
            raise ValueError(f"{path} computes something else than the trained network: it differs by {difference:.2g}; do not share it")
        worst = max(worst, difference)
    return worst
