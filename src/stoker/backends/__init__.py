"""Backends: one file per kind of model server.

A backend says how its model server is started, how one sees that it is ready, and how the worker
in front of it measures load. `get` and `names` look them up, in files and installed packages too;
`register` adds one of your own.
"""

from __future__ import annotations

from stoker.backends.base import (
    PATH,
    PATH_OR_NAME,
    PROGRAM,
    Backend,
    Requirement,
    ServerOptions,
)
from stoker.backends.registry import get, is_file, located, names, register

__all__ = [
    "PATH",
    "PATH_OR_NAME",
    "PROGRAM",
    "Backend",
    "Requirement",
    "ServerOptions",
    "get",
    "is_file",
    "located",
    "names",
    "register",
]
