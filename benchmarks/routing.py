"""CPU time of a routing decision, and how it grows: ``python -m benchmarks.routing``.

One cycle is all that a request costs the router: `route`, the report of its worker in which it is
named, and its finish. Workers are of four kinds of machine, with perfs that differ by 5% within a
kind, as measured ones do. Both sizes of fleet carry the same number of requests per worker, with
sizes that differ a hundredfold. Sizes are measured by turns, so that what slows the machine down
slows all of them.
"""

from __future__ import annotations

import argparse
import gc
import json
import random
import statistics
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from stoker.autoscaler.router import Assigned, Router
from stoker.wire import FinishedRequest, WorkerStatus

SIZES = (10, 100, 1_000, 10_000)

SLOTS = 8

AT_WORK = 3
"""Requests per worker that are at work in the middle of a run."""

KINDS = (100.0, 200.0, 400.0, 1000.0)
"""Perf of the kinds of machine, load units per second."""

CYCLES = 20_000
"""Cycles in a turn."""

BATCH = 20
"""Calls of a kind in a row: their CPU time is measured together."""

PARTS = ("a decision (route)", "a report", "a finish")

KEYS = 100


@dataclass(slots=True)
class Running:
    """What a worker has."""

    perf: float
    requests: dict[int, float]
    load: float = 0.0


Call = tuple[Callable[..., Any], tuple[Any, ...]]
"""A method of `Router`, and what it is called with."""


