"""Sessions: a client that keeps this one worker for a while.

Rules (what decides about a session lives in this file):

* A session is opened with a proof that is good for one request (a ticket is used up by it); later
  calls show the same proof again, and the session's id, which only its owner knows.
* It lives for `lifetime` seconds. Each request within it adds its lifetime once more, up to
  `MAX_AHEAD` seconds from now.
* Without a request for `idle_timeout` seconds it ends all the same: it holds a worker, and may have
  been opened on a ticket that cost nothing.
* At most `limit` are open at a time; one more is refused.
* It ends once: when it is ended, when it has expired (`due` tells), or with the worker. Then its
  running requests are cancelled, and its close callback, if it has one, is posted once.

Pure: no clock and no I/O.
"""

from __future__ import annotations

import hmac
import math
import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import msgspec

from stoker.wire import AuthData, encode
from stoker.worker.paths import climbs

DEFAULT_LIFETIME = 60.0
MAX_LIFETIME = 86_400.0
"""Longest lifetime that can be asked for, seconds."""

MAX_AHEAD = 86_400.0
"""Furthest that requests put off the end of a session, seconds from now."""

MAX_CLOSE_PAYLOAD = 65_536
"""Bytes of a close callback's payload."""

J = TypeVar("J")


class SessionPayload(msgspec.Struct, frozen=True):
    """Payload of ``/session/create``; times in seconds."""

    lifetime: float = DEFAULT_LIFETIME
    on_close_route: str | None = None
    """Path at the model server, which gets `on_close_payload` and the session's id at the end."""
    on_close_payload: dict[str, Any] | None = None

    def problems(self) -> dict[str, str]:
        """What is wrong, by field."""
        found: dict[str, str] = {}
        if not 0.0 < self.lifetime <= MAX_LIFETIME:
            found["payload.lifetime"] = f"must be above 0 and at most {MAX_LIFETIME:g} seconds"
        route = self.on_close_route
        plain = route is None or (route.isascii() and route.isprintable() and " " not in route)
        shape = route is None or re.fullmatch(r"/(?!/)[^#]*", route)
        if route and (not plain or not shape or climbs(route) or len(route) > 1024):
            found["payload.on_close_route"] = "must be a path such as '/close'"
        if len(encode(self.on_close_payload)) > MAX_CLOSE_PAYLOAD:
            found["payload.on_close_payload"] = f"is larger than {MAX_CLOSE_PAYLOAD} bytes"
        return found


class SessionCall(msgspec.Struct, frozen=True):
    """Body of ``/session/get``, ``/session/end`` and ``/session/health``."""

    session_id: str
    session_auth: AuthData | None = None


@dataclass(slots=True, eq=False)
class Session(Generic[J]):
    """One session; it is counted as a request that lasts as long as it does.

    Attributes:
        id: random, known to its owner alone.
        auth: what it was opened with.
        lifetime: seconds.
        expires: seconds of the worker's monotonic clock.
        created_at: likewise.
        on_close_route: path at the model server; empty: no callback.
        on_close_payload: of the callback.
        jobs: its requests that run or wait.
        idle_since: when the last of them ended; seconds of the worker's monotonic clock.
        idle_timeout: seconds without a request after which it ends.
        request_idx: the router's number for the request that opened it.
        load: load units of its own: none, as its requests have theirs.
    """

    id: str
    auth: AuthData
    lifetime: float
    expires: float
    created_at: float
    on_close_route: str = ""
    on_close_payload: dict[str, Any] = field(default_factory=dict)
    jobs: dict[J, None] = field(default_factory=dict)
    idle_since: float = 0.0
    idle_timeout: float = math.inf
    request_idx: int = 0
    load: float = 0.0
    estimate: float = 0.0
    served: float = 0.0
    silent: bool = False
    entered_queue_at: float = 0.0
    work_started_at: float | None = None

    @property
    def path(self) -> str:
        """None of its own: it is no request (see `stoker.worker.metering.Metered`)."""
        return ""

    def belongs_to(self, auth: AuthData) -> bool:
        """Whether `auth` is what the session was opened with."""
        return hmac.compare_digest(encode(self.auth), encode(auth))

    @property
    def ends(self) -> float:
        """When it ends if nothing comes; seconds of the worker's monotonic clock."""
        return self.expires if self.jobs else min(self.expires, self.idle_since + self.idle_timeout)

    def left(self, job: J, now: float) -> None:
        """A request of it has ended."""
        self.jobs.pop(job, None)
        self.idle_since = now

    def extend(self, now: float) -> None:
        """A request came: the end is put off."""
        self.idle_since = now
        self.expires = max(self.expires, min(self.expires + self.lifetime, now + MAX_AHEAD))

    def close_payload(self) -> bytes:
        """Body of the close callback."""
        return encode(self.on_close_payload | {"session_id": self.id})


class SessionTable(Generic[J]):
    """The sessions of one worker."""

    def __init__(
        self,
        limit: int,
        *,
        idle_timeout: float = math.inf,
        make_id: Callable[[], str] | None = None,
    ) -> None:
        """No session yet.

        Args:
            limit: open at a time.
            idle_timeout: seconds without a request after which a session ends.
            make_id: gives unguessable ids.
        """
        self._limit = limit
        self._idle_timeout = idle_timeout
        self._make_id = make_id or (lambda: secrets.token_urlsafe(18))
        self._open: dict[str, Session[J]] = {}

    def __len__(self) -> int:
        return len(self._open)

    @property
    def full(self) -> bool:
        """Whether no further one may be opened."""
        return len(self._open) >= self._limit

    def open(self, auth: AuthData, payload: SessionPayload, now: float) -> Session[J]:
        """Open a session; ask `full` before.

        Args:
            auth: what authorised it.
            payload: one without `SessionPayload.problems`.
            now: seconds of the worker's monotonic clock.
        """
        session: Session[J] = Session(
            id=self._make_id(),
            auth=auth,
            lifetime=payload.lifetime,
            expires=now + payload.lifetime,
            created_at=now,
            on_close_route=payload.on_close_route or "",
            on_close_payload=payload.on_close_payload or {},
            idle_since=now,
            idle_timeout=self._idle_timeout,
            request_idx=auth.request_idx,
            entered_queue_at=now,
            work_started_at=now,
        )
        self._open[session.id] = session
        return session

    def get(self, session_id: str) -> Session[J] | None:
        """The session of that id; None where there is none (any more)."""
        return self._open.get(session_id)

    def remove(self, session: Session[J]) -> bool:
        """End a session; False if it was ended already."""
        return self._open.pop(session.id, None) is not None

    def due(self, now: float) -> list[Session[J]]:
        """Those that have expired by `now`."""
        return [session for session in self._open.values() if session.ends <= now]

    def all(self) -> list[Session[J]]:
        """All that are open."""
        return list(self._open.values())
