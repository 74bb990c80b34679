"""Workers: what is known of each instance, written before the instance is asked for."""

from __future__ import annotations

import secrets
from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from stoker.errors import NotFoundError
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

    async def create_worker(
        self,
        endpoint_id: int,
        workergroup_id: int | None,
        provider: str,
        attached: bool = False,
        **fields: Any,
    ) -> WorkerRecord:
        """Write the row of a worker, before its provider is asked to create it.

        Args:
            endpoint_id: the endpoint it will serve.
            workergroup_id: None for an attached worker.
            provider: name of the provider.
            attached: brought by a person.
            fields: first values of other fields of `WorkerRecord`.

        Raises:
            NotFoundError: when there is no such endpoint.
        """
        _check_names(fields)
        record = WorkerRecord(
            id=0,
            endpoint_id=endpoint_id,
            workergroup_id=workergroup_id,
            provider=provider,
            attached=attached,
            nonce=secrets.token_urlsafe(16),
            created_at=self._clock(),
            **fields,
        )
        names = [name for name in record.__struct_fields__ if name != "id"]
        values = _row({name: getattr(record, name) for name in names})
        async with self._writing() as connection:
            known = sa.select(endpoints.c.id).where(endpoints.c.id == endpoint_id)
            if await connection.scalar(known) is None:
                raise NotFoundError(f"there is no endpoint {endpoint_id}")
            result = await connection.execute(workers.insert().values(values))
        key = result.inserted_primary_key
        assert key is not None
        return msgspec.structs.replace(record, id=int(key[0]))

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
