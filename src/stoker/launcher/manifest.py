"""What an instance is: the file ``manifest.json``, or ``manifest.toml``, in its directory.

A control plane writes JSON, whole; a person writes either, and may leave the identity to the
environment (see `stoker.launcher.reading`).
"""

from __future__ import annotations

import signal
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec

from stoker.errors import ConfigError
from stoker.launcher.files import write_atomic
from stoker.launcher.steps import (
    MAX_SECONDS,
    AnyStep,
    Directory,
    RunStep,
    check_env,
    check_path,
    mode_of,
)
from stoker.logs import MIN_SECRET
from stoker.network import is_host, is_loopback

MANIFEST = "manifest.json"
MANIFEST_TOML = "manifest.toml"


MIN_SECONDS = 0.01
"""The shortest time that something may take; 0 would leave no time at all, or never rest."""

_TIMES_ABOVE_ZERO = (
    "start_timeout",
    "health_interval",
    "health_timeout",
    "hang_after",
    "silence_timeout",
    "report_interval",
)

MIN_LOG_BYTES = 4096
"""A log that is smaller would be rotated with each line."""


class Supervision(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How the launcher watches over an instance; all times in seconds."""

    restart_delay: float = 0.5
    """Before the first restart; each further one waits twice as long."""
    restart_delay_max: float = 30.0
    """The longest that a restart waits."""
    healthy_after: float = 30.0
    """So long after the last fault, earlier ones are forgotten."""
    start_timeout: float = 1800.0
    """For the model server to become healthy (it may download its weights first)."""
    health_interval: float = 2.0
    """Between two health checks."""
    health_timeout: float = 15.0
    """For the answer to one: some servers need seconds for each, and the worker waits as long."""
    unhealthy_checks: int = 3
    """Bad answers in a row that count as illness; see `stoker.launcher.watch`."""
    hang_after: float = 60.0
    """So long without any answer to a health check counts as illness."""
    silence_timeout: float = 600.0
    """For a model server to be silent in a request, before its answer and in it, where the route
    has no `timeout`; so long it may also answer no health check."""
    drain_grace: float = 30.0
    """For the worker's running requests, once told to stop."""
    stop_grace: float = 10.0
    """For the model server to end, before it is killed."""
    report_interval: float = 10.0
    """Between two reports of an error."""
    log_bytes: int = 16 * 2**20
    """Size at which a log is rotated; two older ones are kept."""

    def check(self, where: str) -> None:
        """Look for values that nothing could be watched with.

        Args:
            where: what stands before a field's name, such as ``supervision.``.

        Raises:
            ConfigError: names the field.
        """
        for name in _TIMES_ABOVE_ZERO:
            if not getattr(self, name) >= MIN_SECONDS:
                problem = f"must be {MIN_SECONDS:g} seconds or more"
                raise ConfigError(f"{where}{name}", problem)
        _check_times(self, where)
        if not 1 <= self.unhealthy_checks <= 1_000_000:
            raise ConfigError(f"{where}unhealthy_checks", "must be from 1 to 1000000")
        if not self.log_bytes >= MIN_LOG_BYTES:
            raise ConfigError(f"{where}log_bytes", f"must be {MIN_LOG_BYTES} bytes or more")


def _check_times(holder: msgspec.Struct, where: str) -> None:
    for field in msgspec.structs.fields(holder):
        value = getattr(holder, field.name)
        if isinstance(value, float) and not 0 <= value <= MAX_SECONDS:
            raise ConfigError(f"{where}{field.name}", f"must be from 0 to {MAX_SECONDS:g} seconds")


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
    revision: int = 0
    """Of the workergroup's settings that these are; for whoever wrote them."""
    command: list[str] = []
    """Argument vector of a model server of your own, in place of the backend's; ``{host}``,
    ``{port}`` and ``{directory}`` are filled in."""
    steps: list[AnyStep] = []
    """What has to be there before the model server starts; see `stoker.launcher.steps`."""
    directories: list[str | Directory] = []
    """Made before everything else where they are missing."""
    worker_command: list[str] = []
    """Argument vector of a worker of your own, in place of the backend's."""
    worker_file: str = ""
    """A ``worker.py``, in place of the backend's worker."""
    model_log: str = ""
    """Where the model server's log is kept, for a ``worker.py`` that names a place of its own;
    empty: ``model.log`` in the instance's directory."""
    health_path: str | None = None
    """None: the backend's; empty: the model server has none, and is healthy while it runs."""
    health_url: str = ""
    """In place of `health_path`, where the health check is on another port of this machine;
    ``{port}`` is filled in."""
    stop_signal: str = "SIGTERM"
    """Asks the model server to end; it is killed after ``supervision.stop_grace``."""
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
    """The worker serves HTTPS; its certificate is signed by the control plane's authority."""
    ssl_cert: str = ""
    """PEM file of a certificate chain of your own, in place of the one that is signed."""
    ssl_key: str = ""
    """PEM file of its private key."""
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
    """More environment, for the steps, the model server and the worker."""
    model_env: dict[str, str] = {}
    """More environment, for the model server alone; ``{host}``, ``{port}`` and ``{directory}`` are
    filled in."""
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
        for name in ("host", "public_host"):
            if not is_host(getattr(self, name)):
                raise ConfigError(name, "must be a name or an address, without a port")
        for name in ("public_port", "worker_port", "model_port"):
            if not 0 <= getattr(self, name) <= 65535:
                raise ConfigError(name, "must be from 1 to 65535, or 0")
        if self.unsecured and not is_loopback(self.host):
            raise ConfigError(
                "unsecured", f"needs a loopback host such as 127.0.0.1, not {self.host}"
            )
        if self.max_restarts < 0:
            raise ConfigError("max_restarts", "must be 0 or more")
        _check_times(self, "")
        self.supervision.check("supervision.")
        if self.health_url and self.health_path is not None:
            raise ConfigError("health_url", "give this or health_path, not both")
        if self.health_url and not self.health_url.startswith(("http://", "https://")):
            raise ConfigError("health_url", "must be an http:// or https:// URL")
        if bool(self.ssl_cert) != bool(self.ssl_key):
            missing = "ssl_key" if self.ssl_cert else "ssl_cert"
            raise ConfigError(missing, "is required, as the other of the two is given")
        if self.use_ssl and not self.ssl_cert:
            from stoker.launcher.x509 import names_for  # it needs this module itself

            names_for(self.public_host)
            if not self.report_addr.strip(" ,"):
                problem = (
                    "nobody signs a certificate without report_addr: give ssl_cert and ssl_key"
                )
                raise ConfigError("use_ssl", problem)
        if self.stop_signal not in signal.Signals.__members__:
            raise ConfigError("stop_signal", f"no signal is called {self.stop_signal!r}")
        check_env(self.env, "env")
        check_env(self.model_env, "model_env")
        for number, directory in enumerate(self.directories):
            mode = "0755" if isinstance(directory, str) else directory.mode
            mode_of(mode, f"directories[{number}].mode")
            path = directory if isinstance(directory, str) else directory.path
            check_path(path, f"directories[{number}]")
        for number, step in enumerate(self.steps):
            step.check(f"steps[{number}]")

    @property
    def secrets(self) -> tuple[str, ...]:
        """What must be in no log, error or page; the longest first.

        Short values ("1", "true") are no secrets, and would be found in any text.
        """
        environments = [self.env, self.model_env]
        environments += [step.env for step in self.steps if isinstance(step, RunStep)]
        values = {v for e in environments for v in e.values() if len(v) >= MIN_SECRET}
        return tuple(sorted(filter(None, {self.mtoken, *values}), key=len, reverse=True))


def tag(instance_id: str, directory: Path) -> str:
    """The value of ``STOKER_INSTANCE`` for all processes of the instance in `directory`.

    The directory is part of it: two control planes may both have an instance ``local-1``.
    """
    place = sha256(str(directory.resolve()).encode()).hexdigest()[:16]
    return f"{instance_id}@{place}"


def write_manifest(directory: Path, manifest: InstanceManifest) -> None:
    """Write the manifest into an instance directory, which is made; its owner alone may read it.

    Raises:
        ConfigError: when it could not be read again.
        OSError: when it cannot be written.
    """
    manifest.check()
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_atomic(directory / MANIFEST, msgspec.json.format(msgspec.json.encode(manifest)))
    # One that a person wrote would contradict it.
    (directory / MANIFEST_TOML).unlink(missing_ok=True)
