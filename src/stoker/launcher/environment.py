"""What the children of a launcher are told: environment, command and ports."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import sys
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import msgspec

from stoker.backends import Backend, get
from stoker.config import expanded
from stoker.errors import ConfigError
from stoker.launcher.guardian import ROLE, TAG
from stoker.launcher.manifest import InstanceManifest, tag
from stoker.launcher.ownlog import LAUNCHER_LOG
from stoker.launcher.steps import fill
from stoker.logs import LOG_FORMAT
from stoker.network import PROXY

MODEL_HOST = "127.0.0.1"
LOG_LEVEL = "STOKER_LOG_LEVEL"
CORS_ORIGINS = "STOKER_CORS_ORIGINS"
METRICS_KEY = "STOKER_METRICS_KEY"
SESSION_IDLE_TIMEOUT = "STOKER_SESSION_IDLE_TIMEOUT"
SESSION_CLOSE_ROUTES = "STOKER_SESSION_CLOSE_ROUTES"
_PASSED_ON = (LOG_LEVEL, LOG_FORMAT, CORS_ORIGINS, SESSION_IDLE_TIMEOUT, SESSION_CLOSE_ROUTES)
MODEL_LOG = "model.log"
WORKER_LOG = "worker.log"
SETUP_LOG = "setup.log"
LOGS = (LAUNCHER_LOG, SETUP_LOG, MODEL_LOG, WORKER_LOG)
"""Names of the logs in an instance directory. The first is there where whoever starts the launcher
has its output written to it; the launcher keeps it from growing (`stoker.launcher.ownlog`)."""

CERTIFICATE = "instance.crt"
PRIVATE_KEY = "instance.key"

_OURS = re.compile(
    r"STOKER_.*|VAST_API_KEY|MASTER_TOKEN|CONTAINER_ID|REPORT_ADDR|WORKER_PORT|WORKER_HTTP_PORT"
    r"|VAST_TCP_PORT_\d+|PUBLIC_IPADDR|USE_SSL|SSL_CERT|SSL_KEY|UNSECURED|MODEL_LOG|MODEL_PORT|BACKEND|WORKSPACE_DIR"
)


def model_log(manifest: InstanceManifest, directory: Path) -> Path:
    """Where the model server's log is kept."""
    return expanded(manifest.model_log) if manifest.model_log else directory / MODEL_LOG


def is_ours(name: str) -> bool:
    """Whether a variable is one by which the launcher configures a worker."""
    return name not in _PASSED_ON and _OURS.fullmatch(name) is not None


def inherited(environ: Mapping[str, str]) -> dict[str, str]:
    """`environ` without secrets of the control plane and what we set ourselves."""
    return {n: v for n, v in environ.items() if not is_ours(n)}


def resolve(manifest: InstanceManifest) -> tuple[Backend | None, Any]:
    """The backend and its parsed options; (None, None) where the manifest gives its own commands.

    Raises:
        ConfigError: when the backend or an option is unknown or wrong.
    """
    if not manifest.backend:
        return None, None
    backend = get(manifest.backend)
    return backend, backend.parse(manifest.options)


def model_command(manifest: InstanceManifest, directory: Path, port: int) -> list[str]:
    """Argument vector of the model server.

    Raises:
        ConfigError: when the backend, an option or a file it needs is wrong.
    """
    if manifest.command:
        values = _values(directory, port)
        return [fill(argument, values) for argument in manifest.command]
    backend, options = resolve(manifest)
    assert backend is not None  # the manifest was checked
    return backend.command(options, MODEL_HOST, port)


def _values(directory: Path, port: int) -> dict[str, str]:
    return {"{host}": MODEL_HOST, "{port}": str(port), "{directory}": str(directory)}


def health_path(manifest: InstanceManifest) -> str:
    """Path of the model server's health check; empty: it has none.

    Raises:
        ConfigError: when the backend is unknown.
    """
    if manifest.health_path is not None:
        return manifest.health_path
    backend, _ = resolve(manifest)
    return "" if backend is None or manifest.command else backend.health_path


def health_url(manifest: InstanceManifest, port: int) -> str:
    """Where the model server on `port` is asked for its health; empty: nowhere.

    Raises:
        ConfigError: when the backend is unknown.
    """
    if manifest.health_url:
        return fill(manifest.health_url, {"{port}": str(port)})
    path = health_path(manifest)
    return f"http://{MODEL_HOST}:{port}{path}" if path else ""


def certificate_files(manifest: InstanceManifest, directory: Path) -> tuple[Path, Path]:
    """PEM files of the worker's certificate and of its private key."""
    if manifest.ssl_cert:
        return expanded(manifest.ssl_cert), expanded(manifest.ssl_key)
    return directory / CERTIFICATE, directory / PRIVATE_KEY


