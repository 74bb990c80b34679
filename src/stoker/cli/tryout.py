"""`--unsecured`: a worker for this machine alone, without any control plane, and how to call it.

Rules:

* It has no authentication, so it listens on a loopback address or not at all.
* An identity that is in the environment (from `stoker attach`) is left out: a control plane must
  never be told of a worker that anybody here may use.
* Once it is ready, the lines that call it and load it are printed on standard output; logs are on
  standard error.
"""

from __future__ import annotations

import os
import runpy
import shlex
import threading
import time
import urllib.error
import urllib.request
from collections.abc import MutableMapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from stoker import logs
from stoker.cli import output
from stoker.cli.arguments import json_object
from stoker.errors import ConfigError

if TYPE_CHECKING:
    from stoker.worker import WorkerConfig

DEFAULT_DIRECTORY = Path("stoker-unsecured")
"""Of `stoker launch --unsecured`: another than that of an instance with an identity."""

MAX_EXAMPLE = 2000
"""Characters of a payload that fits on a line."""

LOOK = 0.25
"""Seconds between two looks whether a launched worker is ready."""

_LOOPBACK = "127.0.0.1"
_IDENTITY = ("CONTAINER_ID", "MASTER_TOKEN", "REPORT_ADDR", "STOKER_TICKETS", "USE_SSL")


def run_unsecured_worker(
    file: Path | None,
    backend: str | None,
    options: str,
    *,
    port: int | None = None,
    model_port: int | None = None,
) -> int:
    """Run a worker without authentication on a loopback address, until told to stop.

    Args:
        file: a ``worker.py``.
        backend: in its place, the worker of this backend.
        options: of the backend, JSON.
        port: to listen on; None: ``WORKER_PORT``, else the usual one; 0: any free one.
        model_port: of the model server, for a backend.

    Raises:
        ConfigError: names the option that cannot be used.
    """
    make_unsecured(os.environ)
    if port is not None:
        os.environ["WORKER_PORT"] = str(port)
    from stoker.worker import Worker

    Worker.on_ready = _tell
    logs.configure(level=os.environ.get("STOKER_LOG_LEVEL", "info"))
    if file is not None:
        runpy.run_path(str(file), run_name="__main__")
        return 0
    assert backend is not None
    if model_port is not None:
        os.environ["MODEL_PORT"] = str(model_port)
    elif not os.environ.get("MODEL_PORT"):
        raise ConfigError("--model-port", "is required: where does the model server listen?")
    os.environ["BACKEND"] = backend
    os.environ["STOKER_BACKEND_OPTIONS"] = msgspec.json.encode(
        json_object("--options", options)
    ).decode()
    Worker(_backend_config(backend)).run()
    return 0


def make_unsecured(environ: MutableMapping[str, str]) -> None:
    """Set the environment of a worker without authentication, and take out any identity.

    Raises:
        ConfigError: it says to listen where others can reach it.
    """
    host = loopback(environ.get("STOKER_HOST") or _LOOPBACK)
    for name in _IDENTITY:
        environ.pop(name, None)
    environ.update({"UNSECURED": "true", "STOKER_HOST": host, "PUBLIC_IPADDR": host})


def loopback(host: str) -> str:
    """`host`, when only this machine can reach it.

    Raises:
        ConfigError: others can.
    """
    from stoker.network import is_loopback

    if not is_loopback(host):
        raise ConfigError(
            "--unsecured",
            f"a worker without authentication must not listen on {host}: "
            "unset STOKER_HOST, or set it to 127.0.0.1",
        )
    return host


def _backend_config(backend: str) -> WorkerConfig:
    """The worker of a backend, for a model server whose log may be anywhere."""
    from stoker.backends.__main__ import configuration
    from stoker.worker import LogActionConfig

    if os.environ.get("MODEL_LOG"):
        return configuration(backend, os.environ)
    config = configuration(backend, {**os.environ, "MODEL_LOG": os.devnull})
    # It was started by somebody else, maybe long ago: its health tells that it is loaded.
    config.model_log_file = None
    config.log_action_config = LogActionConfig()
    return config


