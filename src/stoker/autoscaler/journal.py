"""The endpoint's log: what was decided and why, kept in the store.

Lines are numbered by level as in the existing protocol, and each level holds those above it too:
``info0`` decisions, ``info1`` also changes of workers' states, ``trace`` also what was asked of
providers, ``debug`` everything.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Literal, cast

from stoker.autoscaler.lograte import LogRate
from stoker.logs import get_logger, printable, redact
from stoker.store import LogEntry, Store

log = get_logger("autoscaler")

Level = Literal["info0", "info1", "trace", "debug"]
LEVELS: tuple[Level, ...] = ("info0", "info1", "trace", "debug")

MAX_PENDING = 10_000
"""Lines kept in memory while the store cannot be written."""

MAX_LINE = 500

FLUSH_PATIENCE = 1.0
"""Seconds for which a reader waits until what was noted before is written."""


class Journal:
    """Collects lines at once and writes them in batches."""

    def __init__(
        self,
        store: Store,
        wall: Callable[[], float],
        name_of: Callable[[int], str],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Begin with nothing to write.

        Args:
            store: keeps the lines.
            wall: Unix seconds.
            name_of: an endpoint's name by its id, for our own log.
            clock: monotonic seconds.
        """
        self._store = store
        self._wall = wall
        self._name_of = name_of
        self._pending: list[LogEntry] = []
        self._writing: list[LogEntry] = []
        self._turn = asyncio.Lock()
        self._failing = False
        self._clock = clock
        self._rate = LogRate()
        self.lost = 0

    def note(
        self, endpoint_id: int, level: Level, text: str, *, group_id: int | None = None
    ) -> None:
        """Keep one line, or count it where there are many like it; never blocks, never fails."""
        if self._rate.admit(endpoint_id, group_id, level, text, self._clock()):
            self._keep(endpoint_id, level, text, group_id)

    def _keep(self, endpoint_id: int, level: Level, text: str, group_id: int | None) -> None:
        line = printable(redact(text[: 2 * MAX_LINE]))[:MAX_LINE]
        say = log.info if level in ("info0", "info1") else log.debug
        say(line, endpoint=self._name_of(endpoint_id))
        if len(self._pending) >= MAX_PENDING:
            self._pending.pop(0)
            self.lost += 1
        self._pending.append(
            LogEntry(
                endpoint_id=endpoint_id,
                workergroup_id=group_id,
                level=level,
                at=self._wall(),
                text=line,
            )
        )

    async def flush(self) -> None:
        """Write what is pending; keep it when the store cannot be written just now."""
        for left in self._rate.due(self._clock()):
            endpoint_id, group_id, level = left.key
            self._keep(endpoint_id, cast(Level, level), left.text, group_id)
        async with self._turn:
            await self._flush()

    async def _flush(self) -> None:
        self._writing, self._pending = self._pending, []
        try:
            await self._store.append_logs(self._writing)
        except Exception as error:
            self._pending = (self._writing + self._pending)[-MAX_PENDING:]
            if not self._failing:  # said once: it is tried again each second, for hours perhaps
                log.warning("the endpoint logs cannot be written", error=str(error))
            self._failing = True
        else:
            if self._failing:
                log.info("the endpoint logs can be written again")
            self._failing = False
        finally:
            self._writing = []

    @property
    def pending(self) -> int:
        """Lines that are not written yet."""
        return len(self._writing) + len(self._pending)

    async def since(
        self, endpoint_id: int, level: Level, *, tail: int, after: int = 0
    ) -> list[LogEntry]:
        """The newest lines of a level and of those above it, oldest first.

        Args:
            endpoint_id: whose.
            level: the lowest that is wanted.
            tail: lines, at most.
            after: id of a line; only later ones are wanted.
        """
        await self.flush()
        shown = LEVELS[: LEVELS.index(level) + 1]
        return await self._store.read_log(endpoint_id, tail, levels=shown, after=after)

    async def levels(self, endpoint_id: int, group_id: int | None, tail: int) -> dict[str, str]:
        """The last `tail` lines of each level, oldest first, as the protocol wants them."""
        flush = asyncio.ensure_future(self.flush())
        await asyncio.wait([flush], timeout=FLUSH_PATIENCE)
        records = await self._store.read_log(endpoint_id, 10_000, workergroup_id=group_id)
        if not flush.done():  # the database is locked: what waits for it is shown all the same
            records += [
                line
                for line in self._writing + self._pending
                if line.endpoint_id == endpoint_id and group_id in (None, line.workergroup_id)
            ]
        answer: dict[str, str] = {}
        for depth, level in enumerate(LEVELS):
            shown = set(LEVELS[: depth + 1])
            lines = [
                f"{datetime.fromtimestamp(r.at, UTC):%Y-%m-%d %H:%M:%S.%f}"[:-3] + f" {r.text}"
                for r in records
                if r.level in shown
            ]
            answer[level] = "".join(f"{line}\n" for line in lines[-tail:])
        return answer
