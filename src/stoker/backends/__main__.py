"""``python -m stoker.backends NAME``: the worker in front of a model server of that backend.

Reads ``STOKER_BACKEND_OPTIONS`` (a JSON object), ``MODEL_PORT`` and ``MODEL_LOG`` besides the
environment of every worker. The launcher starts it; it starts no model server itself.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from stoker.backends.registry import get, names
from stoker.errors import UNREADABLE, ConfigError, StokerError
from stoker.logs import complain

if TYPE_CHECKING:
    from stoker.worker import WorkerConfig


def configuration(name: str, environ: Mapping[str, str]) -> WorkerConfig:
    """The worker's configuration for backend `name`, out of the environment.

    Raises:
        ConfigError: names the variable or option that is wrong.
    """
    backend = get(name)
    try:
        options: Any = msgspec.json.decode(environ.get("STOKER_BACKEND_OPTIONS") or "{}")
    except UNREADABLE as error:
        raise ConfigError("STOKER_BACKEND_OPTIONS", f"not valid JSON: {error}") from None
    port = environ.get("MODEL_PORT", "")
    if not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise ConfigError("MODEL_PORT", "must be the model server's port, from 1 to 65535")
    log = environ.get("MODEL_LOG", "")
    if not log:
        raise ConfigError("MODEL_LOG", "must be the path of the model server's log")
    parsed = backend.parse(options, where="STOKER_BACKEND_OPTIONS")
    return backend.worker_config(parsed, int(port), Path(log))


def main(argv: list[str]) -> int:
    """Run the worker until SIGTERM; returns the exit code, 2 for a mistake in its settings."""
    if len(argv) != 1 or argv[0].startswith("-"):
        print(f"usage: python -m stoker.backends NAME, one of: {', '.join(names())}")
        return 2
    try:
        config = configuration(argv[0], os.environ)
        from stoker.worker import Worker

        Worker(config).run()
    except StokerError as error:
        complain("stoker.backends", error)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
