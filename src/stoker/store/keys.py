"""API keys: those of the account, those of endpoints, and what endpoints' own keys come from.

The store never sees a key, only its SHA-256. A revoked key keeps its row: it must not come back
unseen, for example from an environment in which it was left.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from stoker.errors import AlreadyExistsError, ConfigError, NotFoundError
from stoker.store.database import Database
from stoker.store.records import ApiKeyRecord
from stoker.store.tables import api_keys, endpoints

ENVIRONMENT = "environment"
"""Source of the key that an operator gave at the start, of which there is one at a time."""


class ApiKeyRows(Database):
    """What the store knows of API keys."""

    async def add_api_key(
        self,
        sha256: str,
        name: str = "",
        *,
        endpoint_id: int | None = None,
        expires_at: float | None = None,
        replaces: int | None = None,
    ) -> ApiKeyRecord:
        """Add a key by its SHA-256 (64 hexadecimal digits); adding it twice changes nothing.

        Args:
            sha256: of the key.
            name: free among the keys that were not revoked; empty: ``key-`` and its id.
            endpoint_id: the endpoint that it is good for; None: the account.
            expires_at: Unix time from which on it is refused.
            replaces: id of a key whose name and endpoint it takes; that one becomes "… (former)".

        Raises:
            AlreadyExistsError: the name is taken.
            NotFoundError: there is no key `replaces`.
            ValueError: `sha256` is none, so that no key is stored by mistake.
        """
        _check_digest(sha256)
        query = api_keys.select().where(api_keys.c.sha256 == sha256)
        async with self._writing() as connection:
            row = (await connection.execute(query)).first()
            if row is not None:
                return _key(row)
            if replaces is not None:
                former = await _get(connection, replaces)
                name, endpoint_id = former.name, former.endpoint_id
                await _change(connection, replaces, name=f"{name} (former)")
            elif name and await _named(connection, name, self._clock()):
                raise AlreadyExistsError(f"there is an API key named {name!r} already")
            values = {
                "sha256": sha256,
                "name": name,
                "endpoint_id": endpoint_id,
                "source": "made",
                "created_at": self._clock(),
                "expires_at": expires_at,
            }
            result = await connection.execute(api_keys.insert().values(values))
            if not name:
                number = result.inserted_primary_key
                assert number is not None
                await _change(connection, int(number[0]), name=f"key-{number[0]}")
            return _key((await connection.execute(query)).one())

    async def take_environment_key(self, sha256: str) -> ApiKeyRecord:
        """Take the account key that an operator gives at the start, in place of the one before.

        A key that is known already stays as it is.

        Raises:
            ConfigError: the key was revoked.
        """
        _check_digest(sha256)
        query = api_keys.select().where(api_keys.c.sha256 == sha256)
        async with self._writing() as connection:
            row = (await connection.execute(query)).first()
            if row is not None and not _key(row).is_good(self._clock()):
                raise ConfigError(
                    "STOKER_API_KEY",
                    f"the key {_key(row).name!r} was revoked, or has expired: set another one",
                )
            await connection.execute(
                api_keys.delete().where(
                    api_keys.c.source == ENVIRONMENT,
                    api_keys.c.sha256 != sha256,
                    api_keys.c.revoked_at.is_(None),
                )
            )
            if row is None:
                values = {
                    "sha256": sha256,
                    "name": "from the environment",
                    "source": ENVIRONMENT,
                    "created_at": self._clock(),
                }
                await connection.execute(api_keys.insert().values(values))
                row = (await connection.execute(query)).one()
        return _key(row)

    async def list_api_keys(self) -> list[ApiKeyRecord]:
        """All keys that were not revoked, oldest first; those that have expired too."""
        query = api_keys.select().where(api_keys.c.revoked_at.is_(None)).order_by(api_keys.c.id)
        async with self._reading() as connection:
            return [_key(row) for row in await connection.execute(query)]

    async def update_api_key(self, key_id: int, *, expires_at: float | None) -> ApiKeyRecord:
        """Set when a key ends.

        Raises:
            NotFoundError: when there is none.
        """
        async with self._writing() as connection:
            await _get(connection, key_id)
            await _change(connection, key_id, expires_at=expires_at)
            return await _get(connection, key_id)

    async def revoke_api_key(self, key_id: int) -> None:
        """Revoke a key for ever.

        Raises:
            NotFoundError: when there is none.
        """
        async with self._writing() as connection:
            await _get(connection, key_id)
            await _change(connection, key_id, revoked_at=self._clock())

    async def replace_endpoint_key(
        self, endpoint_id: int, nonce: str, *, former: str, expires_at: float | None
    ) -> None:
        """Give an endpoint another nonce, and so another key of its own.

        Args:
            endpoint_id: an endpoint that is not being destroyed.
            nonce: the new one, random.
            former: SHA-256 of its former key.
            expires_at: until when the former key goes on; None: it is refused from now on.

        Raises:
            NotFoundError: when there is none.
        """
        _check_digest(former)
        now = self._clock()
        async with self._writing() as connection:
            query = endpoints.select().where(
                endpoints.c.id == endpoint_id, endpoints.c.destroyed_at.is_(None)
            )
            row = (await connection.execute(query)).first()
            if row is None:
                raise NotFoundError(f"there is no endpoint {endpoint_id}")
            await connection.execute(
                endpoints.update()
                .where(endpoints.c.id == endpoint_id)
                .values(key_nonce=nonce, key_created_at=now, key_used_at=None)
            )
            if expires_at is not None:
                values = {
                    "sha256": former,
                    "name": f"{row.endpoint_name} (former)",
                    "endpoint_id": endpoint_id,
                    "source": "made",
                    "created_at": row.key_created_at or row.created_at,
                    "used_at": row.key_used_at,
                    "expires_at": expires_at,
                }
                await connection.execute(api_keys.insert().values(values))

    async def note_key_use(self, keys: Mapping[int, float], own: Mapping[int, float]) -> None:
        """Keep when keys (by id) and own keys (by endpoint) were last used, in Unix time."""
        async with self._writing() as connection:
            for key_id, at in keys.items():
                await _change(connection, key_id, used_at=at)
            for endpoint_id, at in own.items():
                await connection.execute(
                    endpoints.update().where(endpoints.c.id == endpoint_id).values(key_used_at=at)
                )


def _check_digest(sha256: str) -> None:
    if len(sha256) != 64 or not set(sha256) <= set("0123456789abcdef"):
        raise ValueError("an API key is stored by its SHA-256 in lower-case hexadecimal")


async def _get(connection: AsyncConnection, key_id: int) -> ApiKeyRecord:
    query = api_keys.select().where(api_keys.c.id == key_id, api_keys.c.revoked_at.is_(None))
    row = (await connection.execute(query)).first()
    if row is None:
        raise NotFoundError(f"there is no API key {key_id}")
    return _key(row)


async def _named(connection: AsyncConnection, name: str, now: float) -> bool:
    rows = await connection.execute(api_keys.select().where(api_keys.c.name == name))
    return any(_key(row).is_good(now) for row in rows)


async def _change(connection: AsyncConnection, key_id: int, **values: Any) -> None:
    await connection.execute(api_keys.update().where(api_keys.c.id == key_id).values(values))


def _key(row: sa.Row[Any]) -> ApiKeyRecord:
    return ApiKeyRecord(**row._mapping)
