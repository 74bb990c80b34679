"""Endpoints and their workergroups."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from stoker.errors import AlreadyExistsError, NotFoundError, StokerError
from stoker.store.database import Database
from stoker.store.records import (
    RUNS,
    EndpointRecord,
    Origin,
    RemovedRecord,
    WorkergroupRecord,
    group_name,
)
from stoker.store.tables import (
    endpoints,
    experience,
    forecasts,
    marks,
    removed,
    workergroups,
    workers,
)
from stoker.wire import EndpointParameters

_parameters = msgspec.json.Decoder(EndpointParameters)
_options = msgspec.json.Decoder(dict[str, Any])
_names = msgspec.json.Decoder(list[str])

_GROUP_FIELDS = frozenset(WorkergroupRecord.__struct_fields__) - {
    "id",
    "endpoint_id",
    "created_at",
    "revision",
}


def to_json(value: Any) -> str:
    """The text of a JSON column."""
    return msgspec.json.encode(value).decode()


class EndpointRows(Database):
    """What the store knows of endpoints and workergroups."""

    async def create_endpoint(
        self,
        endpoint_name: str,
        parameters: EndpointParameters | None = None,
        *,
        user_id: int = 1,
        origin: Origin = "command",
        declared: Sequence[str] = (),
    ) -> EndpointRecord:
        """Add an endpoint.

        Args:
            endpoint_name: free.
            parameters: default: those of the protocol.
            user_id: of the account.
            origin: who makes it.
            declared: parameters that the settings file sets.

        Raises:
            AlreadyExistsError: when the name is taken by one that is not being destroyed.
        """
        record = EndpointRecord(
            id=0,
            endpoint_name=endpoint_name,
            parameters=parameters or EndpointParameters(),
            key_nonce=secrets.token_urlsafe(16),
            created_at=self._clock(),
            user_id=user_id,
            origin=origin,
            declared=list(declared),
        )
        async with self._writing() as connection:
            await _require_free(connection, endpoint_name)
            result = await connection.execute(
                endpoints.insert().values(
                    endpoint_name=endpoint_name,
                    parameters=to_json(record.parameters),
                    key_nonce=record.key_nonce,
                    user_id=user_id,
                    created_at=record.created_at,
                    origin=origin,
                    declared=to_json(record.declared),
                )
            )
        return msgspec.structs.replace(record, id=_new_id(result))

    async def list_endpoints(self, *, with_destroyed: bool = False) -> list[EndpointRecord]:
        """All endpoints, oldest first; those being destroyed only when asked for."""
        query = endpoints.select().order_by(endpoints.c.id)
        if not with_destroyed:
            query = query.where(endpoints.c.destroyed_at.is_(None))
        async with self._reading() as connection:
            return [_endpoint(row) for row in await connection.execute(query)]

    async def get_endpoint(self, endpoint_id: int) -> EndpointRecord:
        """One endpoint, also while it is being destroyed.

        Raises:
            NotFoundError: when there is none.
        """
        async with self._reading() as connection:
            return await _get_endpoint(connection, endpoint_id)

    async def find_endpoint(self, endpoint_name: str) -> EndpointRecord | None:
        """The endpoint of that name, unless it is being destroyed."""
        query = endpoints.select().where(
            endpoints.c.endpoint_name == endpoint_name, endpoints.c.destroyed_at.is_(None)
        )
        async with self._reading() as connection:
            row = (await connection.execute(query)).first()
        return None if row is None else _endpoint(row)

    async def update_endpoint(
        self,
        endpoint_id: int,
        *,
        endpoint_name: str | None = None,
        parameters: EndpointParameters | None = None,
        origin: Origin | None = None,
        declared: Sequence[str] | None = None,
    ) -> EndpointRecord:
        """Change its name, its parameters, whose it is; None leaves a thing as it is.

        A new name leaves the former one among the removed (`list_removed`), where it was the
        settings file's.

        Raises:
            NotFoundError: when there is none, or it is being destroyed.
            AlreadyExistsError: when the new name is taken.
        """
        async with self._writing() as connection:
            record = await _get_live(connection, endpoint_id)
            if endpoint_name is not None and endpoint_name != record.endpoint_name:
                await _require_free(connection, endpoint_name)
                if record.origin == "file":
                    await self._note_removed(connection, record.endpoint_name)
                record = msgspec.structs.replace(record, endpoint_name=endpoint_name)
            if origin is not None:
                record = msgspec.structs.replace(record, origin=origin)
            if declared is not None:
                record = msgspec.structs.replace(record, declared=list(declared))
            if parameters is not None:
                record = msgspec.structs.replace(record, parameters=parameters)
            await connection.execute(
                endpoints.update()
                .where(endpoints.c.id == endpoint_id)
                .values(
                    endpoint_name=record.endpoint_name,
                    parameters=to_json(record.parameters),
                    origin=record.origin,
                    declared=to_json(record.declared),
                )
            )
        return record

    async def delete_endpoint(self, endpoint_id: int, *, by_file: bool = False) -> EndpointRecord:
        """Mark it destroyed: its name is free again at once, its rows stay until `purge_endpoint`.

        One of the settings file is kept in mind (`list_removed`), unless the file itself wants it
        gone (`by_file`).

        Raises:
            NotFoundError: when there is none, or it is being destroyed already.
        """
        now = self._clock()
        async with self._writing() as connection:
            record = await _get_live(connection, endpoint_id)
            await connection.execute(
                endpoints.update().where(endpoints.c.id == endpoint_id).values(destroyed_at=now)
            )
            if record.origin == "file" and not by_file:
                await self._note_removed(connection, record.endpoint_name)
        return msgspec.structs.replace(record, destroyed_at=now)

    async def purge_endpoint(self, endpoint_id: int, *, with_workers: bool = False) -> None:
        """Forget a destroyed endpoint, its workergroups and its log.

        Args:
            endpoint_id: an endpoint for which `delete_endpoint` was called.
            with_workers: forget its workers too. Otherwise it is an error when there are some:
                their rows are all that is known of instances that may still run.

        Raises:
            NotFoundError: when there is none.
            StokerError: when it is not destroyed, or has workers.
        """
        async with self._writing() as connection:
            record = await _get_endpoint(connection, endpoint_id)
            if not record.destroyed:
                raise StokerError(f"endpoint {endpoint_id} is in use; delete it first")
            mine = workers.c.endpoint_id == endpoint_id
            if with_workers:
                await connection.execute(workers.delete().where(mine))
            elif left := await connection.scalar(
                sa.select(sa.func.count()).select_from(workers).where(mine)
            ):
                raise StokerError(f"endpoint {endpoint_id} still has {left} workers")
            await connection.execute(endpoints.delete().where(endpoints.c.id == endpoint_id))

    async def create_workergroup(
        self,
        endpoint_id: int,
        *,
        template_hash: str,
        backend: str,
        name: str | None = None,
        template_id: int | None = None,
        options: dict[str, Any] | None = None,
        search_params: str = "",
        launch_args: str = "",
        gpu_ram: float | None = None,
        min_cold_load: float | None = None,
        max_workers: int | None = None,
        weight: float = 1.0,
        instance: dict[str, Any] | None = None,
        origin: Origin = "command",
        declared: Sequence[str] = (),
    ) -> WorkergroupRecord:
        """Add a workergroup; without a `name` it gets that of its backend (`group_name`).

        Raises:
            NotFoundError: when the endpoint does not exist, or is being destroyed.
            AlreadyExistsError: when the endpoint has a workergroup of that name.
        """
        record = WorkergroupRecord(
            id=0,
            endpoint_id=endpoint_id,
            name=name or "",
            template_hash=template_hash,
            backend=backend,
            template_id=template_id,
            options=options or {},
            search_params=search_params,
            launch_args=launch_args,
            gpu_ram=gpu_ram,
            min_cold_load=min_cold_load,
            max_workers=max_workers,
            weight=weight,
            created_at=self._clock(),
            instance=instance or {},
            origin=origin,
            declared=list(declared),
        )
        async with self._writing() as connection:
            await _get_live(connection, endpoint_id)
            taken = await _group_names(connection, endpoint_id)
            if not name:
                name = group_name(backend, taken)
                record = msgspec.structs.replace(record, name=name)
            elif name in taken:
                raise AlreadyExistsError(f"the endpoint has a workergroup {name!r} already")
            result = await connection.execute(workergroups.insert().values(_group_row(record)))
        return msgspec.structs.replace(record, id=_new_id(result))

    async def list_workergroups(self, endpoint_id: int | None = None) -> list[WorkergroupRecord]:
        """Workergroups of one endpoint, or of all that are not being destroyed; oldest first."""
        query = workergroups.select().order_by(workergroups.c.id)
        if endpoint_id is None:
            query = query.join(endpoints).where(endpoints.c.destroyed_at.is_(None))
        else:
            query = query.where(workergroups.c.endpoint_id == endpoint_id)
        async with self._reading() as connection:
            return [_workergroup(row) for row in await connection.execute(query)]

    async def get_workergroup(self, workergroup_id: int) -> WorkergroupRecord:
        """One workergroup.

        Raises:
            NotFoundError: when there is none.
        """
        async with self._reading() as connection:
            return await _get_workergroup(connection, workergroup_id)

    async def update_workergroup(self, workergroup_id: int, **fields: Any) -> WorkergroupRecord:
        """Set some fields of `WorkergroupRecord` (not its ids, its age or its revision).

        What its workers run (`stoker.store.records.RUNS`) makes a new revision where it changes.

        Raises:
            NotFoundError: when there is none.
            AlreadyExistsError: when another one of the endpoint has the new name.
        """
        _check_names(fields, _GROUP_FIELDS)
        async with self._writing() as connection:
            record = await _get_workergroup(connection, workergroup_id)
            former, record = record, msgspec.structs.replace(record, **fields)
            if record.name != former.name:
                if record.name in await _group_names(connection, record.endpoint_id):
                    raise AlreadyExistsError(
                        f"the endpoint has a workergroup {record.name!r} already"
                    )
                if former.origin == "file":
                    await self._note_removed_group(connection, former)
            if any(getattr(former, name) != getattr(record, name) for name in RUNS):
                record = msgspec.structs.replace(record, revision=former.revision + 1)
            await connection.execute(
                workergroups.update()
                .where(workergroups.c.id == workergroup_id)
                .values(_group_row(record))
            )
        return record

    async def rename_workergroups(self, names: Mapping[int, str]) -> None:
        """Give workergroups other names at once, so that two can change theirs.

        Nothing is noted as removed: the settings file itself asks for this.
        """
        async with self._writing() as connection:
            for final in (False, True):
                for group_id, name in names.items():
                    # A name that nobody can have, since a name never begins with a space.
                    await connection.execute(
                        workergroups.update()
                        .where(workergroups.c.id == group_id)
                        .values(name=name if final else f" {group_id}")
                    )

    async def delete_workergroup(
        self, workergroup_id: int, *, by_file: bool = False
    ) -> WorkergroupRecord:
        """Remove it; rows of its workers stay, and still carry its id.

        One of the settings file is kept in mind (`list_removed`), unless the file itself wants it
        gone (`by_file`).

        Raises:
            NotFoundError: when there is none.
        """
        async with self._writing() as connection:
            record = await _get_workergroup(connection, workergroup_id)
            await connection.execute(
                workergroups.delete().where(workergroups.c.id == workergroup_id)
            )
            if record.origin == "file" and not by_file:
                await self._note_removed_group(connection, record)
        return record

    async def list_removed(self) -> list[RemovedRecord]:
        """What was the settings file's, and was deleted or renamed by somebody else."""
        columns = [removed.c.endpoint_name, removed.c.workergroup_name, removed.c.removed_at]
        async with self._reading() as connection:
            rows = await connection.execute(sa.select(*columns).order_by(removed.c.id))
            return [RemovedRecord(**row._mapping) for row in rows]

    async def forget_removed(self, endpoint_name: str, workergroup_name: str = "") -> None:
        """Forget that it was removed: the settings file has it no more, or has it made again."""
        mine = removed.c.endpoint_name == endpoint_name
        if workergroup_name:
            mine &= removed.c.workergroup_name == workergroup_name
        async with self._writing() as connection:
            await connection.execute(removed.delete().where(mine))

    async def _note_removed(
        self, connection: AsyncConnection, endpoint_name: str, workergroup_name: str = ""
    ) -> None:
        mine = removed.c.endpoint_name == endpoint_name
        if workergroup_name:  # with an endpoint, all that was removed of it is gone as well
            mine &= removed.c.workergroup_name == workergroup_name
        await connection.execute(removed.delete().where(mine))
        await connection.execute(
            removed.insert().values(
                endpoint_name=endpoint_name,
                workergroup_name=workergroup_name,
                removed_at=self._clock(),
            )
        )

    async def _note_removed_group(
        self, connection: AsyncConnection, record: WorkergroupRecord
    ) -> None:
        endpoint = await _get_endpoint(connection, record.endpoint_id)
        if not endpoint.destroyed:
            await self._note_removed(connection, endpoint.endpoint_name, record.name)

    async def read_mark(self, name: str) -> int:
        """A number that was kept under a name; 0 when there is none."""
        async with self._reading() as connection:
            query = sa.select(marks.c.value).where(marks.c.name == name)
            return int(await connection.scalar(query) or 0)

    async def keep_mark(self, name: str, value: int) -> None:
        """Keep a number under a name, in place of what was kept before."""
        async with self._writing() as connection:
            await connection.execute(marks.delete().where(marks.c.name == name))
            await connection.execute(marks.insert().values(name=name, value=value))

    async def read_experience(self) -> dict[int, str]:
        """What was kept of each workergroup by `keep_experience`."""
        return await self._read_figures(experience.c.workergroup_id)

    async def keep_experience(self, figures: Mapping[int, str]) -> None:
        """Keep what workergroups' workers taught, in place of what was kept before.

        Args:
            figures: JSON by workergroup; one that is gone is left out.
        """
        await self._keep_figures(experience.c.workergroup_id, workergroups.c.id, figures)

    async def read_forecasts(self) -> dict[int, str]:
        """What was kept of each endpoint by `keep_forecasts`."""
        return await self._read_figures(forecasts.c.endpoint_id)

    async def keep_forecasts(self, figures: Mapping[int, str]) -> None:
        """Keep what was learnt of endpoints' load, in place of what was kept before.

        Args:
            figures: JSON by endpoint; one that is gone is left out.
        """
        await self._keep_figures(forecasts.c.endpoint_id, endpoints.c.id, figures)

    async def _read_figures(self, owner: sa.Column[int]) -> dict[int, str]:
        async with self._reading() as connection:
            rows = await connection.execute(sa.select(owner, owner.table.c.figures))
            return {row[0]: row[1] for row in rows}

    async def _keep_figures(
        self, owner: sa.Column[int], owners: sa.Column[int], figures: Mapping[int, str]
    ) -> None:
        if not figures:
            return
        table, ids = owner.table, list(figures)
        async with self._writing() as connection:
            known = set(await connection.scalars(sa.select(owners).where(owners.in_(ids))))
            await connection.execute(sa.delete(table).where(owner.in_(ids)))
            rows = [{owner.name: i, "figures": figures[i]} for i in ids if i in known]
            if rows:
                await connection.execute(sa.insert(table), rows)


