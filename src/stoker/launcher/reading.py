"""How a manifest is read: from its file, and from the environment that ``stoker attach`` prints.

Rules:

* An instance directory holds ``manifest.json`` or ``manifest.toml``, not both.
* A file with a whole identity (`IDENTITY`) is all there is: the environment is not looked at.
* A file that says ``unsecured = true`` needs none: no control plane knows the instance.
* Where a part of it is missing, what the file leaves out (`ENVIRONMENT`) is taken from the
  environment, so that secrets need not be in a file.
* ``{directory}`` in a value of `PLACES` is the instance's directory: a manifest can be moved.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from stoker.config import convert
from stoker.errors import UNREADABLE, ConfigError
from stoker.launcher.files import read_small, write_atomic
from stoker.launcher.manifest import MANIFEST, MANIFEST_TOML, InstanceManifest
from stoker.launcher.steps import fill
from stoker.network import listening_host

MAX_MANIFEST = 1 << 20
"""Bytes; nobody writes a larger one on purpose."""

IDENTITY = {"worker_id": "CONTAINER_ID", "mtoken": "MASTER_TOKEN", "report_addr": "REPORT_ADDR"}
"""Fields by which the control plane knows the worker, and the variables they may come from."""

NOBODY = {"instance_id": "unsecured", "worker_id": 0, "mtoken": "", "report_addr": ""}
"""The identity of an instance that is ``unsecured``: no control plane knows it."""

PLACES = ("options", "env", "worker_command", "worker_file", "model_log", "ssl_cert", "ssl_key")
"""Fields that may name a place in the instance's directory; the model server's own are filled in
when it starts, together with its port."""

ENVIRONMENT = (*IDENTITY.values(), "WORKER_PORT", "VAST_TCP_PORT_<WORKER_PORT>", "PUBLIC_IPADDR")
ENVIRONMENT += ("USE_SSL", "SSL_CERT", "SSL_KEY", "STOKER_HOST", "STOKER_TICKETS")
"""Variables that fill in what a file leaves out."""


def manifest_path(directory: Path) -> Path:
    """The manifest in an instance directory; it need not be there.

    Raises:
        ConfigError: there are two.
    """
    toml = directory / MANIFEST_TOML
    if not toml.exists():
        return directory / MANIFEST
    if (directory / MANIFEST).exists():
        problem = f"there is a {MANIFEST} as well: remove the one that is not meant"
        raise ConfigError(str(toml), problem)
    return toml


def read_manifest(directory: Path, environ: Mapping[str, str] | None = None) -> InstanceManifest:
    """The manifest of an instance directory.

    Args:
        directory: of the instance.
        environ: fills in an identity that the file leaves out; default: nothing does.

    Raises:
        ConfigError: when it is missing or wrong.
    """
    manifest = read_manifest_file(manifest_path(directory), environ)
    values = {"{directory}": str(directory.resolve())}
    changes = {name: _filled(getattr(manifest, name), values) for name in PLACES}
    return msgspec.structs.replace(manifest, **changes)


def _filled(value: Any, values: dict[str, str]) -> Any:
    if isinstance(value, str):
        return fill(value, values)
    if isinstance(value, dict):
        return {key: _filled(inner, values) for key, inner in value.items()}
    if isinstance(value, list):
        return [_filled(inner, values) for inner in value]
    return value


def read_manifest_file(path: Path, environ: Mapping[str, str] | None = None) -> InstanceManifest:
    """A manifest out of a file, TOML or JSON by its name.

    Raises:
        ConfigError: when it is missing or wrong.
    """
    data = _parse(path)
    # What is no object at all is the converter's matter.
    if isinstance(data, dict) and data.get("unsecured") is True:
        data = NOBODY | data
    elif environ is not None and isinstance(data, dict) and not IDENTITY.keys() <= data.keys():
        data = {**from_environ(environ, known=data), **data}
    manifest = convert(data, InstanceManifest, where=path.name)
    manifest.check()
    return manifest


def install_manifest(file: Path, directory: Path, environ: Mapping[str, str]) -> None:
    """Copy a manifest into an instance directory, as it is, once it is known to be good.

    Its owner alone may read the copy. Another manifest that is there is replaced.

    Raises:
        ConfigError: the manifest cannot be used, or not be written.
    """
    read_manifest_file(file, environ)
    toml = file.suffix == ".toml"
    target, other = (directory / name for name in _names(toml=toml))
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not (target.exists() and target.samefile(file)):
            write_atomic(target, file.read_bytes())
        other.unlink(missing_ok=True)
    except OSError as error:
        raise ConfigError(str(directory), error.strerror or str(error)) from None


def _names(*, toml: bool) -> tuple[str, str]:
    return (MANIFEST_TOML, MANIFEST) if toml else (MANIFEST, MANIFEST_TOML)


def _parse(path: Path) -> Any:
    try:
        raw = read_small(path, MAX_MANIFEST)
    except OSError as error:
        raise ConfigError(str(path), error.strerror or str(error)) from None
    try:
        if path.suffix == ".toml":
            return tomllib.loads(raw.decode())
        return msgspec.json.decode(raw)
    except UNREADABLE as error:
        kind = "TOML" if path.suffix == ".toml" else "JSON"
        raise ConfigError(str(path), f"not valid {kind}: {error}") from None


def manifest_from_environ(
    environ: Mapping[str, str], backend: str, options: dict[str, Any] | None = None
) -> InstanceManifest:
    """A manifest out of the environment that ``stoker attach`` prints, for use on any machine.

    Args:
        environ: holds CONTAINER_ID, MASTER_TOKEN, REPORT_ADDR, and where needed the others of
            `ENVIRONMENT`.
        backend: name of the backend.
        options: of the backend.

    Raises:
        ConfigError: names the variable that is missing or wrong.
    """
    fields = from_environ(environ, known={})
    manifest = InstanceManifest(**fields, backend=backend, options=options or {})
    manifest.check()
    return manifest


def from_environ(environ: Mapping[str, str], *, known: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of a manifest that the environment gives.

    Args:
        environ: see `ENVIRONMENT`.
        known: what a file gives; the variables of its fields are not asked for.

    Raises:
        ConfigError: names the variable that is missing or wrong.
    """
    for field, name in IDENTITY.items():
        if field not in known and not environ.get(name):
            raise ConfigError(name, "is required: `stoker attach ENDPOINT` prints it")
    given = known.get("worker_port")
    port = given if isinstance(given, int) and given else _number(environ, "WORKER_PORT")
    worker_id = known.get("worker_id", _number(environ, "CONTAINER_ID"))
    return {
        "instance_id": f"attached-{worker_id}",
        "worker_id": worker_id,
        "mtoken": environ.get("MASTER_TOKEN", ""),
        "report_addr": environ.get("REPORT_ADDR", ""),
        "host": environ.get("STOKER_HOST")
        or listening_host(
            str(known.get("report_addr", environ.get("REPORT_ADDR", ""))),
            str(known.get("public_host", environ.get("PUBLIC_IPADDR", ""))),
        ),
        "public_host": environ.get("PUBLIC_IPADDR") or "127.0.0.1",
        "public_port": _number(environ, f"VAST_TCP_PORT_{port}") if port else 0,
        "worker_port": port,
        "use_ssl": environ.get("USE_SSL", "").strip().lower() in ("1", "true", "yes", "on"),
        "ssl_cert": _absolute(environ.get("SSL_CERT", "")),
        "ssl_key": _absolute(environ.get("SSL_KEY", "")),
        "tickets_required": environ.get("STOKER_TICKETS") == "required",
    }


def _absolute(path: str) -> str:
    """The worker runs in another directory than the launcher was started in."""
    return os.path.abspath(path) if path else ""  # noqa: PTH100


def _number(environ: Mapping[str, str], name: str) -> int:
    text = environ.get(name) or "0"
    if not (text.isascii() and text.isdigit() and len(text) <= 19):
        raise ConfigError(name, "must be a whole number")
    return int(text)
