"""What a backend is: how one kind of model server is started, watched and fronted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from stoker.config import convert

if TYPE_CHECKING:
    from stoker.worker import WorkerConfig


def _no_environment(_options: Any) -> dict[str, str]:
    return {}


@dataclass(frozen=True, kw_only=True)
class Backend:
    """One kind of model server.

    The callables take the parsed `options` (an instance of the struct type of that name) first.
    None of them starts a process or imports the model server's libraries.
    """

    name: str
    description: str
    options: type[msgspec.Struct]
    """Struct type of the settings; it forbids unknown fields."""
    command: Callable[[Any, str, int], list[str]]
    """(options, host, port) -> argument vector of the model server.

    Raises ConfigError when the options cannot work here (for example, weights not installed).
    """
    worker_config: Callable[[Any, int, Path], WorkerConfig]
    """(options, port of the model server, its log) -> the worker's configuration."""
    environment: Callable[[Any], dict[str, str]] = field(default=_no_environment)
    """(options) -> variables added to the model server's environment."""
    health_path: str = "/health"
    """Answers 200 once the model server can serve; empty: it has none."""

    def parse(self, options: dict[str, Any], *, where: str = "options") -> msgspec.Struct:
        """The options as a struct.

        Raises:
            ConfigError: names the field that is unknown or wrong.
        """
        return convert(options, self.options, where=where)
