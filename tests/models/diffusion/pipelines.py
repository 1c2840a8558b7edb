"""Pictures of exported folders by diffusers, in a process that has no genlib on its path."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor


def drawn(requests: list[dict[str, Any]], folder: Path) -> list[Tensor]:
    """What `clean_pipeline` makes of the requests; `folder` is for its files."""
    (folder / "requests.json").write_text(json.dumps(requests))
    script = Path(__file__).with_name("clean_pipeline.py")
    site = sysconfig.get_paths()["purelib"]  # -S leaves out what a .pth file names there: the project itself
    environment = {**os.environ, "PYTHONPATH": site, "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-S", script, folder / "requests.json", folder / "pictures.safetensors"]
    run = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=600)
    assert run.returncode == 0, run.stderr[-3000:]
    pictures = load_file(folder / "pictures.safetensors")
    return [pictures[str(number)] for number in range(len(requests))]


def request(pipeline: str, folder: Path, prompt: list[str], seeds: list[int], **options: Any) -> dict[str, Any]:
    """A request of `clean_pipeline`; a negative prompt is one for all."""
    if "negative_prompt" in options:
        options["negative_prompt"] = [options["negative_prompt"]] * len(prompt)
    return {"pipeline": pipeline, "folder": str(folder), "prompt": prompt, "seeds": seeds, "options": options}
