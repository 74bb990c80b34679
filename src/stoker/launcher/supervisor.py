"""The launcher's loop: start, watch, start again, drain.

What happens next is decided in `stoker.launcher.lifecycle`; this file does it.

* A model server that ended or is ill is started again together with its worker: what the worker
  had in flight is lost with it, and a new boot makes the tickets for it void.
* A worker that ended is started again alone: the model stays loaded.
* A guardian that ended is started again at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from stoker.errors import ConfigError
from stoker.launcher import environment, guardian, probe
from stoker.launcher.backoff import Backoff
from stoker.launcher.files import is_locked
from stoker.launcher.guard import Guard
from stoker.launcher.lifecycle import Lifecycle, Phase
from stoker.launcher.logfiles import RotatingLog
from stoker.launcher.manifest import InstanceManifest, tag
from stoker.launcher.process import Child
from stoker.launcher.reap import adopt_orphans, reap_orphans
from stoker.launcher.state import InstanceState, myself, read_state, write_state
from stoker.launcher.watch import HealthJudge, OwnerWatch
from stoker.logs import get_logger, redact

_log = get_logger("launcher")

BOOT_CHECK_INTERVAL = 0.1
"""Seconds between health checks until the first good one."""

OWNER_CHECK_INTERVAL = 5.0
REAP_INTERVAL = 5.0
MAX_TICK = 1.0
"""Longest sleep of the loop, seconds; whatever happens to a child wakes it at once."""

ERROR_LINES = 8
MAX_ERROR = 2000
"""Characters of an error in the state and in reports."""


class Supervisor:
    """Brings one instance up and keeps it up until it is told to stop."""

    def __init__(
        self,
        directory: Path,
        manifest: InstanceManifest,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        policy = manifest.supervision
        self._directory = directory
        self._manifest = manifest
        self._policy = policy
        self._clock = clock
        self._wall = wall
        self._tag = tag(manifest.instance_id, directory)
        backoff = Backoff(
            initial=policy.restart_delay,
            maximum=policy.restart_delay_max,
            healthy_after=policy.healthy_after,
        )
        self._life = Lifecycle(backoff, max_restarts=manifest.max_restarts)
        self._model_log = RotatingLog(directory / environment.MODEL_LOG, max_bytes=policy.log_bytes)
        self._worker_log = RotatingLog(
            directory / environment.WORKER_LOG, max_bytes=policy.log_bytes
        )
        self._model: Child | None = None
        self._worker: Child | None = None
        self._guard = Guard(manifest, directory, self._poke)
        self._judge = HealthJudge()
        self._illness = ""
        self._started_at = 0.0
        self._health_task: asyncio.Task[None] | None = None
        self._report_task: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()
        self._stop = asyncio.Event()
        self._hurry = asyncio.Event()
        self._identity = myself()
        self._model_port = 0
        self._worker_port = 0
        self._http_port = 0
        self._since = wall()
        self._written: InstanceState | None = None
        self._write_failed = False
        self._told_dropped = 0

    # -- the loop ------------------------------------------------------------------------------

    async def run(self) -> int:
        """Supervise until told to stop; returns the exit code."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            # nohup has SIGHUP ignored, and it stays so; otherwise a closed terminal means "stop".
            if signal.getsignal(number) is not signal.SIG_IGN:
                loop.add_signal_handler(number, self._told_to_stop, number.name)
        adopt_orphans()
        if former := read_state(self._directory):
            self._model_port, self._worker_port = former.model_port, former.worker_port
        if left := await asyncio.to_thread(guardian.sweep, self._tag):
            _log.warning("killed what an earlier launcher left behind", processes=left)
        owner = OwnerWatch(self._manifest.owner_timeout, self._clock())
        next_owner = next_reap = self._clock()
        try:
            await self._guard.start()
            await self._start()
            while not self._stop.is_set():
                now = self._clock()
                await self._guard.keep(now)
                await self._step(now)
                if now >= next_owner:
                    next_owner = now + min(OWNER_CHECK_INTERVAL, self._manifest.owner_timeout / 4)
                    if self._ownerless(owner, now):
                        _log.warning("no control plane wants this instance any more: stopping")
                        break
                if now >= next_reap:
                    next_reap = now + REAP_INTERVAL
                    reap_orphans(self._own_pids())
                self._save()
                await self._sleep()
            await self._drain()
        finally:
            await self._end()
        return 0

    async def _sleep(self) -> None:
        delay = MAX_TICK
        if self._life.phase is Phase.BACKOFF:
            delay = min(delay, max(0.0, self._life.retry_at - self._clock()))
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._wake.wait(), delay)
        self._wake.clear()

    def _poke(self) -> None:
        self._wake.set()

    def _told_to_stop(self, name: str) -> None:
        if self._stop.is_set():
            _log.warning("told to stop again: no more waiting", signal=name)
            self._hurry.set()
        else:
            _log.info("told to stop: draining", signal=name)
            self._stop.set()
        self._wake.set()

    def _ownerless(self, owner: OwnerWatch, now: float) -> bool:
        path = self._manifest.owner_lock
        return path is not None and owner.observe(is_locked(Path(path)), now)

    async def _step(self, now: float) -> None:
        """Look at everything once, and do what follows from it."""
        if self._life.phase in (Phase.STARTING, Phase.RUNNING):
            if self._model is not None and not self._model.alive:
                await self._fault(self._blame(self._model, self._model_log), now)
            elif self._illness:
                await self._fault(self._illness, now)
            elif self._worker is not None and not self._worker.alive:
                await self._worker_fault(now)
            elif self._judge.was_healthy:
                if self._life.phase is Phase.STARTING:
                    self._model_log.booted()
                    _log.info("running", seconds=round(now - self._started_at, 2))
                self._life.healthy(now)
            elif now - self._started_at > self._policy.start_timeout:
                waited = f"{self._policy.start_timeout:g} s"
                await self._fault(f"the model server was not healthy within {waited}", now)
        elif self._life.phase is Phase.BACKOFF:
            if self._model is not None and not self._model.alive:
                await self._fault(self._blame(self._model, self._model_log), now)
            elif self._life.retry(now):
                await self._start()
        self._tell_dropped()

    # -- starting ------------------------------------------------------------------------------

    async def _start(self) -> None:
        """Start whatever is not running."""
        self._cancel_report()
        self._started_at = self._clock()
        try:
            if self._model is None:
                await self._start_model()
            if self._worker is None:
                await self._start_worker()
        except ConfigError as error:
            # A port may become free again; any other setting stays as wrong as it is.
            passing = error.field.endswith("_port")
            await self._fault(str(error), self._clock(), hopeless=not passing)
        except (OSError, ValueError) as error:
            await self._fault(f"cannot start: {error}", self._clock())

    async def _start_model(self) -> None:
        manifest = self._manifest
        self._model_port = environment.choose_port(
            environment.MODEL_HOST, manifest.model_port, self._model_port, name="model_port"
        )
        argv = environment.model_command(manifest, self._directory, self._model_port)
        path = environment.health_path(manifest)
        env = environment.model_environment(manifest, self._directory, self._model_port, os.environ)
        self._model_log.begin()
        self._model = await Child.start(
            "the model server",
            argv,
            env,
            directory=self._directory,
            log=self._model_log,
            on_exit=self._poke,
        )
        self._guard.watch(self._model.root)
        self._illness = ""
        self._judge = HealthJudge(
            refusals=self._policy.unhealthy_checks, hang_after=self._policy.hang_after
        )
        _log.info("model server started", pid=self._model.pid, port=self._model_port)
        if path:
            url = f"http://{environment.MODEL_HOST}:{self._model_port}{path}"
            self._health_task = asyncio.create_task(self._watch_health(url))
        else:
            self._judge.observe("ok", self._clock())

    async def _start_worker(self) -> None:
        manifest = self._manifest
        self._worker_port = environment.choose_port(
            manifest.host, manifest.worker_port, self._worker_port, name="worker_port"
        )
        self._http_port = environment.choose_port("127.0.0.1", 0, self._http_port, name="host")
        self._model_log.replay()
        self._worker_log.begin()
        env = environment.worker_environment(
            manifest,
            self._directory,
            os.environ,
            worker_port=self._worker_port,
            http_port=self._http_port,
            model_port=self._model_port,
        )
        self._worker = await Child.start(
            "the worker",
            environment.worker_command(manifest),
            env,
            directory=self._directory,
            log=self._worker_log,
            on_exit=self._poke,
        )
        self._guard.watch(self._worker.root)
        _log.info("worker started", pid=self._worker.pid, port=self._worker_port)

    async def _watch_health(self, url: str) -> None:
        while not self._illness:
            seen = await probe.check_health(url, self._policy.health_timeout)
            first = not self._judge.was_healthy
            if problem := self._judge.observe(seen, self._clock()):
                self._illness = f"the model server {problem}"
            if self._illness or (first and self._judge.was_healthy):
                self._wake.set()
            healthy = self._judge.was_healthy
            await asyncio.sleep(self._policy.health_interval if healthy else BOOT_CHECK_INTERVAL)

    # -- faults --------------------------------------------------------------------------------

    async def _fault(self, reason: str, now: float, *, hopeless: bool = False) -> None:
        """The model server's fault, or one of the whole instance: all children go."""
        await self._stop_health()
        if self._worker is not None:
            # Without the model server there is nothing to wait for.
            self._worker.send(signal.SIGTERM)
            await self._worker.wait(1.0)
        await self._clear("worker")
        await self._clear("model")
        self._after_fault(reason, now, hopeless=hopeless)

    async def _worker_fault(self, now: float) -> None:
        assert self._worker is not None
        reason = self._blame(self._worker, self._worker_log)
        await self._clear("worker")
        self._after_fault(reason, now)
        if self._life.phase is Phase.FAILED:
            await self._stop_model(self._policy.stop_grace)

    def _after_fault(self, reason: str, now: float, *, hopeless: bool = False) -> None:
        error = redact(reason)
        for secret in (self._manifest.mtoken, *self._secrets()):
            error = error.replace(secret, "***")
        self._life.fault(error[:MAX_ERROR], now, hopeless=hopeless)
        self._begin_report()
        failed = self._life.phase is Phase.FAILED
        _log.error(
            "gave up" if failed else "fault, will start again",
            error=self._life.error,
            failures=self._life.failures,
            again_in=0 if failed else round(max(0.0, self._life.retry_at - now), 2),
        )

    def _secrets(self) -> list[str]:
        return [value for value in self._manifest.env.values() if len(value) >= 8]

    def _blame(self, child: Child, log: RotatingLog) -> str:
        ending = child.ending()
        lines = [line for line in log.tail() if line.strip()][-ERROR_LINES:]
        return "\n".join([f"{ending}; its last lines:", *lines]) if lines else ending

    def _begin_report(self) -> None:
        """Speak for the worker while it does not run: "not me" at once, the error when failed."""
        self._cancel_report()
        manifest, failed = self._manifest, self._life.phase is Phase.FAILED
        scheme = "https" if manifest.use_ssl else "http"
        url = f"{scheme}://{manifest.public_host}:{manifest.public_port or self._worker_port}"
        error = self._life.error if failed else None
        status = probe.trouble(manifest.worker_id, manifest.mtoken, url, error)
        self._report_task = asyncio.create_task(
            probe.report_until_cancelled(manifest.report_addr, status, self._policy.report_interval)
        )

    def _cancel_report(self) -> None:
        if self._report_task is not None:
            self._report_task.cancel()
            self._report_task = None

    # -- stopping ------------------------------------------------------------------------------

    async def _drain(self) -> None:
        """Worker first, so that it can finish what runs; then the model server."""
        self._life.stop()
        self._cancel_report()
        await self._stop_health()
        self._save()
        if self._worker is not None:
            self._worker.send(signal.SIGTERM)
            # The worker itself ends after drain_grace; a little more lets it say goodbye.
            await self._wait(self._worker, self._policy.drain_grace + 5.0)
            await self._clear("worker")
        await self._stop_model(self._policy.stop_grace)

    async def _stop_model(self, grace: float) -> None:
        await self._stop_health()
        if self._model is not None:
            # All of its group: a shell script in front would not pass the signal on.
            self._model.send(signal.SIGTERM, group=True)
            await self._wait(self._model, grace)
            await self._clear("model")

    async def _wait(self, child: Child, timeout: float) -> None:
        """Wait for a child's end, at most `timeout` seconds, and not once told to hurry."""
        waits = [
            asyncio.ensure_future(child.wait(timeout)),
            asyncio.ensure_future(self._hurry.wait()),
        ]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()

    async def _clear(self, role: str) -> None:
        """Kill what is left of one part of the instance, and forget it."""
        child = self._worker if role == "worker" else self._model
        if child is None:
            return
        await asyncio.to_thread(guardian.sweep, self._tag, [child.root], role=role)
        await child.wait(2.0)
        child.close()
        self._guard.forget(child.pid)
        if role == "worker":
            self._worker = None
        else:
            self._model = None

    async def _stop_health(self) -> None:
        if self._health_task is not None:
            self._health_task.cancel()
            await asyncio.wait([self._health_task])
            self._health_task = None

    async def _end(self) -> None:
        """Leave nothing behind, whatever happened."""
        self._cancel_report()
        await self._clear("worker")
        await self._clear("model")
        await asyncio.to_thread(guardian.sweep, self._tag, spare=self._guard.pids())
        await self._guard.stop()
        reap_orphans(set())
        self._model_log.close()
        self._worker_log.close()
        self._life.ended()
        self._save()
        _log.info("stopped")

    # -- state ---------------------------------------------------------------------------------

    def _own_pids(self) -> set[int]:
        children = [c.pid for c in (self._model, self._worker) if c is not None]
        return {*children, *self._guard.pids()}

    def _tell_dropped(self) -> None:
        dropped = self._model_log.dropped + self._worker_log.dropped
        if dropped and not self._told_dropped:
            _log.error("a log cannot be written, its lines are dropped", bytes=dropped)
        self._told_dropped = dropped

    def _save(self) -> None:
        former = self._written
        if former is None or former.phase is not self._life.phase:
            self._since = self._wall()
        state = InstanceState(
            phase=self._life.phase,
            launcher_pid=self._identity.pid,
            launcher_created=self._identity.created,
            guardian_pid=next(iter(self._guard.pids()), 0),
            model_pid=self._model.pid if self._model else 0,
            worker_pid=self._worker.pid if self._worker else 0,
            model_port=self._model_port,
            worker_port=self._worker_port,
            restarts=self._life.restarts,
            failures=self._life.failures,
            error=self._life.error,
            log_dropped=self._told_dropped,
            since=self._since,
        )
        if state == former:
            return
        try:
            write_state(self._directory, state)
        except OSError as error:
            if not self._write_failed:
                print(f"launcher: cannot write state.json: {error.strerror}", file=sys.stderr)
            self._write_failed = True
            return
        self._write_failed = False
        self._written = state
