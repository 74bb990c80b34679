"""Why a client waits: what keeps workers from coming, in a line that any client may read.

The bearer of one endpoint's key reads it, so it names no other endpoint, no secret and no folder of
a machine.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from stoker.autoscaler.experience import Failure
from stoker.autoscaler.plane import Plane
from stoker.autoscaler.planning import Plan
from stoker.autoscaler.states import LOADING_STATES, WorkerState
from stoker.logs import printable, redact
from stoker.providers import Offer

MAX_REASON = 400
"""Characters."""

_FOLDER = re.compile(r"(?<![\w:/.~…])~?/(?:[^\s/'\",:;()<>]+/)+(?=[^\s/])")
_TOKEN = re.compile(r"\b(?:hf|stk|ste|sk|ghp|gho|xox[a-z])[-_][A-Za-z0-9_-]{12,}")

_NOT_SCALED = {
    "stopped": "the endpoint is stopped",
    "suspended": "the endpoint is suspended: its workers stay as they are",
}


def public(text: str) -> str:
    """A text in one line, without secrets and folders: `/srv/models/a.gguf` becomes `…/a.gguf`."""
    line = " ".join(printable(redact(text)).split())
    line = _FOLDER.sub("…/", _TOKEN.sub("***", line))
    return line if len(line) <= MAX_REASON else line[: MAX_REASON - 1] + "…"


def waiting_reason(plane: Plane, endpoint_id: int, decided: Plan | None) -> str:
    """Why an endpoint's requests wait, as far as that is known; empty: workers are busy or coming.

    Args:
        plane: the control plane.
        endpoint_id: whose.
        decided: its last plan; None: there was no round yet.
    """
    endpoint = plane.fleet.endpoints[endpoint_id]
    found = []
    if text := _NOT_SCALED.get(endpoint.parameters.endpoint_state):
        found.append(text)
    if decided is not None:
        found += decided.refusals
    last = last_failure(plane, endpoint_id)
    if last is not None:
        found.append(f"worker {last.worker_id} failed: {last.text}")
    # One that comes up, and says what it stumbles over: it cannot reach its control plane, say.
    coming = [
        worker
        for worker in plane.fleet.of_endpoint(endpoint_id)
        if worker.state in LOADING_STATES and worker.error
    ]
    if last is None and coming:
        newest = max(coming, key=lambda worker: worker.state_since)
        found.append(f"worker {newest.id}: {newest.error}")
    return public("; ".join(found))


def last_failure(plane: Plane, endpoint_id: int) -> Failure | None:
    """The last failure of an endpoint's workers that nothing has answered yet."""
    failures = [
        failure
        for group in plane.fleet.groups_of(endpoint_id)
        if (failure := plane.experience.last_failure(group.id)) is not None
    ]
    # What is remembered of groups has no attached workers, and nothing from before a restart.
    failures += [
        Failure(worker.id, worker.error, worker.state_since)
        for worker in plane.fleet.of_endpoint(endpoint_id)
        if worker.state is WorkerState.ERROR
        and worker.error
        and (worker.record.attached or worker.restored)
    ]
    return max(failures, key=lambda failure: failure.at, default=None)


def room_of(
    plane: Plane,
    endpoint_id: int,
    offers: Mapping[str, Sequence[Offer]],
    problems: Mapping[str, str],
) -> str:
    """Why no provider has an offer with room: which limit binds, and who holds the room.

    Other endpoints are counted and not named, because whoever has this endpoint's key reads it.

    Args:
        plane: the control plane.
        endpoint_id: for whom there is no room.
        offers: what each provider listed last.
        problems: of the providers that could not be asked.
    """
    told = []
    for name, listed in offers.items():
        if name == "attached":
            continue  # it never has an offer
        if name in problems:
            told.append(f"provider {name} cannot be asked: {problems[name]}")
            continue
        workers = plane.fleet.of_provider(name)
        mine = sum(worker.endpoint_id == endpoint_id for worker in workers)
        if not listed:
            told.append(f"provider {name} has no offer that fits")
        for offer in listed:
            if offer.capacity is None:
                told.append(f"provider {name} has no room on {offer.hardware}")
                continue
            used = offer.capacity - max(0, offer.available)
            text = (
                f"provider {name}: {offer.limit or 'its limit'} allows {offer.capacity} instances"
            )
            if used > 0:
                others = max(0, used - mine)
                text += f", all in use: {mine} by this endpoint, {others} by others"
            told.append(text)
    return "; ".join(told) or "no provider is enabled"
