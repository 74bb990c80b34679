"""Requests to endpoints: ask for a worker, hold while none is free, send, and try again if refused.

Rules:

* A request that a worker refused (401, 429, 503) or could not be sent to any (no connection) is
  routed again under the same ``request_idx``, which books no further load, until `timeout`.
* Once a worker took the connection and did not refuse, nothing is sent again: it may have been
  served.
* A request in a session goes to the session's worker, and to no other.
* A control plane that stops answering is given `PATIENCE` to come back; one that never answered is
  probably a wrong URL, and gets `FIRST_PATIENCE`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import httpx
import msgspec

from stoker import wire
from stoker.client.backoff import Backoff
from stoker.client.connection import (
    CALL_TIMEOUT,
    CONNECT_TIMEOUT,
    certificate_problem,
    failure,
    reason_of,
)
from stoker.client.errors import AnswerFailedError, RequestFailedError, RouteTimeoutError
from stoker.client.manage import ManagingConnection
from stoker.client.responses import ClientResponse, ClientStream
from stoker.client.sessions import Session
from stoker.errors import UNREADABLE, ConfigError, InvalidMessageError, StokerError
from stoker.logs import printable

LONG_POLL = 15.0
"""Seconds for which one call waits for a worker at the control plane."""

SHOWN_POLL = 2.0
"""The same when somebody watches: the state of the workers comes with each answer."""

PATIENCE = 20.0
"""Seconds without an answer after which a control plane that had answered is given up."""

FIRST_PATIENCE = 2.0
"""The same for one that never answered."""

LAST_ANSWER = 0.5
"""Seconds after the deadline for which the control plane's answer to the last poll is waited for,
because it says why there was no worker."""

MAX_REFUSED_TICKETS = 4
"""A ticket can expire or die with its worker's restart; so often in a row, it is something else."""

MAX_ERROR_BODY = 65_536
"""Bytes of a refusal that are read."""

MAX_STATUS = 1000
"""Characters kept of what the control plane says while a request waits."""

OnStatus = Callable[[str], None]

_REFUSED = (401, 429, 503)
_TRY_AGAIN = (429, 500, 502, 503, 504)


@dataclass(slots=True)
class _Attempt:
    """One request on its way to an endpoint."""

    endpoint: str
    cost: float | None
    timeout: float
    deadline: float
    on_status: OnStatus | None
    request_idx: int = 0
    backoff: Backoff = field(default_factory=Backoff)
    last_status: str = ""
    unheard_since: float | None = None
    affinity: str | list[str] = ""
    session_id: str | None = None
    auth: dict[str, Any] | None = None
    """Of the session, which pins it to a worker."""
    path: str = ""
    """The route at the worker."""

    def tell(self, text: str) -> None:
        """Show what is going on, once for each change."""
        if text != self.last_status:
            self.last_status = text
            if self.on_status is not None:
                self.on_status(text)

    def timed_out(self) -> RouteTimeoutError:
        """The error for its deadline."""
        last = f"; last: {self.last_status}" if self.last_status else ""
        return RouteTimeoutError(
            f"no worker of endpoint {self.endpoint!r} was free within {self.timeout:g} s{last}"
        )


