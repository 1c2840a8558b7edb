"""Which packages may bring families, and the recipes they bring.

Whoever runs the program trusts a package, in one of two ways: the package is installed with entry points of the group `genlib.recipes`,
`NAME = "module:function"`; or the environment variable GENLIB_FAMILIES names it, and it has a dictionary `RECIPES` of the same form. A
checkpoint only names the class of its configuration: that class is imported if it is genlib's own or of a trusted package, and nothing
is imported to find that out.
"""

from __future__ import annotations

import importlib
import os
import re
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from types import ModuleType

VARIABLE = "GENLIB_FAMILIES"
"""Names of packages that may bring families, separated by commas."""
GROUP = "genlib.recipes"
OWN = "genlib.models"


def names() -> set[str]:
    """The packages whose families may be trained and opened."""
    return {OWN, *names_in_environment(), *(_top(point.module) for point in _points())}


def names_in_environment() -> list[str]:
    """The packages that the environment names. ValueError where what stands there is no package's name."""
    found = [name.strip() for name in os.environ.get(VARIABLE, "").split(",")]
    for name in filter(None, found):
        if not re.fullmatch(r"\w+(\.\w+)*", name):
            raise ValueError(f"{VARIABLE} has {name!r}, which is no name of a package; write names that Python imports, separated by commas")
    return [name for name in found if name]


def check_trusted(module: str, what: str) -> None:
    """ValueError, beginning with `what`, where the module is of no trusted package."""
    if module.startswith(f"{OWN}."):  # the usual case, without a look at what is installed
        return
    if not any(module == package or module.startswith(f"{package}.") for package in names()):
        raise ValueError(
            f"{what}, and the package {_top(module)!r} is not trusted to bring families; if you trust its code, "
            f"name it in {VARIABLE} ({VARIABLE}={_top(module)}) or install it with entry points of the group {GROUP!r}"
        )


def recipes() -> dict[str, str]:
    """`"module:function"` of the recipes of other packages, by name. ValueError where two have the same name."""
    found: dict[str, str] = {}
    for name, target in _named_recipes():
        if found.setdefault(name, target) != target:
            raise ValueError(f"two packages have a recipe {name!r}, {found[name]} and {target}; uninstall one of them, or take it out of {VARIABLE}")
    return found


def imported(module: str, what: str) -> ModuleType:
    """A module of another package. ValueError, beginning with `what`, where it cannot be imported, whatever it raises meanwhile."""
    try:
        return importlib.import_module(module)
    except Exception as error:  # it is other people's code
        raise ValueError(f"{what}, which cannot be imported: {type(error).__name__}: {error}; install or repair that package") from error


def _named_recipes() -> Iterator[tuple[str, str]]:
    for point in _points():
        yield point.name, f"{point.module}:{point.attr}"
    for package in names_in_environment():
        found = getattr(imported(package, f"{VARIABLE} names {package!r}"), "RECIPES", {})
        if not (isinstance(found, Mapping) and all(re.fullmatch(r"[\w.]+:\w+", f"{target}") for target in found.values())):
            raise ValueError(f"{package}.RECIPES is {found!r}; write a dictionary of names and 'module:function'")
        yield from found.items()


def _points() -> Iterator[EntryPoint]:
    return iter(_points_on(tuple(sys.path)))


@cache
def _points_on(path: tuple[str, ...]) -> list[EntryPoint]:
    """Entry points of what is installed on that search path, where looking takes some milliseconds."""
    return list(entry_points(group=GROUP))


def _top(module: str) -> str:
    return module.partition(".")[0]
