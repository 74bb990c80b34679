"""Backends: one file per kind of model server.

A backend says how its model server is started, how one sees that it is ready, and how the worker
in front of it measures load. `get` and `names` look them up, in files and installed packages too;
`register` adds one of your own.
"""

from __future__ import annotations

from stoker.backends.base import Backend, Requirement, ServerOptions
from stoker.backends.registry import get, located, names, register

__all__ = ["Backend", "Requirement", "ServerOptions", "get", "located", "names", "register"]
