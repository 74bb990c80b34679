"""Workers: what is known of each instance, written before the instance is asked for."""

from __future__ import annotations

import secrets
from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from stoker.errors import NotFoundError, StoreError
from stoker.store.database import Database
from stoker.store.records import WorkerRecord
from stoker.store.tables import endpoints, workers

_seconds = msgspec.json.Decoder(dict[str, float])

_FIELDS = frozenset(WorkerRecord.__struct_fields__) - {
    "id",
    "endpoint_id",
    "nonce",
    "attached",
    "created_at",
}


class WorkerRows(Database):
    """What the store knows of workers."""

    _last_id: int = 0
    """Highest id that was given out, written or not."""

    async def _load(self) -> None:
        await super()._load()
        async with self._reading() as connection:
            self._last_id = await _highest_id(connection)

    def draft_worker(
        self,
        endpoint_id: int,
        workergroup_id: int | None,
        provider: str,
        attached: bool = False,
        **fields: Any,
    ) -> WorkerRecord:
        """A new worker, not yet written; its id is given out once, whether it is written or not.

        Args:
            endpoint_id: the endpoint it will serve.
            workergroup_id: None for an attached worker.
            provider: name of the provider.
            attached: brought by a person.
            fields: first values of other fields of `WorkerRecord`.
        """
        _check_names(fields)
        self._last_id += 1
        return WorkerRecord(
            id=self._last_id,
            endpoint_id=endpoint_id,
            workergroup_id=workergroup_id,
            provider=provider,
            attached=attached,
            nonce=secrets.token_urlsafe(16),
            created_at=self._clock(),
            **fields,
        )

    async def insert_worker(self, record: WorkerRecord) -> None:
        """Write the row of a drafted worker, before its provider is asked to create it.

        Raises:
            NotFoundError: when there is no such endpoint.
            StoreError: when another process has taken its id.
        """
        async with self._writing() as connection:
            try:
                await _insert(connection, record)
            except sa.exc.IntegrityError:
                self._last_id = max(self._last_id, await _highest_id(connection))
                raise StoreError("another process writes workers to this database") from None

    async def create_worker(self, *args: Any, **fields: Any) -> WorkerRecord:
        """Write the row of a new worker; arguments as for `draft_worker`.

        Raises:
            NotFoundError: when there is no such endpoint.
        """
        async with self._writing() as connection:
            self._last_id = max(self._last_id, await _highest_id(connection))
            record = self.draft_worker(*args, **fields)
            await _insert(connection, record)
        return record

    async def update_worker(self, worker_id: int, **fields: Any) -> WorkerRecord:
        """Set some fields of `WorkerRecord`, all at once.

        Raises:
            NotFoundError: when there is no such worker.
        """
        _check_names(fields)
        async with self._writing() as connection:
            if fields:
                await connection.execute(
                    workers.update().where(workers.c.id == worker_id).values(_row(fields))
                )
            return await _get(connection, worker_id)

    async def get_worker(self, worker_id: int) -> WorkerRecord:
        """One worker.

        Raises:
            NotFoundError: when there is no such worker.
        """
        async with self._reading() as connection:
            return await _get(connection, worker_id)

    async def list_workers(self, endpoint_id: int | None = None) -> list[WorkerRecord]:
        """The workers of one endpoint, or of all, oldest first."""
        query = workers.select().order_by(workers.c.id)
        if endpoint_id is not None:
            query = query.where(workers.c.endpoint_id == endpoint_id)
        async with self._reading() as connection:
            return [_worker(row) for row in await connection.execute(query)]

    async def delete_worker(self, worker_id: int) -> None:
        """Forget a worker whose instance is gone; its id is never given out again.

        Raises:
            NotFoundError: when there is no such worker.
        """
        async with self._writing() as connection:
            result = await connection.execute(workers.delete().where(workers.c.id == worker_id))
            if not result.rowcount:
                raise NotFoundError(f"there is no worker {worker_id}")


async def _highest_id(connection: AsyncConnection) -> int:
    query = sa.text("SELECT seq FROM sqlite_sequence WHERE name = 'workers'")
    return int(await connection.scalar(query) or 0)


async def _insert(connection: AsyncConnection, record: WorkerRecord) -> None:
    known = sa.select(endpoints.c.id).where(endpoints.c.id == record.endpoint_id)
    if await connection.scalar(known) is None:
        raise NotFoundError(f"there is no endpoint {record.endpoint_id}")
    values = _row({name: getattr(record, name) for name in record.__struct_fields__})
    await connection.execute(workers.insert().values(values))


def _check_names(fields: dict[str, Any]) -> None:
    if unknown := set(fields) - _FIELDS:
        raise TypeError(f"no such fields, or not to be changed: {', '.join(sorted(unknown))}")


def _row(fields: dict[str, Any]) -> dict[str, Any]:
    if "state_seconds" not in fields:
        return fields
    return fields | {"state_seconds": msgspec.json.encode(fields["state_seconds"]).decode()}


def _worker(row: sa.Row[Any]) -> WorkerRecord:
    values = dict(row._mapping)
    return WorkerRecord(**(values | {"state_seconds": _seconds.decode(values["state_seconds"])}))


async def _get(connection: AsyncConnection, worker_id: int) -> WorkerRecord:
    row = (await connection.execute(workers.select().where(workers.c.id == worker_id))).first()
    if row is None:
        raise NotFoundError(f"there is no worker {worker_id}")
    return _worker(row)
