"""The log of each endpoint: why it was scaled, in lines; bounded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from stoker.store.database import Database
from stoker.store.records import LogEntry
from stoker.store.tables import endpoint_log, endpoints

MAX_ROWS = 2000
"""Lines kept per endpoint after a trim, of each of the two kinds: what was decided, and details."""

DETAILS = ("trace", "debug")
"""Levels whose many lines must not drive out the few that say what was decided."""

TRIM_EVERY = 100
"""Lines between two trims, so an endpoint has at most 2 MAX_ROWS + TRIM_EVERY of them."""

MAX_TEXT = 4000
"""Characters kept of one line."""


class LogRows(Database):
    """What the store keeps of the endpoints' logs."""

    def __init__(
        self, engine: AsyncEngine, writer: AsyncEngine, clock: Callable[[], float]
    ) -> None:
        super().__init__(engine, writer, clock)
        self._since_trim: Counter[int] = Counter()

    async def append_log(
        self,
        endpoint_id: int,
        text: str,
        *,
        level: str = "info0",
        workergroup_id: int | None = None,
        at: float | None = None,
    ) -> None:
        """Add a line; see `append_logs`."""
        at = self._clock() if at is None else at
        await self.append_logs(
            [
                LogEntry(
                    endpoint_id=endpoint_id,
                    text=text,
                    at=at,
                    level=level,
                    workergroup_id=workergroup_id,
                )
            ]
        )

    async def append_logs(self, entries: Iterable[LogEntry]) -> None:
        """Add lines in one transaction.

        Lines of an endpoint that is gone are dropped: a log must not stop who writes it.
        """
        pending = list(entries)
        if not pending:
            return
        async with self._writing() as connection:
            ids = {entry.endpoint_id for entry in pending}
            known = set(
                await connection.scalars(sa.select(endpoints.c.id).where(endpoints.c.id.in_(ids)))
            )
            rows = [_row(entry) for entry in pending if entry.endpoint_id in known]
            if not rows:
                return
            # A chunk at a time, so that one huge call can't pass the bound either.
            for start in range(0, len(rows), TRIM_EVERY):
                chunk = rows[start : start + TRIM_EVERY]
                await connection.execute(endpoint_log.insert(), chunk)
                await self._trim(connection, Counter(row["endpoint_id"] for row in chunk))

    async def read_log(
        self,
        endpoint_id: int,
        tail: int = 100,
        *,
        workergroup_id: int | None = None,
        levels: Collection[str] | None = None,
        after: int = 0,
    ) -> list[LogEntry]:
        """The newest `tail` lines, oldest first.

        Args:
            endpoint_id: whose.
            tail: so many, at most.
            workergroup_id: only those of one workergroup.
            levels: only those of these levels.
            after: only those with a higher id.
        """
        query = (
            endpoint_log.select()
            .where(endpoint_log.c.endpoint_id == endpoint_id)
            .order_by(endpoint_log.c.id.desc())
            .limit(max(0, min(tail, 2 * MAX_ROWS + TRIM_EVERY)))
        )
        if workergroup_id is not None:
            query = query.where(endpoint_log.c.workergroup_id == workergroup_id)
        if levels is not None:
            query = query.where(endpoint_log.c.level.in_(levels))
        if after:
            query = query.where(endpoint_log.c.id > after)
        async with self._reading() as connection:
            rows = list(await connection.execute(query))
        return [_entry(row) for row in reversed(rows)]

    async def _trim(self, connection: AsyncConnection, added: Counter[int]) -> None:
        for endpoint_id, count in added.items():
            # The first line after a start trims too: the counters began anew.
            first = endpoint_id not in self._since_trim
            self._since_trim[endpoint_id] += count
            if not first and self._since_trim[endpoint_id] < TRIM_EVERY:
                continue
            self._since_trim[endpoint_id] = 0
            mine = endpoint_log.c.endpoint_id == endpoint_id
            detail = endpoint_log.c.level.in_(DETAILS)
            for kind in (detail, sa.not_(detail)):
                newest_to_go = (
                    sa.select(endpoint_log.c.id)
                    .where(mine, kind)
                    .order_by(endpoint_log.c.id.desc())
                    .limit(1)
                    .offset(MAX_ROWS)
                    .scalar_subquery()
                )
                await connection.execute(
                    endpoint_log.delete().where(mine, kind, endpoint_log.c.id <= newest_to_go)
                )


def _row(entry: LogEntry) -> dict[str, Any]:
    return {
        "endpoint_id": entry.endpoint_id,
        "workergroup_id": entry.workergroup_id,
        "level": entry.level,
        "at": entry.at,
        "text": entry.text[:MAX_TEXT],
    }


def _entry(row: sa.Row[Any]) -> LogEntry:
    return LogEntry(**{name: row._mapping[name] for name in LogEntry.__struct_fields__})
