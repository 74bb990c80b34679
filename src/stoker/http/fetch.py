"""One request, awaited: for health checks, reports and everything else off the hot path."""

from __future__ import annotations

import asyncio
import math
import ssl as ssl_module
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, urlsplit

import msgspec

from stoker.errors import UNREADABLE, InvalidMessageError
from stoker.http.messages import Headers
from stoker.http.pool import Origin, UpstreamPool
from stoker.http.request import UpstreamError


@dataclass(frozen=True, slots=True)
class Response:
    """A whole answer."""

    status: int
    headers: Headers = field(default_factory=list)
    body: bytes = b""

    def header(self, name: bytes) -> bytes | None:
        """First value of the header `name` (lower case)."""
        return next((value.strip() for key, value in self.headers if key == name), None)

    def json(self) -> Any:
        """The body, decoded.

        Raises:
            InvalidMessageError: it is not JSON.
        """
        try:
            return msgspec.json.decode(self.body)
        except UNREADABLE as error:
            raise InvalidMessageError({"body": f"not valid JSON: {error}"}) from None


class _Collector:
    """A `ResponseSink` that gathers the answer, up to a size."""

    def __init__(self, max_body: int, *, cut: bool) -> None:
        self.result: asyncio.Future[Response] = asyncio.get_running_loop().create_future()
        self._max_body = max_body
        self._cut = cut
        self._status = 0
        self._headers: Headers = []
        self._body = bytearray()

    def on_head(
        self, status: int, reason: bytes, headers: Headers, content_length: int | None
    ) -> None:
        del reason, content_length
        self._status = status
        self._headers = headers

    def on_data(self, data: bytes) -> None:
        if self.result.done():
            return
        self._body += data
        if len(self._body) > self._max_body:
            if self._cut:
                del self._body[self._max_body :]
                self.on_complete()
                return
            self._body.clear()
            self.on_error(UpstreamError("malformed", "the answer is too large"))

    def on_complete(self) -> None:
        if not self.result.done():
            self.result.set_result(Response(self._status, self._headers, bytes(self._body)))

    def on_error(self, error: UpstreamError) -> None:
        if not self.result.done():
            self.result.set_exception(error)


async def fetch(
    url: str,
    *,
    method: str = "GET",
    headers: Iterable[tuple[bytes, bytes]] = (),
    body: bytes = b"",
    timeout: float = 10.0,
    max_body: int = 16 * 2**20,
    cut: bool = False,
    ssl: ssl_module.SSLContext | None = None,
    pool: UpstreamPool | None = None,
) -> Response:
    """Send one request and wait for the whole answer; redirects are not followed.

    Args:
        url: ``http://`` or ``https://``.
        method: upper case.
        headers: names in lower case, without framing.
        body: sent with its Content-Length.
        timeout: seconds for everything.
        max_body: bytes of the answer; more is an error, unless `cut`.
        cut: of an answer that is too large its beginning is enough, and no more of it is read.
        ssl: context for https; default: the system's certificate authorities.
        pool: of the URL's origin, to use its connections; default: a connection of its own.

    Raises:
        UpstreamError: no answer, not a whole one in time, or one that is too large.
        ValueError: the URL cannot be used.
    """
    parts = urlsplit(url)
    target = quote(parts.path or "/", safe="/%:@!$&'()*+,;=~-._")
    if parts.query:
        target += "?" + quote(parts.query, safe="/%:@!$&'()*+,;=~-._?")
    own = pool is None
    used = (
        UpstreamPool(Origin.parse(url, ssl), connect_timeout=timeout, own_calls=True)
        if pool is None
        else pool
    )
    sink = _Collector(max_body, cut=cut)
    request = used.request(method, target.encode(), headers, body, sink)
    request.patience = math.inf  # `timeout` alone counts
    try:
        async with asyncio.timeout(timeout):
            return await sink.result
    except TimeoutError:
        raise UpstreamError("timeout", f"no answer within {timeout:g} s") from None
    finally:
        request.abort()
        if own:
            await used.close()