class Client(ManagingConnection):
    """A client of a control plane and of the workers behind it; use it with ``async with``.

    Example::

        async with Client() as client:  # or Client("http://127.0.0.1:8700", key)
            answer = await client.request("llm", "/v1/completions", {"prompt": "Hello"}, cost=100)
            print(answer.json())
    """

    async def request(
        self,
        endpoint: str,
        route: str,
        payload: Any,
        *,
        cost: float | None = None,
        timeout: float = 600.0,
        session_id: str | None = None,
        affinity: str | Sequence[str] = "",
        on_status: OnStatus | None = None,
    ) -> ClientResponse:
        """Send a request to an endpoint and read the whole answer.

        Args:
            endpoint: its name.
            route: path at the worker, such as ``/v1/completions``.
            payload: what the model server gets, as JSON.
            cost: load units that it is likely to need (for a language model: tokens); None: what
                requests of its route were seen to need.
            timeout: seconds for everything, waiting for a worker included.
            session_id: of a session: it goes to the session's worker, without being routed. See
                `session`.
            affinity: a name for what it shares with others (a conversation, a document), or hashes
                of the growing prefix of its prompt (`prefixes`): it goes to a worker that has seen
                it, and so has it in its cache, unless that worker is much busier than another.
            on_status: gets a line of text whenever there is news while waiting.

        Raises:
            RouteTimeoutError: no worker was free in time.
            UnauthorizedError: the API key is not good for this endpoint.
            AnswerFailedError: the status was good, and the answer tells of an error; its `response`
                is that answer.
            RequestFailedError: refused by the model server, cut, or unreachable.
        """
        deadline = asyncio.get_running_loop().time() + timeout
        async with self.stream(
            endpoint,
            route,
            payload,
            cost=cost,
            timeout=timeout,
            session_id=session_id,
            affinity=affinity,
            on_status=on_status,
        ) as stream:
            chunks: list[bytes] = []
            try:
                async with asyncio.timeout_at(deadline):
                    async for chunk in stream:
                        chunks.append(chunk)
            except TimeoutError:
                raise RequestFailedError(
                    stream.status,
                    f"the answer was not complete within {timeout:g} s",
                    kind="timed out",
                ) from None
            except AnswerFailedError as error:
                error.response = ClientResponse(stream.status, stream.headers, b"".join(chunks))
                raise
            return ClientResponse(stream.status, stream.headers, b"".join(chunks))

    @asynccontextmanager
    async def stream(
        self,
        endpoint: str,
        route: str,
        payload: Any,
        *,
        cost: float | None = None,
        timeout: float = 600.0,
        session_id: str | None = None,
        affinity: str | Sequence[str] = "",
        on_status: OnStatus | None = None,
    ) -> AsyncIterator[ClientStream]:
        """Send a request and read the answer as it comes; leaving the block early cancels it.

        `timeout` counts until the answer begins, and then for each pause in it; the rest is as for
        `request`.
        """
        if not route.startswith("/"):
            raise StokerError(f"route must begin with a slash, not {route!r}")
        if not route.isprintable() or " " in route or "#" in route:
            raise ConfigError(
                "route", "has blanks, control characters or '#': write them as %20 and the like"
            )
        attempt = self._attempt(endpoint, cost, timeout, on_status, affinity)
        attempt.path = route
        if session_id is not None:
            attempt.session_id = session_id
            attempt.auth = await self._proof_of(session_id, endpoint)
        response, _ = await self._send(attempt, route, msgspec.Raw(_encode(payload)))
        try:
            if response.status_code >= 400:
                raise failure(response.status_code, await _read_some(response, attempt.deadline))
            if response.is_redirect:
                raise _redirected(response)
            yield ClientStream(response)
        finally:
            await response.aclose()

    async def route(
        self,
        endpoint: str,
        cost: float | None = None,
        *,
        request_idx: int = 0,
        wait: float | None = None,
        timeout: float = 600.0,
        affinity: str | Sequence[str] = "",
        on_status: OnStatus | None = None,
    ) -> dict[str, Any]:
        """Ask for a worker until there is one.

        Args:
            endpoint: its name.
            cost: load units to book; None: what requests were seen to need.
            request_idx: of an earlier answer, when a worker refused; 0: a new request.
            wait: seconds for which each call may be held at the control plane; default: `LONG_POLL`
                or, with `on_status`, `SHOWN_POLL`.
            timeout: seconds until it is given up.
            affinity: as for `request`.
            on_status: gets a line of text whenever there is news.

        Returns:
            The control plane's answer, to be shown to the worker as ``auth_data``; the worker is at
            its ``url``.

        Raises:
            RouteTimeoutError: no worker was free in time.
            UnauthorizedError: the API key is not good for this endpoint.
            RequestFailedError: refused, or the control plane is not reachable.
        """
        attempt = self._attempt(endpoint, cost, timeout, on_status, affinity)
        attempt.request_idx = request_idx
        auth = await self._route(attempt, wait)
        self.proofs.routed(endpoint, auth)
        return auth

    # --- sessions

    @asynccontextmanager
    async def session(
        self,
        endpoint: str,
        *,
        cost: float | None = None,
        lifetime: float = 60.0,
        on_close_route: str | None = None,
        on_close_payload: Any = None,
        timeout: float = 600.0,
        on_status: OnStatus | None = None,
    ) -> AsyncIterator[Session]:
        """Open a session at a worker; it ends with the block.

        Args:
            endpoint: its name.
            cost: load units of all that the session will ask for.
            lifetime: seconds that it lives after its opening and after each request.
            on_close_route: path at the model server that is called when it ends, where the worker
                allows that.
            on_close_payload: for that call.
            timeout: seconds until a worker must have opened it.
            on_status: gets a line of text whenever there is news while waiting.

        Raises:
            RouteTimeoutError: no worker was free in time.
            UnauthorizedError: the API key is not good for this endpoint.
            RequestFailedError: refused, or unreachable.
        """
        asked: dict[str, Any] = {"lifetime": lifetime}
        if on_close_route is not None:
            asked |= {"on_close_route": on_close_route, "on_close_payload": on_close_payload or {}}
        attempt = self._attempt(endpoint, cost, timeout, on_status)
        response, auth = await self._send(attempt, "/session/create", msgspec.Raw(_encode(asked)))
        try:
            said = await _read_some(response, attempt.deadline)
        finally:
            await response.aclose()
        opened = _object_in(response.status_code, said)
        session_id, expiration = opened.get("session_id"), opened.get("expiration")
        if not isinstance(session_id, str):
            raise RequestFailedError(response.status_code, "the worker opened no session")
        self.proofs.opened(session_id, auth)
        until = float(expiration) if isinstance(expiration, int | float) else 0.0
        session = Session(self, endpoint, auth, session_id, until)
        try:
            yield session
        finally:
            with suppress(StokerError):  # it ends by itself where its worker cannot be reached
                await session.end()
            self.proofs.ended(session_id)

    async def session_is_alive(self, session_id: str, auth: dict[str, Any]) -> bool:
        """Whether the worker that `auth` names has the session, and it was opened with `auth`."""
        said = await self._session_call("/session/health", session_id, auth)
        return said.get("ok") is True

    async def end_session(self, session_id: str, auth: dict[str, Any]) -> None:
        """End a session that was opened with `auth`.

        Raises:
            RequestFailedError: there is none, or its worker cannot be reached.
        """
        await self._session_call("/session/end", session_id, auth)

    async def _session_call(
        self, path: str, session_id: str, auth: dict[str, Any]
    ) -> dict[str, Any]:
        body = {"session_id": session_id, "session_auth": auth}
        try:
            async with asyncio.timeout(CALL_TIMEOUT):
                response = await self._post(str(auth["url"]), path, body, CALL_TIMEOUT)
                try:
                    said = await _read_some(response, None)
                finally:
                    await response.aclose()
        except (httpx.HTTPError, httpx.InvalidURL, TimeoutError) as error:
            raise RequestFailedError(
                None, f"worker {auth['url']} cannot be reached: {reason_of(error)}"
            ) from None
        return _object_in(response.status_code, said)

    async def _proof_of(self, session_id: str, endpoint: str) -> dict[str, Any]:
        """What a session was opened with.

        Raises:
            StokerError: this client has not opened it.
        """
        known = self.proofs.of(session_id)
        if known is not None:
            return known
        for auth in self.proofs.candidates(endpoint):
            with suppress(RequestFailedError):
                if await self.session_is_alive(session_id, auth):
                    self.proofs.opened(session_id, auth)
                    return auth
        raise StokerError(
            f"session {session_id!r} was not opened by this client, or has ended: open one with "
            "Client.session"
        )

    def _attempt(
        self,
        endpoint: str,
        cost: float | None,
        timeout: float,
        on_status: OnStatus | None,
        affinity: str | Sequence[str] = "",
    ) -> _Attempt:
        if cost is not None:
            wire.check_cost(cost)
        names = affinity if isinstance(affinity, str) else list(affinity)
        wire.check_affinity(names)
        if not 0 < timeout < float("inf"):
            raise StokerError("timeout must be a finite number of seconds above 0")
        deadline = asyncio.get_running_loop().time() + timeout
        return _Attempt(endpoint, cost, timeout, deadline, on_status, affinity=names)

    async def _route(self, attempt: _Attempt, wait: float | None = None) -> dict[str, Any]:
        loop = asyncio.get_running_loop()
        # Who watches is told at once that there is a wait: their first call is not held.
        at_once = wait is None and attempt.on_status is not None
        if wait is None:
            wait = LONG_POLL if attempt.on_status is None else SHOWN_POLL
        while (left := attempt.deadline - loop.time()) > 0:
            began, held = loop.time(), 0.0 if at_once else min(wait, left)
            try:
                ask: dict[str, Any] = {
                    "endpoint": attempt.endpoint,
                    "request_idx": attempt.request_idx,
                    "replay_timeout": min(left, wire.MAX_REPLAY_TIMEOUT),
                    "wait": held,
                }
                if attempt.cost is not None:
                    ask["cost"] = attempt.cost
                if attempt.path:
                    ask["route"] = attempt.path
                if attempt.affinity:
                    ask["affinity"] = attempt.affinity
                # Not beyond the deadline, but for the moment that an answer at the last one takes.
                longest = min(held + CONNECT_TIMEOUT, left + LAST_ANSWER)
                reply = await self.call("POST", "/route/", ask, timeout=longest)
            except RequestFailedError as error:
                await self._bear(attempt, error)
                continue
            attempt.unheard_since = None
            attempt.request_idx = _request_idx_in(reply)
            if isinstance(reply.get("url"), str):
                _check_url(reply["url"])
                return dict(reply)
            attempt.tell(f"waiting for a worker: {_why_waiting(reply)}")
            if at_once:
                at_once = False
            elif held > 0 and loop.time() - began >= held / 2:
                attempt.backoff.reset()
            elif not await _pause(attempt):
                # It did not hold the call, and must not be asked again without a pause.
                await asyncio.sleep(max(0.0, attempt.deadline - loop.time()))
        raise attempt.timed_out()

    async def _bear(self, attempt: _Attempt, error: RequestFailedError) -> None:
        """Wait before the control plane is asked again, or raise when that is of no use."""
        now = asyncio.get_running_loop().time()
        if error.status is None:
            patience = PATIENCE if self.answered else FIRST_PATIENCE
            if attempt.unheard_since is None:
                attempt.unheard_since = now
            elif now - attempt.unheard_since >= patience:
                raise error
        elif error.status not in _TRY_AGAIN:
            raise error
        attempt.tell(f"{error.message}; trying again")
        if not await _pause(attempt):
            raise error

    async def _send(
        self, attempt: _Attempt, route: str, payload: msgspec.Raw
    ) -> tuple[httpx.Response, dict[str, Any]]:
        """The answer of a worker that took the request, and the ``auth_data`` it was sent with."""
        loop = asyncio.get_running_loop()
        refused_tickets = 0
        while True:
            auth = attempt.auth or await self._route(attempt)
            body = {"auth_data": auth, "session_id": attempt.session_id, "payload": payload}
            retry_after = None
            try:
                async with asyncio.timeout_at(attempt.deadline):
                    response = await self._post(auth["url"], route, body, attempt.timeout)
            except TimeoutError:
                raise RequestFailedError(
                    None,
                    f"the worker did not answer within {attempt.timeout:g} s",
                    kind="timed out",
                ) from None
            except (httpx.ConnectError, httpx.ConnectTimeout) as error:
                if problem := certificate_problem(error):
                    raise RequestFailedError(
                        None, f"the worker's certificate is not trusted: {problem}"
                    ) from None
                refusal = RequestFailedError(
                    None, f"worker {auth['url']} cannot be reached: {reason_of(error)}"
                )
            except httpx.InvalidURL:
                raise RequestFailedError(None, "the worker's url is none") from None
            except httpx.HTTPError as error:
                timed_out = isinstance(error, httpx.TimeoutException)
                raise RequestFailedError(
                    None,
                    f"the worker broke off before it answered: {reason_of(error)}",
                    kind="timed out" if timed_out else "failed inside",
                ) from None
            else:
                if response.status_code not in _REFUSED:
                    return response, auth
                retry_after = response.headers.get("retry-after")
                try:
                    refusal = failure(
                        response.status_code, await _read_some(response, attempt.deadline)
                    )
                finally:
                    await response.aclose()
                if response.status_code == 401:
                    if attempt.auth is not None:
                        raise refusal
                    refused_tickets += 1
                    if refused_tickets >= MAX_REFUSED_TICKETS:
                        raise refusal
            again = "asking again" if attempt.auth else "asking for another worker"
            attempt.tell(f"{refusal.message}; {again}")
            if not await _pause(attempt, retry_after) or loop.time() >= attempt.deadline:
                raise refusal

    async def _post(
        self, url: str, route: str, body: dict[str, Any], timeout: float
    ) -> httpx.Response:
        client = await self.worker_client(url)
        request = client.build_request(
            "POST",
            url.rstrip("/") + route,
            content=msgspec.json.encode(body),
            headers={"content-type": "application/json"},
            timeout=httpx.Timeout(timeout, connect=CONNECT_TIMEOUT),
        )
        return await client.send(request, stream=True)


