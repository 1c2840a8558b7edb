"""Runs the code of cards as it stands: `python -S run_cards.py FOLDER...`, each in its folder, in a process without genlib on its path.

Beside a PyTorch without CUDA pip finds a torchvision with it, whose compiled operators do not load. All of its Python then works as soon as the
two operators are declared that it describes on import; nothing that a card uses calls one.
"""

import os
import sys
from pathlib import Path

FENCE = "```"


def code_of(folder: Path) -> str:
    """All Python in the card, in its order."""
    parts = (folder / "README.md").read_text().split(f"\n{FENCE}python\n")[1:]
    return "\n".join(part.partition(f"\n{FENCE}")[0] for part in parts)


def declare_operators() -> None:
    """See the module."""
    import torch

    try:
        import torchvision
    except ImportError:
        return
    except RuntimeError:
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
        for name in ("nms", "qnms"):
            torch.library.define(f"torchvision::{name}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        import torchvision  # noqa: F401


def main(folders: list[str]) -> None:
    """Runs them; the first that fails ends it with its traceback."""
    declare_operators()
    for folder in folders:
        os.chdir(folder)
        print(f"== {folder}", flush=True)
        exec(compile(code_of(Path(folder)), f"{folder}/README.md", "exec"), {"__name__": "__main__"})


if __name__ == "__main__":
    main(sys.argv[1:])
