"""`stoker launch` and `stoker worker`: one instance, or its worker alone."""

from __future__ import annotations

import os
import runpy
from pathlib import Path

import msgspec

from stoker import logs
from stoker.backends import located
from stoker.cli.arguments import json_object
from stoker.errors import ConfigError

DEFAULT_DIRECTORY = Path("stoker-instance")


def run_launcher(
    directory: Path | None,
    backend: str | None,
    options: str,
    log_level: str,
    manifest_file: Path | None = None,
) -> int:
    """Run the launcher on a directory; with `backend` or a manifest, put that there first."""
    from stoker.launcher import (
        install_manifest,
        main,
        manifest_from_environ,
        secure_directory,
        write_manifest,
    )

    if directory is None and backend is None and manifest_file is None:
        raise ConfigError("DIRECTORY", "name an instance directory, a --manifest or a --backend")
    if backend is not None and manifest_file is not None:
        raise ConfigError("--backend", "the manifest names it: give one of the two")
    os.environ["STOKER_LOG_LEVEL"] = log_level
    if manifest_file is not None:
        directory = (directory or DEFAULT_DIRECTORY).absolute()
        install_manifest(manifest_file, directory, os.environ)
        return main([str(directory)])
    if backend is not None:
        manifest = manifest_from_environ(
            os.environ, located(backend), json_object("--options", options)
        )
        directory = (directory or DEFAULT_DIRECTORY).absolute()
        secure_directory(directory)
        write_manifest(directory, manifest)
        os.environ.pop("MASTER_TOKEN", None)  # the manifest has it now
    assert directory is not None
    return main([str(directory)])


def run_worker(
    file: Path | None,
    backend: str | None,
    options: str,
    *,
    unsecured: bool = False,
    port: int | None = None,
    model_port: int | None = None,
) -> int:
    """Run a worker in this process: a worker.py, or that of a backend."""
    logs.configure(level=os.environ.get("STOKER_LOG_LEVEL", "info"))
    if (file is None) == (backend is None):
        raise ConfigError("FILE", "name a worker.py, or a --backend: one of the two")
    if file is not None:
        if not file.is_file():
            raise ConfigError(str(file), "there is no such file")
        if model_port is not None:
            raise ConfigError("--model-port", "is for a --backend; a worker.py names its own")
    if unsecured:
        from stoker.cli.tryout import run_unsecured_worker

        return run_unsecured_worker(file, backend, options, port=port, model_port=model_port)
    for name, value in (("WORKER_PORT", port), ("MODEL_PORT", model_port)):
        if value is not None:
            os.environ[name] = str(value)
    if file is not None:
        runpy.run_path(str(file), run_name="__main__")
        return 0
    assert backend is not None
    from stoker.backends.__main__ import main

    os.environ["STOKER_BACKEND_OPTIONS"] = msgspec.json.encode(
        json_object("--options", options)
    ).decode()
    return main([backend])