def setup_environment(
    manifest: InstanceManifest, directory: Path, environ: Mapping[str, str]
) -> dict[str, str]:
    """Environment of the steps before the start; the worker's secret is not in it."""
    proxy = {PROXY: environ[PROXY]} if environ.get(PROXY) else {}
    return {**inherited(environ), **proxy, **manifest.env, **_marks(manifest, directory, "setup")}


def model_environment(
    manifest: InstanceManifest, directory: Path, port: int, environ: Mapping[str, str]
) -> dict[str, str]:
    """Environment of the model server; the worker's secret is not in it."""
    backend, options = resolve(manifest)
    own = backend.environment(options) if backend is not None else {}
    return {
        **inherited(environ),
        **own,
        **manifest.env,
        **{n: fill(v, _values(directory, port)) for n, v in manifest.model_env.items()},
        "MODEL_PORT": str(port),
        **_marks(manifest, directory, "model"),
    }


def worker_command(manifest: InstanceManifest) -> list[str]:
    """Argument vector of the worker."""
    if manifest.worker_command:
        return list(manifest.worker_command)
    if manifest.worker_file:
        return [sys.executable, str(expanded(manifest.worker_file).resolve())]
    # -P: the working directory is the instance's, and nothing is to be imported from there.
    return [sys.executable, "-P", "-m", "stoker.backends", manifest.backend]


def worker_environment(
    manifest: InstanceManifest,
    directory: Path,
    environ: Mapping[str, str],
    *,
    worker_port: int,
    http_port: int,
    model_port: int,
) -> dict[str, str]:
    """Environment of the worker: the names of the existing protocol, and ours."""
    certificate, key = certificate_files(manifest, directory)
    tls = {"SSL_CERT": str(certificate), "SSL_KEY": str(key)} if manifest.use_ssl else {}
    return {
        **inherited(environ),
        **manifest.env,
        "CONTAINER_ID": str(manifest.worker_id),
        "MASTER_TOKEN": manifest.mtoken,
        "REPORT_ADDR": manifest.report_addr,
        "WORKER_PORT": str(worker_port),
        "WORKER_HTTP_PORT": str(http_port),
        f"VAST_TCP_PORT_{worker_port}": str(manifest.public_port or worker_port),
        "PUBLIC_IPADDR": manifest.public_host,
        "USE_SSL": "true" if manifest.use_ssl else "false",
        **tls,
        "MODEL_LOG": str(model_log(manifest, directory)),
        "MODEL_PORT": str(model_port),
        "BACKEND": manifest.backend,
        "WORKSPACE_DIR": str(directory),
        "STOKER_BACKEND_OPTIONS": msgspec.json.encode(manifest.options).decode(),
        "STOKER_HOST": manifest.host,
        "STOKER_STATE_DIR": str(directory),
        "STOKER_DRAIN_TIMEOUT": f"{manifest.supervision.drain_grace:g}",
        "STOKER_SILENCE_TIMEOUT": f"{manifest.supervision.silence_timeout:g}",
        **({METRICS_KEY: environ[METRICS_KEY]} if environ.get(METRICS_KEY) else {}),
        **({"STOKER_TICKETS": "required"} if manifest.tickets_required else {}),
        **({"UNSECURED": "true"} if manifest.unsecured else {}),
        **_marks(manifest, directory, "worker"),
    }


def _marks(manifest: InstanceManifest, directory: Path, role: str) -> dict[str, str]:
    # Unbuffered: a Python model server's "loaded" line must not wait in a buffer of its own.
    return {TAG: tag(manifest.instance_id, directory), ROLE: role, "PYTHONUNBUFFERED": "1"}


def guardian_environment(
    manifest: InstanceManifest, directory: Path, role: str = "guardian"
) -> dict[str, str]:
    """Environment of the guardian: only what tells a new launcher that it belongs here."""
    kept = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
    return kept | _marks(manifest, directory, role)


def choose_port(
    host: str, fixed: int, former: int, *, name: str, promised: Collection[int] = ()
) -> int:
    """A port on which a child can listen.

    Args:
        host: address it will bind.
        fixed: from the manifest; 0: any.
        former: the one it had before, taken again if it is free, so that URLs stay good; 0: none.
        name: field to blame.
        promised: ports of other children, who may not listen on them yet.

    Raises:
        ConfigError: when `fixed` is taken, or `host` is not an address of this machine.
    """
    # As often as there are promised ones, since what was found stays taken meanwhile.
    wanted = [fixed] if fixed else [former, *[0] * (1 + len(promised))]
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    problem = ""
    with contextlib.ExitStack() as probes:
        for port in wanted:
            try:
                server = probes.enter_context(socket.create_server((host, port), family=family))
            except OSError as error:
                problem = error.strerror or str(error)
                continue
            found: int = server.getsockname()[1]
            if fixed or found not in promised:
                return found
    if fixed:
        raise ConfigError(
            name, f"{fixed} cannot be used on {host} ({problem}): choose another, or 0 for any"
        )
    raise ConfigError("host", f"cannot listen on {host}: {problem}")
