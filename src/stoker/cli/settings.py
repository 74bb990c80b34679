"""``stoker.toml``: what `stoker up` runs.

[server]
port = 8700

[provider.local]
max_instances = 4

[[endpoint]]
name = "chat"
max_workers = 2
cold_workers = 0

[[endpoint.workergroup]]
backend = "llamacpp"
options = { parallel = 4 }
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import msgspec

from stoker.backends import located
from stoker.config import convert, load_toml
from stoker.errors import ConfigError
from stoker.simulator.settings import SimulatorSettings
from stoker.wire import EndpointParameters, EndpointState

DEFAULT_PORT = 8700

MAX_WEIGHT = 1e6


def default_state_directory() -> Path:
    """Where the control plane keeps its state, after the XDG base directory specification."""
    base = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    return Path(base).expanduser() / "stoker"


class ServerSettings(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Where the control plane listens and keeps its state."""

    host: str = "127.0.0.1"
    port: int = DEFAULT_PORT
    state: str | None = None
    """A directory; relative to the file that names it."""
    public_url: str | None = None
    """Under which workers reach the control plane, where it differs from host and port."""
    certificate: str | None = None
    """PEM file of the certificate chain; with `certificate_key`, serves HTTPS."""
    certificate_key: str | None = None
    sign_unproven: bool = False
    """Sign a worker's certificate without its mtoken, for the address that its provider gave, once
    a boot: for existing images, whose start-up script shows no mtoken (docs/vastai.md)."""


class LocalSettings(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Instances on this machine."""

    enabled: bool = True
    max_instances: int | None = None
    """Default: one for each processor core."""
    owner_timeout: float = 300.0
    """Seconds after which instances stop by themselves when the control plane does not return."""


class ProviderSettings(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Where instances come from."""

    local: LocalSettings = LocalSettings()


class WorkergroupSettings(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """What the workers of an endpoint run."""

    backend: str
    """A name, or the path of a file that holds one, relative to this file."""
    options: dict[str, Any] = {}
    max_workers: int | None = None
    min_cold_load: float | None = None
    search_params: str = ""
    launch_args: str = ""
    gpu_ram: float | None = None
    weight: float = 1.0
    """Its share of the endpoint's active capacity, relative to those of the other workergroups."""


class EndpointSettings(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """An endpoint with its parameters (see docs/scaling.md) and workergroups."""

    name: str
    min_load: float | None = None
    min_cold_load: float | None = None
    target_util: float | None = None
    cold_mult: float | None = None
    cold_workers: int | None = None
    max_workers: int | None = None
    max_queue_time: float | None = None
    target_queue_time: float | None = None
    inactivity_timeout: float | None = None
    endpoint_state: EndpointState | None = None
    workergroup: list[WorkergroupSettings] = []

    def given(self) -> dict[str, Any]:
        """The parameters that the file sets."""
        values = {name: getattr(self, name) for name in EndpointParameters.__struct_fields__}
        return {name: value for name, value in values.items() if value is not None}


class Settings(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """The whole file."""

    server: ServerSettings = ServerSettings()
    provider: ProviderSettings = ProviderSettings()
    endpoint: list[EndpointSettings] = []
    simulator: SimulatorSettings = SimulatorSettings()
    """Machines and scoring of `stoker simulate` (docs/simulating.md)."""


def load(path: Path | None) -> Settings:
    """Read and check a settings file; the defaults without one.

    Raises:
        ConfigError: names the field that is wrong.
    """
    if path is None:
        return Settings()
    settings = _with_located_backends(load_toml(path, Settings), path.parent)
    settings.simulator.check(f"{path.name}: simulator")
    names: set[str] = set()
    for number, endpoint in enumerate(settings.endpoint):
        where = f"{path.name}: endpoint[{number}]"
        if endpoint.name in names:
            raise ConfigError(f"{where}.name", f"{endpoint.name!r} is there twice")
        names.add(endpoint.name)
        parameters = convert(endpoint.given(), EndpointParameters, where=where)
        for field, problem in parameters.problems().items():
            raise ConfigError(f"{where}.{field}", problem)
        for index, group in enumerate(endpoint.workergroup):
            if not 0 <= group.weight <= MAX_WEIGHT:
                problem = f"must be a number from 0 to {MAX_WEIGHT:g}"
                raise ConfigError(f"{where}.workergroup[{index}].weight", problem)
    return settings


def _with_located_backends(settings: Settings, folder: Path) -> Settings:
    """The path of a backend's file is relative to the settings that name it."""
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
    return msgspec.structs.replace(settings, endpoint=endpoints)
