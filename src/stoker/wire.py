"""Every message that crosses a process boundary, as typed structs.

The names and meanings are those of the existing protocol (spoken by the PyPI package ``vastai``,
1.9.1); fields marked "ours" are additions that its peers ignore. Unknown fields are accepted
everywhere here, because other peers have additions of their own.

Load is in *load units* (for a language model: tokens); perf is load units per second; times are
seconds, Unix time where they name a moment.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from typing import Annotated, Any, Literal, TypeVar
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta

from stoker.config import demand
from stoker.errors import UNREADABLE, InvalidMessageError

T = TypeVar("T")

DEFAULT_LOAD = 100.0
"""Load of a request for which nobody gave a figure."""

DEFAULT_PERF = DEFAULT_LOAD
"""Capacity of a ready worker that reports none, in load units per second: one request a second."""

MAX_COST = 1e9
"""Largest load of one request that is believed, in load units."""

MAX_REPLAY_TIMEOUT = 3600.0
"""Longest time for which a request is held for a worker, in seconds."""


class AuthData(msgspec.Struct, frozen=True):
    """What the control plane answered to ``/route/``, shown to the worker by the client."""

    url: str
    signature: str = ""
    endpoint: str = ""
    cost: float = DEFAULT_LOAD
    reqnum: int = 0
    request_idx: int = 0
    ticket: str = ""
    """Ours: see `stoker.tickets`."""


class Envelope(msgspec.Struct, frozen=True):
    """Body of every request to a worker; only `payload` reaches the model server, unread."""

    auth_data: AuthData
    payload: msgspec.Raw
    session_id: str | None = None


class RouteRequest(msgspec.Struct, frozen=True):
    """Body of ``POST /route/``."""

    endpoint: str
    cost: float | None = None
    """Load units, a claim; None: what requests of its route were seen to need."""
    api_key: str | None = None
    request_idx: int | None = None
    """0 or absent at first; the one returned, when polling or retrying."""
    replay_timeout: float | None = None
    wait: float = 0.0
    """Ours: seconds for which the answer may be held until a worker is free (long polling)."""
    affinity: str | list[str] = ""
    """Ours: what the request shares with others, so that it goes where that is cached: a name (of a
    session, say), or hashes of the growing prefix of its prompt, the shortest first."""
    route: str = ""
    """Ours: the path at the worker that the request is for; of use where `cost` is left away."""


class RouteReply(msgspec.Struct, frozen=True, omit_defaults=True):
    """Answer of ``POST /route/``; `url` is there when a worker was found."""

    endpoint: str
    request_idx: int
    cost: float | None = None
    url: str | None = None
    reqnum: int | None = None
    signature: str | None = None
    ticket: str | None = None
    status: str | None = None
    """Workers by state, as text, while none is free."""
    reason: str | None = None
    """Ours: why none comes, where that is known: a limit, or the last failure."""


class WorkerStatus(msgspec.Struct, frozen=True):
    """Body of ``POST /worker_status/``: what a worker reports of itself."""

    id: int
    mtoken: str
    url: str = ""
    version: str = ""
    loadtime: float = 0.0
    """Seconds that loading took; 0 until the worker is ready."""
    cur_load: float = 0.0
    """Load now queued or working."""
    new_load: float = 0.0
    """Load arrived since the last accepted report, less what was cancelled."""
    rej_load: float = 0.0
    """Load refused since the last accepted report."""
    cur_perf: float = 0.0
    """Load served since the last accepted report."""
    max_perf: float = 0.0
    """Capacity from the benchmark, load units per second."""
    cur_capacity: float = 0.0
    max_capacity: float = 0.0
    error_msg: str | None = None
    num_requests_working: int = 0
    num_requests_recieved: int = 0
    additional_disk_usage: float = 0.0
    disk_usage: float = 0.0
    working_request_idxs: list[int] = []
    working_loads: list[float | None] = []
    """Ours: what the worker took the load of each of `working_request_idxs` to be when it came;
    None: it cannot tell (a session)."""
    boot_id: str = ""
    """Ours: random, new at each start of the worker; tickets are bound to it."""
    draining: bool = False
    """Ours: the worker takes no new request."""
    slots: int = 0
    """Ours: requests that it works on at once; 0: not known."""


class WorkerStatusReply(msgspec.Struct, frozen=True):
    """Ours: answer to a report; peers read the status code alone."""

    ok: bool = True
    now: float = 0.0
    """The control plane's clock, Unix seconds, so that a worker's skew does not matter."""
    tickets: bool = True
    """The control plane mints tickets, and the worker is to demand them."""


RequestOutcome = Literal["Created", "Started", "Success", "Error", "Cancelled", "Rejected"]


class FinishedRequest(msgspec.Struct, frozen=True):
    """One request that left a worker."""

    request_idx: int
    success: bool = True
    status: str = "Success"
    """One of `RequestOutcome`; unknown ones are accepted and counted as they are."""
    entered_queue_at: float | None = None
    work_started_at: float | None = None
    work_completed_at: float | None = None
    load: float | None = None
    """Ours: load units that it needed, as counted or estimated; None: it cannot be told."""
    route: str = ""
    """Ours: the route that it took at the worker."""


class DeleteRequests(msgspec.Struct, frozen=True):
    """Body of ``POST /delete_requests/``."""

    worker_id: int
    mtoken: str
    requests: list[FinishedRequest] = []


class WorkerInfo(msgspec.Struct, frozen=True):
    """One entry of ``POST /get_endpoint_workers/``; `status` is lower-case, ready is ``idle``."""

    id: int
    status: str
    cur_load: float = 0.0
    new_load: float = 0.0
    cur_load_rolling_avg: float = 0.0
    cur_perf: float = 0.0
    perf: float = 0.0
    measured_perf: float = 0.0
    dlperf: float = 0.0
    reliability: float = 1.0
    reqs_working: int = 0
    disk_usage: float = 0.0
    loaded_at: float = 0.0
    started_at: float = 0.0
    provider: str = ""
    """Ours."""
    url: str = ""
    """Ours."""
    error_msg: str = ""
    """Ours."""
    seconds: float = 0.0
    """Ours: since it came into this status."""
    state_seconds: dict[str, float] = {}
    """Ours: seconds that it has spent in each state so far, by `status`."""
    revision: int = 0
    """Ours: of its workergroup's settings, those that it runs."""
    hardware: str = ""
    """Ours: class of its machine."""


