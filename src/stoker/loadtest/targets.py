"""Where a load test sends its requests: a worker's or model server's URL, or an endpoint.

A request has at most one reason of failure: one of `REASONS`, ``status N``, or `ERROR_INSIDE` of
`stoker.loadtest.answer`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol
from urllib.parse import quote, urlsplit

import msgspec

from stoker.errors import ConfigError, StokerError
from stoker.http import Origin, UpstreamError, UpstreamPool
from stoker.loadtest.answer import AnswerTimer, Outcome
from stoker.wire import AuthData, encode

if TYPE_CHECKING:
    from stoker.client import Client
    from stoker.http.messages import Headers

Clock = Callable[[], float]

NO_CONNECTION = "no connection"
TIMEOUT = "timeout"
CUT = "cut in the middle"
UNANSWERED = "closed without an answer"
MALFORMED = "malformed answer"
NO_WORKER = "no worker in time"
NO_ANSWER = "no answer"
REASONS = (NO_CONNECTION, TIMEOUT, CUT, UNANSWERED, MALFORMED, NO_WORKER, NO_ANSWER)

CONNECT_TIMEOUT = 10.0
"""Longest time for a connection, seconds."""

_HEADERS = ((b"content-type", b"application/json"), (b"accept", b"*/*"))


class Target(Protocol):
    """Takes requests."""

    name: str
    """For people."""

    async def send(self, body: bytes, timer: AnswerTimer, clock: Clock, timeout: float) -> Outcome:
        """Send one request and feed its answer to `timer`; never raises for a failure.

        Args:
            body: the payload, JSON.
            timer: takes the answer.
            clock: seconds since the start of the test.
            timeout: seconds for all of it.
        """

    async def close(self) -> None:
        """Let go of all connections."""


class _Sink:
    """Feeds the answer of one request to its timer."""

    __slots__ = ("_clock", "_timer", "done")

    def __init__(self, timer: AnswerTimer, clock: Clock) -> None:
        self._timer = timer
        self._clock = clock
        self.done: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()

    def on_head(
        self, status: int, reason: bytes, headers: Headers, content_length: int | None
    ) -> None:
        del reason, content_length
        kind, again = "", None
        for name, value in headers:
            if name == b"content-type":
                kind = value.decode("latin-1")
            elif name == b"retry-after":
                again = value.decode("latin-1").strip()
        self._timer.head(status, kind, again)

    def on_data(self, data: bytes) -> None:
        self._timer.feed(data, self._clock())

    def on_complete(self) -> None:
        self._end(self._timer.finish(self._clock()))

    def on_error(self, error: UpstreamError) -> None:
        timer = self._timer
        reason = {
            "refused": NO_CONNECTION,
            "timeout": TIMEOUT,
            "closed": CUT if timer.began else UNANSWERED,
            "malformed": MALFORMED,
        }[error.kind]
        self._end(timer.fail(reason, self._clock(), str(error)))

    def _end(self, outcome: Outcome) -> None:
        if not self.done.done():
            self.done.set_result(outcome)


class UrlTarget:
    """A worker without authentication, or with `raw` the model server itself.

    It needs nothing but what every Stoker has installed.
    """

    def __init__(self, url: str, route: str, *, raw: bool = False, cost: float = 100.0) -> None:
        """Nothing is connected yet; make it where a loop runs.

        Args:
            url: ``http://host:port``.
            route: path, with a query if need be.
            raw: send payloads as they are, without a worker's envelope.
            cost: in the envelope, load units.

        Raises:
            ConfigError: the URL or the route cannot be used.
        """
        try:
            parts = urlsplit(url)
            origin = Origin.parse(url)
        except (ValueError, UnicodeError):
            raise ConfigError("TARGET", "is not a URL such as http://127.0.0.1:3000") from None
        if parts.username or parts.query or parts.fragment:
            raise ConfigError("TARGET", "the URL must have no user, query or fragment")
        if not route.startswith("/"):
            raise ConfigError("ROUTE", f"must begin with a slash, not {route!r}")
        self.name = url
        path = parts.path.rstrip("/") + route
        self._target = quote(path, safe="/%:@!$&'()*+,;=~-._?").encode()
        self._pool = UpstreamPool(
            origin, connect_timeout=CONNECT_TIMEOUT, response_timeout=1e6, idle_read_timeout=1e6
        )
        auth = encode(AuthData(url=url, cost=cost))
        self._before = b"" if raw else b'{"auth_data":%b,"session_id":null,"payload":' % auth
        self._after = b"" if raw else b"}"

    async def send(self, body: bytes, timer: AnswerTimer, clock: Clock, timeout: float) -> Outcome:
        """See `Target`."""
        sink = _Sink(timer, clock)
        whole = b"".join((self._before, body, self._after))
        request = self._pool.request("POST", self._target, _HEADERS, whole, sink)
        try:
            async with asyncio.timeout(timeout):
                return await sink.done
        except TimeoutError:
            return timer.fail(TIMEOUT, clock(), f"not complete within {timeout:g} s")
        finally:
            if not sink.done.done() or sink.done.cancelled():
                request.abort()

    async def close(self) -> None:
        """See `Target`."""
        await self._pool.close()


class EndpointTarget:
    """An endpoint of a control plane, by way of the client: each request is routed first.

    The client asks again where a worker refuses, as it always does; the time that this takes is in
    the figures.
    """

    def __init__(
        self, client: Client, endpoint: str, route: str, *, cost: float | None = None
    ) -> None:
        """Wrap a client that is open.

        Args:
            client: of the control plane.
            endpoint: name.
            route: path at the worker.
            cost: load units of each request; None: what is known of its route.

        Raises:
            ConfigError: the route cannot be one.
        """
        if not route.startswith("/"):
            raise ConfigError("ROUTE", f"must begin with a slash, not {route!r}")
        self.name = f"endpoint {endpoint}"
        self._client = client
        self._endpoint = endpoint
        self._route = route
        self._cost = cost

    async def send(self, body: bytes, timer: AnswerTimer, clock: Clock, timeout: float) -> Outcome:
        """See `Target`."""
        from stoker.client import AnswerFailedError, RequestFailedError, RouteTimeoutError

        try:
            async with (
                asyncio.timeout(timeout),
                self._client.stream(
                    self._endpoint,
                    self._route,
                    msgspec.Raw(body),
                    cost=self._cost,
                    timeout=timeout,
                ) as answer,
            ):
                timer.head(answer.status, answer.headers.get("content-type", ""))
                async for data in answer:
                    timer.feed(data, clock())
                return timer.finish(clock())
        except TimeoutError:
            return timer.fail(TIMEOUT, clock(), f"not complete within {timeout:g} s")
        except AnswerFailedError:
            return timer.finish(clock())
        except RouteTimeoutError as error:
            return timer.fail(NO_WORKER, clock(), str(error))
        except RequestFailedError as error:
            if timer.began:
                reason = CUT
            else:
                reason = NO_ANSWER if error.status is None else f"status {error.status}"
            return timer.fail(reason, clock(), error.message)
        except StokerError as error:
            return timer.fail(NO_ANSWER, clock(), str(error))

    async def close(self) -> None:
        """The client is its owner's to close."""