def _new_id(result: sa.CursorResult[Any]) -> int:
    key = result.inserted_primary_key
    assert key is not None
    return int(key[0])


def _check_names(fields: dict[str, Any], known: frozenset[str]) -> None:
    if unknown := set(fields) - known:
        raise TypeError(f"no such fields, or not to be changed: {', '.join(sorted(unknown))}")


def _endpoint(row: sa.Row[Any]) -> EndpointRecord:
    values = dict(row._mapping)
    return EndpointRecord(
        **(
            values
            | {
                "parameters": _parameters.decode(values["parameters"]),
                "declared": _names.decode(values["declared"]),
            }
        )
    )


def _workergroup(row: sa.Row[Any]) -> WorkergroupRecord:
    values = dict(row._mapping)
    return WorkergroupRecord(
        **(
            values
            | {
                "options": _options.decode(values["options"]),
                "instance": _options.decode(values["instance"]),
                "declared": _names.decode(values["declared"]),
            }
        )
    )


def _group_row(record: WorkergroupRecord) -> dict[str, Any]:
    values = {name: getattr(record, name) for name in record.__struct_fields__ if name != "id"}
    return values | {name: to_json(values[name]) for name in ("options", "instance", "declared")}


async def _group_names(connection: AsyncConnection, endpoint_id: int) -> set[str]:
    query = sa.select(workergroups.c.name).where(workergroups.c.endpoint_id == endpoint_id)
    return set(await connection.scalars(query))