def launch_unsecured(
    directory: Path | None, backend: str | None, options: str, log_level: str
) -> int:
    """Bring a model server and a worker without authentication up on a loopback address.

    Args:
        directory: of the instance.
        backend: name; it must be given.
        options: of the backend, JSON.
        log_level: of launcher and worker.

    Raises:
        ConfigError: names the option that cannot be used.
    """
    from stoker.backends import get, located
    from stoker.launcher import InstanceManifest, main, write_manifest

    if backend is None:
        raise ConfigError("--unsecured", "needs a --backend")
    parsed = json_object("--options", options)
    get(backend).parse(parsed, where="--options")  # a mistake is told here, not in a log
    host = loopback(os.environ.get("STOKER_HOST") or _LOOPBACK)
    port = os.environ.get("WORKER_PORT") or "0"
    if not (port.isascii() and port.isdigit() and len(port) < 6):
        raise ConfigError("WORKER_PORT", "must be a whole number, or unset for any free port")
    manifest = InstanceManifest(
        instance_id="unsecured",
        worker_id=0,
        mtoken="",
        report_addr="",
        backend=located(backend),
        options=parsed,
        host=host,
        public_host=host,
        worker_port=int(port),
        unsecured=True,
        tickets_required=False,
    )
    directory = (directory or DEFAULT_DIRECTORY).absolute()
    _refuse_identity(directory)
    write_manifest(directory, manifest)
    for name in _IDENTITY:
        os.environ.pop(name, None)
    os.environ["STOKER_LOG_LEVEL"] = log_level
    watch = threading.Thread(target=_tell_when_launched, args=(directory, manifest), daemon=True)
    watch.start()
    return main([str(directory)])


def _refuse_identity(directory: Path) -> None:
    """An identity that is kept in the directory would be overwritten, and lost."""
    from stoker.launcher import read_manifest

    try:
        found = read_manifest(directory)
    except ConfigError:
        return
    if not found.unsecured:
        raise ConfigError(
            str(directory), "holds an instance of a control plane: name another directory"
        )


def _tell_when_launched(directory: Path, manifest: Any) -> None:
    """Wait, in a thread, until the launched worker is ready; then say how to call it."""
    from stoker.backends.__main__ import configuration
    from stoker.launcher import read_state

    while True:
        time.sleep(LOOK)
        state = read_state(directory)
        if state is None or state.launcher_pid != os.getpid() or not state.worker_port:
            continue
        url = _url(manifest.host, state.worker_port)
        try:
            with urllib.request.urlopen(f"{url}/healthz", timeout=5.0):  # noqa: S310 - our own
                break
        except (OSError, urllib.error.URLError):
            continue
    environ = {
        "STOKER_BACKEND_OPTIONS": msgspec.json.encode(manifest.options).decode(),
        "MODEL_PORT": str(state.model_port),
        "MODEL_LOG": os.devnull,
    }
    _print(url, configuration(manifest.backend, environ))


def _tell(config: WorkerConfig, port: int) -> None:
    """Say how the worker is called; in a thread, as a benchmark's generator may take its time."""
    url = _url(os.environ["STOKER_HOST"], port)
    threading.Thread(target=_print, args=(url, config), daemon=True).start()


def _url(host: str, port: int) -> str:
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _print(url: str, config: WorkerConfig) -> None:
    curl, load = calls(url, *example(config))
    output.out.print(
        f"\nready, without authentication, for this machine alone. Try it:\n  {curl}\n"
        f"and load it:\n  {load}\n",
        markup=False,
        soft_wrap=True,
    )


def example(config: WorkerConfig) -> tuple[str, str]:
    """A route, and a payload for it as JSON text.

    The route is that of the benchmark, because there is a payload for it; ``{}`` where that one is
    long, cannot be made, or is not what a client sends (a request parser stands before it, or a
    handler class makes it).
    """
    handler = config.benchmark_handler
    benchmark = handler.benchmark_config
    if benchmark is not None and handler.request_parser is None:
        try:
            payload = benchmark.generator() if benchmark.generator else (benchmark.dataset or [])[0]
            text = msgspec.json.encode(payload).decode()
        except Exception:  # somebody else's code: the worker's log told of it
            return handler.route, "{}"
        if len(text) <= MAX_EXAMPLE:
            return handler.route, text
    return handler.route, "{}"


def calls(url: str, route: str, payload: str) -> tuple[str, str]:
    """Shell lines: one that calls the worker, one that loads it.

    Args:
        url: of the worker.
        route: path.
        payload: JSON text.
    """
    address = shlex.quote(url + route)
    body = shlex.quote(f'{{"payload": {payload}}}')
    plain = "-g " if "[" in url else ""  # or curl would take the brackets for a pattern
    curl = f"curl -sS {plain}{address} -H 'content-type: application/json' -d {body}"
    load = f"stoker load {shlex.quote(url)} {shlex.quote(route)} {shlex.quote(payload)} -n 20"
    return curl, load
