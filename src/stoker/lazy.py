"""Packages whose names load the module that has them when they are first used.

A package's front names all that others may use of it. Most programs use little of that, and Python
would load the rest of it at each start.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False  # not that of `typing`: every program's start would wait for it
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any


def front(package: str, homes: Mapping[str, str]) -> Callable[[str], Any]:
    """The ``__getattr__`` of a package (PEP 562).

    Args:
        package: its ``__name__``.
        homes: by module, below the package unless it starts with ``stoker.``, the names that it
            has, with blanks between them.
    """
    home_of = {
        name: module if module.startswith("stoker.") else f"{package}.{module}"
        for module, names in homes.items()
        for name in names.split()
    }

    def load(name: str) -> Any:
        if name not in home_of:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        import importlib

        value = getattr(importlib.import_module(home_of[name]), name)
        setattr(sys.modules[package], name, value)  # the next look finds it there
        return value

    return load