class Fleet:
    """A router with its workers, and requests that come and go.

    What happens is written down first, with a router of its own, so that only the router is
    measured afterwards: given the same calls, it decides the same.
    """

    def __init__(self, size: int, cycles: int, *, slots: int, affinity: bool) -> None:
        self.rng = random.Random(size)
        self.router = Router(1)
        self.calls: list[Call] = []
        self.workers: dict[int, Running] = {}
        self.slots = slots
        self.affinity = affinity
        self.now = 1000.0
        self.order: deque[Assigned] = deque()
        self.router.add_endpoint(1, max_queue_time=30.0)
        for worker_id in range(1, size + 1):
            perf = self.rng.choice(KINDS) * self.rng.lognormvariate(0.0, 0.05)
            self.workers[worker_id] = Running(perf, {})
            self.router.add_worker(worker_id, 1, reqnum_base=worker_id * 10**9)
            self.report(worker_id)
            self._do(Router.set_available, worker_id, True, self.now)
        for _ in range(AT_WORK * size):
            self.route()
        before = len(self.calls)
        for _ in range(cycles // BATCH):
            self.batch()
        self.again = Router(1)
        self.again.add_endpoint(1, max_queue_time=30.0)
        for worker_id in self.workers:
            self.again.add_worker(worker_id, 1, reqnum_base=worker_id * 10**9)
        for method, args in self.calls[:before]:
            method(self.again, *args)
        self.rest = iter(self.calls[before:])
        self.last: dict[str, float] = {}
        """Microseconds of the last turn, by part."""

    def _do(self, method: Callable[..., Any], *args: Any) -> Any:
        self.calls.append((method, args))
        return method(self.router, *args)

    def report(self, worker_id: int) -> None:
        """A worker says what it has."""
        worker = self.workers[worker_id]
        status = WorkerStatus(
            id=worker_id,
            mtoken="",
            url=f"http://worker-{worker_id}",
            cur_load=worker.load,
            max_perf=worker.perf,
            num_requests_working=len(worker.requests),
            working_request_idxs=list(worker.requests),
            slots=self.slots,
        )
        self._do(Router.report, worker_id, status, self.now)

    def route(self) -> None:
        """A request comes, and is at its worker at once."""
        cost = min(2000.0, 20.0 * self.rng.paretovariate(1.2))
        names = (f"session-{self.rng.randrange(5000)}",) if self.affinity else ()
        route = _route_with_affinity if self.affinity else Router.route
        more = (names,) if self.affinity else ()
        answer = self._do(route, 1, cost, 0, 60.0, self.now, *more)
        assert isinstance(answer, Assigned)
        worker = self.workers[answer.worker_id]
        worker.requests[answer.request_idx] = cost
        worker.load += cost
        self.order.append(answer)

    def batch(self) -> None:
        """Some requests come, their workers report, and as many of the oldest end."""
        self.now += 1e-4
        for _ in range(BATCH):
            self.route()
        for answer in [self.order[n] for n in range(-BATCH, 0)]:
            self.report(answer.worker_id)
        for _ in range(BATCH):
            oldest = self.order.popleft()
            worker = self.workers[oldest.worker_id]
            worker.load -= worker.requests.pop(oldest.request_idx)
            ended = [FinishedRequest(oldest.request_idx)]
            self._do(Router.finished, oldest.worker_id, ended, self.now)

    def turn(self, cycles: int) -> float:
        """Microseconds of CPU time per cycle."""
        router, spent = self.again, dict.fromkeys(PARTS, 0.0)
        for _ in range(cycles // BATCH):
            for part in PARTS:
                calls = list(islice(self.rest, BATCH))
                began = time.process_time()
                for method, args in calls:
                    method(router, *args)
                spent[part] += time.process_time() - began
        self.last = {part: seconds / cycles * 1e6 for part, seconds in spent.items()}
        return sum(self.last.values())

    def decisions(self, count: int) -> float:
        """Microseconds of CPU time of the choice alone, which books nothing."""
        ledger = self.again._ledger
        request = next(iter(ledger.requests.values()))
        choose = ledger.endpoints[1].choose
        began = time.process_time()
        for _ in range(count):
            choose(request, self.now)
        return (time.process_time() - began) / count * 1e6


def _route_with_affinity(
    router: Router, endpoint: int, cost: float, idx: int, wait: float, now: float, names: Any
) -> Any:
    return router.route(endpoint, cost, idx, wait, now, affinity=names)


class Crowd:
    """A router without free workers, whose clients all wait."""

    def __init__(self, held: int) -> None:
        self.router = Router(1, max_held=held)
        self.router.add_endpoint(1, max_queue_time=1.0)
        self.router.add_worker(1, 1, reqnum_base=1, url="http://worker-1")
        self.router.set_available(1, True, 0.0)
        self.at_work = deque([self.route(0)])
        for number in range(held):
            self.route(number % KEYS)

    def route(self, key: int) -> int:
        """A request comes, and waits on the line."""
        return self.router.route(1, 100.0, 0, 3600.0, 0.0, key=str(key), wait=3600.0).request_idx

    def turn(self, cycles: int) -> float:
        """Microseconds of CPU time to hand one request out and to hold another."""
        began = time.process_time()
        for number in range(cycles):
            ended = FinishedRequest(self.at_work.popleft())
            self.at_work += [one.request_idx for one in self.router.finished(1, [ended], 0.0)]
            self.route(number % KEYS)
        return (time.process_time() - began) / cycles * 1e6


def measure(
    rounds: int, cycles: int = CYCLES, sizes: Sequence[int] = SIZES
) -> dict[str, dict[str, float]]:
    """Median microseconds by what is measured and size; and the ratio of the last to the first."""
    gc.disable()
    figures: dict[str, dict[str, list[float]]] = {}
    kinds = {
        "request": (SLOTS, False),
        "request, slots unknown": (0, False),
        "request, with affinity": (SLOTS, True),
    }
    fleets = {
        name: {
            str(size): Fleet(size, cycles * rounds, slots=slots, affinity=affinity)
            for size in sizes
        }
        for name, (slots, affinity) in kinds.items()
    }
    crowds = {str(size): Crowd(size) for size in sizes}
    for _ in range(rounds):
        for name, by_size in fleets.items():
            for size, fleet in by_size.items():
                figures.setdefault(name, {}).setdefault(size, []).append(fleet.turn(cycles))
                for part, spent in fleet.last.items():
                    if name == "request":
                        figures.setdefault(part, {}).setdefault(size, []).append(spent)
        for size, fleet in fleets["request"].items():
            choice = figures.setdefault("the choice alone", {})
            choice.setdefault(size, []).append(fleet.decisions(cycles))
        for size, crowd in crowds.items():
            figures.setdefault("held, by number held", {}).setdefault(size, []).append(
                crowd.turn(cycles)
            )
    result = {}
    for name, values in figures.items():
        small, large = values[str(sizes[0])], values[str(sizes[-1])]
        ratios = [a / b for a, b in zip(large, small, strict=True)]
        result[name] = {size: statistics.median(turns) for size, turns in values.items()}
        result[name]["ratio"] = statistics.median(ratios)
    return result


def show(result: dict[str, dict[str, float]], sizes: Sequence[int] = SIZES) -> None:
    print("\nRouting: CPU microseconds of one request (route, report, finish) by number of workers")
    print(f"  {'':24}" + "".join(f"{size:>9}" for size in sizes) + f"{'ratio':>9}")
    for name, values in result.items():
        print(f"  {name:24}" + "".join(f"{v:9.2f}" for v in values.values()))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.routing", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="turns of each size")
    parser.add_argument("--cycles", type=int, default=CYCLES, help="requests in a turn")
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="of fleet, in workers")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    given = parser.parse_args()
    result = measure(given.rounds, given.cycles, given.sizes)
    if given.json:
        print(json.dumps(result))
    else:
        show(result, given.sizes)


if __name__ == "__main__":
    main()