class Recorded(msgspec.Struct, frozen=True):
    """Ours: the requests that came to an endpoint, answer of ``GET /endptjobs/{id}/trace/``."""

    started_at: float
    """Unix time from which on they were looked for."""
    seconds: float
    """From then until now."""
    complete: bool
    """False: more came than are remembered; the oldest are missing."""
    requests: list[tuple[float, float]] = []
    """Seconds after `started_at`, and load units; the oldest first."""


EndpointState = Literal["active", "suspended", "stopped"]

ColdWorkers = Annotated[
    Annotated[int, Meta(ge=0)] | Literal["auto"],
    Meta(extra={"must_be": 'a whole number from 0, or "auto"'}),
]
"""A floor of workers that have the model, or "auto" (ours): as many as pay."""


class EndpointParameters(msgspec.Struct, frozen=True, kw_only=True):
    """How an endpoint is scaled; the defaults are those of the existing protocol."""

    min_load: float = 1.0
    """Floor of active capacity, load units per second."""
    min_cold_load: float = 0.0
    """Floor of total capacity (active and stopped), load units per second."""
    target_util: float = 0.9
    """Anticipated load / target_util = active capacity; in (0, 1]."""
    cold_mult: float = 3.0
    """Total capacity = active load x this; at least 1."""
    cold_workers: ColdWorkers = 5
    """Workers that have the model loaded, active or stopped, however low the load; "auto" (ours):
    no such floor, so stopped workers are kept for as long as that pays."""
    max_workers: int = 16
    """Hard cap on the workers of the endpoint."""
    max_queue_time: float = 30.0
    """Expected wait above which a worker gets no more requests, seconds."""
    target_queue_time: float = 10.0
    """Expected wait above which the endpoint scales up hard, seconds."""
    inactivity_timeout: float | None = None
    """None: not applied; 0: no gating; negative: never to zero; positive: zero is allowed after so
    many idle seconds, if min_load and cold_workers permit."""
    endpoint_state: EndpointState = "active"

    @property
    def pool_floor(self) -> int:
        """Workers that have the model however low the load: `max_workers` at most, 0 if "auto"."""
        return 0 if self.cold_workers == "auto" else min(self.cold_workers, self.max_workers)

    def problems(self) -> dict[str, str]:
        """What is wrong with these figures, by field name; empty when all is well."""
        found: dict[str, str] = {}
        for name in ("min_load", "min_cold_load", "max_queue_time", "target_queue_time"):
            value = getattr(self, name)
            if not (math.isfinite(value) and 0 <= value <= MAX_COST):
                found[name] = f"must be a number from 0 to {MAX_COST:g}"
        if not 0 < self.target_util <= 1:
            found["target_util"] = "must be above 0 and at most 1"
        if not 1 <= self.cold_mult <= 1000:
            found["cold_mult"] = "must be from 1 to 1000"
        if problem := _cold_workers_problem(self.cold_workers):
            found["cold_workers"] = problem
        if not 0 <= self.max_workers <= 100_000:
            found["max_workers"] = "must be from 0 to 100000"
        if self.inactivity_timeout is not None and not math.isfinite(self.inactivity_timeout):
            found["inactivity_timeout"] = "must be a finite number, or absent"
        return found


