"""The launcher's loop: start, watch, start again, drain.

What happens next is decided in `stoker.launcher.lifecycle`; this file does it.

* A model server that ended or is ill is started again together with its worker: what the worker
  had in flight is lost with it, and a new boot makes the tickets for it void.
* A worker that ended is started again alone: the model stays loaded.
* Steps before the start, and a certificate that is waited for, run in a task of their own.
* A worker whose certificate was replaced drains and is started again; that is no fault.
* A guardian that ended is started again at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from stoker import signals
from stoker.errors import ConfigError
from stoker.launcher import guardian, probe
from stoker.launcher.backoff import Backoff
from stoker.launcher.certificates import CertificateKeeper, CertificateRefusedError
from stoker.launcher.environment import guardian_environment
from stoker.launcher.files import FileLock, is_locked
from stoker.launcher.guard import Guard
from stoker.launcher.lifecycle import Lifecycle, Phase
from stoker.launcher.machine import Sampler
from stoker.launcher.manifest import InstanceManifest, tag
from stoker.launcher.orphans import end_orphans
from stoker.launcher.parts import Parts
from stoker.launcher.preparing import Preparation, SetupError, make_directories
from stoker.launcher.reap import Reaper, adopt_orphans, children
from stoker.launcher.state import (
    MAX_DESCENDANTS,
    Descendants,
    InstanceState,
    myself,
    place_of,
    read_state,
    write_state,
)
from stoker.launcher.watch import HealthJudge, OwnerWatch
from stoker.logs import get_logger

_log = get_logger("launcher")

STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""Signals that mean "stop"."""

BOOT_CHECK_INTERVAL = 0.1
"""Seconds between health checks until the first good one."""

WORKER_LOOK = 1.0
"""Seconds between two looks at what a worker is at."""

OWNER_CHECK_INTERVAL = 5.0
REACHED_EVERY = 60.0
"""Seconds between two looks whether the control plane can be reached, while it can."""

UNREACHED_EVERY = 10.0
"""While it cannot."""

REAP_INTERVAL = 2.0
MAX_TICK = 1.0
"""Longest sleep of the loop, seconds; whatever happens to a child wakes it at once."""

GOODBYE = 5.0
"""Seconds that a worker gets beyond the drain grace, for its last report."""

GIVE_UP_LIMIT = 60.0
"""Seconds for which a launcher that gave up, and that nobody owns, tries to say why."""

FORSAKEN_GRACE = 1.0
"""Seconds that a worker gets whose model server is gone: it has nothing to wait for."""


def _tell_broken(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()):
        _log.error("a part of the launcher broke; the instance goes on", error=repr(error))


