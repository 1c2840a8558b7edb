"""What a command that trains does before its imports, which take seconds: it starts the head that it will need."""

from __future__ import annotations

import os
from collections.abc import Sequence

from cluster.ahead import begin

RAY_TRAIN_SETTINGS = {
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.3",  # a report waits for this poll
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",  # our lines are for people, not for Ray's logger
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # see jobs.elastic
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # relative paths stay what the user meant
}
_WITHOUT_RAY = {"-h", "--help", "--list", "--dry-run", "--dry_run", "--plan"}


def begin_training(words: Sequence[str]) -> None:
    """Starts a head of our own, where the words of a command that trains do not ask for something else."""
    if not _WITHOUT_RAY.intersection(words):
        set_ray_train()
        begin()


def set_ray_train() -> None:
    """Sets for this process, and for those that it starts from now on, how Ray Train works."""
    for name, value in RAY_TRAIN_SETTINGS.items():
        os.environ.setdefault(name, value)
