"""Imports what ranks need: the server does it once, before it forks the first of them. Nobody looks for garbage among it, then or in a rank."""

import gc
import importlib

from tests.processes import IMPORTED

gc.disable()
for name in IMPORTED:
    importlib.import_module(name)
gc.enable()
gc.freeze()
