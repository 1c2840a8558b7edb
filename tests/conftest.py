"""Settings every test shares."""

import gc
import os
import signal
import warnings
from collections.abc import Iterator

import pytest
import torch

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("DS_ACCELERATOR", "cpu" if not torch.cuda.is_available() else "cuda")
os.environ.setdefault("PYTHONWARNINGS", "ignore")
os.environ["GENLIB_FAMILIES"] = "tests"  # checkpoints of the families that stand in tests are opened
torch.set_num_threads(1)
warnings.filterwarnings("ignore", category=FutureWarning)
_NAME = 40
"""Characters of a value in a test's name."""
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a job in the background: what tests start would not hear Ctrl-C either
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_make_parametrize_id(val: object) -> str | None:
    """A short name for a long value: each process holds all names, and each report carries one, be it of 64 MiB."""
    if isinstance(val, str | bytes) and len(val) > _NAME:
        return f"{ascii(val[:_NAME])[:_NAME]} of {len(val)}"
    return None


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Nobody looks for garbage among what all tests import: it took a third of the collection, and half a second whenever a test asks for it."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
        gc.freeze()


@pytest.hookimpl(tryfirst=True)  # before xdist looks at the groups
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        if not item.get_closest_marker("xdist_group"):  # what a file's tests share is made once: they run in one process, if nothing else is said
            item.add_marker(pytest.mark.xdist_group(f"{item.path.parent.name}/{item.path.stem}"))
        if item.get_closest_marker("gpu") and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="needs a GPU"))
        if item.get_closest_marker("slow") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(3600))
    if config.getoption("loadgroup", False):
        items[:] = spread(items)


def pytest_collection_finish(session: pytest.Session) -> None:
    if session.config.getoption("loadgroup", False):
        assert all("@" in item.nodeid for item in session.items), "xdist does not see the groups: another version of pytest than it knows?"


def spread(items: list[pytest.Item]) -> list[pytest.Item]:
    """The tests group by group, in the order in which processes take them: large groups first, and those that start Ray, which mostly wait for
    it, between those that compute."""
    groups: dict[str, list[pytest.Item]] = {}
    for item in items:
        groups.setdefault(item.get_closest_marker("xdist_group").args[0], []).append(item)  # type: ignore[union-attr]
    waiting = [group for group in groups.values() if any(item.get_closest_marker("ray") for item in group)]
    computing = sorted((group for group in groups.values() if group not in waiting), key=len, reverse=True)
    places = [(number / len(some), group) for some in (waiting, computing) for number, group in enumerate(some)]
    return [item for _, group in sorted(places, key=lambda place: place[0]) for item in group]