class Supervisor:
    """Brings one instance up and keeps it up until it is told to stop."""

    def __init__(
        self,
        directory: Path,
        manifest: InstanceManifest,
        *,
        lock: FileLock | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        policy = manifest.supervision
        self._directory = directory
        self._lock = lock
        self._missing = False
        self._manifest = manifest
        self._policy = policy
        self._clock = clock
        self._wall = wall
        backoff = Backoff(
            initial=policy.restart_delay,
            maximum=policy.restart_delay_max,
            healthy_after=policy.healthy_after,
        )
        self._life = Lifecycle(backoff, max_restarts=manifest.max_restarts)
        self._wake = asyncio.Event()
        self._stop = asyncio.Event()
        # What this process has for children before it started any is not the instance's, and the
        # first process of a machine or container adopts everybody's orphans.
        foreign = children()
        exclusive = not foreign and os.getpid() != 1
        mark = tag(manifest.instance_id, directory)
        kin = guardian.Kin(os.getpid(), mark, foreign=foreign, exclusive=exclusive)
        self._guard = Guard(manifest, directory, self._wake.set, exclusive=exclusive)
        self._reaper = Reaper()
        self._parts = Parts(directory, manifest, self._guard, kin, self._reaper, self._wake.set)
        self._certificates = CertificateKeeper(directory, manifest, wall=wall)
        self._preparation = Preparation(
            directory, manifest, self._parts, self._certificates, wall=wall
        )
        self._sampler = Sampler(
            directory,
            guardian_environment(manifest, directory, role="probe"),
            lambda: {"model": self._parts.pid("model"), "worker": self._parts.pid("worker")},
            self._reaper,
            wall=wall,
        )
        self._judge = HealthJudge()
        self._illness = ""
        self._unheard = ""
        self._started_at = 0.0
        self._health_task: asyncio.Task[None] | None = None
        self._report_task: asyncio.Task[None] | None = None
        self._prepare_task: asyncio.Task[None] | None = None
        self._background: list[asyncio.Task[None]] = []
        self._renewed = False
        self._renewal_ends: float | None = None
        self._identity = myself()
        self._place = place_of(directory)
        self._since = wall()
        self._worker_doing = ""
        self._written: InstanceState | None = None
        self._write_failed = False
        self._told_dropped = 0
        self._keeping = False
        self._failed_at = 0.0
        self._told_failure = False
        self._gave_up = False

    # -- the loop ------------------------------------------------------------------------------

    async def run(self) -> int:
        """Supervise until told to stop, or without hope; returns the exit code.

        Returns:
            0; 1 when it gave up and ended by itself (see `_without_hope`).
        """
        loop = asyncio.get_running_loop()
        for number in STOPPING:
            # nohup has SIGHUP ignored, and it stays so; otherwise a closed terminal means "stop".
            # SIGTERM always means "stop": nothing else does for a launcher without a terminal.
            if number is signal.SIGTERM or not signals.ignored(number):
                loop.add_signal_handler(number, self._told_to_stop, number.name)
        adopt_orphans()
        former = read_state(self._directory)
        if former is not None:
            # The same ports again, if they are free: then URLs that people know stay good.
            self._parts.model_port = former.model_port
            self._parts.worker_port = former.worker_port
        mark = tag(self._manifest.instance_id, self._directory)
        if left := await asyncio.to_thread(end_orphans, self._directory, mark, former):
            _log.warning("killed what an earlier launcher left behind", processes=left)
        try:
            await self._guard.start()
            self._beside(self._sampler.run(self._wake.set))
            self._beside(self._follow_worker())
            if self._manifest.report_addr:
                self._beside(self._listen_for_the_control_plane())
            await self._begin()
            await self._watch()
            await self._drain()
        finally:
            await self._end()
            signals.hear_no_more(*STOPPING)
        return int(self._gave_up)

    def _beside(self, work: Coroutine[Any, Any, None]) -> None:
        """Do work that the instance can live without."""
        task = asyncio.create_task(work)
        task.add_done_callback(_tell_broken)
        self._background.append(task)

    async def _watch(self) -> None:
        """Until told to stop, or forsaken by the owner."""
        owner = OwnerWatch(self._manifest.owner_timeout, self._clock())
        next_owner = next_reap = self._clock()
        while not self._stop.is_set():
            now = self._clock()
            await self._guard.keep(now)
            await self._step(now)
            if now >= next_owner:
                next_owner = now + min(OWNER_CHECK_INTERVAL, self._manifest.owner_timeout / 4)
                if self._ownerless(owner, now):
                    _log.warning("no control plane wants this instance any more: stopping")
                    return
            if now >= next_reap:
                next_reap = now + REAP_INTERVAL
                self._keep_lock()
                if self._directory_is_gone():
                    _log.warning("the instance's directory was removed: stopping")
                    return
                await self._parts.look()
                self._reaper.collect(self._parts.pids())
            self._tell_dropped()
            self._save()
            if self._without_hope(now):
                self._gave_up = True
                _log.error("ending, because it gave up", error=self._life.error)
                return
            await self._sleep()

    def _keep_lock(self) -> None:
        """Put the lock back that somebody removed: who owns the instance finds us by it."""
        with contextlib.suppress(OSError):
            if self._lock is not None and self._lock.keep():
                _log.warning("the lock file was removed; it is there again")

    def _directory_is_gone(self) -> bool:
        """Whether it was missing at two looks in a row: nobody can find or want us then."""
        former, self._missing = self._missing, False
        try:
            self._directory.stat()
        except FileNotFoundError:
            self._missing = True
        except OSError:  # a network file system that is away for a moment
            pass
        return former and self._missing

    def _without_hope(self, now: float) -> bool:
        """Whether it gave up and nobody would ever end it or start it again.

        Whoever owns an instance does that, and the control plane does it once it knows the error.
        """
        if self._life.phase is not Phase.FAILED or self._manifest.owner_lock is not None:
            return False
        late = now - self._failed_at >= GIVE_UP_LIMIT
        return self._told_failure or late or not self._manifest.report_addr

    async def _sleep(self) -> None:
        delay = MAX_TICK
        if self._life.phase is Phase.BACKOFF:
            delay = min(delay, max(0.0, self._life.retry_at - self._clock()))
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._wake.wait(), delay)
        self._wake.clear()

    def _told_to_stop(self, name: str) -> None:
        if self._stop.is_set():
            _log.warning("told to stop again: no more waiting", signal=name)
            self._parts.hurry.set()
        else:
            _log.info("told to stop: draining", signal=name)
            self._stop.set()
        self._wake.set()

    def _ownerless(self, owner: OwnerWatch, now: float) -> bool:
        path = self._manifest.owner_lock
        return path is not None and owner.observe(is_locked(Path(path)), now)

    async def _step(self, now: float) -> None:
        """Look at everything once, and do what follows from it."""
        life, parts = self._life, self._parts
        if life.phase in (Phase.FAILED, Phase.DRAINING, Phase.STOPPED):
            return
        if parts.ended("model"):
            await self._fault(parts.blame("model"), now)
        elif self._illness:
            await self._fault(self._illness, now)
        elif self._renewal_ends is not None and (
            parts.ended("worker") or now >= self._renewal_ends
        ):
            await parts.clear("worker")
            await self._start()
        elif parts.ended("worker"):
            await self._worker_fault(now)
        elif life.phase is Phase.BACKOFF:
            if life.retry(now):
                await self._begin()
        elif life.phase is Phase.PREPARING:
            await self._look_at_preparation(now)
        elif self._judge.was_healthy:
            if life.phase is Phase.STARTING:
                parts.booted()
                _log.info("running", seconds=round(now - self._started_at, 2))
            parts.mend()
            life.healthy(now)
        elif now - self._started_at > self._policy.start_timeout:
            waited = f"{self._policy.start_timeout:g} s"
            await self._fault(f"the model server was not healthy within {waited}", now)

        if self._renewed and life.phase is not Phase.BACKOFF and parts.has("worker"):
            self._renewed = False
            self._renewal_ends = now + self._policy.drain_grace + GOODBYE
            parts.ask("worker")

    # -- starting ------------------------------------------------------------------------------

    async def _begin(self) -> None:
        """Prepare what is not prepared, then start."""
        try:
            make_directories(self._directory, self._manifest.directories)
        except OSError as error:
            await self._fault(f"a directory cannot be made: {error}", self._clock())
            return
        if not self._preparation.needed(model_runs=self._parts.has("model")):
            await self._start()
            return
        self._life.prepare()
        self._prepare_task = asyncio.create_task(self._preparation.run())
        self._prepare_task.add_done_callback(lambda _done: self._wake.set())

    async def _look_at_preparation(self, now: float) -> None:
        task = self._prepare_task
        if task is None or not task.done():
            return
        self._prepare_task = None
        try:
            task.result()
        except CertificateRefusedError as error:
            await self._fault(str(error), now, hopeless=True)
        except (SetupError, OSError) as error:
            await self._fault(str(error), now)
        else:
            self._life.prepared()
            await self._start()

    async def _end_preparation(self) -> None:
        if self._prepare_task is not None:
            self._prepare_task.cancel()
            await asyncio.wait([self._prepare_task])
            self._prepare_task = None

    async def _start(self) -> None:
        """Start whatever is not running."""
        self._cancel_report()
        self._renewed, self._renewal_ends = False, None
        self._started_at = self._clock()
        try:
            if not self._parts.has("model"):
                await self._parts.start_model()
                self._begin_health()
            if not self._parts.has("worker"):
                await self._parts.start_worker()
                self._keep_certificate()
        except ConfigError as error:
            # A port may become free again; any other setting stays as wrong as it is.
            passing = error.field.endswith("_port")
            await self._fault(str(error), self._clock(), hopeless=not passing)
        except (OSError, ValueError) as error:
            await self._fault(f"cannot start: {error}", self._clock())

    def _keep_certificate(self) -> None:
        if not self._keeping:
            self._keeping = True
            self._beside(self._certificates.keep(self._certificate_renewed))

    def _certificate_renewed(self) -> None:
        self._renewed = True
        self._wake.set()

    def _begin_health(self) -> None:
        self._illness = ""
        self._judge = HealthJudge(
            refusals=self._policy.unhealthy_checks, hang_after=self._policy.hang_after
        )
        if url := self._parts.health_url:
            self._health_task = asyncio.create_task(self._check_health(url))
        else:
            self._judge.observe("ok", self._clock())

    async def _check_health(self, url: str) -> None:
        while not self._illness:
            seen = await probe.check_health(url, self._policy.health_timeout)
            before = self._judge.was_healthy
            if seen != "ok" and before and await self._while_busy():
                continue
            if problem := self._judge.observe(seen, self._clock()):
                self._illness = f"the model server {problem}"
            healthy = self._judge.was_healthy
            if self._illness or healthy is not before:
                self._wake.set()
            await asyncio.sleep(self._policy.health_interval if healthy else BOOT_CHECK_INTERVAL)

    async def _while_busy(self) -> bool:
        """Wait for as long as the worker says that the model server is busy; whether it did.

        The worker sees the answers, and has a check of its own open. More of them would fill the
        queue of connections of a server that takes one at a time.
        """
        was = False
        while await probe.says_busy(self._parts.local_url):
            if not was:
                _log.info("the model server answers no health check, but it is at work")
            was = True
            self._judge.observe("busy", self._clock())
            await asyncio.sleep(self._policy.health_interval)
        return was

    async def _follow_worker(self) -> None:
        """Tell what a worker is at that is not ready: measuring the capacity may take minutes."""
        while True:
            told = await probe.worker_tells(self._parts.local_url)
            doing = self._parts.without_secrets(probe.in_words(told))
            if doing != self._worker_doing:
                self._worker_doing = doing
                if doing:
                    _log.info(doing)
                elif told.get("state") == "ready":
                    _log.info("the worker is ready", perf=str(told.get("perf", ""))[:100])
                self._wake.set()
            await asyncio.sleep(WORKER_LOOK)

    async def _end_health(self) -> None:
        self._illness = ""
        if self._health_task is not None:
            self._health_task.cancel()
            await asyncio.wait([self._health_task])
            self._health_task = None

    # -- faults --------------------------------------------------------------------------------

    async def _fault(self, reason: str, now: float, *, hopeless: bool = False) -> None:
        """The model server's fault, or one of the whole instance: all children go."""
        await self._end_health()
        await self._end_preparation()
        await self._parts.end("worker", FORSAKEN_GRACE)
        await self._parts.clear("model")
        self._after_fault(reason, now, hopeless=hopeless)

    async def _worker_fault(self, now: float) -> None:
        reason = self._parts.blame("worker")
        await self._parts.clear("worker")
        self._after_fault(reason, now)
        if self._life.phase is Phase.FAILED:
            await self._end_health()
            await self._parts.end("model", self._policy.stop_grace)

    def _after_fault(self, reason: str, now: float, *, hopeless: bool = False) -> None:
        self._renewal_ends = None
        self._life.fault(self._parts.without_secrets(reason), now, hopeless=hopeless)
        self._begin_report()
        failed = self._life.phase is Phase.FAILED
        if failed:
            self._failed_at = now
        _log.error(
            "gave up" if failed else "fault, will start again",
            error=self._life.error,
            failures=self._life.failures,
            again_in=0 if failed else round(max(0.0, self._life.retry_at - now), 2),
        )

    def _begin_report(self) -> None:
        """Speak for the worker while it does not run: "not me" at once, the error when failed."""
        self._cancel_report()
        manifest, failed = self._manifest, self._life.phase is Phase.FAILED
        error = self._life.error if failed else None
        status = probe.trouble(manifest.worker_id, manifest.mtoken, self._parts.public_url, error)
        interval = self._policy.report_interval
        told = self._failure_was_told if failed else None
        self._report_task = asyncio.create_task(
            probe.report_until_cancelled(manifest.report_addr, status, interval, told)
        )

    def _failure_was_told(self) -> None:
        if not self._told_failure:
            self._told_failure = True
            self._wake.set()

    async def _listen_for_the_control_plane(self) -> None:
        """Keep a note of why it cannot be reached: the worker that would tell it cannot either."""
        while True:
            unheard = await probe.unreachable(self._manifest.report_addr)
            if unheard != self._unheard:
                self._unheard = unheard
                self._wake.set()
            await asyncio.sleep(REACHED_EVERY if not unheard else UNREACHED_EVERY)

    def _cancel_report(self) -> None:
        if self._report_task is not None:
            self._report_task.cancel()
            self._report_task = None

    # -- stopping ------------------------------------------------------------------------------

    async def _drain(self) -> None:
        """Worker first, so that it can finish what runs; then the model server."""
        self._life.stop()
        self._cancel_report()
        await self._end_health()
        await self._end_preparation()
        self._save()
        # The worker ends by itself after drain_grace.
        await self._parts.end("worker", self._policy.drain_grace + GOODBYE)
        await self._parts.end("model", self._policy.stop_grace)

    async def _end(self) -> None:
        """Leave nothing behind, whatever happened."""
        self._cancel_report()
        await self._end_health()
        await self._end_preparation()
        for task in self._background:
            task.cancel()
        await self._parts.clear_all()
        await self._guard.stop()
        self._reaper.collect()
        self._parts.close()
        self._life.ended()
        self._save()
        _log.info("stopped")

    # -- what people see -----------------------------------------------------------------------

    def _tell_dropped(self) -> None:
        dropped = self._parts.dropped
        if dropped and not self._told_dropped:
            _log.error("a log cannot be written, its lines are dropped", bytes=dropped)
        self._told_dropped = dropped

    def _descendants(self) -> Descendants | None:
        """What another launcher looks for if this process and the guardian end at once."""
        if self._place is None:
            return None
        return Descendants(place=self._place, processes=self._parts.seen()[:MAX_DESCENDANTS])

    def _save(self) -> None:
        former = self._written
        if former is None or former.phase is not self._life.phase:
            self._since = self._wall()
        state = InstanceState(
            phase=self._life.phase,
            launcher_pid=self._identity.pid,
            launcher_created=self._identity.created,
            guardian_pid=next(iter(self._guard.pids()), 0),
            model_pid=self._parts.pid("model"),
            worker_pid=self._parts.pid("worker"),
            model_port=self._parts.model_port,
            worker_port=self._parts.worker_port,
            doing=self._parts.without_secrets(self._preparation.doing) or self._worker_doing,
            restarts=self._life.restarts,
            failures=self._life.failures,
            error=self._life.error,
            unheard=self._unheard,
            log_dropped=self._told_dropped,
            since=self._since,
            descendants=self._descendants(),
            machine=self._sampler.last,
        )
        if state == former:
            return
        try:
            write_state(self._directory, state)
        except OSError as error:
            if not self._write_failed:
                _log.error("cannot write the state", error=error.strerror)
            self._write_failed = True
        else:
            self._write_failed = False
            self._written = state
