"""Writes down what changed in the fleet, so that a crash at any line loses nothing that counts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from stoker.autoscaler.fleet import Worker
from stoker.autoscaler.plane import Plane
from stoker.autoscaler.states import ACTIVE
from stoker.errors import NotFoundError
from stoker.logs import get_logger

log = get_logger("reconciler")

KEEP_EVERY = 10.0
"""Seconds between two writings of what workers taught."""

FORECASTS_EVERY = 600.0
"""Seconds between two writings of what was learnt of an endpoint's load: some 20 KB, and endpoints
take turns."""


class Rows:
    """The rows of workers and of what they taught."""

    def __init__(self, plane: Plane) -> None:
        self._plane = plane
        self._kept_at: float | None = None
        self._forecast_due: dict[int, float] = {}
        """When each endpoint's is to be written."""
        self.writes = 0
        """How many succeeded so far."""
        self._gone: dict[int, Callable[[], None]] = {}
        """Workers whose rows are to be deleted, and what is done then."""

    async def write(self) -> None:
        """Write the rows of all workers that changed.

        Raises:
            StoreError: the store cannot be written; what is left is written next time.
        """
        plane = self._plane
        for worker_id in list(plane.fleet.dirty):
            worker = plane.fleet.workers.get(worker_id)
            if worker is None:
                plane.fleet.dirty.discard(worker_id)
            elif worker.written:  # otherwise its first row is on its way
                await self.write_one(worker)
        for worker_id, then in list(self._gone.items()):
            try:
                await plane.store.delete_worker(worker_id)
            except NotFoundError:
                log.debug("the worker's row was gone already", worker=worker_id)
            self.writes += 1
            self._gone.pop(worker_id, None)
            then()

    async def write_one(self, worker: Worker) -> None:
        """Write the row of one worker.

        Raises:
            StoreError: the store cannot be written; it is tried again.
        """
        plane = self._plane
        # Taken off before it is written: what changes meanwhile puts it on again.
        plane.fleet.dirty.discard(worker.id)
        ready_at = worker.record.ready_at
        if worker.state in ACTIVE and ready_at is None:
            ready_at = plane.wall(worker.state_since)
        fields: dict[str, Any] = {
            "state": worker.state.value,
            "desired": worker.goal,
            "instance_id": worker.instance_id,
            "perf": worker.perf,
            "url": worker.url,
            "ready_at": ready_at,
            "error": worker.error[:500],
            "revision": worker.revision,
            "boot_id": worker.boot_id,
            "state_since": plane.wall(worker.state_since),
            "state_seconds": worker.state_seconds,
        }
        try:
            worker.record = await plane.store.update_worker(worker.id, **fields)
            self.writes += 1
        except NotFoundError:
            log.debug("the worker was forgotten meanwhile", worker=worker.id)
        except BaseException:
            plane.fleet.dirty.add(worker.id)
            raise

    def forget(self, worker_id: int, then: Callable[[], None] = lambda: None) -> None:
        """Have a row deleted; `then` is called when it is. Tried again until that works."""
        self._gone.setdefault(worker_id, then)

    async def write_all(self, now: float, *, at_once: bool = False) -> None:
        """Write the rows, and what was learnt where that is due.

        Args:
            now: on the control plane's own clock.
            at_once: write what was learnt in any case.

        Raises:
            StoreError: the store cannot be written.
        """
        await self.write()
        await self._keep_experience(now, at_once)
        await self._keep_forecasts(now, at_once)

    async def _keep_experience(self, now: float, at_once: bool) -> None:
        plane = self._plane
        experience = plane.experience
        due = self._kept_at is None or now - self._kept_at >= KEEP_EVERY
        if not experience.dirty or not (due or at_once):
            return
        self._kept_at = now
        groups = [plane.fleet.groups[i] for i in experience.dirty if i in plane.fleet.groups]
        for group_id in experience.dirty - plane.fleet.groups.keys():
            experience.forget(group_id)  # its last workers taught something when it was gone
        taken = set(experience.dirty)
        await plane.store.keep_experience({g.id: experience.written(g, plane.wall) for g in groups})
        experience.dirty -= taken

    async def _keep_forecasts(self, now: float, at_once: bool) -> None:
        plane, due = self._plane, self._forecast_due
        for gone in due.keys() - plane.forecasters.keys():
            del due[gone]
        figures = {}
        for endpoint_id, forecaster in plane.forecasters.items():
            # Spread over the time, by chance of their numbers.
            turn = due.setdefault(endpoint_id, now + FORECASTS_EVERY * (endpoint_id % 64 + 1) / 64)
            if turn <= now or at_once:
                figures[endpoint_id] = forecaster.written(plane.day_time(now))
        await plane.store.keep_forecasts(figures)
        due.update(dict.fromkeys(figures, now + FORECASTS_EVERY))
