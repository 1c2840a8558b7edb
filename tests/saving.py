"""What tests ask of a save that is under way beside them."""

from __future__ import annotations

import threading


def wait_until_saved() -> None:
    """Until no save is under way, as a step that takes long would do."""
    for thread in threading.enumerate():
        if thread.name == "saver":
            thread.join(60)
