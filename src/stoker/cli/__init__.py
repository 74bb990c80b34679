"""The command line: `stoker --help`."""

from __future__ import annotations

from stoker.cli.app import main

__all__ = ["main"]
