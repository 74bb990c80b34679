"""What the store hands out: plain, frozen structs that outlive any session or transaction.

Times are Unix seconds, perf is load units per second, prices are per hour.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import PurePath
from typing import Any, Literal

import msgspec

from stoker.wire import EndpointParameters

Origin = Literal["command", "file", "unknown"]
"""Who made it: a command or a REST call, the settings file, or a version of Stoker that did not
write that down."""


def group_name(backend: str, taken: Collection[str]) -> str:
    """The name of a workergroup that was given none: its backend's, numbered from the second on.

    E.g. "vllm", then "vllm-2"; "ocr" for the backend in the file "/srv/ocr.py".
    """
    base = PurePath(backend).stem if backend.endswith(".py") else backend
    name, number = base, 1
    while name in taken:
        number += 1
        name = f"{base}-{number}"
    return name


class EndpointRecord(msgspec.Struct, frozen=True, kw_only=True):
    """An endpoint: a name, how it is scaled, and what its own API key is derived from."""

    id: int
    endpoint_name: str
    parameters: EndpointParameters
    key_nonce: str
    """Random and public: the control plane derives the endpoint's API key from it."""
    created_at: float
    user_id: int = 1
    destroyed_at: float | None = None
    """When its deletion was asked for; its workers are drained, then it is purged."""
    origin: Origin = "command"
    declared: list[str] = []
    """Parameters that the settings file set when it was last applied."""
    key_created_at: float | None = None
    """When its own key was replaced; None: it has the one that it was made with."""
    key_used_at: float | None = None
    """When its own key was last used, to the minute."""

    @property
    def destroyed(self) -> bool:
        """Whether its deletion was asked for."""
        return self.destroyed_at is not None


class WorkergroupRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What the workers of an endpoint run, and on which hardware."""

    id: int
    endpoint_id: int
    name: str = ""
    """Its identity within the endpoint."""
    template_hash: str
    """As it was given: the name of a backend, or the hash of a stored template."""
    backend: str
    """What `template_hash` stood for when the workergroup was made."""
    template_id: int | None = None
    options: dict[str, Any] = {}
    """Settings of the backend."""
    search_params: str = ""
    launch_args: str = ""
    gpu_ram: float | None = None
    """Gigabytes."""
    min_cold_load: float | None = None
    max_workers: int | None = None
    weight: float = 1.0
    """Its share of the endpoint's active capacity, relative to those of the other workergroups."""
    revision: int = 0
    """Of what its workers run; counts up when that changes (see `RUNS`)."""
    updating: bool = False
    """A rolling update is asked for: workers of former revisions get the present settings."""
    created_at: float
    instance: dict[str, Any] = {}
    """Fields of an instance's manifest besides its backend: steps, environment, certificates. Only
    a settings file sets them; values of the environment may be secrets."""
    origin: Origin = "command"
    declared: list[str] = []
    """Fields that the settings file set when it was last applied."""


class RemovedRecord(msgspec.Struct, frozen=True, kw_only=True):
    """Something of the settings file that was deleted by a command or a REST call."""

    endpoint_name: str
    workergroup_name: str
    """Empty: the whole endpoint."""
    removed_at: float


RUNS = frozenset({"template_hash", "backend", "template_id", "options", "launch_args", "instance"})
"""Fields of a workergroup that its workers run: a change of one makes a new `revision`. The others
say how many there are, and where, which takes effect without starting any anew."""


class WorkerRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One worker, written before its instance is asked for; its id is never given out again."""

    id: int
    endpoint_id: int
    workergroup_id: int | None
    """Kept when the workergroup is deleted, so that a worker without its group can be found."""
    provider: str
    attached: bool
    """Brought by a person: never stopped by the planner."""
    nonce: str
    """Random and public: the control plane derives the worker's mtoken from it."""
    created_at: float
    instance_id: str | None = None
    offer_id: str = ""
    price_per_hour: float = 0.0
    state: str = ""
    desired: str = ""
    url: str = ""
    ready_at: float | None = None
    perf: float = 0.0
    loadtime: float = 0.0
    error: str = ""
    hardware: str = ""
    """Class of its machine, as its offer named it."""
    stoppable: bool = True
    """False: its provider cannot stop it, only destroy it."""
    spot: bool = False
    """Its provider may take it away at any time."""
    revision: int = 0
    """Of its workergroup's settings, those that it runs."""
    boot_id: str = ""
    """Of the boot that was last heard of."""
    state_since: float = 0.0
    """Since when it has been in `state`; 0: not known."""
    state_seconds: dict[str, float] = {}
    """Seconds spent in each state before the present one, by the state's name on the wire."""


class TemplateRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A backend with its options under a name; it never changes, and is named by its hash."""

    id: int
    hash_id: str
    name: str
    backend: str
    options: dict[str, Any] = {}
    created_at: float


class ApiKeyRecord(msgspec.Struct, frozen=True, kw_only=True):
    """An API key, of which only the SHA-256 is known."""

    id: int
    sha256: str
    """Hexadecimal."""
    name: str
    endpoint_id: int | None = None
    """The endpoint that it is good for; None: the whole account."""
    source: str = "made"
    """``made`` by us, ``environment`` for the one that an operator gave in STOKER_API_KEY."""
    created_at: float
    used_at: float | None = None
    """When it was last used, to the minute; None: never."""
    expires_at: float | None = None
    """From when on it is refused; None: it does not end by itself."""
    revoked_at: float | None = None
    """When it was revoked. The row stays, so that the key cannot come back unseen."""

    def is_good(self, now: float) -> bool:
        """Whether the key opens anything at the Unix time `now`."""
        return self.revoked_at is None and (self.expires_at is None or now < self.expires_at)


class LogEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One line of an endpoint's log."""

    endpoint_id: int
    text: str
    at: float
    level: str = "info0"
    """``info0``, ``info1``, ``trace`` or ``debug``."""
    workergroup_id: int | None = None
    id: int = 0
    """Counts up; 0: it is not stored yet."""
