"""Instances on this machine: each is a directory, and a launcher that runs it.

A launcher is no part of the control plane: it outlives it, and a new control plane on the same
directory finds it again by its pid and creation time. What is wanted of an instance is written
down first (see `stoker.providers.desire`), so nothing is lost when the control plane ends
between two lines.
"""

from __future__ import annotations

import asyncio
import builtins
import contextlib
import os
import re
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import psutil

from stoker.backends import get
from stoker.errors import ConfigError, ProviderError
from stoker.launcher import LOGS, InstanceManifest, InstanceState, Phase
from stoker.logs import get_logger, redact
from stoker.providers.base import (
    LOG_NAMES,
    Instance,
    InstanceSpec,
    InstanceStatus,
    LogPart,
    Offer,
)
from stoker.providers.desire import Desire, Wanted
from stoker.providers.folder import DESIRED, Folder
from stoker.providers.reading import read_logs

_log = get_logger("providers")

OFFER = "local"

FOLLOW_INTERVAL = 0.2
"""Seconds between two looks at instances that are ending."""

MAX_TAIL = 10_000
"""Lines of one log, at most."""

SPARE_GRACE = 10.0
"""Seconds beyond its own graces after which a launcher that ends counts as hung."""

_ID = re.compile(r"local-\d{1,19}")
_SECRET = re.compile(r"STOKER_.*|.*(?:API_?KEY|TOKEN|SECRET|PASSWORD|CREDENTIALS)", re.I)
_NEEDED = {
    "HF_TOKEN",
    "HUGGING_FACE_HUB_TOKEN",
    "STOKER_LOG_LEVEL",
    "STOKER_LOG_FORMAT",
    "STOKER_PROXY",
    "STOKER_CORS_ORIGINS",
    "STOKER_METRICS_KEY",
    "STOKER_SESSION_IDLE_TIMEOUT",
    "STOKER_SESSION_CLOSE_ROUTES",
}
"""What is passed on all the same; a model server's weights may be behind the first two."""


