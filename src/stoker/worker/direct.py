"""Requests without an envelope: passed on as they are, body and all, and WebSockets.

Rules:

* Only the methods that a handler declares, on its route (or below it, where that ends in ``/*``;
  the longest route wins).
* The caller is authorised by the header ``Stoker-Auth``: base64url of the JSON that ``/route/``
  answered, each good for one request; or, with ``Stoker-Session`` as well, by what the session was
  opened with. A WebSocket of a browser, which cannot set headers, offers the subprotocol
  ``stoker.auth.<base64url>`` instead (and ``stoker.session.<id>``).
* A POST without that header is an envelope.
* The model server gets the method, the path, the query and the headers, but none that authorise
  (Authorization, Cookie, ours, ``api_key`` in the query), none that are for one hop only, and not
  the origin of a page: who may come in is decided here.
* The load is what the handler's calculator says of an empty payload; without one, it is the cost
  that the ticket is bound to.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable
from typing import TYPE_CHECKING
from urllib.parse import unquote, unquote_to_bytes

import msgspec

from stoker.errors import InvalidMessageError
from stoker.http import Exchange, Outcome, Tunnel, TunnelObserver, relay, tunnel
from stoker.http.messages import NOT_FORWARDED, Headers
from stoker.inference import AnswerReader
from stoker.wire import DEFAULT_LOAD, AuthData, error_body
from stoker.worker.auth import Mode
from stoker.worker.checking import RESERVED_PREFIX, RESERVED_ROUTES
from stoker.worker.job import Job, Route, TokenJob
from stoker.worker.paths import climbs

if TYPE_CHECKING:
    from stoker.worker.app import WorkerApp

AUTH_HEADER = b"stoker-auth"
SESSION_HEADER = b"stoker-session"
AUTH_PROTOCOL = b"stoker.auth."
SESSION_PROTOCOL = b"stoker.session."
PROTOCOL = b"stoker"
"""A subprotocol that a client may offer beside the others, to be named in the answer."""

_WITHHELD = NOT_FORWARDED | {
    AUTH_HEADER,
    SESSION_HEADER,
    b"authorization",
    b"cookie",
    b"origin",
    b"referer",
    b"sec-websocket-protocol",
}
_EMPTY = msgspec.Raw(b"{}")
NO_AUTH = error_body(
    "send the answer of /route/ as base64url in the header Stoker-Auth", reason="missing"
)


class DirectRoutes:
    """The handlers that pass requests on without an envelope."""

    def __init__(self, app: WorkerApp, routes: Iterable[Route]) -> None:
        """Prepare.

        Args:
            app: of the worker.
            routes: all of it; those whose handlers are not `direct` are none for us, nor for a
                route above them that ends in ``/*``.
        """
        self._app = app
        self._exact: dict[str, Route | None] = dict.fromkeys(RESERVED_ROUTES)
        below: dict[str, Route] = {}
        for route in routes:
            if route.path.endswith("/*"):
                below[route.path[:-1]] = route
            else:
                self._exact[route.path] = route if route.direct else None
        self._enveloped = frozenset(path for path, route in self._exact.items() if route is None)
        self._below = sorted(below.items(), key=lambda item: -len(item[0]))

    def find(self, path: str) -> Route | None:
        """The route of a path; None where there is none."""
        if path in self._exact:
            return self._exact[path]
        for prefix, route in self._below:
            if path.startswith(prefix):
                # A model server may decode it: then it must not be another route's path.
                plain = unquote(path)
                reserved = plain in self._exact or plain.startswith(RESERVED_PREFIX)
                return None if reserved or climbs(path) else route
        return None

    def wants(self, exchange: Exchange, route: Route | None = None) -> Route | None:
        """The route that passes a request on as it is; None: it is something else."""
        if route is None:
            route = self.find(exchange.path)
        if route is None or not route.direct:
            return None
        handler = route.config
        if exchange.upgrade:
            return route if handler.websocket else None
        if exchange.method not in handler.methods:
            return None
        envelope = exchange.method == "POST" and not route.path.endswith("/*")
        if envelope and exchange.header(AUTH_HEADER) is None:
            return None
        return route

    def body_limit(self, exchange: Exchange) -> int | None:
        """See `stoker.http.HttpServer`'s `stream_body`."""
        if exchange.path in self._enveloped:  # asked for nearly every request: the short way out
            return None
        route = self.wants(exchange)
        return None if route is None else route.config.max_body_bytes

    def may_upgrade(self, exchange: Exchange) -> bool:
        """See `stoker.http.HttpServer`'s `accept_upgrade`."""
        route = self.find(exchange.path)
        return route is not None and route.config.websocket

    def take(self, exchange: Exchange, route: Route, now: float) -> None:
        """Pass a request on, if it is authorised."""
        app = self._app
        if not app.accepting:
            app.not_ready(exchange)
            return
        shown, session_id, protocols = credentials(exchange)
        if shown is None and app.gate.mode is not Mode.OPEN:
            app.refuse(exchange, 401, NO_AUTH, "unauthorised_missing")
            return
        try:
            auth = app.gate.read_auth(_decoded(shown)) if shown else AuthData(url="")
        except InvalidMessageError as error:
            app.invalid(exchange, error)
            return
        session = None
        if session_id is not None:
            session = app.sessions.enter(exchange, session_id, auth, now)
            if session is None:
                return
        elif not app.authorised(exchange, auth, now):
            return
        # A signature binds no cost: whatever the caller says of it is hearsay.
        bound = app.gate.mode is not Mode.SIGNATURE and session is None
        load = auth.cost if bound else DEFAULT_LOAD
        if route.config.workload_calculator is not None:
            load = route.workload.of(_EMPTY)
        make = TunnelJob if exchange.upgrade else DirectJob
        job = make(app, route, exchange, auth.request_idx, load, now)
        job.session = session
        if isinstance(job, TunnelJob):
            job.offered = protocols
        app.admit(job)


def credentials(exchange: Exchange) -> tuple[bytes | None, str | None, list[bytes]]:
    """What a request shows: proof, session id, and the subprotocols that are not ours."""
    shown, session = exchange.header(AUTH_HEADER), exchange.header(SESSION_HEADER)
    protocols: list[bytes] = []
    for name, value in exchange.headers if exchange.upgrade else ():
        if name != b"sec-websocket-protocol":
            continue
        for offer in (one.strip() for one in value.split(b",")):
            if offer.startswith(AUTH_PROTOCOL):
                shown = shown if shown is not None else offer[len(AUTH_PROTOCOL) :]
            elif offer.startswith(SESSION_PROTOCOL):
                session = session if session is not None else offer[len(SESSION_PROTOCOL) :]
            else:
                protocols.append(offer)
    return shown, None if session is None else session.decode("latin-1"), protocols


def _decoded(shown: bytes) -> bytes:
    try:
        padding = b"=" * (-len(shown) % 4)
        return base64.b64decode(shown + padding, altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise InvalidMessageError({"Stoker-Auth": "is not base64url"}) from None


def target_of(exchange: Exchange) -> bytes:
    """Path and query for the model server, without an API key."""
    query = exchange.query
    if not query:
        return exchange.target
    kept = [part for part in query.split(b"&") if not _is_api_key(part)]
    path = exchange.path.encode("latin-1")
    return path + b"?" + b"&".join(kept) if kept else path


def _is_api_key(part: bytes) -> bool:
    name = unquote_to_bytes(part.partition(b"=")[0])
    return name.lower() == b"api_key"


def forwarded(exchange: Exchange) -> Headers:
    """Headers for the model server."""
    dropped = _WITHHELD
    if exchange.hop_headers is not None:
        dropped |= exchange.hop_headers
    # Where a server turns names into variables, X_Real_IP is X-Real-IP: none goes.
    return [h for h in exchange.headers if h[0] not in dropped and b"_" not in h[0]]


class DirectJob(TokenJob):
    """A request that is passed on as it is."""

    __slots__ = ()

    def start(self) -> None:
        """Go to the model server (called by the app, once)."""
        exchange = self.exchange
        headers = forwarded(exchange)
        if self.route.counts_tokens:  # every client can read what is not compressed
            headers = [header for header in headers if header[0] != b"accept-encoding"]
            headers.append((b"accept-encoding", b"identity"))
        running = relay(
            exchange,
            self.app.pool,
            method=exchange.method,
            target=target_of(exchange),
            headers=headers,
            patience=self.route.patience,
            observer=self,
        )
        if not self.gone:
            self.running = running

    def make_reader(self, content_type: bytes) -> AnswerReader:
        """See `Job`."""
        return AnswerReader(content_type, failures_only=not self.route.counts_tokens)


class _Watch(TunnelObserver):
    """Tells a job of the end of its tunnel."""

    __slots__ = ("_job",)

    def __init__(self, job: TunnelJob) -> None:
        self._job = job

    def on_done(self, outcome: Outcome, status: int, detail: str) -> None:
        self._job.tunnel = None
        # Whoever hangs up an open WebSocket, by a reset as well, has had what it wanted; and one
        # that nobody used for long is no failure of the model server.
        job = self._job
        idle = outcome is Outcome.ABORTED and job.verdict is None and not job.app.cutting
        if status == 101 and (outcome is Outcome.CLIENT_GONE or idle):
            outcome = Outcome.COMPLETE
        self._job.on_done(outcome, status, detail)


class TunnelJob(Job):
    """A WebSocket; it works from its opening to its end.

    Attributes:
        offered: subprotocols that the client offers, without ours.
    """

    __slots__ = ("offered", "tunnel")

    brief = False

    def __init__(
        self, app: WorkerApp, route: Route, exchange: Exchange, index: int, load: float, now: float
    ) -> None:
        super().__init__(app, route, exchange, index, load, now)
        self.offered: list[bytes] = []
        self.tunnel: Tunnel | None = None

    def start(self) -> None:
        """Go to the model server (called by the app, once)."""
        exchange = self.exchange
        headers = forwarded(exchange)
        theirs = [offer for offer in self.offered if offer != PROTOCOL]
        if theirs:
            headers.append((b"sec-websocket-protocol", b", ".join(theirs)))
        running = tunnel(
            exchange,
            self.app.pool,
            target=target_of(exchange),
            headers=headers,
            protocol=_answered(exchange),
            idle=self.route.patience,
            observer=_Watch(self),
        )
        if not self.gone:
            self.tunnel = running

    def stop_work(self) -> None:
        """Cut it."""
        if self.tunnel is not None:
            self.tunnel.abort()


def _answered(exchange: Exchange) -> bytes | None:
    """The subprotocol of ours to name, if the model server names none: a browser insists on one."""
    ours = [
        offer.strip()
        for name, value in exchange.headers
        if name == b"sec-websocket-protocol"
        for offer in value.split(b",")
        if offer.strip() == PROTOCOL or offer.strip().startswith((AUTH_PROTOCOL, SESSION_PROTOCOL))
    ]
    if not ours:
        return None
    return PROTOCOL if PROTOCOL in ours else ours[0]
