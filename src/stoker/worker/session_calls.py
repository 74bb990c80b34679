"""The calls about sessions: ``/session/create``, ``get``, ``health`` and ``end``.

Bodies, replies and status codes are those of the existing worker (`vastai` 1.9.1, as observed):
201 for a new session, 429 at the limit, 401 for another's proof, 400 where there is no such
session, 422 for what is missing; ``health`` answers ``{"ok": false}`` instead.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Iterable
from time import monotonic, time
from typing import TYPE_CHECKING

import msgspec

from stoker import logs
from stoker.errors import InvalidMessageError
from stoker.http import Exchange, UpstreamError, fetch
from stoker.tickets import completed
from stoker.wire import AuthData, decode, encode, error_body
from stoker.worker.admission import retry_after_header
from stoker.worker.checking import MAX_SESSIONS, RESERVED_PREFIX
from stoker.worker.job import Job
from stoker.worker.sessions import Session, SessionCall, SessionPayload, SessionTable

if TYPE_CHECKING:
    from stoker.worker.app import WorkerApp

CLOSE_SECONDS = 10.0
"""Longest time that a close callback may take."""

_GONE = error_body("no such session")
_OTHERS = error_body("session_auth is not valid")
_ENDED = error_body("the session has ended")
_FULL = error_body("too many sessions are open on this worker")
_NO_ROUTE = error_body("no such route")
_JSON = [(b"content-type", b"application/json")]

_log = logs.get_logger("worker")
_payloads = msgspec.json.Decoder(SessionPayload)
_calls = msgspec.json.Decoder(SessionCall)


def _unix(moment: float) -> float:
    """Unix seconds of a moment of the monotonic clock, as the wall clock has it now."""
    return time() + (moment - monotonic())


class SessionCalls:
    """Answers the calls, and ends sessions."""

    def __init__(
        self,
        app: WorkerApp,
        limit: int | None,
        *,
        idle_timeout: float = math.inf,
        close_routes: Iterable[str] = (),
    ) -> None:
        """Prepare.

        Args:
            app: of the worker.
            limit: sessions open at a time; None: `MAX_SESSIONS`.
            idle_timeout: seconds without a request after which a session ends.
            close_routes: paths of the model server that a session may have called at its end.
        """
        self._app = app
        self._close_routes = tuple(close_routes)
        self._table: SessionTable[Job] = SessionTable(
            MAX_SESSIONS if limit is None else limit, idle_timeout=idle_timeout
        )
        self._closing: set[asyncio.Task[None]] = set()
        self._calls = {
            "/session/create": self._create,
            "/session/get": self._get,
            "/session/health": self._health,
            "/session/end": self._end,
        }

    def __len__(self) -> int:
        return len(self._table)

    def knows(self, path: str) -> bool:
        """Whether `path` is one of the calls."""
        return path.startswith(RESERVED_PREFIX) and path in self._calls

    def answer(self, exchange: Exchange) -> None:
        """Answer a POST to one of the calls."""
        try:
            self._calls[exchange.path](exchange)
        except InvalidMessageError as error:
            self._app.invalid(exchange, error)

    def answer_local(self, exchange: Exchange) -> None:
        """Answer on the port for the model server: ``/session/end``, by the session's id alone."""
        if exchange.path != "/session/end" or exchange.method != "POST":
            exchange.respond(404, _NO_ROUTE)
            return
        try:
            self._end(exchange, trusted=True)
        except InvalidMessageError as error:
            self._app.invalid(exchange, error)

    # --- a request within a session

    def enter(
        self, exchange: Exchange, session_id: str, auth: AuthData, now: float
    ) -> Session[Job] | None:
        """The session that a request belongs to, whose end it puts off; None: it is answered."""
        session = self._table.get(session_id)
        if session is None or session.ends <= now:
            self._app.refuse(exchange, 410, _GONE, "no_session")
            return None
        if not session.belongs_to(auth):
            self._app.refuse(exchange, 401, _OTHERS, "unauthorised_session")
            return None
        session.extend(now)
        return session

    # --- the calls

    def _create(self, exchange: Exchange) -> None:
        app, now = self._app, monotonic()
        if not app.accepting:
            app.not_ready(exchange)
            return
        envelope = app.gate.read(exchange.body)
        try:
            payload = decode(_payloads, envelope.payload)
        except InvalidMessageError as error:
            fields = {f"payload.{name}": text for name, text in error.fields.items()}
            raise InvalidMessageError(fields) from None
        problems = payload.problems()
        if payload.on_close_route and not problems and not self._may_close(payload.on_close_route):
            problems["payload.on_close_route"] = (
                "must be one of the worker's routes, or of its STOKER_SESSION_CLOSE_ROUTES"
            )
        if problems:
            raise InvalidMessageError(problems)
        auth = envelope.auth_data
        if not app.authorised(exchange, auth, now):
            return
        if self._table.full:
            app.gate.failed(auth.request_idx)
            app.meter.refused(auth.request_idx, 0.0, now)
            ends = [session.ends - now for session in self._table.all()]
            after = retry_after_header(min(ends, default=60.0))
            app.refuse(exchange, 429, _FULL, "too_many_sessions", retry_after=after)
            return
        session = self._table.open(auth, payload, now)
        app.meter.accepted(session)
        reply = {"session_id": session.id, "expiration": _unix(session.ends)}
        exchange.respond(201, encode(reply))

    def _may_close(self, route: str) -> bool:
        """Whether a path of the model server may be called for a client: it may be an admin's."""
        path = route.partition("?")[0]
        return any(
            path == allowed or (allowed.endswith("/*") and path.startswith(allowed[:-1]))
            for allowed in self._close_routes
        )

    def _get(self, exchange: Exchange) -> None:
        session = self._named(exchange)
        if session is not None:
            reply = {
                "session_id": session.id,
                "auth_data": session.auth,
                "lifetime": session.lifetime,
                "expiration": _unix(session.ends),
                "created_at": _unix(session.created_at),
                "on_close_route": session.on_close_route or None,
                "on_close_payload": session.on_close_payload or None,
            }
            exchange.respond(200, encode(reply))

    def _health(self, exchange: Exchange) -> None:
        call = decode(_calls, exchange.body)
        session = self._table.get(call.session_id)
        if session is None:
            exchange.respond(200, encode({"ok": False}))
        elif self._shows_proof(exchange, session, call):
            exchange.respond(200, encode({"ok": True}))

    def _end(self, exchange: Exchange, *, trusted: bool = False) -> None:
        session = self._named(exchange, trusted=trusted)
        if session is not None:
            self.end(session)
            exchange.respond(200, encode({"ended": True, "removed_session": session.id}))

    def _named(self, exchange: Exchange, *, trusted: bool = False) -> Session[Job] | None:
        """The session that a call names and may see; None: it is answered."""
        call = decode(_calls, exchange.body)
        session = self._table.get(call.session_id)
        if session is None:
            self._app.refuse(exchange, 400, _GONE, "no_session")
            return None
        if trusted and call.session_auth is None:
            return session
        return session if self._shows_proof(exchange, session, call) else None

    def _shows_proof(self, exchange: Exchange, session: Session[Job], call: SessionCall) -> bool:
        if call.session_auth is None:
            raise InvalidMessageError({"session_auth": "is required"})
        if session.belongs_to(completed(call.session_auth)):
            return True
        self._app.refuse(exchange, 401, _OTHERS, "unauthorised_session")
        return False

    # --- the end of a session

    def end(self, session: Session[Job]) -> None:
        """End a session: cancel its requests, and post its close callback."""
        if not self._table.remove(session):
            return
        for job in list(session.jobs):
            job.abort(410, _ENDED, "Cancelled")
        app = self._app
        app.meter.ended(session, "Success", monotonic())
        if session.on_close_route:
            task = asyncio.get_running_loop().create_task(self._call_back(session))
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)
        if app.draining and not app.meter.live:
            app.on_idle()

    def sweep(self, now: float) -> None:
        """End what has expired by `now`, seconds of the monotonic clock."""
        for session in self._table.due(now):
            _log.info("a session has expired", requests=len(session.jobs))
            self.end(session)

    async def end_all(self) -> None:
        """End every session, and wait until the callbacks are done (`CLOSE_SECONDS` at most)."""
        for session in self._table.all():
            self.end(session)
        if self._closing:
            await asyncio.wait(tuple(self._closing), timeout=CLOSE_SECONDS)

    async def _call_back(self, session: Session[Job]) -> None:
        route, pool = session.on_close_route, self._app.pool
        try:
            answer = await fetch(
                "http://model-server" + route,  # the pool knows where that is
                method="POST",
                headers=_JSON,
                body=session.close_payload(),
                timeout=CLOSE_SECONDS,
                max_body=1 << 20,
                pool=pool,
            )
        except (UpstreamError, ValueError) as error:
            _log.warning("a session's close callback failed", route=route, why=str(error))
            return
        if answer.status >= 400:
            _log.warning("a session's close callback failed", route=route, status=answer.status)

    async def close(self) -> None:
        """Give up what still runs."""
        for task in tuple(self._closing):
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(*self._closing, return_exceptions=True)
