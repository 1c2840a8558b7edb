"""Settings every test shares."""

import os
import signal
import warnings

import pytest
import torch

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("DS_ACCELERATOR", "cpu" if not torch.cuda.is_available() else "cuda")
os.environ.setdefault("PYTHONWARNINGS", "ignore")
os.environ["GENLIB_FAMILIES"] = "tests"  # checkpoints of the families that stand in tests are opened
torch.set_num_threads(1)
warnings.filterwarnings("ignore", category=FutureWarning)
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a job in the background: what tests start would not hear Ctrl-C either
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(tryfirst=True)  # before xdist looks at the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if not item.get_closest_marker("xdist_group"):  # what a file's tests share is made once: they run in one process, if nothing else is said
            item.add_marker(pytest.mark.xdist_group(f"{item.path.parent.name}/{item.path.stem}"))
        if item.get_closest_marker("gpu") and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="needs a GPU"))
