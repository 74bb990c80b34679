"""Calls of providers: each in a task of its own, with a limit, and what its end means.

Rules:

* One call at a time about one thing (a worker, a stray): an order never overtakes another.
* An answer is one of three. **Done**; **refused** (`ProviderError`): it was not done; **lost** (the
  limit passed, or something else broke): it may have been done. What is lost is asked again, which
  every call allows, and nothing else is done in its place: to create another worker instead could
  mean to pay for two.
* A refused order is asked again as well, `MAX_REFUSED` times in a row; then the worker has failed.
  A refused creation has failed at once: another offer may do.
* Every call and its answer is in the endpoint's log at the level ``trace``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Hashable
from typing import Any

from stoker.autoscaler.fleet import Worker, words
from stoker.autoscaler.plane import Plane
from stoker.autoscaler.states import Event
from stoker.errors import StokerError
from stoker.logs import get_logger

log = get_logger("reconciler")

CALL_LIMIT = 120.0
"""Seconds that one call of a provider may take."""

MAX_REFUSED = 3
"""Refusals in a row after which a worker has failed."""


class UncertainError(StokerError):
    """An answer from which it cannot be known whether the order was carried out."""


class NotWrittenError(StokerError):
    """The worker's row could not be written, so nothing was asked of the provider."""


class Calls:
    """What is under way at the providers."""

    def __init__(self, plane: Plane) -> None:
        self._plane = plane
        self._tasks: dict[Hashable, asyncio.Task[None]] = {}

    def busy(self, key: Hashable) -> bool:
        """Whether a call about this worker (its id) or thing is under way."""
        return key in self._tasks

    async def idle(self) -> None:
        """Wait until all that are under way have ended."""
        while self._tasks:
            await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    async def close(self) -> None:
        """End what is under way; every call can be repeated after the next start."""
        running = [*self._tasks.values()]
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    def about(
        self,
        worker: Worker,
        verb: str,
        work: Coroutine[Any, Any, Any],
        done: Callable[[Any], None] | None = None,
    ) -> None:
        """Call the provider about a worker; nothing if a call about it is under way.

        Args:
            worker: which.
            verb: what is asked, for the log: ``create``, ``start``, ``stop`` ...
            work: the call.
            done: gets its answer; raises `UncertainError` where that makes no sense.
        """
        plane = self._plane
        if self.busy(worker.id):
            work.close()  # asked again when that one has ended, if it is still wanted
            return

        async def run() -> None:
            began, answer = plane.now(), "done"
            try:
                async with asyncio.timeout(CALL_LIMIT):
                    result = await work
                if done is not None:
                    done(result)
                worker.refused = 0
            except TimeoutError:
                answer = f"no answer within {CALL_LIMIT:.0f} s: it is asked again"
                worker.error = f"{verb}: {answer}"
            except NotWrittenError as error:
                log.debug("not asked for: its row is not written", call=verb, error=str(error))
                return
            except UncertainError as error:
                answer = f"{error}: it is asked again"
                worker.error = f"{verb}: {answer}"
            except StokerError as error:
                answer = f"refused: {error}"
                self._refused(worker, verb, error)
            except Exception as error:
                # Not the provider's word that it was not done.
                answer = f"failed: {type(error).__name__}: it is asked again"
                if worker.error != f"{verb}: {answer}":  # said once
                    log.exception("a provider's call broke", worker=worker.id, call=verb)
                worker.error = f"{verb}: {answer}"
            took = plane.now() - began
            text = f"provider {worker.record.provider}: {verb} worker {worker.id}: {answer}"
            plane.journal.note(
                worker.endpoint_id,
                "trace",
                f"{text} ({took:.2f} s)",
                group_id=worker.record.workergroup_id,
            )

        self._start(worker.id, run())

    def stray(self, key: Hashable, work: Coroutine[Any, Any, Any]) -> None:
        """Call the provider about an instance that is no worker's."""

        async def run() -> None:
            try:
                async with asyncio.timeout(CALL_LIMIT):
                    await work
            except (StokerError, TimeoutError) as error:
                log.warning("a stray cannot be destroyed", error=str(error) or "no answer")
            except Exception:
                log.exception("a provider's call broke", stray=key)

        self._start(key, run())

    def _refused(self, worker: Worker, verb: str, error: StokerError) -> None:
        plane = self._plane
        worker.refused += 1
        worker.error = words(str(error))
        if verb == "create" or worker.refused >= MAX_REFUSED:
            worker.refused = 0
            if plane.fleet.workers.get(worker.id) is worker:
                plane.changed_state(worker, Event.PROVIDER_FAILED, plane.now())

    def _start(self, key: Hashable, work: Coroutine[Any, Any, None]) -> None:
        async def run() -> None:
            try:
                await work
            finally:
                self._tasks.pop(key, None)
                self._plane.wake()

        self._tasks[key] = asyncio.get_running_loop().create_task(run())
