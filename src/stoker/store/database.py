"""The connection to the database: how it is opened, and what a transaction is.

Rules:

* A write takes SQLite's write lock when it begins (BEGIN IMMEDIATE), so it waits for its turn there
  and can't fail half way because another one was quicker. Readers never wait (WAL).
* Our own writes take turns, in the order in which they were asked for, on one connection. Another
  process's lock is asked for again and again, so that no thread waits in SQLite for long and a
  wait can be ended.
* What was begun is finished, also when who asked for it is cancelled: a transaction that is cut off
  would keep the write lock from everybody else.
* Each transaction is durable when it returns (synchronous=FULL): the row of a worker must survive
  a power cut, or its instance is never found again.
* The file and its companions are readable by their owner alone.
"""

from __future__ import annotations

import asyncio
import fcntl
import functools
import inspect
import os
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Self

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from stoker.errors import StokerError, StoreError
from stoker.store.schema import migrate

BUSY_TIMEOUT = 30.0
"""Seconds for which a transaction waits for its turn, and for another process's."""

POLL = 0.1
"""Seconds for which SQLite itself waits for the write lock, before it is asked again."""

CLOSE_TIMEOUT = 2.0
"""Seconds that transactions get to end when the store is closed."""

_WRITES = "stoker_writes"
_PREFIXES = ("sqlite+aiosqlite:///", "sqlite:///")


class Database:
    """One open database file; the classes that know the tables build on it."""

    def __init__(
        self, engine: AsyncEngine, writer: AsyncEngine, clock: Callable[[], float]
    ) -> None:
        """Use `open` instead."""
        self._engine = engine
        self._writer = writer.execution_options(**{_WRITES: True})
        self._clock = clock
        self._turn = asyncio.Lock()
        self._closing = False
        self._running: set[asyncio.Task[Any]] = set()

    def __init_subclass__(cls) -> None:
        """Have every call finished that was begun."""
        super().__init_subclass__()
        for name, method in list(vars(cls).items()):
            if inspect.iscoroutinefunction(method) and not name.startswith("_"):
                setattr(cls, name, _finished(method))

    @classmethod
    async def open(
        cls, url_or_path: str | os.PathLike[str], *, clock: Callable[[], float] = time.time
    ) -> Self:
        """Open the database, create it where there is none, and bring its tables up to date.

        Args:
            url_or_path: a file, or its URL (``sqlite:////var/lib/stoker/stoker.db``).
            clock: Unix time in seconds, for the times that are written.

        Raises:
            StokerError: when it can't be opened, is no database, or was written by a newer Stoker.
        """
        path = _path_of(url_or_path)
        _make_private(path)
        try:
            await _migrate(path)
        except sa.exc.DBAPIError as error:
            raise StokerError(f"cannot open the database {path}: {error.orig}") from None
        store = cls(
            _engine(path, size=4, timeout=BUSY_TIMEOUT), _engine(path, size=1, timeout=POLL), clock
        )
        await store._load()
        return store

    async def _load(self) -> None:
        """Read what is to be known from the beginning."""

    async def close(self) -> None:
        """Close every connection; the store can't be used after it.

        Transactions that are under way get `CLOSE_TIMEOUT`; one that waits for another process's
        lock then fails.
        """
        if self._running:
            await asyncio.wait(self._running, timeout=CLOSE_TIMEOUT)
        self._closing = True
        if self._running:
            await asyncio.wait(self._running, timeout=1.0)
        await self._engine.dispose()
        await self._writer.dispose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        if not task.cancelled():
            task.exception()  # if nobody waits for it any more, nobody misses its error either

    @asynccontextmanager
    async def _reading(self) -> AsyncIterator[AsyncConnection]:
        """A consistent view for as long as the block lasts."""
        with _named():
            async with self._engine.connect() as connection:
                yield connection

    @asynccontextmanager
    async def _writing(self) -> AsyncIterator[AsyncConnection]:
        """All of the block's statements, or none."""
        deadline = time.monotonic() + BUSY_TIMEOUT
        with _named():
            await self._take_turn()
            try:
                connection = await self._begin(deadline)
                try:
                    yield connection
                    await connection.commit()
                except BaseException:
                    await connection.rollback()
                    raise
                finally:
                    await connection.close()
            finally:
                self._turn.release()

    async def _take_turn(self) -> None:
        try:
            async with asyncio.timeout(BUSY_TIMEOUT):
                await self._turn.acquire()
        except TimeoutError:
            raise StoreError("the database is too busy: other writes take too long") from None

    async def _begin(self, deadline: float) -> AsyncConnection:
        """Take the write lock."""
        while True:
            connection = await self._writer.connect()
            try:
                await connection.begin()
            except BaseException as error:
                await connection.close()
                if not _is_locked(error) or self._closing or time.monotonic() >= deadline:
                    raise
            else:
                return connection
            await asyncio.sleep(POLL / 4)