def _why_waiting(reply: dict[str, Any]) -> str:
    """The workers by state, and why no other comes, where the control plane says so."""
    state, reason = str(reply.get("status") or "none is ready"), reply.get("reason")
    text = f"{state} ({reason})" if reason and isinstance(reason, str) else state
    return printable(text[:MAX_STATUS])


def _object_in(status: int, body: bytes) -> dict[str, Any]:
    """A worker's answer about a session.

    Raises:
        RequestFailedError: it refused, or answered something else.
    """
    if status >= 400:
        raise failure(status, body)
    try:
        return msgspec.json.decode(body, type=dict[str, Any])
    except UNREADABLE:
        raise RequestFailedError(status, "the worker's answer about a session is none") from None


def _encode(payload: Any) -> bytes:
    try:
        return wire.encode_any(payload)
    except (TypeError, ValueError) as error:
        raise StokerError(f"the payload can't be sent as JSON: {error}") from None


def _check_url(url: str) -> None:
    """A worker's URL is used as the control plane says it, so it must be one.

    Raises:
        RequestFailedError: it is none.
    """
    try:
        wire.check_worker_url(url)
    except InvalidMessageError:
        raise RequestFailedError(
            200, f"the control plane names a worker at {url[:MAX_STATUS]!r}, which is no address"
        ) from None


