"""API keys: made, listed, given an end, revoked.

There are two kinds. An **account** key opens everything; an **endpoint** key sends requests to one
endpoint and sees that one alone. Each endpoint also has a key **of its own**, which is derived from
the control plane's secret: whoever has an account key can read it again at any time (``api_key``
of the endpoint), so it has no row and there is always one. Ending it means that another takes its
place.

Rules:

* A key is told once, by `Keys.create`; only its SHA-256 is stored.
* A key that was revoked, or has ended, is refused from the next call on, and never comes back.
* The last account key is not ended unless that is asked for with `force`: nobody could come in by
  REST then.
"""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec

from stoker.autoscaler.identity import Keyring, Principal, hash_key, new_api_key
from stoker.errors import ConflictError, InvalidMessageError, NotFoundError
from stoker.launcher import write_atomic
from stoker.store import ApiKeyRecord, EndpointRecord, Store

_LIKE_AN_ID = re.compile(r"e?\d+|current|\.\.?")
"""How keys are named by their ids, and the key of who asks (`GET /api/v0/keys/current/`)."""

MAX_SECONDS = 366 * 86_400.0
"""Longest time after which a key can be told to end."""

HOW_TO_GET_IN = (
    "on the control plane's machine, `stoker key create --state DIRECTORY` makes a key without one"
)


class KeysMarker:
    """Tells a control plane that keys were written into its state, and has it answer: two files."""

    def __init__(self, state: Path) -> None:
        self._asked, self._done = state / "keys.changed", state / "keys.taken"

    def ask(self) -> bytes:
        """Tell a running control plane to read the keys again; returns what it will answer.

        Raises:
            OSError: it cannot be written.
        """
        token = secrets.token_hex(8).encode()
        write_atomic(self._asked, token)
        return token

    def asked(self) -> bytes:
        """What was asked last; other after each `ask`."""
        return _content(self._asked)

    def take(self, token: bytes) -> None:
        """Answer that the keys were read again.

        Raises:
            OSError: it cannot be written.
        """
        write_atomic(self._done, token)

    def taken(self) -> bytes:
        """What was answered last."""
        return _content(self._done)


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()[:64]
    except OSError:
        return b""


class LastKeyError(ConflictError):
    """It is the last key that opens the account."""


class KeyInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What is shown of a key; never the key itself."""

    id: str
    """A number; of an endpoint's own key an ``e`` and the endpoint's id."""
    name: str
    kind: str
    """``account``, ``endpoint``, or ``own`` for the key that belongs to an endpoint."""
    endpoint_id: int | None = None
    endpoint_name: str | None = None
    source: str = "made"
    """``environment``: given by the operator in STOKER_API_KEY."""
    created_at: float
    """Unix time."""
    used_at: float | None = None
    """Unix time of its last use, to the minute after a restart; None: never."""
    expires_at: float | None = None
    """Unix time from which on it is refused; None: it does not end by itself."""


class Keys:
    """The keys of a control plane, or of its state directory while none runs."""

    def __init__(
        self,
        store: Store,
        keyring: Keyring,
        endpoint_key: Callable[[EndpointRecord], str],
        changed: Callable[[], Awaitable[None]],
    ) -> None:
        """Manage the keys of `store`.

        Args:
            store: open.
            keyring: knows when keys were used.
            endpoint_key: derives an endpoint's own key.
            changed: called after each write; the keyring has it all when it returns.
        """
        self._store = store
        self._keyring = keyring
        self._endpoint_key = endpoint_key
        self._changed = changed
        self._ending = asyncio.Lock()
        """Held from looking which keys are left to ending one, so that not both of two end."""
        self._noted_until = 0.0

    async def list(self) -> list[KeyInfo]:
        """All keys that are good, those of the account first, own keys of endpoints last."""
        now = self._keyring.now()
        endpoints = {e.id: e for e in await self._store.list_endpoints()}
        stored = [key for key in await self._store.list_api_keys() if key.is_good(now)]
        stored.sort(key=lambda key: (key.endpoint_id is not None, key.id))
        return [
            *(self._info(k, endpoints) for k in stored if k.endpoint_id in {None, *endpoints}),
            *(self._own(endpoint) for endpoint in endpoints.values()),
        ]

    async def find(self, text: str) -> KeyInfo:
        """A key by its id or its name; an endpoint's own key also by the endpoint's name.

        Raises:
            NotFoundError: there is none, or several have that name.
        """
        keys = await self.list()
        for key in keys:
            if key.id == text:
                return key
        named = [key for key in keys if key.name == text]
        named = named or [k for k in keys if k.kind == "own" and k.endpoint_name == text]
        if len(named) == 1:
            return named[0]
        if named:
            ids = ", ".join(key.id for key in named)
            raise NotFoundError(f"several API keys are named {text!r}: use one of the ids {ids}")
        raise NotFoundError(f"there is no API key {text[:128]!r}; `stoker key list` shows them")

    async def create(
        self,
        name: str = "",
        *,
        endpoint_id: int | None = None,
        expires_in: float | None = None,
        replaces: str | None = None,
    ) -> tuple[KeyInfo, str]:
        """Make a key; returns what is known of it, and the key itself, this once.

        Args:
            name: free; empty: one is made up.
            endpoint_id: the endpoint that it is good for; None: the account.
            expires_in: seconds after which it is refused; None: it does not end by itself.
            replaces: id of a key whose name and endpoint it takes; that one goes on until it is
                ended, so that nobody is locked out who does not get this answer.

        Raises:
            AlreadyExistsError: the name is taken.
            InvalidMessageError: the name is like an id.
            NotFoundError: no such endpoint, or no such key to replace.
        """
        if _LIKE_AN_ID.fullmatch(name):
            # Else whoever revokes it by its name would revoke another one, and it would live on.
            problem = "must not be like 7, e7, current or dots: those name other keys"
            raise InvalidMessageError({"name": problem})
        former: int | None = None
        if replaces is not None:
            found = await self.find(replaces)
            if found.kind == "own":
                raise InvalidMessageError(
                    {"replaces": "an endpoint's own key has no name to take: give it an end"}
                )
            former, endpoint_id = int(found.id), found.endpoint_id
        if endpoint_id is not None:
            endpoint = await self._store.get_endpoint(endpoint_id)
            if endpoint.destroyed:
                raise NotFoundError(f"endpoint {endpoint_id} is being destroyed")
        if expires_in == 0:
            raise InvalidMessageError({"expires_in": "must be above 0 seconds"})
        expires_at = None if expires_in is None else self._keyring.now() + _checked(expires_in)
        key = new_api_key(endpoint=endpoint_id is not None)
        record = await self._store.add_api_key(
            hash_key(key), name, endpoint_id=endpoint_id, expires_at=expires_at, replaces=former
        )
        await self._changed()
        return await self.find(str(record.id)), key

    async def expire(self, key_id: str, seconds: float, *, force: bool = False) -> KeyInfo:
        """Have a key end after `seconds`; of an endpoint's own key another takes the place at once.

        Raises:
            LastKeyError: it is the last account key, and `force` is not given.
            NotFoundError: there is no such key.
        """
        _checked(seconds)
        found = await self.find(key_id)
        expires_at = self._keyring.now() + seconds
        if found.kind == "own":
            return await self._replace_own(found, expires_at)
        async with self._ending:
            await self._keep_one(found, force=force)
            await self._store.update_api_key(int(found.id), expires_at=expires_at)
        await self._changed()
        return msgspec.structs.replace(found, expires_at=expires_at)

    async def revoke(self, key_id: str, *, force: bool = False) -> KeyInfo:
        """Refuse a key from now on; of an endpoint's own key another takes the place.

        Returns:
            The key that was revoked.

        Raises:
            LastKeyError: it is the last account key, and `force` is not given.
            NotFoundError: there is no such key.
        """
        found = await self.find(key_id)
        if found.kind == "own":
            await self._replace_own(found, None)
            return found
        async with self._ending:
            await self._keep_one(found, force=force)
            await self._store.revoke_api_key(int(found.id))
        await self._changed()
        return found

    async def endpoint_id(self, name: str) -> int:
        """The id of an endpoint.

        Raises:
            NotFoundError: there is none of that name.
        """
        endpoint = await self._store.find_endpoint(name)
        if endpoint is None:
            raise NotFoundError(f"there is no endpoint {name[:128]!r}")
        return endpoint.id

    async def of(self, principal: Principal) -> KeyInfo:
        """What is known of the key that somebody shows."""
        own = principal.key_id is None
        return await self.find(f"e{principal.endpoint_id}" if own else str(principal.key_id))

    async def note_use(self) -> None:
        """Write down when keys were last used; call it now and then.

        Raises:
            StoreError: the store cannot be written; the next call tries again.
        """
        now = self._keyring.now()
        keys, own = self._keyring.used_since(self._noted_until)
        if keys or own:
            await self._store.note_key_use(keys, own)
        self._noted_until = now

    async def _replace_own(self, key: KeyInfo, expires_at: float | None) -> KeyInfo:
        assert key.endpoint_id is not None
        record = await self._store.get_endpoint(key.endpoint_id)
        former = hash_key(self._endpoint_key(record))
        await self._store.replace_endpoint_key(
            record.id, secrets.token_urlsafe(16), former=former, expires_at=expires_at
        )
        await self._changed()
        return await self.find(key.id)

    async def _keep_one(self, key: KeyInfo, *, force: bool) -> None:
        """Refuse to end the last key that opens the account, and does not end by itself."""
        if force or key.kind != "account":
            return
        for other in await self.list():
            if other.kind == "account" and other.expires_at is None and other.id != key.id:
                return
        raise LastKeyError(
            f"{key.name!r} is the last API key that opens the account: make another one first, or "
            f'repeat this with --force ("force": true); {HOW_TO_GET_IN}'
        )

    def _info(self, key: ApiKeyRecord, endpoints: dict[int, EndpointRecord]) -> KeyInfo:
        endpoint = None if key.endpoint_id is None else endpoints[key.endpoint_id]
        return KeyInfo(
            id=str(key.id),
            name=key.name,
            kind="account" if endpoint is None else "endpoint",
            endpoint_id=key.endpoint_id,
            endpoint_name=None if endpoint is None else endpoint.endpoint_name,
            source=key.source,
            created_at=key.created_at,
            used_at=self._keyring.used_at(key.sha256) or key.used_at,
            expires_at=key.expires_at,
        )

    def _own(self, endpoint: EndpointRecord) -> KeyInfo:
        used = self._keyring.used_at(hash_key(self._endpoint_key(endpoint)))
        return KeyInfo(
            id=f"e{endpoint.id}",
            name=f"{endpoint.endpoint_name} (own key)",
            kind="own",
            endpoint_id=endpoint.id,
            endpoint_name=endpoint.endpoint_name,
            source="derived",
            created_at=endpoint.key_created_at or endpoint.created_at,
            used_at=used or endpoint.key_used_at,
        )


def _checked(seconds: float) -> float:
    if not 0 <= seconds <= MAX_SECONDS:
        raise InvalidMessageError({"expires_in": f"must be from 0 to {MAX_SECONDS:.0f} seconds"})
    return seconds
