"""Options of `genlib cluster`: what is wrong with one is a sentence."""

from __future__ import annotations

import argparse
from typing import NoReturn


class Words(argparse.ArgumentParser):
    """As ArgumentParser, but ValueError in place of an exit."""

    def __init__(self, verb: str, about: str | None) -> None:
        super().__init__(prog=f"genlib cluster {verb}", description=about, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message}; `{self.prog} --help` shows what it takes")