def _is_locked(error: BaseException) -> bool:
    original = getattr(error, "orig", None)
    code = getattr(original, "sqlite_errorcode", None)
    return code is not None and code & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def _finished(
    method: Callable[..., Coroutine[Any, Any, Any]],
) -> Callable[..., Coroutine[Any, Any, Any]]:
    @functools.wraps(method)
    async def call(self: Database, *args: Any, **kwargs: Any) -> Any:
        task = asyncio.ensure_future(method(self, *args, **kwargs))
        self._running.add(task)
        task.add_done_callback(self._ended)
        return await asyncio.shield(task)

    return call


@contextmanager
def _named() -> Iterator[None]:
    """Turn what the disk does to us (full, read-only, gone) into an error that says so."""
    try:
        yield
    except sa.exc.DatabaseError as error:
        # The others say that a statement is wrong; a damaged file is of the general kind.
        if type(error) not in (sa.exc.OperationalError, sa.exc.DatabaseError):
            raise
        raise StoreError(f"the database cannot be used: {error.orig}") from error
    except sa.exc.TimeoutError as error:
        raise StoreError("the database is too busy: no connection became free") from error


def _path_of(url_or_path: str | os.PathLike[str]) -> Path:
    text = os.fspath(url_or_path)
    for prefix in _PREFIXES:
        if text.startswith(prefix):
            text = text.removeprefix(prefix)
            break
    else:
        if "://" in text:
            scheme = text.partition("://")[0]
            raise StokerError(f"databases of the kind {scheme!r} are not supported; use SQLite")
    if not text or text == ":memory:":
        raise StokerError("the database must be a file: what is in memory does not survive")
    return Path(text).absolute()


def _make_private(path: Path) -> None:
    """Create the file with mode 0600 before SQLite does it with the umask's."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        try:
            # Only a file that is new is opened here: closing a descriptor of the file drops the
            # locks that SQLite holds on it in this process (POSIX locks know no descriptors).
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        except FileExistsError:
            if not path.is_file():
                raise StokerError(f"cannot open the database {path}: it is no file") from None
            path.chmod(0o600)
    except OSError as error:
        raise StokerError(f"cannot open the database {path}: {error.strerror or error}") from None


async def _migrate(path: Path) -> None:
    engine = _engine(path, size=0, timeout=BUSY_TIMEOUT)
    try:
        async with (
            _one_at_a_time(path),
            engine.execution_options(**{_WRITES: True}).begin() as connection,
        ):
            await connection.run_sync(migrate)
    finally:
        await engine.dispose()


@asynccontextmanager
async def _one_at_a_time(path: Path) -> AsyncIterator[None]:
    """Keep other openers out: SQLite does not wait for the lock that a switch to WAL needs."""
    try:
        descriptor = os.open(
            f"{path}-open", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600
        )
    except OSError as error:
        raise StokerError(f"cannot open {path}-open: {error.strerror or error}") from None
    try:
        deadline = time.monotonic() + BUSY_TIMEOUT
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise StokerError(f"another process is opening {path} and is stuck") from None
                await asyncio.sleep(0.02)
        yield
    finally:
        os.close(descriptor)


def _engine(path: Path, *, size: int, timeout: float) -> AsyncEngine:
    """An engine with `size` connections; 0: one at a time, without foreign keys, to migrate."""
    pool: dict[str, Any] = (
        {"pool_size": size, "max_overflow": 0, "pool_timeout": BUSY_TIMEOUT}
        if size
        else {"poolclass": NullPool}
    )
    engine = create_async_engine(
        sa.URL.create("sqlite+aiosqlite", database=str(path)),
        connect_args={"timeout": timeout},
        hide_parameters=True,  # in errors, and so in logs
        **pool,
    )

    @sa.event.listens_for(engine.sync_engine, "connect")
    def _connected(dbapi_connection: Any, _record: Any) -> None:
        # The driver shall not begin transactions by itself: it would begin them late (at the
        # first write, where they can fail) and never for CREATE TABLE.
        dbapi_connection.isolation_level = None
        try:
            cursor = dbapi_connection.cursor()
            cursor.execute("PRAGMA journal_mode = WAL")
            cursor.execute("PRAGMA synchronous = FULL")
            cursor.execute(f"PRAGMA foreign_keys = {'ON' if size else 'OFF'}")
            cursor.close()
        except BaseException:
            # The pool forgets a connection that fails here, and its thread would stay.
            dbapi_connection.close()
            raise

    @sa.event.listens_for(engine.sync_engine, "begin")
    def _begun(connection: sa.Connection) -> None:
        writes = connection.get_execution_options().get(_WRITES)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine
