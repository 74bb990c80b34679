"""Sessions: requests that go to one worker, because its model server keeps state for them.

A session belongs to who opened it: every call in it shows the ``auth_data`` that it was opened
with, and needs no ticket of its own. `Client.session` opens one; a session that was opened by other
means, with an answer of `Client.route`, is found by asking its worker.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any

from stoker.errors import StokerError

if TYPE_CHECKING:
    from stoker.client.client import Client
    from stoker.client.responses import ClientResponse, ClientStream

MAX_SESSIONS = 4096
"""Sessions whose proofs are remembered; the oldest are forgotten."""

MAX_ROUTED = 64
"""Answers of `Client.route` that are remembered, because a session may be opened with one."""

Auth = dict[str, Any]


class Proofs:
    """What the sessions of a client were opened with."""

    def __init__(self) -> None:
        self._of: OrderedDict[str, Auth] = OrderedDict()
        self._routed: deque[tuple[str, Auth]] = deque(maxlen=MAX_ROUTED)

    def opened(self, session_id: str, auth: Auth) -> None:
        """Remember a session."""
        self._of[session_id] = auth
        while len(self._of) > MAX_SESSIONS:
            self._of.popitem(last=False)

    def ended(self, session_id: str) -> None:
        """Forget a session."""
        self._of.pop(session_id, None)

    def routed(self, endpoint: str, auth: Auth) -> None:
        """Remember an answer with which a session may be opened."""
        self._routed.append((endpoint, auth))

    def of(self, session_id: str) -> Auth | None:
        """What a session was opened with, if that is known."""
        return self._of.get(session_id)

    def candidates(self, endpoint: str) -> list[Auth]:
        """What a session of an endpoint may have been opened with; the newest first."""
        return [auth for name, auth in reversed(self._routed) if name == endpoint]


class Session:
    """One session at one worker; ends at the end of its ``async with``.

    Attributes:
        id: of the session.
        endpoint: that it was opened at.
        url: of its worker.
        expiration: Unix time at which it ends without a further request, as told when it was
            opened; each request puts it off by the lifetime.
    """

    def __init__(
        self, client: Client, endpoint: str, auth: Auth, session_id: str, expiration: float
    ) -> None:
        self._client = client
        self._auth = auth
        self.endpoint = endpoint
        self.id = session_id
        self.url = str(auth["url"])
        self.expiration = expiration

    def __repr__(self) -> str:
        return f"Session({self.id!r}, {self.endpoint!r})"

    async def request(self, route: str, payload: Any, **options: Any) -> ClientResponse:
        """Send a request to the session's worker and read the whole answer.

        Args:
            route: path at the worker.
            payload: what the model server gets, as JSON.
            options: ``cost`` and ``timeout``, as for `Client.request`.

        Raises:
            RequestFailedError: as for `Client.request`; with status 410 the session has ended.
        """
        return await self._client.request(
            self.endpoint, route, payload, session_id=self.id, **options
        )

    def stream(
        self, route: str, payload: Any, **options: Any
    ) -> AbstractAsyncContextManager[ClientStream]:
        """Send a request and read the answer as it comes; see `Client.stream`."""
        return self._client.stream(self.endpoint, route, payload, session_id=self.id, **options)

    async def alive(self) -> bool:
        """Whether the worker still has it."""
        return await self._client.session_is_alive(self.id, self._auth)

    async def end(self) -> None:
        """End it; nothing happens if it has ended."""
        try:
            await self._client.end_session(self.id, self._auth)
        except StokerError:
            if await self.alive():
                raise
