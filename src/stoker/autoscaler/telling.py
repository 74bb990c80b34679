"""What the reconciler says in the endpoints' logs beside its actions; bounded, whatever happens.

``info0``: why something needed is not done; that a provider or the store fails. ``info1``: that a
machine is taken away. ``trace``: what a provider's list says of a worker, when that changes.
``debug``: need and capacity in one line, when they changed, each `SUMMARY_EVERY` at most.
"""

from __future__ import annotations

from stoker.autoscaler.fleet import Worker
from stoker.autoscaler.plane import Plane
from stoker.autoscaler.planning import Plan
from stoker.providers import Instance

SUMMARY_EVERY = 10.0
"""Seconds between two summaries of one endpoint: under load it changes each second."""

COMPLAIN_EVERY = 60.0
"""Seconds between two complaints about one thing whose words differ."""


class Telling:
    """Remembers what was said, so that it is not said each second."""

    def __init__(self, plane: Plane) -> None:
        self._plane = plane
        self._notes: dict[int, tuple[str, ...]] = {}
        self._summaries: dict[int, tuple[str, float]] = {}
        self._complaints: dict[str, tuple[str, float]] = {}

    def plan(self, endpoint_id: int, decided: Plan, now: float) -> None:
        """Say why something needed is not done, and how things stand, when it changes."""
        note = self._plane.journal.note
        if decided.notes != self._notes.get(endpoint_id, ()):
            self._notes[endpoint_id] = decided.notes
            for text in decided.notes:
                note(endpoint_id, "info0", text)
        told, at = self._summaries.get(endpoint_id, ("", float("-inf")))
        if decided.summary != told and now - at >= SUMMARY_EVERY:
            self._summaries[endpoint_id] = (decided.summary, now)
            note(endpoint_id, "debug", decided.summary)

    def forget(self, endpoint_id: int) -> None:
        """The endpoint is gone."""
        self._notes.pop(endpoint_id, None)
        self._summaries.pop(endpoint_id, None)

    def complain(self, who: str, problem: str, now: float) -> None:
        """Say once, not every second, that a provider or the store fails."""
        told, at = self._complaints.get(who, ("", float("-inf")))
        if told == problem or now - at < COMPLAIN_EVERY:
            return
        self._complaints[who] = (problem, now)
        for endpoint in self._plane.fleet.endpoints.values():
            self._plane.journal.note(endpoint.id, "info0", f"{who}: {problem}")

    def well(self, who: str) -> None:
        """It works again."""
        self._complaints.pop(who, None)

    def listed(self, worker: Worker, instance: Instance) -> None:
        """A provider's list says something of a worker; call it before `census.believed`."""
        if worker.listed == instance.status:
            return
        self._plane.journal.note(
            worker.endpoint_id,
            "trace",
            f"provider {worker.record.provider}: worker {worker.id} is {instance.status}",
            group_id=worker.record.workergroup_id,
        )

    def unheard(self, worker: Worker) -> None:
        """An instance runs, and its provider says why it cannot be of use."""
        self._plane.journal.note(
            worker.endpoint_id,
            "info1",
            f"worker {worker.id}: {worker.error}",
            group_id=worker.record.workergroup_id,
        )

    def leaves(self, worker: Worker, seconds: float) -> None:
        """A provider gave notice."""
        self._plane.journal.note(
            worker.endpoint_id,
            "info1",
            f"worker {worker.id}: its provider takes it away in {max(0.0, seconds):.0f} s",
            group_id=worker.record.workergroup_id,
        )
