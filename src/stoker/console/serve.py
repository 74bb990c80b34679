"""The whole server in one process: control plane, front door and console app.

The console app listens on a socket file inside a private directory; the front door, which has the
one port that the world sees, relays to it what is not a hot call.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import shutil
import ssl
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import uvicorn

from stoker.autoscaler.controlplane import ControlPlane
from stoker.autoscaler.front import FrontDoor
from stoker.autoscaler.identity import Identity, hash_key, new_api_key
from stoker.autoscaler.keys import KeysMarker
from stoker.autoscaler.planning import UtcOffset
from stoker.autoscaler.timezones import utc_offsets
from stoker.console.app import create_app
from stoker.console.apply import carry_out, check, look
from stoker.console.call import House
from stoker.console.diff import Plan, WantedEndpoint, compare
from stoker.errors import ConfigError, StokerError, StoreError
from stoker.http import Cors, HttpServer, Limits, Origin, UpstreamPool
from stoker.launcher import FileLock, secure_directory
from stoker.logs import get_logger
from stoker.network import is_loopback
from stoker.providers import LocalProvider, Provider
from stoker.store import Store

log = get_logger("server")

FRONT_LIMITS = Limits(max_body_bytes=4 * 2**20)
"""A report of a worker with 100,000 requests working is below 2 MiB."""

MIN_KEY_LENGTH = 16

MAX_SOCKET_DIRECTORY = 90
"""Bytes; the path of a socket may have 107, and its name takes 13 of them."""

KEYS_PAUSE = 0.25
"""Seconds between two looks whether keys were written into the state by another process."""

USE_NOTED_EVERY = 60.0
"""Seconds between two writes of when keys were last used."""

LOCK_TRIES = 10
LOCK_PAUSE = 0.1
"""Seconds between two tries."""


class LocalOptions(Protocol):
    """How instances on this machine are run."""

    @property
    def enabled(self) -> bool:
        """Whether there shall be any."""
        ...

    @property
    def max_instances(self) -> int | None:
        """None: one for each processor core."""
        ...

    @property
    def owner_timeout(self) -> float:
        """Seconds without a control plane after which they stop by themselves."""
        ...


@dataclass(frozen=True, slots=True)
class Access:
    """What may be done without an account's key.

    Attributes:
        metrics_key: opens ``/metrics`` and nothing else; an account's key does too.
        cors: origins whose pages may call us, in a browser; see `stoker.http.Cors`.
        sign_unproven: have a worker's certificate signed without its mtoken (see `create_app`).
    """

    sign_unproven: bool = False
    cors: Sequence[str] = ()
    metrics_key: str = field(default="", repr=False)


class _QuietUvicorn(uvicorn.Server):
    """Leaves the signals to the process that it is a part of."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class Server:
    """A running control plane; make it with `start`."""

    def __init__(self) -> None:
        self.url = ""
        self.new_api_key: str | None = None
        self.state_directory = Path()
        self.plane: ControlPlane
        self.plan: Plan
        """What the settings file changed at the start."""
        self._wanted: Sequence[WantedEndpoint] = ()
        self._store: Store
        self._front: HttpServer
        self._door: FrontDoor | None = None
        self._pool: UpstreamPool
        self._uvicorn: _QuietUvicorn
        self._uvicorn_task: asyncio.Task[None]
        self._keys_task: asyncio.Task[None]
        self._state_lock: FileLock | None = None
        self._cleanup = contextlib.ExitStack()
        self._access = Access()
        self._utc_offset: UtcOffset
        self._stopping = asyncio.Event()
        self._stopped = False

    @classmethod
    async def start(
        cls,
        state_directory: Path,
        *,
        host: str,
        port: int,
        local: LocalOptions,
        public_url: str | None = None,
        certificate: str | None = None,
        certificate_key: str | None = None,
        api_key: str | None = None,
        access: Access | None = None,
        timezone: str | None = None,
        wanted: Sequence[WantedEndpoint] = (),
    ) -> Server:
        """Bring everything up.

        Args:
            state_directory: made when missing, private to its owner; one server at a time.
            host: address to listen on.
            port: 0 for a free one.
            local: how instances on this machine are run.
            public_url: under which workers reach us; default: host and port.
            certificate: PEM file; serves HTTPS together with `certificate_key`.
            certificate_key: PEM file.
            api_key: an account key to accept in place of the one that was given so before; without
                one, and where there is none yet, `new_api_key` is made: show it, then call
                `accept_new_api_key`.
            access: what strangers may do.
            timezone: by whose days and weekdays load is expected again; default: this machine's.
            wanted: what a settings file states; it holds before the first request is answered and
                the first worker is started, and `plan` has what changed.

        Raises:
            ConfigError: a setting cannot work; it is named.
            InvalidMessageError: what is wanted cannot be; all of it is named.
            StokerError: the state is in use, or the port is taken.
        """
        self = cls()
        self.state_directory = state_directory
        self._access = access or Access()
        self._utc_offset = utc_offsets(timezone)
        self._wanted = wanted
        try:
            await self._start(host, port, local, public_url, certificate, certificate_key, api_key)
        except BaseException:
            # What was opened before the rest failed.
            if hasattr(self, "_front"):
                await self._front.drain(0.0)
            if hasattr(self, "_uvicorn"):
                self._uvicorn.should_exit = True
                await self._uvicorn_task
            if hasattr(self, "_store"):
                await self._store.close()
            self._cleanup.close()
            raise
        return self

    async def _start(
        self,
        host: str,
        port: int,
        local: LocalOptions,
        public_url: str | None,
        certificate: str | None,
        certificate_key: str | None,
        api_key: str | None,
    ) -> None:
        state = self.state_directory
        tls = _tls(certificate, certificate_key)
        cors = Cors(self._access.cors, setting="server.cors_origins")
        _check_form(api_key)
        try:
            if secure_directory(state, parents=True):
                log.warning(
                    "others could write to the state directory until now; its mode is 0700",
                    directory=str(state),
                )
        except OSError as error:
            raise ConfigError("state", f"{state}: {error.strerror}") from None
        lock = await self._lock(state / "lock")

        # First the port: a start that fails changes nothing in the state. Not even its database is
        # brought up to date, so that an earlier version can go on with it. What comes to the port
        # before all is ready is told to come again.
        bound = await self._listen(host, port, tls)
        shown = f"[{host}]" if ":" in host else host
        if host in ("0.0.0.0", "::"):  # noqa: S104
            shown = "127.0.0.1"
        self.url = f"{'https' if tls else 'http'}://{shown}:{bound}"

        # Then whatever may turn out to be wrong.
        identity = Identity.open(state)
        self._store = await Store.open(state / "stoker.db")
        providers: dict[str, Provider] = {}
        if local.enabled:
            providers["local"] = LocalProvider(
                state / "instances",
                max_instances=local.max_instances or os.cpu_count() or 1,
                owner_lock=lock,
                owner_timeout=local.owner_timeout,
            )
        self.plane = ControlPlane(
            self._store,
            identity,
            providers,
            report_addr=public_url or self.url,
            utc_offset=self._utc_offset,
        )
        app = create_app(
            self._store,
            self.plane,
            state_directory=state,
            sign_unproven=self._access.sign_unproven,
        )
        self._house: House = app.state.house
        socket_path = self._private_directory() / "console.sock"
        check(self._wanted, self.plane).raise_any()

        # Then what is stored, the key first, as it may be refused.
        await self._take_api_key(api_key)
        self.plan = await self._apply(self._wanted)

        self._pool = UpstreamPool(Origin.unix(str(socket_path)))
        door = FrontDoor(
            self.plane,
            self._pool,
            cors=cors,
            metrics_key=self._access.metrics_key,
            local=is_loopback(host) and not public_url,
        )
        self.plane.on_assigned = door.assigned
        self.plane.on_tick = door.tick
        self.plane.front_requests = lambda: door.requests
        self.plane.front_refusals = lambda: door.refusals
        self._uvicorn = _QuietUvicorn(
            uvicorn.Config(
                app, uds=str(socket_path), log_config=None, lifespan="off", access_log=False
            )
        )
        self._uvicorn_task = asyncio.get_running_loop().create_task(self._uvicorn.serve())
        await self.plane.start()
        self._keys_task = asyncio.get_running_loop().create_task(self._look_after_keys())
        self._door = door

    async def _listen(self, host: str, port: int, tls: ssl.SSLContext | None) -> int:
        def handle(exchange: Any) -> None:
            if self._door is None:
                exchange.respond(503, b'{"error": "starting", "msg": "starting: try again"}')
            else:
                self._door(exchange)

        def refused(reason: str) -> None:
            if self._door is not None:
                self._door.refused(reason)

        self._front = HttpServer(handle, FRONT_LIMITS, on_refused=refused)
        try:
            return await self._front.listen(host, port, ssl=tls)
        except OSError as error:
            # asyncio puts a sentence of its own where the system's words would be.
            number = error.errno or 0
            problem = os.strerror(number) if number > 0 else error.strerror
            remedy = "--port" if number == errno.EADDRINUSE else "--host"
            raise StokerError(
                f"cannot listen on {host}:{port}: {problem or error}; choose another with {remedy}"
            ) from None

    async def _look_after_keys(self) -> None:
        """Take over keys that were written beside us, and write down when keys were used."""
        marker = KeysMarker(self.state_directory)
        seen, noted = b"", time.monotonic()
        while not self._stopping.is_set():
            # Not cancelled at the end: a query that is under way is finished.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(KEYS_PAUSE):
                    await self._stopping.wait()
            self._keep_lock()
            try:
                if (asked := marker.asked()) != seen:
                    await self.plane.changed()
                    seen = asked
                    marker.take(asked)
                if time.monotonic() - noted >= USE_NOTED_EVERY:
                    noted = time.monotonic()
                    await self.plane.keys.note_use()
            except (StoreError, OSError) as error:
                log.debug("keys cannot be looked after", error=str(error))
            except Exception:
                log.exception("keys cannot be looked after")

    def _keep_lock(self) -> None:
        """Put the lock back that somebody removed: instances know by it that they have an owner."""
        with contextlib.suppress(OSError):
            if self._state_lock is not None and self._state_lock.keep():
                log.warning(
                    "the lock file was removed while this server runs; it is there again",
                    file=str(self.state_directory / "lock"),
                )

    def _private_directory(self) -> Path:
        """For the console's socket, which everybody may open who comes so far."""
        # In the state, where the next server takes it over, so that one that is killed leaves
        # nothing in /tmp.
        directory = self.state_directory.absolute() / "run"
        if len(os.fsencode(directory)) <= MAX_SOCKET_DIRECTORY:
            directory.mkdir(exist_ok=True)
            directory.chmod(0o700)
        else:
            directory = Path(tempfile.mkdtemp(prefix="stoker-"))
        self._cleanup.callback(shutil.rmtree, directory, ignore_errors=True)
        return directory

    async def _lock(self, path: Path) -> Path:
        """Held while we live, so that a second server refuses and instances know their owner."""
        lock = self._state_lock = FileLock(path, with_directory=True)
        for _ in range(LOCK_TRIES):
            try:
                taken = lock.acquire()
            except OSError as error:
                raise ConfigError("state", f"{path}: {error.strerror}") from None
            if taken:
                self._cleanup.callback(lock.release)
                return path
            # An instance that looks whether it has an owner holds it for a few microseconds.
            await asyncio.sleep(LOCK_PAUSE)
        raise StokerError(f"another server uses {path.parent}: stop it, or choose another --state")

    async def _take_api_key(self, given: str | None) -> None:
        if given:
            await self._store.take_environment_key(hash_key(given))
        elif not await self._has_account_key():
            # Not stored before somebody has seen it: see `accept_new_api_key`.
            self.new_api_key = new_api_key()

    async def _has_account_key(self) -> bool:
        now = time.time()
        keys = await self._store.list_api_keys()
        return any(key.endpoint_id is None and key.is_good(now) for key in keys)

    async def accept_new_api_key(self) -> None:
        """Let `new_api_key` in from now on; call it once the key was shown.

        A start that fails before that leaves no key behind, so the next one makes another.

        Raises:
            StokerError: it cannot be stored, so it is not good.
        """
        if self.new_api_key is None:
            return
        try:
            await self._store.add_api_key(hash_key(self.new_api_key))
        except StoreError as error:
            raise StokerError(
                f"the new API key is not good, it cannot be stored: {error}"
            ) from None
        await self.plane.changed()

    async def apply(self, wanted: Sequence[WantedEndpoint]) -> Plan:
        """Make endpoints and workergroups what a settings file states.

        Nothing is deleted, and nothing that a command deleted is made again.

        Raises:
            InvalidMessageError: names all that is wrong; nothing was changed then.
        """
        async with self._house.updating:
            plan = await self._apply(wanted)
            await self._house.changed()
        return plan

    async def _apply(self, wanted: Sequence[WantedEndpoint]) -> Plan:
        check(wanted, self.plane).raise_any()
        actual = await look(self._store)
        plan = compare(wanted, actual, prune=False, restore=False)
        await carry_out(self._store, plan, actual)
        return plan

    async def stop(self, *, keep_instances: bool, hurry: asyncio.Event) -> None:
        """Stop serving.

        Args:
            keep_instances: leave workers running; the next server finds them again.
            hurry: when set, drains are cut short.
        """
        if self._stopped:
            return
        self._stopped = True
        self._stopping.set()
        await self._keys_task
        if not keep_instances:
            await self.plane.stop_instances(hurry)
        await self.plane.close()
        with contextlib.suppress(StoreError):
            await self.plane.keys.note_use()
        await self._front.drain(2.0)
        self._uvicorn.should_exit = True
        await self._uvicorn_task
        await self._pool.close()
        for provider in self.plane.providers.values():
            await provider.close()
        await self._store.close()
        self._cleanup.close()


def _check_form(api_key: str | None) -> None:
    if not api_key:
        return
    if len(api_key) < MIN_KEY_LENGTH:
        raise ConfigError("STOKER_API_KEY", f"must have at least {MIN_KEY_LENGTH} characters")
    if not (api_key.isascii() and api_key.isprintable() and " " not in api_key):
        raise ConfigError("STOKER_API_KEY", "has characters that no API key has")


def _tls(certificate: str | None, key: str | None) -> ssl.SSLContext | None:
    if certificate is None and key is None:
        return None
    if certificate is None or key is None:
        missing = "certificate" if certificate is None else "certificate_key"
        raise ConfigError(f"server.{missing}", "HTTPS needs both certificate and certificate_key")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(certificate, key)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError("server.certificate", f"cannot be used: {error}") from None
    return context