class LocalProvider:
    """Instances as directories and processes on this machine."""

    name = "local"

    def __init__(
        self,
        directory: Path,
        *,
        max_instances: int | None = None,
        owner_lock: Path | None = None,
        owner_timeout: float = 300.0,
        price_per_hour: float = 0.0,
        manifest: Mapping[str, Any] | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        """Use `directory`, which is made when the first instance is.

        Args:
            directory: holds one directory for each instance.
            max_instances: room for so many; default: one for each CPU.
            owner_lock: a file that the control plane keeps locked (`stoker.launcher.FileLock`)
                while it lives.
            owner_timeout: seconds without an owner after which an instance stops by itself.
            price_per_hour: dollars, for the planner.
            manifest: fields of `InstanceManifest` for every instance, such as ``command``,
                ``host``, ``env`` or ``supervision``.
            clock: seconds that no setting of the time of day moves.
            wall: Unix seconds, for what people are told.
        """
        self._root = directory.absolute()
        self._max = max_instances if max_instances is not None else (os.cpu_count() or 1)
        self._price = price_per_hour
        self._clock = clock
        self._wall = wall
        self._common: dict[str, Any] = {
            **(manifest or {}),
            "owner_lock": str(owner_lock.absolute()) if owner_lock else None,
            "owner_timeout": owner_timeout,
        }
        self._busy = asyncio.Lock()
        self._follower: asyncio.Task[None] | None = None
        self._folders: dict[str, Folder] = {}

    # -- the interface -------------------------------------------------------------------------

    async def offers(self, search_params: str = "") -> list[Offer]:
        """This machine, with the room that is left."""
        cpus = os.cpu_count() or 1
        hardware = f"{cpus} CPU{'s' if cpus > 1 else ''} of this machine"
        room = max(0, self._max - len(self._all()))
        return [
            Offer(
                OFFER,
                self.name,
                hardware,
                self._price,
                room,
                capacity=self._max,
                limit="max_instances",
            )
        ]

    async def create(self, offer_id: str, spec: InstanceSpec) -> Instance:
        """Create the directory and start the launcher; the same instance for the same worker.

        Raises:
            ProviderError: no such offer, no room, a wrong backend, or no space or right to write.
        """
        if offer_id != OFFER:
            raise ProviderError(f"no offer is called {offer_id!r}; there is {OFFER!r}")
        instance_id = f"{self.name}-{spec.worker_id}"
        async with self._busy:
            await self._drop_copies()
            folders = self._all()
            if instance_id in folders:
                desire = folders[instance_id].desire()
                if desire is not None and desire.wanted == "destroyed":
                    raise ProviderError(f"{instance_id} is being destroyed; try again later")
                return self._look(folders[instance_id])
            if len(folders) >= self._max:
                raise ProviderError(f"no room: this machine has {len(folders)} instances already")
            try:
                manifest = self._manifest(instance_id, spec)
            except (ConfigError, msgspec.ValidationError) as error:
                raise ProviderError(f"cannot create {instance_id}: {error}") from None
            now = self._clock()
            desire = Desire(wanted="running", since=now, created_at=self._wall()).launched(now)
            try:
                folder = Folder.make(self._root / instance_id, manifest, desire)
            except OSError as error:
                raise ProviderError(f"cannot create {instance_id}: {_why(error)}") from None
            try:
                folder.spawn(_environment(os.environ))
            except OSError as error:
                folder.remove()
                raise ProviderError(f"cannot start {instance_id}: {_why(error)}") from None
            self._folders[instance_id] = folder
            return self._look(folder)

    async def start(self, instance_id: str) -> None:
        """Start a stopped or failed instance.

        Raises:
            ProviderError: there is none, it is being destroyed, or the disk is full.
        """
        async with self._busy:
            folder, now = self._folder(instance_id), self._clock()
            desire = folder.desire()
            if desire is None:
                raise ProviderError(f"{instance_id} is damaged: it can only be destroyed")
            if desire.wanted == "destroyed":
                raise ProviderError(f"{instance_id} is being destroyed")
            launcher = folder.launcher()
            state = _current(folder, launcher)
            desire = desire.want("running", now)
            if launcher is None:
                desire = msgspec.structs.replace(desire, launches=0)
            if error := folder.note(desire):
                raise ProviderError(f"cannot start {instance_id}: {_why(error)}")
            if launcher is not None and state is not None and state.phase is Phase.FAILED:
                # It gave up; the next look finds it gone, and starts another.
                self._tell(folder, launcher)
            await self._advance(folder, desire)

    async def update(self, instance_id: str, spec: InstanceSpec) -> None:
        """Give it another manifest; its launcher drains, ends and is started anew.

        Raises:
            ProviderError: there is none, it is being destroyed, the spec is wrong, or the disk is
                full.
        """
        async with self._busy:
            folder, now = self._folder(instance_id), self._clock()
            desire = folder.desire()
            if desire is None:
                raise ProviderError(f"{instance_id} is damaged: it can only be destroyed")
            if desire.wanted == "destroyed":
                raise ProviderError(f"{instance_id} is being destroyed")
            try:
                manifest = self._manifest(instance_id, spec)
            except (ConfigError, msgspec.ValidationError) as error:
                raise ProviderError(f"cannot update {instance_id}: {error}") from None
            changed = not folder.has(manifest)
            desire = desire.renew(now) if changed else desire.want("running", now)
            # What is to be done about it first: if we end in between, the instance starts anew
            # with its former manifest, and the next call finds that one and does all of it again.
            problem = folder.note(desire)
            if problem is None and changed:
                problem = folder.replace_manifest(manifest)
            if problem is not None:
                raise ProviderError(f"cannot update {instance_id}: {_why(problem)}")
            await self._advance(folder, desire)
        self._follow()

    async def stop(self, instance_id: str) -> None:
        """Have the launcher drain and end; the directory stays.

        Raises:
            ProviderError: there is no such instance, or it is damaged.
        """
        await self._end(instance_id, "stopped")

    async def destroy(self, instance_id: str) -> None:
        """Have the launcher drain and end, then remove the directory; nothing if it is gone.

        Raises:
            ProviderError: when the directory of all instances cannot be read.
        """
        if instance_id in self._all():
            await self._end(instance_id, "destroyed")

    async def list(self) -> builtins.list[Instance]:
        """All instances; what was interrupted is finished on the way.

        Raises:
            ProviderError: when the directory of all instances cannot be read.
        """
        async with self._busy:
            Folder.clean(self._root)
            await self._drop_copies()
            for folder in self._all().values():
                await self._advance(folder, folder.desire())
            found = [self._look(folder) for folder in self._all().values()]
        self._follow()
        return found

    async def read_logs(
        self, instance_id: str, logs: Sequence[str] = LOG_NAMES, *, tail: int = 100, after: str = ""
    ) -> LogPart:
        """The last `tail` lines of each log, or what came after an earlier answer.

        Raises:
            ProviderError: when there is no such instance.
        """
        folder, lines = self._folder(instance_id), max(0, min(tail, MAX_TAIL))
        return await asyncio.to_thread(read_logs, folder, logs, lines, after)

    async def close(self) -> None:
        """Stop looking after the instances; they go on running."""
        if self._follower is not None:
            self._follower.cancel()
            await asyncio.wait([self._follower])
            self._follower = None

    async def _drop_copies(self) -> None:
        """Remove instances that came here with a copy of another control plane's state.

        Started from here they would report to the other one, as workers that it has already.
        """
        for folder in self._all().values():
            if not folder.belongs_to(self._common["owner_lock"]):
                _log.warning(
                    "an instance was copied or moved here with its state directory: it is removed",
                    instance=folder.id,
                )
                await asyncio.to_thread(folder.remove)

    # -- doing what is wanted ------------------------------------------------------------------

    async def _end(self, instance_id: str, wanted: Wanted) -> None:
        async with self._busy:
            folder, now = self._folder(instance_id), self._clock()
            desire = folder.desire()
            if desire is None:
                if wanted != "destroyed":
                    raise ProviderError(f"{instance_id} is damaged: it can only be destroyed")
                desire = Desire(wanted="running", since=now, created_at=self._wall())
            desire = desire.want(wanted, now)
            if error := folder.note(desire):
                _log.warning("cannot write what is wanted", instance=instance_id, error=_why(error))
            await self._advance(folder, desire)
        self._follow()

    async def _advance(self, folder: Folder, desire: Desire | None) -> None:
        """Do the next step for one instance."""
        if desire is None:
            return
        launcher, now = folder.launcher(), self._clock()
        state = _current(folder, launcher)
        desire = self._renote(folder, desire, desire.dated(now))
        running = launcher.pid if launcher and state and state.phase is Phase.RUNNING else None
        since = folder.seen_running(running, now)
        if since is not None:
            desire = self._renote(folder, desire, desire.healthy(since, now))
        # A former control plane may have told it: then its phase says so.
        told = launcher is not None and (
            folder.told == launcher.pid
            or (state is not None and state.phase in (Phase.DRAINING, Phase.STOPPED))
        )
        step = desire.next_step(
            alive=launcher is not None, told=told, grace=_grace(folder), now=now
        )
        if step == "launch":
            self._renote(folder, desire, desire.launched(now))
            try:
                folder.spawn(_environment(os.environ))
            except OSError as error:
                _log.error("cannot start a launcher", instance=folder.id, error=_why(error))
        elif step == "tell" and launcher is not None:
            self._tell(folder, launcher)
        elif step == "kill" and launcher is not None:
            _log.warning("a launcher did not end in time: killing it", instance=folder.id)
            _signal(launcher, signal.SIGKILL)
            await asyncio.to_thread(folder.end_orphans)
        elif step == "remove":
            await asyncio.to_thread(folder.remove)

    def _tell(self, folder: Folder, launcher: psutil.Process) -> None:
        if folder.told != launcher.pid:
            folder.told = launcher.pid
            _signal(launcher, signal.SIGTERM)

    def _renote(self, folder: Folder, former: Desire, desire: Desire) -> Desire:
        if desire != former:
            folder.note(desire)
        return desire

    def _follow(self) -> None:
        """Look after instances that are ending, whether or not anybody lists them."""
        if (self._follower is None or self._follower.done()) and self._ending():
            self._follower = asyncio.get_running_loop().create_task(self._follow_ending())

    def _ending(self) -> builtins.list[Folder]:
        ending = []
        with contextlib.suppress(ProviderError):
            for folder in self._all().values():
                desire = folder.desire()
                if desire is None or (desire.wanted == "running" and not desire.stale):
                    continue
                if desire.wanted != "stopped" or folder.launcher() is not None:
                    ending.append(folder)
        return ending

    async def _follow_ending(self) -> None:
        while ending := self._ending():
            async with self._busy:
                for folder in ending:
                    await self._advance(folder, folder.desire())
            await asyncio.sleep(FOLLOW_INTERVAL)

    # -- looking -------------------------------------------------------------------------------

    def _all(self) -> dict[str, Folder]:
        try:
            names = [e.name for e in self._root.iterdir() if _ID.fullmatch(e.name) and e.is_dir()]
        except FileNotFoundError:
            names = []
        except OSError as error:
            raise ProviderError(f"cannot read {self._root}: {_why(error)}") from None
        self._folders = {
            name: self._folders.get(name) or Folder(self._root / name) for name in sorted(names)
        }
        return self._folders

    def _folder(self, instance_id: str) -> Folder:
        try:
            return self._all()[instance_id]
        except KeyError:
            raise ProviderError(f"there is no instance {instance_id!r} here") from None

    def _manifest(self, instance_id: str, spec: InstanceSpec) -> InstanceManifest:
        manifest = msgspec.convert(
            {
                **self._common,
                **spec.instance,
                "instance_id": instance_id,
                "worker_id": spec.worker_id,
                "mtoken": spec.mtoken,
                "report_addr": spec.report_addr,
                "endpoint": spec.endpoint,
                "backend": spec.backend,
                "options": spec.options,
                "revision": spec.revision,
            },
            InstanceManifest,
        )
        manifest.check()
        if manifest.backend:
            get(manifest.backend).parse(manifest.options)
        return manifest

    def _look(self, folder: Folder) -> Instance:
        """One instance as it is now."""
        desire = folder.desire()
        try:
            manifest = folder.manifest()
            worker_id, endpoint, damage = manifest.worker_id, manifest.endpoint, ""
            address = manifest.public_host
        except ConfigError as error:
            worker_id, endpoint, damage = int(folder.id.removeprefix("local-")), "", str(error)
            address = ""
        if desire is None:
            damage = damage or f"{DESIRED} is missing or damaged"
            return Instance(folder.id, self.name, worker_id, "failed", damage)
        launcher = folder.launcher()
        status, why = self._status(desire, launcher, _current(folder, launcher))
        if status == "failed" and not why:
            why = "\n".join(folder.log_tail(LOGS[0], 5))
        return Instance(
            folder.id,
            self.name,
            worker_id,
            status,
            redact(why or damage),
            desire.created_at,
            endpoint=endpoint,
            address=address,
        )

    def _status(
        self, desire: Desire, launcher: psutil.Process | None, state: InstanceState | None
    ) -> tuple[InstanceStatus, str]:
        if desire.wanted == "destroyed":
            return "stopping", ""
        if desire.wanted == "stopped":
            return ("stopping" if launcher else "stopped"), ""
        if launcher is None:
            now = self._clock()
            step = desire.dated(now).next_step(alive=False, told=False, grace=0.0, now=now)
            return ("failed" if step == "give up" else "creating"), ""
        if state is None or desire.stale:
            return "creating", ""
        if state.phase is Phase.RUNNING:
            return "running", state.unheard
        return ("failed" if state.phase is Phase.FAILED else "creating"), state.error


def _current(folder: Folder, launcher: psutil.Process | None) -> InstanceState | None:
    """What `launcher` wrote; None where there is only the state of an earlier one."""
    state = folder.state() if launcher is not None else None
    return state if state and launcher and state.launcher_pid == launcher.pid else None


def _grace(folder: Folder) -> float:
    """Seconds that its launcher may take to end."""
    try:
        policy = folder.manifest().supervision
    except ConfigError:
        return SPARE_GRACE
    return policy.drain_grace + policy.stop_grace + SPARE_GRACE


def _environment(environ: Mapping[str, str]) -> dict[str, str]:
    """`environ` without the control plane's secrets and settings."""
    return {n: v for n, v in environ.items() if n in _NEEDED or not _SECRET.fullmatch(n)}


def _signal(process: psutil.Process, number: signal.Signals) -> None:
    with contextlib.suppress(psutil.Error, OSError):
        process.send_signal(number)


def _why(error: OSError) -> str:
    return f"{error.strerror or error}{f' ({error.filename})' if error.filename else ''}"