async def _require_free(connection: AsyncConnection, endpoint_name: str) -> None:
    # The write lock is held, so nobody can take the name between this look and the insert.
    taken = await connection.scalar(
        sa.select(endpoints.c.id).where(
            endpoints.c.endpoint_name == endpoint_name, endpoints.c.destroyed_at.is_(None)
        )
    )
    if taken is not None:
        raise AlreadyExistsError(f"there is an endpoint named {endpoint_name!r} already")


async def _get_endpoint(connection: AsyncConnection, endpoint_id: int) -> EndpointRecord:
    query = endpoints.select().where(endpoints.c.id == endpoint_id)
    row = (await connection.execute(query)).first()
    if row is None:
        raise NotFoundError(f"there is no endpoint {endpoint_id}")
    return _endpoint(row)


async def _get_live(connection: AsyncConnection, endpoint_id: int) -> EndpointRecord:
    record = await _get_endpoint(connection, endpoint_id)
    if record.destroyed:
        raise NotFoundError(f"endpoint {endpoint_id} is being destroyed")
    return record


async def _get_workergroup(connection: AsyncConnection, workergroup_id: int) -> WorkergroupRecord:
    query = workergroups.select().where(workergroups.c.id == workergroup_id)
    row = (await connection.execute(query)).first()
    if row is None:
        raise NotFoundError(f"there is no workergroup {workergroup_id}")
    return _workergroup(row)
