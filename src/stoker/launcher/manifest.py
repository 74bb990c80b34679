"""What an instance is: the file ``manifest.json`` in its directory."""

from __future__ import annotations

import math
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec

from stoker.config import convert
from stoker.errors import ConfigError
from stoker.launcher.files import write_atomic

MANIFEST = "manifest.json"
MAX_MANIFEST = 1 << 20
"""Bytes; nobody writes a larger one on purpose."""


class Supervision(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How the launcher watches over an instance; all times in seconds."""

    restart_delay: float = 0.5
    """Before the first restart; each further one waits twice as long."""
    restart_delay_max: float = 30.0
    healthy_after: float = 30.0
    """So long after the last fault, earlier ones are forgotten."""
    start_timeout: float = 1800.0
    """For the model server to become healthy (it may download its weights first)."""
    health_interval: float = 2.0
    health_timeout: float = 5.0
    unhealthy_checks: int = 3
    """Bad answers in a row that count as illness; see `stoker.launcher.watch`."""
    hang_after: float = 60.0
    """So long without any answer to a health check counts as illness."""
    drain_grace: float = 30.0
    """For the worker's running requests, once told to stop."""
    stop_grace: float = 10.0
    """For the model server to end, before it is killed."""
    report_interval: float = 10.0
    """Between two reports of an error."""
    log_bytes: int = 16 * 2**20
    """Size at which a log is rotated; two older ones are kept."""


class InstanceManifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One instance: a model server and the worker in front of it."""

    instance_id: str
    worker_id: int
    mtoken: str
    """The worker's secret; only the worker gets it."""
    report_addr: str
    """Control planes, URLs with commas between them."""
    endpoint: str = ""
    backend: str = ""
    options: dict[str, Any] = {}
    command: list[str] = []
    """Argument vector of a model server of your own, in place of the backend's; ``{host}``,
    ``{port}`` and ``{directory}`` are filled in."""
    worker_command: list[str] = []
    """Argument vector of a worker of your own, in place of the backend's."""
    worker_file: str = ""
    """A ``worker.py``, in place of the backend's worker."""
    model_log: str = ""
    """Where the model server's log is kept, for a ``worker.py`` that names a place of its own;
    empty: ``model.log`` in the instance's directory."""
    health_path: str | None = None
    """None: the backend's; empty: the model server has none, and is healthy while it runs."""
    host: str = "127.0.0.1"
    """Address on which the worker listens. The model server always listens on 127.0.0.1."""
    public_host: str = "127.0.0.1"
    """Where clients reach this machine."""
    public_port: int = 0
    """The worker's port as clients see it; 0: the same."""
    worker_port: int = 0
    """0: a free one."""
    model_port: int = 0
    """0: a free one."""
    use_ssl: bool = False
    tickets_required: bool = True
    unsecured: bool = False
    """No authentication and no control plane: to try a backend out, on a loopback `host` alone."""
    owner_lock: str | None = None
    """A file that the control plane keeps locked (flock) while it lives."""
    owner_timeout: float = 300.0
    """Seconds without an owner after which the instance drains and stops by itself."""
    max_restarts: int = 5
    """Restarts in a row before the launcher gives up."""
    env: dict[str, str] = {}
    """More environment, for the model server and the worker."""
    supervision: Supervision = Supervision()

    def __repr__(self) -> str:
        return f"InstanceManifest({self.instance_id!r}, worker {self.worker_id})"

    def check(self) -> None:
        """Look for values that cannot work.

        Raises:
            ConfigError: names the field.
        """
        if not self.instance_id or "\0" in self.instance_id:
            raise ConfigError("instance_id", "must not be empty")
        if not self.backend and not self.command:
            raise ConfigError("backend", "name a backend, or give the model server's command")
        if not (self.backend or self.worker_command or self.worker_file):
            raise ConfigError("backend", "name a backend, or give worker_file or worker_command")
        if self.worker_command and self.worker_file:
            raise ConfigError("worker_file", "give this or worker_command, not both")
        for name in ("public_port", "worker_port", "model_port"):
            if not 0 <= getattr(self, name) <= 65535:
                raise ConfigError(name, "must be from 1 to 65535, or 0")
        if self.unsecured:
            from stoker.worker.settings import is_loopback  # late: few instances need it

            if not is_loopback(self.host):
                raise ConfigError(
                    "unsecured", f"needs a loopback host such as 127.0.0.1, not {self.host}"
                )
        if self.max_restarts < 0:
            raise ConfigError("max_restarts", "must be 0 or more")
        for where, holder in (("", self), ("supervision.", self.supervision)):
            for field in msgspec.structs.fields(holder):
                value = getattr(holder, field.name)
                if isinstance(value, float) and not (math.isfinite(value) and value >= 0):
                    raise ConfigError(f"{where}{field.name}", "must be 0 or more")
        for name, value in self.env.items():
            if not name or "=" in name or "\0" in name + value:
                raise ConfigError("env", f"{name!r} cannot be an environment variable")


def tag(instance_id: str, directory: Path) -> str:
    """The value of ``STOKER_INSTANCE`` for all processes of the instance in `directory`.

    The directory is part of it: two control planes may both have an instance ``local-1``.
    """
    place = sha256(str(directory.resolve()).encode()).hexdigest()[:16]
    return f"{instance_id}@{place}"


def read_manifest(directory: Path) -> InstanceManifest:
    """The manifest of an instance directory.

    Raises:
        ConfigError: when it is missing or wrong.
    """
    path = directory / MANIFEST
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_MANIFEST + 1)
    except OSError as error:
        raise ConfigError(str(path), error.strerror or str(error)) from None
    try:
        data = msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ConfigError(str(path), f"not valid JSON: {error}") from None
    manifest = convert(data, InstanceManifest, where=MANIFEST)
    manifest.check()
    return manifest