def _cold_workers_problem(value: Any) -> str:
    """A struct that was made in Python may hold anything."""
    if value == "auto":
        return ""
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        return demand(ColdWorkers, value)
    return "" if value <= 100_000 else "must be at most 100000"


FILE_DEFAULTS: dict[str, Any] = {"min_load": 0.0, "cold_workers": "auto", "cold_mult": 1.0}
"""Where ``stoker.toml`` and ``stoker endpoint create`` differ from the protocol's defaults: nothing
is held that nobody asked for, so an idle endpoint costs nothing."""


_NAMED = re.compile(r"required field `(?P<name>[^`]*)`")


def decode(decoder: msgspec.json.Decoder[T], data: bytes | msgspec.Raw) -> T:
    """Decode a message from outside.

    Raises:
        InvalidMessageError: names the field that is missing or of the wrong type.
    """
    try:
        return decoder.decode(data)
    except msgspec.ValidationError as error:
        raise InvalidMessageError(_field_of(str(error))) from None
    except UNREADABLE as error:
        raise InvalidMessageError({"body": f"not valid JSON: {error}"}) from None


def _field_of(problem: str) -> dict[str, str]:
    text, _, at = problem.partition(" - at `")
    path = at.removeprefix("$").removeprefix(".").removesuffix("`")
    if missing := _NAMED.search(text):
        name = f"{path}.{missing['name']}" if path else missing["name"]
        return {name: "is required"}
    return {path or "body": text[:1].lower() + text[1:].replace("`", "")}


def check_cost(cost: float) -> float:
    """A load figure from outside, or an error.

    Raises:
        InvalidMessageError: when it is negative, not finite, or above `MAX_COST`.
    """
    if not (math.isfinite(cost) and 0.0 <= cost <= MAX_COST):
        raise InvalidMessageError({"cost": f"must be a number from 0 to {MAX_COST:g} load units"})
    return cost


MAX_ROUTE = 256
"""Characters of a route that are looked at."""

MAX_AFFINITY = 128
"""Characters of a name in `RouteRequest.affinity`."""

MAX_PREFIXES = 32
"""Names in a list of them."""


def check_affinity(affinity: str | list[str]) -> Sequence[str]:
    """The names in `RouteRequest.affinity`, or an error; "" is none.

    Raises:
        InvalidMessageError: when there are too many, or one is too long.
    """
    names = [affinity] if isinstance(affinity, str) else affinity
    if len(names) > MAX_PREFIXES:
        raise InvalidMessageError({"affinity": f"must hold at most {MAX_PREFIXES} names"})
    if any(len(name) > MAX_AFFINITY for name in names):
        limit = f"must have at most {MAX_AFFINITY} characters in a name: send a hash of it"
        raise InvalidMessageError({"affinity": limit})
    return [name for name in names if name]


MAX_URL = 512
"""Characters of a worker's URL."""

_WORKER_URL = re.compile(
    r"https?://(?:\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9._-]{1,253})(?::[0-9]{1,5})?"
    r"(?:/[A-Za-z0-9._~%/-]*)?"
)


def check_worker_url(url: str) -> str:
    """A URL that clients are sent to, or an error: a host, a port, perhaps a path, nothing else.

    Raises:
        InvalidMessageError: when it is of another scheme, or has a user, a query, a fragment or
            characters that no such URL has.
    """
    try:
        parts = urlsplit(url) if len(url) <= MAX_URL and _WORKER_URL.fullmatch(url) else None
        good = parts is not None and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port above 65535, or no address between the brackets
        good = False
    if not good:
        raise InvalidMessageError(
            {"url": f"must be http(s)://host:port, of at most {MAX_URL} characters"}
        )
    return url


encode = msgspec.json.Encoder().encode


def encode_any(value: Any) -> bytes:
    """JSON of what others made: integers may have more than 64 bits, which `encode` refuses.

    Raises:
        TypeError: something in it has no form in JSON.
        ValueError: it is nested too deep, or in itself, or has text that is none.
    """
    try:
        return encode(value)
    except OverflowError:
        return json.dumps(value, separators=(",", ":"), allow_nan=False).encode()
    except RecursionError:
        raise ValueError("it is nested too deep") from None


def error_body(message: str, fields: dict[str, str] | None = None, **more: Any) -> bytes:
    """The JSON body of every refusal: ``{"error": …, "msg": …}``.

    Args:
        message: a sentence for people. `msg` is what the command line of ``vastai`` prints.
        fields: what is wrong, by the field that is to blame; `msg` names each of them.
        more: further members.
    """
    told = message
    if fields:
        found = "; ".join(f"{name}: {problem}" for name, problem in fields.items())
        told = message if found in message else f"{message}: {found}"
    body: dict[str, Any] = {"error": message, "msg": told}
    if fields:
        body["fields"] = fields
    return encode(body | more)
