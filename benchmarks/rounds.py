"""CPU time of a round of reconciliation in which nothing changes, but for the plan itself.

``python -m benchmarks.rounds [--endpoints N] [--workers M] [--json]``: the provider's list is
compared with the books, and a snapshot is made for each endpoint.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
import time
from pathlib import Path
from typing import cast

from stoker import logs
from stoker.autoscaler.controlplane import ControlPlane
from stoker.autoscaler.fleet import Endpoint
from stoker.autoscaler.identity import Identity
from stoker.autoscaler.planning import EndpointSnapshot, Plan
from stoker.autoscaler.states import WorkerState
from stoker.providers import Instance, Offer, Provider
from stoker.store import EndpointRecord, Store, WorkergroupRecord, WorkerRecord
from stoker.wire import EndpointParameters


class Listing:
    """A provider that lists what it is told to."""

    name = "listing"

    def __init__(self) -> None:
        self.instances: list[Instance] = []

    async def offers(self, search_params: str = "") -> list[Offer]:
        """One, of which there are ten."""
        return [Offer("offer", self.name, "machine", 1.0, 10)]

    async def list(self) -> list[Instance]:
        """All of them."""
        return self.instances


def nothing(_snapshot: EndpointSnapshot, _now: float) -> Plan:
    """A plan that costs nothing."""
    return Plan()


def fill(plane: ControlPlane, provider: Listing, endpoints: int, workers: int) -> None:
    """Put ready workers into the books, and their instances into the list."""
    parameters = EndpointParameters()
    plane.fleet.replace_endpoints(
        [
            Endpoint(
                EndpointRecord(
                    id=number,
                    endpoint_name=f"e{number}",
                    parameters=parameters,
                    key_nonce="",
                    created_at=0.0,
                ),
                "",
            )
            for number in range(1, endpoints + 1)
        ],
        [
            WorkergroupRecord(
                id=number, endpoint_id=number, template_hash="x", backend="x", created_at=0.0
            )
            for number in range(1, endpoints + 1)
        ],
    )
    for number in range(1, endpoints + 1):
        plane.router.add_endpoint(number, max_queue_time=30.0)
    for number in range(1, endpoints * workers + 1):
        group = (number - 1) // workers + 1
        record = WorkerRecord(
            id=number,
            endpoint_id=group,
            workergroup_id=group,
            provider=provider.name,
            attached=False,
            nonce="",
            created_at=0.0,
            instance_id=f"i{number}",
            state="ready",
            desired="run",
            perf=100.0,
        )
        plane.adopt(record, plane.now()).state = WorkerState.READY
        provider.instances.append(Instance(f"i{number}", provider.name, number, "running"))
    plane.fleet.dirty.clear()


async def measure(endpoints: int, workers: int) -> float:
    """CPU seconds of the second round."""
    logs.configure(level="error")
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        store = await Store.open(directory / "stoker.db")
        provider = Listing()
        plane = ControlPlane(
            store,
            Identity.open(directory / "identity"),
            {provider.name: cast(Provider, provider)},
            report_addr="http://127.0.0.1:1",
            planner=nothing,
        )
        fill(plane, provider, endpoints, workers)
        await plane.step()
        began = time.process_time()
        await plane.step()
        took = time.process_time() - began
        await store.close()
    return took


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--endpoints", type=int, default=1000)
    parser.add_argument("--workers", type=int, default=100, help="of each endpoint")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    took = asyncio.run(measure(given.endpoints, given.workers))
    if given.json:
        figures = {"endpoints": given.endpoints, "workers": given.workers, "cpu_seconds": took}
        print(json.dumps(figures))
    else:
        print(f"{given.endpoints} endpoints x {given.workers} workers: {took:.2f} s of CPU a round")


if __name__ == "__main__":
    main()
