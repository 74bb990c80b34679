"""Instances that are no worker's: found, reported, destroyed.

Somebody pays for them. They come from a provider that made one twice, from an order whose answer
was lost, or from a row that was lost. What is listed once may be a mistake of the list, so a stray
is one that two lists in a row name.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

from stoker.autoscaler.calls import Calls
from stoker.autoscaler.fleet import Worker
from stoker.autoscaler.plane import Plane
from stoker.logs import get_logger
from stoker.providers import Instance

log = get_logger("reconciler")

REPEAT_AFTER = 5.0
"""Seconds after which a stray that is still there is destroyed again."""

MAX_FORMER = 10_000
"""Workers that were forgotten whose endpoint is remembered."""


class Strays:
    """What is known of them, by provider."""

    def __init__(self, plane: Plane, calls: Calls) -> None:
        self._plane = plane
        self._calls = calls
        self._seen: dict[str, dict[str, float | None]] = {}
        self._former: OrderedDict[int, int] = OrderedDict()
        self.found: dict[str, int] = {}
        """Provider -> how many there were."""

    def remember(self, worker: Worker) -> None:
        """A worker is forgotten; should something of it turn up, its endpoint hears of that."""
        self._former[worker.id] = worker.endpoint_id
        while len(self._former) > MAX_FORMER:
            self._former.popitem(last=False)

    def seen(self, provider: str, strays: Iterable[Instance], now: float) -> None:
        """A list named these; what an earlier one named and this one does not is forgotten."""
        before = self._seen.get(provider, {})
        after: dict[str, float | None] = {}
        for stray in strays:
            after[stray.id] = before.get(stray.id)
            key = (provider, stray.id)
            if stray.id not in before or self._calls.busy(key) or self._calls.busy(stray.worker_id):
                continue
            asked = before[stray.id]
            if asked is None:
                self._tell(provider, stray)
            elif now - asked < REPEAT_AFTER:
                continue
            after[stray.id] = now
            self._calls.stray(key, self._plane.providers[provider].destroy(stray.id))
        self._seen[provider] = after

    def _tell(self, provider: str, stray: Instance) -> None:
        self.found[provider] = self.found.get(provider, 0) + 1
        text = f"stray instance {stray.id} at provider {provider}"
        text += f" (it names worker {stray.worker_id}) is no worker's: it is destroyed"
        log.warning(text)
        endpoint_id = self._endpoint_of(stray)
        if endpoint_id is not None:
            self._plane.journal.note(endpoint_id, "info0", text)

    def _endpoint_of(self, stray: Instance) -> int | None:
        fleet = self._plane.fleet
        worker = fleet.workers.get(stray.worker_id)
        if worker is not None:
            return worker.endpoint_id
        former = self._former.get(stray.worker_id)
        if former is not None and former in fleet.endpoints:
            return former
        named = fleet.by_name.get(stray.endpoint)
        return named.id if named is not None else None