def write_manifest(directory: Path, manifest: InstanceManifest) -> None:
    """Write the manifest into an instance directory, which is made; its owner alone may read it.

    Raises:
        ConfigError: when it could not be read again.
        OSError: when it cannot be written.
    """
    manifest.check()
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_atomic(directory / MANIFEST, msgspec.json.format(msgspec.json.encode(manifest)))


def manifest_from_environ(
    environ: Mapping[str, str], backend: str, options: dict[str, Any] | None = None
) -> InstanceManifest:
    """A manifest out of the environment that ``stoker attach`` prints, for use on any machine.

    Args:
        environ: holds CONTAINER_ID, MASTER_TOKEN, REPORT_ADDR, and where needed WORKER_PORT,
            ``VAST_TCP_PORT_<WORKER_PORT>``, PUBLIC_IPADDR, USE_SSL, STOKER_HOST, STOKER_TICKETS.
        backend: name of the backend.
        options: of the backend.

    Raises:
        ConfigError: names the variable that is missing or wrong.
    """
    for name in ("CONTAINER_ID", "MASTER_TOKEN", "REPORT_ADDR"):
        if not environ.get(name):
            raise ConfigError(name, "is required: `stoker attach ENDPOINT` prints it")
    port = _number(environ, "WORKER_PORT")
    manifest = InstanceManifest(
        instance_id=f"attached-{environ['CONTAINER_ID']}",
        worker_id=_number(environ, "CONTAINER_ID"),
        mtoken=environ["MASTER_TOKEN"],
        report_addr=environ["REPORT_ADDR"],
        backend=backend,
        options=options or {},
        # Somebody else's machine is reached from outside, so all addresses unless told otherwise.
        host=environ.get("STOKER_HOST") or "0.0.0.0",  # noqa: S104
        public_host=environ.get("PUBLIC_IPADDR") or "127.0.0.1",
        public_port=_number(environ, f"VAST_TCP_PORT_{port}") if port else 0,
        worker_port=port,
        use_ssl=environ.get("USE_SSL", "").strip().lower() in ("1", "true", "yes", "on"),
        tickets_required=environ.get("STOKER_TICKETS") == "required",
    )
    manifest.check()
    return manifest


def _number(environ: Mapping[str, str], name: str) -> int:
    text = environ.get(name) or "0"
    if not (text.isascii() and text.isdigit() and len(text) <= 19):
        raise ConfigError(name, "must be a whole number")
    return int(text)
