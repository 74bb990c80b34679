"""``stoker.toml``: what `stoker up` runs.

[server]
port = 8700

[provider.local]
max_instances = 4

[[endpoint]]
name = "chat"
max_workers = 2

[[endpoint.workergroup]]
backend = "llamacpp"
options = { parallel = 4 }

`Settings` is the one description of the file: `stoker check` and the page docs/configuration.md are
made from it. Relative paths in the file start from the file's own directory.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from stoker.backends import get, located
from stoker.config import expanded
from stoker.errors import ConfigError
from stoker.launcher.manifest import Supervision
from stoker.launcher.steps import AnyStep, Directory, GitStep
from stoker.simulator.settings import SimulatorSettings
from stoker.wire import FILE_DEFAULTS, ColdWorkers, EndpointParameters, EndpointState

DEFAULT_FILE = "stoker.toml"

DEFAULT_PORT = 8700

MAX_FILES = 256 * 1024
"""Bytes of all `files` of a workergroup: they travel in its instances' manifests."""

GROUP_FIELDS = (
    "max_workers",
    "min_cold_load",
    "search_params",
    "launch_args",
    "gpu_ram",
    "weight",
)
"""What a workergroup may leave away; see `stoker.console.diff.GROUP_DEFAULTS`."""

INSTANCE_FIELDS = (
    "directories",
    "env",
    "model_env",
    "worker_file",
    "use_ssl",
    "ssl_cert",
    "ssl_key",
    "host",
    "public_host",
    "max_restarts",
)
"""What goes into an instance's manifest as it is; so do `steps`, `files` and `supervision`."""


def default_state_directory() -> Path:
    """Where the control plane keeps its state, after the XDG base directory specification.

    Raises:
        ConfigError: nobody knows where that is.
    """
    base = expanded(os.environ.get("XDG_STATE_HOME", ""))
    if not base.is_absolute():
        base = expanded("~/.local/state")
    if not base.is_absolute():
        raise ConfigError("HOME", "is not set: set it, or name the directory with --state")
    return base / "stoker"


