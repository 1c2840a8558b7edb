"""How straight a trained flow is, and a sheet of what it draws in few steps and in many."""

from __future__ import annotations

from pathlib import Path

import torch

from genlib.functional.diffusion import straightness
from genlib.models.diffusion.base.flow import follow, path
from genlib.models.diffusion.rectified_flow import RectifiedFlow
from genlib.pictures import save_contact_sheet
from genlib.plurals import counted
from genlib.random import seeded_normal
from genlib.types import DataSource


@torch.no_grad()
def assess(task: RectifiedFlow, source: DataSource, folder: Path) -> dict[str, float]:
    """How straight the flow is, and how far 4 steps end from 64 (mean squared, pixels in [-1, 1]). Leaves `contact_sheet.png`."""
    points = path(task.velocity, seeded_normal(range(64), task.shape, task.device), 64)
    few = follow(task.velocity, points[0], 4)
    sheet(task, source, folder / "contact_sheet.png")
    per_pixel = straightness(points, torch.linspace(0, 1, 65)).mean().item() / points[0, 0].numel()
    return {"straightness": per_pixel, "error_of_4_steps": (few - points[-1]).square().mean().item()}


def sheet(task: RectifiedFlow, source: DataSource, path: Path) -> None:
    """Pictures of the same eight noises in 1, 2, 4, 8 and 64 steps."""
    counts, seeds = (1, 2, 4, 8, 64), list(range(8))
    pictures = torch.cat([task.generate(seed=seeds, steps=steps) for steps in counts]).permute(0, 2, 3, 1).cpu().numpy()
    labels = [counted(steps, "step") for steps in counts for _ in seeds]
    save_contact_sheet(path, list(pictures), labels, columns=len(seeds), side=64, label_lines=1, title="The same noises in more and more steps")