def _request_idx_in(reply: Any) -> int:
    index = reply.get("request_idx") if isinstance(reply, dict) else None
    if not isinstance(index, int):
        raise RequestFailedError(200, "what answers /route/ is no control plane")
    return index


async def _pause(attempt: _Attempt, retry_after: str | None = None) -> bool:
    """Wait before the next try; False, at once, when the deadline is nearer than that."""
    pause = attempt.backoff.pause(retry_after)
    if asyncio.get_running_loop().time() + pause >= attempt.deadline:
        return False
    await asyncio.sleep(pause)
    return True


async def _read_some(response: httpx.Response, deadline: float | None) -> bytes:
    """The beginning of a refusal's body, as much of it as comes before `deadline`."""
    read = b""
    # Without the rest the status says enough.
    with suppress(httpx.HTTPError, TimeoutError):
        async with asyncio.timeout_at(deadline):
            async for chunk in response.aiter_bytes():
                read += chunk
                if len(read) >= MAX_ERROR_BODY:
                    break
    return read[:MAX_ERROR_BODY]


def _redirected(response: httpx.Response) -> RequestFailedError:
    """The error for an answer that sends the request elsewhere: a worker is what was asked for."""
    target = response.headers.get("location", "")[:MAX_STATUS]
    return RequestFailedError(response.status_code, f"the model server redirects to {target!r}")