class ServerSettings(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Where the control plane listens and keeps its state."""

    host: Annotated[
        str, Meta(description="Address to listen on; 0.0.0.0 for workers on other machines.")
    ] = "127.0.0.1"
    port: Annotated[
        int, Meta(ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    ] = DEFAULT_PORT
    state: Annotated[
        str | None,
        Meta(description="Directory for database and keys; default: `~/.local/state/stoker`."),
    ] = None
    public_url: Annotated[
        str | None,
        Meta(
            description="URL under which workers reach the control plane, where it differs from "
            "host and port."
        ),
    ] = None
    certificate: Annotated[
        str | None,
        Meta(
            description="PEM file of the certificate chain; with `certificate_key`, serves HTTPS. "
            "Where its authority is your own, set `SSL_CERT_FILE` (an absolute path) for `stoker "
            "up`, so that workers trust it, and for the clients."
        ),
    ] = None
    certificate_key: Annotated[
        str | None, Meta(description="PEM file of the certificate's private key.")
    ] = None
    cors_origins: Annotated[
        list[str],
        Meta(
            description="Origins whose pages may call the control plane, and its workers on this "
            'machine, from a browser, such as "https://app.example.org"; "*": any (docs/http.md).'
        ),
    ] = []
    timezone: Annotated[
        str | None,
        Meta(
            description="Time zone of the days and weekdays by which load is expected again, such "
            'as "Europe/Berlin": what runs at 2:00 is expected at 2:00 also after the clocks were '
            "changed (docs/scaling.md). Default: that of this machine (`TZ`, `/etc/localtime`)."
        ),
    ] = None
    sign_unproven: Annotated[
        bool,
        Meta(
            description="Sign a worker's certificate without its mtoken, for the address that its "
            "provider gave, once a boot: for existing images, whose start-up script shows no "
            "mtoken (docs/vastai.md)."
        ),
    ] = False


class LocalSettings(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Instances on this machine."""

    enabled: Annotated[
        bool, Meta(description="Whether workers are started on this machine at all.")
    ] = True
    max_instances: Annotated[
        int | None,
        Meta(description="Instances at a time; default: one for each processor core."),
    ] = None
    owner_timeout: Annotated[
        float,
        Meta(
            description="Seconds after which instances stop by themselves when the control plane "
            "does not return."
        ),
    ] = 300.0


class ProviderSettings(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Where instances come from."""

    local: LocalSettings = LocalSettings()


class WorkergroupSettings(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """What the workers of an endpoint run.

    All keys from `env` on are about their instances, and mean what they mean in an instance's
    manifest (docs/instances.md).
    """

    name: Annotated[
        str | None,
        Meta(
            description="Its identity within the endpoint: with another name it is another "
            "workergroup. Default: the backend's name, numbered from the second on (`vllm`, "
            "`vllm-2`)."
        ),
    ] = None
    backend: Annotated[
        str,
        Meta(
            description="A model server that Stoker knows (`stoker backends`), or the path of a "
            "file that holds one."
        ),
    ]
    options: Annotated[
        dict[str, Any],
        Meta(
            description="Settings of the backend: `stoker backends show NAME`. A change is rolled "
            "out to its workers one after the other."
        ),
    ] = {}
    max_workers: Annotated[
        int | None, Meta(description="Cap on its workers; default: the endpoint's alone.")
    ] = None
    min_cold_load: Annotated[
        float | None,
        Meta(description="Floor of its total capacity, active and stopped, load units per second."),
    ] = None
    search_params: Annotated[
        str | None, Meta(description="Which machines it may use, for a provider that rents them.")
    ] = None
    launch_args: Annotated[
        str | None, Meta(description="Arguments for a provider that rents machines.")
    ] = None
    gpu_ram: Annotated[
        float | None, Meta(description="GPU memory that it needs, GB, for such a provider.")
    ] = None
    weight: Annotated[
        float | None,
        Meta(
            description="Its share of the endpoint's active capacity, relative to those of the "
            "other workergroups. Default: 1."
        ),
    ] = None
    env: Annotated[
        dict[str, str],
        Meta(description="More environment, for the steps, the model server and the worker."),
    ] = {}
    model_env: Annotated[
        dict[str, str], Meta(description="More environment, for the model server alone.")
    ] = {}
    files: Annotated[
        dict[str, str],
        Meta(
            description="Text files that are put into the instance's directory: the path there, "
            "and the file here. A changed file is rolled out like changed `options`."
        ),
    ] = {}
    directories: Annotated[
        list[str | Directory],
        Meta(description="Made in the instance's directory where they are missing."),
    ] = []
    steps: Annotated[
        list[AnyStep],
        Meta(
            description="What has to be done before the model server starts: `pip`, `git`, `run`, "
            "`download`, `write`; see docs/instances.md."
        ),
    ] = []
    worker_file: Annotated[
        str, Meta(description="A `worker.py` in place of the backend's worker.")
    ] = ""
    use_ssl: Annotated[
        bool,
        Meta(
            description="The worker serves HTTPS, with a certificate signed by the control plane "
            "or with `ssl_cert` and `ssl_key`."
        ),
    ] = False
    ssl_cert: Annotated[str, Meta(description="PEM file of a certificate chain of your own.")] = ""
    ssl_key: Annotated[str, Meta(description="PEM file of its private key.")] = ""
    host: Annotated[str, Meta(description="Address on which the worker listens.")] = "127.0.0.1"
    public_host: Annotated[str, Meta(description="Where clients reach the worker's machine.")] = (
        "127.0.0.1"
    )
    max_restarts: Annotated[
        int, Meta(description="Faults in a row before the launcher gives up.")
    ] = 5
    supervision: Annotated[
        Supervision,
        Meta(description="How an instance is watched: times and limits; see docs/instances.md."),
    ] = Supervision()

    def given(self) -> dict[str, Any]:
        """Those of `GROUP_FIELDS` that the file states."""
        return _stated(self, GROUP_FIELDS)

    def instance(self, folder: Path) -> dict[str, Any]:
        """Fields of an instance's manifest.

        Args:
            folder: of the settings file; relative paths start there.

        Raises:
            ConfigError: one of `files` cannot be read; it is named.
        """
        default = type(self)(backend=self.backend)
        found: dict[str, Any] = {
            name: msgspec.to_builtins(getattr(self, name))
            for name in INSTANCE_FIELDS
            if getattr(self, name) != getattr(default, name)
        }
        for name in ("worker_file", "ssl_cert", "ssl_key"):
            if name in found:
                found[name] = absolute(found[name], folder)
        steps = [*self._written(folder), *(_located_step(step, folder) for step in self.steps)]
        if steps:
            found["steps"] = steps
        if self.supervision != default.supervision:
            found["supervision"] = msgspec.to_builtins(self.supervision)
        return found

    def _written(self, folder: Path) -> list[dict[str, Any]]:
        """A step for each of `files`."""
        found, total = [], 0
        for target, source in self.files.items():
            path = Path(absolute(source, folder))
            field = f"files.{target}"
            try:
                mode = path.stat().st_mode
                if stat.S_ISFIFO(mode) or stat.S_ISCHR(mode):  # reading might never end
                    raise ConfigError(field, f"{path} is no regular file")
                with path.open("rb") as file:
                    raw = file.read(MAX_FILES + 1)
                text = raw.decode()
            except OSError as error:
                raise ConfigError(field, f"{path}: {error.strerror}") from None
            except UnicodeDecodeError:
                problem = f"{path} is no text: have a step download it"
                raise ConfigError(field, problem) from None
            total += len(raw)
            if total > MAX_FILES:
                problem = f"{path}: all files together have more than {MAX_FILES} bytes: have a "
                raise ConfigError(field, problem + "step download them")
            permissions = "0755" if mode & 0o100 else "0644"
            step = {"kind": "write", "path": target, "text": text, "mode": permissions}
            found.append(step)
        return found


_PARAMETER_TEXTS = {
    "min_load": "Floor of active capacity, load units per second; above 0, one worker is always "
    "active.",
    "min_cold_load": "Floor of total capacity, active and stopped, load units per second.",
    "target_util": "Active capacity is anticipated load / this; above 0, at most 1.",
    "cold_mult": "Total capacity, active and stopped, is the load's need x this; 1: no reserve.",
    "cold_workers": "Workers that have the model loaded, active or stopped, however low the load; "
    "`auto`: as many as pay.",
    "max_workers": "Hard cap on the workers of the endpoint.",
    "max_queue_time": "Expected wait above which a worker gets no more requests, seconds.",
    "target_queue_time": "What waits or works is to end within so many seconds.",
    "inactivity_timeout": "Idle seconds after which the last worker goes; negative: it never does.",
    "endpoint_state": "`suspended`: workers stay as they are; `stopped`: all become inactive.",
}


class EndpointSettings(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """An endpoint: its name, how it is scaled (docs/scaling.md), and its workergroups."""

    name: Annotated[
        str,
        Meta(
            description="Its identity: what clients ask for. With another name it is another "
            "endpoint."
        ),
    ]
    min_load: Annotated[float | None, Meta(description=_PARAMETER_TEXTS["min_load"])] = None
    min_cold_load: Annotated[float | None, Meta(description=_PARAMETER_TEXTS["min_cold_load"])] = (
        None
    )
    target_util: Annotated[float | None, Meta(description=_PARAMETER_TEXTS["target_util"])] = None
    cold_mult: Annotated[float | None, Meta(description=_PARAMETER_TEXTS["cold_mult"])] = None
    cold_workers: Annotated[
        ColdWorkers | None, Meta(description=_PARAMETER_TEXTS["cold_workers"])
    ] = None
    max_workers: Annotated[int | None, Meta(description=_PARAMETER_TEXTS["max_workers"])] = None
    max_queue_time: Annotated[
        float | None, Meta(description=_PARAMETER_TEXTS["max_queue_time"])
    ] = None
    target_queue_time: Annotated[
        float | None, Meta(description=_PARAMETER_TEXTS["target_queue_time"])
    ] = None
    inactivity_timeout: Annotated[
        float | None, Meta(description=_PARAMETER_TEXTS["inactivity_timeout"])
    ] = None
    endpoint_state: Annotated[
        EndpointState | None, Meta(description=_PARAMETER_TEXTS["endpoint_state"])
    ] = None
    workergroup: Annotated[
        list[WorkergroupSettings], Meta(description="What its workers run; often one.")
    ] = []

    def given(self) -> dict[str, Any]:
        """The parameters that the file states."""
        return _stated(self, EndpointParameters.__struct_fields__)

    def parameters(self) -> EndpointParameters:
        """All parameters; those that the file does not state have its defaults."""
        return EndpointParameters(**(FILE_DEFAULTS | self.given()))

    def wanted(self, folder: Path) -> dict[str, Any]:
        """As `stoker.console.diff.WantedEndpoint` has it, with absolute paths.

        Args:
            folder: of the settings file.

        Raises:
            ConfigError: a backend or a file that is named cannot be read.
        """
        return {
            "name": self.name,
            "parameters": self.given(),
            "workergroups": [
                {
                    "name": group.name or "",
                    "backend": group.backend,
                    "options": get(group.backend).located(group.options, folder),
                    "instance": group.instance(folder),
                    "fields": group.given(),
                }
                for group in self.workergroup
            ],
        }


class Settings(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """The whole file."""

    server: ServerSettings = ServerSettings()
    provider: ProviderSettings = ProviderSettings()
    endpoint: list[EndpointSettings] = []
    simulator: SimulatorSettings = SimulatorSettings()
    """Machines and scoring of `stoker simulate` (docs/simulating.md)."""


def load(path: Path | None) -> Settings:
    """Read and check a settings file; the defaults without one.

    What the file says is checked, not whether this machine can do it (see `stoker.cli.check`).

    Raises:
        ConfigError: names the first setting that is wrong, with its line.
    """
    if path is None:
        return Settings()
    from stoker.cli.check import examine  # it needs this module itself

    report = examine(path, machine=False)
    for finding in report.errors:
        raise ConfigError(finding.where, finding.problem)
    settings: Settings | None = report.settings
    assert settings is not None
    return settings


def relocated(settings: Settings, folder: Path) -> Settings:
    """The settings with the paths of server and backends absolute."""
    server = settings.server
    places = {
        name: absolute(value, folder)
        for name in ("state", "certificate", "certificate_key")
        if (value := getattr(server, name))
    }
    endpoints = [
        msgspec.structs.replace(
            endpoint,
            workergroup=[
                msgspec.structs.replace(group, backend=located(group.backend, folder))
                for group in endpoint.workergroup
            ],
        )
        for endpoint in settings.endpoint
    ]
    return msgspec.structs.replace(
        settings, server=msgspec.structs.replace(server, **places), endpoint=endpoints
    )


def absolute(path: str, folder: Path) -> str:
    """A path of a settings file; one that begins with ``{directory}`` is the instance's matter."""
    if path.startswith("{"):
        return path
    return os.path.normpath(folder.absolute() / expanded(path))


def _located_step(step: AnyStep, folder: Path) -> dict[str, Any]:
    if isinstance(step, GitStep) and "://" not in step.url:
        step = msgspec.structs.replace(step, url=absolute(step.url, folder))
    data: dict[str, Any] = msgspec.to_builtins(step)
    return data


def _stated(settings: msgspec.Struct, names: tuple[str, ...]) -> dict[str, Any]:
    values = {name: getattr(settings, name) for name in names}
    return {name: value for name, value in values.items() if value is not None}
