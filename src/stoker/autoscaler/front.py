"""The front door: one port for everything that clients, workers and people ask.

The hot calls (``/route/``, ``/worker_status/``, ``/delete_requests/``, ``/pubkey/``) are answered
here, in the parser's own callback: no task, no thread, no database. All other paths are relayed to
the console app. Every path is served with and without its trailing slash.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from hmac import compare_digest
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

import msgspec

from stoker import wire
from stoker.autoscaler.identity import Principal
from stoker.autoscaler.router import Assigned, RouterFullError
from stoker.errors import InvalidMessageError, NotFoundError, StokerError
from stoker.http import (
    Cors,
    Exchange,
    Outcome,
    RelayObserver,
    UpstreamPool,
    bearer,
    coded,
    relay,
)
from stoker.logs import get_logger
from stoker.network import is_loopback
from stoker.tickets import Claims, as_signature, mint

if TYPE_CHECKING:
    from stoker.autoscaler.controlplane import ControlPlane

log = get_logger("front")

MAX_WAIT = 30.0
"""Longest long poll, seconds: below the idle timeouts of common proxies."""

DEFAULT_REPLAY_TIMEOUT = 60.0

CLIENT_LEFT = 499
"""Status in the metrics of a call whose client went before its answer was whole."""

MAX_WORKING = 100_000
"""Requests that one worker may say it works on."""

MIN_PERF = 1e-6
"""Load units per second that a worker may say it does at least; less makes times endless."""

MAX_BOOT_ID = 64
"""Characters."""

_route = msgspec.json.Decoder(wire.RouteRequest)
_status = msgspec.json.Decoder(wire.WorkerStatus)
_delete = msgspec.json.Decoder(wire.DeleteRequests)


PEER_HEADER = b"stoker-peer"
"""Tells the console where a request came from."""


class _ById(msgspec.Struct, frozen=True):
    """Body of the calls about one endpoint or workergroup."""

    id: int | None = None
    workergroup_id: int | None = None
    api_key: str | None = None
    tail: int | None = None
    cancel_update: bool = False


_by_id = msgspec.json.Decoder(_ById)

_REVOKED = "this API key was revoked, or has expired"


class UnauthorizedError(StokerError):
    """The caller showed no key, or one that does not open this door."""


class _Relayed(RelayObserver):
    """Counts what the console app answered."""

    __slots__ = ("_door",)

    def __init__(self, door: FrontDoor) -> None:
        self._door = door

    def on_done(self, outcome: Outcome, status: int, detail: str) -> None:
        self._door.count("console", CLIENT_LEFT if outcome is Outcome.CLIENT_GONE else status)


@dataclass(frozen=True, slots=True)
class _Waiting:
    """A client on the line."""

    exchange: Exchange
    until: float
    endpoint_id: int
    principal: Principal
    """Looked at again at the end: its key may be revoked while it waits."""


_PASSED_ON = (b"forwarded", b"x-forwarded-for", b"via")


def _asked_here(exchange: Exchange) -> bool:
    """Whether a call was made to this machine by its own name, and not passed on by a proxy.

    A page that has its name point to this machine (DNS rebinding) asks by that name.
    """
    host = (exchange.header(b"host") or b"").decode("latin-1")
    name = host.rpartition(":")[0] if re.search(r":\d*$", host) else host
    return is_loopback(name) and all(exchange.header(header) is None for header in _PASSED_ON)


class FrontDoor:
    """The request handler of the control plane's port."""

    def __init__(
        self,
        plane: ControlPlane,
        console: UpstreamPool,
        *,
        cors: Cors | None = None,
        metrics_key: str = "",
        local: bool = False,
    ) -> None:
        """Answer for `plane`.

        Args:
            plane: decides.
            console: answers what this door does not.
            cors: of browsers' pages; None: no page may call.
            metrics_key: opens ``/metrics`` and nothing else, as an account's key does.
            local: only this machine reaches the port, so ``/metrics`` needs no key, unless
                `metrics_key` is given.
        """
        self._plane = plane
        self._metrics_open = local and not metrics_key
        self._cors = cors
        self._metrics_key = metrics_key
        self._console = console
        self.waiting: dict[int, _Waiting] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self.requests: dict[tuple[str, int], int] = {}
        """Answers by path (one of ours, ``console`` or ``preflight``) and status."""
        self.refusals: dict[str, int] = {}
        """Requests and connections that the engine refused, by its reason."""
        self._relayed = _Relayed(self)
        self._hot: dict[str, tuple[str, Callable[[Exchange], None]]] = {
            "/route": ("POST", self._on_route),
            "/worker_status": ("POST", self._on_status),
            "/delete_requests": ("POST", self._on_delete),
            "/pubkey": ("GET", self._on_pubkey),
            "/healthz": ("GET", self._on_health),
            "/metrics": ("GET", self._on_metrics),
            "/get_endpoint_workers": ("POST", self._on_workers),
            "/get_endpoint_logs": ("POST", self._on_endpoint_logs),
            "/get_workergroup_logs": ("POST", self._on_group_logs),
            "/get_autogroup_logs": ("POST", self._on_group_logs),
            "/update_workers": ("POST", self._on_update),
        }

    def __call__(self, exchange: Exchange) -> None:
        """Answer one request."""
        if self._cors and self._cors.take(exchange):
            self.count("preflight", exchange.status)
            return
        path = exchange.path.rstrip("/")
        found = self._hot.get(path)
        if found is None:
            headers = None
            if path.endswith("/sign_cert"):
                # Who asks decides what is certified; what a client says of itself is left out.
                headers = [h for h in exchange.headers if h[0] != PEER_HEADER]
                headers.append((PEER_HEADER, host_of_peer(exchange.peer).encode()))
            relay(exchange, self._console, headers=headers, observer=self._relayed)
            return
        method, handler = found
        # HEAD is the GET of which the engine drops the body.
        if exchange.method != method and (exchange.method, method) != ("HEAD", "GET"):
            headers = [(b"allow", b"GET, HEAD" if method == "GET" else method.encode())]
            body = wire.error_body(f"{path}/ takes {method} only")
            self.count(path, 405)
            exchange.respond(405, body, headers=headers)
            return
        status = 200
        try:
            handler(exchange)
        except InvalidMessageError as error:
            if "body" in error.fields and (coding := coded(exchange)):
                status = 415
                headers = [(b"accept-encoding", b"identity")]
                exchange.respond(415, wire.error_body(coding), headers=headers)
            else:
                status = 400
                exchange.respond(400, wire.error_body(str(error), error.fields))
        except UnauthorizedError as error:
            status = 401
            exchange.respond(401, wire.error_body(str(error)))
        except NotFoundError as error:
            status = 404
            exchange.respond(404, wire.error_body(str(error)))
        except RouterFullError as error:
            status = 429
            exchange.respond(429, wire.error_body(str(error)), headers=[(b"retry-after", b"5")])
        except Exception:
            self.count(path, 500)
            raise
        self.count(path, status)

    def count(self, path: str, status: int) -> None:
        """An answer was given; `path` is one of ours."""
        key = (path, status)
        self.requests[key] = self.requests.get(key, 0) + 1

    def refused(self, reason: str) -> None:
        """The engine refused a request or a connection (see `stoker.http.HttpServer`)."""
        self.refusals[reason] = self.refusals.get(reason, 0) + 1

    # -- routing ---------------------------------------------------------------------------

    def _on_route(self, exchange: Exchange) -> None:
        plane, now = self._plane, self._plane.now()
        request = wire.decode(_route, exchange.body)
        principal = self._authenticate(exchange, request.api_key)
        endpoint = plane.fleet.by_name.get(request.endpoint)
        if endpoint is None or not principal.may_use(endpoint.id):
            # The same words for both: a key for one endpoint is no way to list the others.
            raise NotFoundError(f"there is no endpoint {request.endpoint[:128]!r} for this key")
        cost = None if request.cost is None else wire.check_cost(request.cost)
        patience = request.replay_timeout
        if patience is None:
            patience = DEFAULT_REPLAY_TIMEOUT
        if not 0.0 <= patience <= wire.MAX_REPLAY_TIMEOUT:
            limit = f"must be from 0 to {wire.MAX_REPLAY_TIMEOUT:g} seconds"
            raise InvalidMessageError({"replay_timeout": limit})
        if not 0.0 <= request.wait <= MAX_WAIT:
            raise InvalidMessageError({"wait": f"must be from 0 to {MAX_WAIT:g} seconds"})
        index = request.request_idx or 0
        if not 0 <= index < 2**53:
            raise InvalidMessageError({"request_idx": "must be one that /route/ returned, or 0"})
        answer = plane.router.route(
            endpoint.id,
            cost,
            index,
            patience,
            now,
            wait=request.wait,
            key=principal.id,
            affinity=wire.check_affinity(request.affinity),
            path=request.route[: wire.MAX_ROUTE],
        )
        if answer.fresh:
            plane.recordings.came(endpoint.id, answer.cost, now)
        if isinstance(answer, Assigned):
            self._answer(exchange, answer, endpoint.name)
            return
        plane.wake()
        if request.wait > 0:
            until = now + request.wait
            self._hold(answer.request_idx, _Waiting(exchange, until, endpoint.id, principal))
        else:
            self._answer_held(exchange, answer.request_idx, endpoint.id)

    def _answer(self, exchange: Exchange, answer: Assigned, endpoint: str) -> None:
        worker = self._plane.fleet.workers[answer.worker_id]
        # Of one that was promised a worker before its client asked: no later than its booking.
        expires = self._plane.ticket_time(answer.assigned_at) + self._plane.ticket_lifetime
        claims = Claims(
            worker_id=worker.id,
            boot_id=worker.boot_id,
            endpoint=endpoint,
            request_idx=answer.request_idx,
            reqnum=answer.reqnum,
            cost=answer.cost,
            expires_ms=int(expires * 1000),
        )
        ticket = mint(worker.token_bytes, claims)
        if worker.boot_id:
            # One of ours, which looks at the ticket alone. Clients that show the five fields of the
            # existing protocol, and no others, show it in the signature.
            signature = as_signature(answer.request_idx, ticket)
        else:
            signature = self._plane.identity.signer.sign(worker.url)
        reply = wire.RouteReply(
            endpoint=endpoint,
            request_idx=answer.request_idx,
            cost=answer.cost,
            url=worker.url,
            reqnum=answer.reqnum,
            signature=signature,
            ticket=ticket,
        )
        exchange.respond(200, wire.encode(reply))

    def _answer_held(self, exchange: Exchange, request_idx: int, endpoint_id: int) -> None:
        fleet = self._plane.fleet
        reply = wire.RouteReply(
            endpoint=fleet.endpoints[endpoint_id].name,
            request_idx=request_idx,
            status=fleet.status_text(endpoint_id),
            reason=self._plane.waiting_reason(endpoint_id) or None,
        )
        exchange.respond(200, wire.encode(reply))

    def _hold(self, index: int, client: _Waiting) -> None:
        replaced = self.waiting.pop(index, None)
        if replaced is not None and not replaced.exchange.disconnected:
            self._answer_held(replaced.exchange, index, client.endpoint_id)
        self.waiting[index] = client

        def gone() -> None:
            if self.waiting.get(index) is client:
                del self.waiting[index]
                self._plane.router.hung_up(index, self._plane.now())

        client.exchange.on_disconnect = gone

    def assigned(self, answer: Assigned) -> bool:
        """The router found a worker for a held request: tell the client, if it is on the line."""
        client = self.waiting.pop(answer.request_idx, None)
        if client is None:
            return False
        if not self._plane.keyring.is_good(client.principal):
            client.exchange.respond(401, wire.error_body(_REVOKED))
            return False
        endpoint = self._plane.fleet.endpoints[client.endpoint_id]
        self._answer(client.exchange, answer, endpoint.name)
        return True

    def tick(self, now: float) -> None:
        """End the long polls whose time is up, and those of keys that were revoked."""
        plane = self._plane
        for index, client in list(self.waiting.items()):
            there = client.endpoint_id in plane.fleet.endpoints
            good = plane.keyring.is_good(client.principal)
            if now < client.until and there and good:
                continue
            del self.waiting[index]
            if not there:
                client.exchange.respond(404, wire.error_body("the endpoint was deleted"))
            elif not good:
                plane.router.hung_up(index, now)
                client.exchange.respond(401, wire.error_body(_REVOKED))
            else:
                self._answer_held(client.exchange, index, client.endpoint_id)

    # -- workers ---------------------------------------------------------------------------

    def _on_status(self, exchange: Exchange) -> None:
        report = wire.decode(_status, exchange.body)
        problems = {
            name: "must be a finite number, at least 0"
            for name in ("cur_load", "rej_load", "cur_perf", "max_perf", "loadtime")
            if not 0.0 <= getattr(report, name) <= wire.MAX_COST * 1e3
        }
        if not -wire.MAX_COST * 1e3 <= report.new_load <= wire.MAX_COST * 1e3:
            problems["new_load"] = "must be a finite number"
        if 0.0 < report.max_perf < MIN_PERF:
            problems["max_perf"] = f"must be 0 (not known yet) or at least {MIN_PERF:g} load/s"
        if report.num_requests_working > MAX_WORKING:
            problems["num_requests_working"] = f"must be at most {MAX_WORKING}"
        if not 0 <= report.slots <= MAX_WORKING:
            problems["slots"] = f"must be from 0 to {MAX_WORKING}"
        if len(report.working_request_idxs) > MAX_WORKING:
            problems["working_request_idxs"] = f"must hold at most {MAX_WORKING} numbers"
        if len(report.boot_id) > MAX_BOOT_ID:
            problems["boot_id"] = f"must have at most {MAX_BOOT_ID} characters"
        if problems:
            raise InvalidMessageError(problems)
        self._worker(report.id, report.mtoken)
        if report.url:
            wire.check_worker_url(report.url)
        self._plane.on_report(self._plane.with_own_url(report, host_of_peer(exchange.peer)))
        exchange.respond(200, wire.encode(wire.WorkerStatusReply(now=self._plane.ticket_time())))

    def _on_delete(self, exchange: Exchange) -> None:
        message = wire.decode(_delete, exchange.body)
        self._worker(message.worker_id, message.mtoken)
        self._plane.on_finished(message)
        exchange.respond(200, b'{"ok":true}')

    def _worker(self, worker_id: int, token: str) -> None:
        if not self._plane.fleet.is_worker(worker_id, token):
            raise UnauthorizedError("unknown worker, or its mtoken is wrong: was it detached?")

    def _on_pubkey(self, exchange: Exchange) -> None:
        exchange.respond(
            200, self._plane.identity.signer.public_pem, content_type=b"text/plain; charset=utf-8"
        )

    # -- people ----------------------------------------------------------------------------

    def _on_health(self, exchange: Exchange) -> None:
        exchange.respond(200, b'{"status":"ok"}')

    def _on_metrics(self, exchange: Exchange) -> None:
        """For an account's key, or the one that opens this alone: it names endpoints and loads."""
        shown = bearer(exchange)
        opened = self._metrics_open and shown is None and _asked_here(exchange)
        known = opened or (
            self._metrics_key and shown and compare_digest(shown, self._metrics_key.encode())
        )
        if not known and self._authenticate(exchange, None).kind != "account":
            raise UnauthorizedError("metrics are for an account's key, or for STOKER_METRICS_KEY")
        exchange.respond(
            200, self._plane.metrics(), content_type=b"text/plain; version=0.0.4; charset=utf-8"
        )

    def _on_workers(self, exchange: Exchange) -> None:
        endpoint_id, _ = self._endpoint_of(exchange)
        exchange.respond(200, wire.encode(self._plane.workers(endpoint_id)))

    def _on_endpoint_logs(self, exchange: Exchange) -> None:
        endpoint_id, tail = self._endpoint_of(exchange)
        self._later(exchange, lambda: self._plane.journal.levels(endpoint_id, None, tail))

    def _on_group_logs(self, exchange: Exchange) -> None:
        endpoint_id, group_id, tail = self._group_of(exchange)
        self._later(exchange, lambda: self._plane.journal.levels(endpoint_id, group_id, tail))

    def _on_update(self, exchange: Exchange) -> None:
        """Begin a rolling update of a workergroup, or cancel it."""
        request = wire.decode(_by_id, exchange.body)
        _, group_id, _ = self._group_of(exchange, account=True)
        self._later(
            exchange, lambda: self._plane.update_workers(group_id, cancel=request.cancel_update)
        )

    def _endpoint_of(self, exchange: Exchange) -> tuple[int, int]:
        request = wire.decode(_by_id, exchange.body)
        principal = self._authenticate(exchange, request.api_key)
        if request.id is None:
            raise InvalidMessageError({"id": "is required"})
        if request.id not in self._plane.fleet.endpoints or not principal.may_use(request.id):
            raise NotFoundError(f"there is no endpoint {request.id} for this key")
        return request.id, _tail(request.tail)

    def _group_of(self, exchange: Exchange, *, account: bool = False) -> tuple[int, int, int]:
        """Its endpoint, its id, and how many lines; `account`: for the owner's keys alone."""
        request = wire.decode(_by_id, exchange.body)
        principal = self._authenticate(exchange, request.api_key)
        group_id = request.workergroup_id if request.id is None else request.id
        if group_id is None:
            raise InvalidMessageError({"id": "is required"})
        group = self._plane.fleet.groups.get(group_id)
        refused = account and principal.kind != "account"
        if group is None or refused or not principal.may_use(group.endpoint_id):
            raise NotFoundError(f"there is no workergroup {group_id} for this key")
        return group.endpoint_id, group_id, _tail(request.tail)

    def _later(self, exchange: Exchange, make: Callable[[], Awaitable[Any]]) -> None:
        async def answer() -> None:
            try:
                exchange.respond(200, wire.encode(await make()))
            except NotFoundError as error:  # it was deleted just now
                exchange.respond(404, wire.error_body(str(error)))
            except Exception:
                log.exception("a query failed", path=exchange.path)
                if not exchange.started:
                    exchange.respond(500, wire.error_body("internal error"))

        task = asyncio.get_running_loop().create_task(answer())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # -- keys ------------------------------------------------------------------------------

    def _authenticate(self, exchange: Exchange, in_body: str | None) -> Principal:
        """The key comes as a bearer, in the body or in the query; each peer has its own habit."""
        shown = bearer(exchange)
        candidates = [in_body]
        if shown is not None:
            candidates.insert(0, shown.decode("latin-1"))
        if exchange.query:
            candidates.append(parse_qs(exchange.query.decode("latin-1")).get("api_key", [""])[0])
        for key in candidates:
            if key:
                principal = self._plane.keyring.authenticate(key)
                if principal is not None:
                    return principal
        if not any(candidates):
            raise UnauthorizedError("an API key is needed: send 'Authorization: Bearer <key>'")
        raise UnauthorizedError("this API key is not known here")


def host_of_peer(peer: str) -> str:
    """The address in ``host:port``."""
    return peer.rpartition(":")[0].strip("[]")


def _tail(tail: int | None) -> int:
    if tail is None:
        return 100
    if not 0 < tail <= 10_000:
        raise InvalidMessageError({"tail": "must be from 1 to 10000 lines"})
    return tail
