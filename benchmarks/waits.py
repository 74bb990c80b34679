"""What a rule of routing does to waits: ``python -m benchmarks.waits [TRACE.csv]``.

The router as it is, before simulated workers: each shares its perf among the requests at work, one
request gets a quarter of it at most, those beyond its slots wait in order; it reports each second,
and finishes reach the router with its reports. The costs that the router is told are off by 30%, as
estimates are. Traces are made here; with a file of Azure's columns (TIMESTAMP, ContextTokens,
GeneratedTokens), that one is played first.
"""

from __future__ import annotations

import argparse
import csv
import heapq
import random
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from itertools import count
from pathlib import Path

from stoker.autoscaler.router import Assigned, Router
from stoker.wire import FinishedRequest, WorkerStatus

SLOTS = 16
SHARE = 0.25
"""Of a worker's perf that one request gets, at most."""

CACHED = 40
"""Conversations whose prefix a worker keeps."""

Arrival = tuple[float, float, str]
"""Seconds, load units, and the conversation that it belongs to (or none)."""

Choose = Callable[[list["Server"]], int]


@dataclass
class Server:
    """A worker that shares its perf among the requests at work."""

    worker_id: int
    perf: float
    served: float = 0.0
    """Load units that each request at work since the beginning would have got."""
    at: float = 0.0
    running: list[tuple[float, float, int, float]] = field(default_factory=list)
    """Heap of (`served` at its end, when it came, request_idx, load)."""
    waiting: list[tuple[float, int, float]] = field(default_factory=list)
    ended: list[int] = field(default_factory=list)
    costs: dict[int, float] = field(default_factory=dict)
    """What the router was told, by request."""
    event: int = 0
    cache: OrderedDict[str, None] = field(default_factory=OrderedDict)

    def rate(self) -> float:
        """Load units per second that each request at work gets."""
        return min(self.perf * SHARE, self.perf / len(self.running))

    def advance(self, now: float) -> None:
        """Serve until `now`."""
        if self.running:
            self.served += self.rate() * (now - self.at)
        self.at = now

    def hits(self, name: str) -> bool:
        """Whether a conversation is in its cache; it is from now on."""
        found = name in self.cache
        self.cache[name] = None
        self.cache.move_to_end(name)
        if len(self.cache) > CACHED:
            self.cache.popitem(last=False)
        return found


@dataclass
class Result:
    """Waits until a request was begun, times until it was finished, seconds; and cache hits."""

    waits: list[float] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    hits: int = 0
    asked: int = 0

    def line(self) -> str:
        """The figures of the tables."""
        waits, times = sorted(self.waits), sorted(self.times)
        over = 100 * sum(wait > 2.0 for wait in waits) / len(waits)
        hits = f"{100 * self.hits / self.asked:6.1f}%" if self.asked else "      -"
        return (
            f"{over:7.2f}% {sum(waits) / len(waits):7.3f} {_quantile(waits, 0.99):7.2f}"
            f" {_quantile(waits, 0.999):7.2f} {sum(times) / len(times):7.2f}"
            f" {_quantile(times, 0.99):7.2f} {hits}"
        )


def _quantile(values: list[float], share: float) -> float:
    return values[min(len(values) - 1, int(len(values) * share))]


def play(
    arrivals: list[Arrival],
    perfs: list[float],
    *,
    slots: int = SLOTS,
    patience: float = 1.0,
    names: bool = False,
    choose: Choose | None = None,
    saved: float = 0.0,
) -> Result:
    """Let requests come to a fleet.

    Args:
        arrivals: in order.
        perfs: load units per second of each worker.
        slots: what the workers report; 0: they do not tell.
        patience: of the router, for affinity.
        names: the router is told of the conversations.
        choose: another rule in the router's place, for comparison.
        saved: share of a request's load that a hit in the cache saves.
    """
    rng, numbers, result = random.Random(1), count(), Result()
    router = Router(1, affinity_patience=patience)
    router.add_endpoint(1, max_queue_time=1e9)
    servers = [Server(worker_id, perf) for worker_id, perf in enumerate(perfs)]
    events: list[tuple[float, int, str, int, int]] = []

    def report(server: Server, now: float) -> None:
        server.advance(now)
        left = {idx: end - server.served for end, _, idx, _ in server.running}
        left |= {idx: load for _, idx, load in server.waiting}
        router.finished(server.worker_id, [FinishedRequest(i) for i in server.ended], now)
        server.ended.clear()
        status = WorkerStatus(
            id=server.worker_id,
            mtoken="",
            url="http://worker",
            cur_load=sum(left.values()),
            max_perf=server.perf,
            num_requests_working=len(left),
            working_request_idxs=list(left),
            slots=slots,
        )
        router.report(server.worker_id, status, now)

    def begin(server: Server, came: float, idx: int, load: float, now: float) -> None:
        heapq.heappush(server.running, (server.served + load, came, idx, load))
        result.waits.append(now - came)

    def next_end(server: Server, now: float) -> None:
        server.event = next(numbers)
        if server.running:
            at = now + max(0.0, server.running[0][0] - server.served) / server.rate()
            heapq.heappush(events, (at, server.event, "end", server.worker_id, server.event))

    for server in servers:
        router.add_worker(server.worker_id, 1, reqnum_base=0)
        report(server, 0.0)
        router.set_available(server.worker_id, True, 0.0)
        heapq.heappush(events, (rng.random(), next(numbers), "report", server.worker_id, 0))
    for place, arrival in enumerate(arrivals):
        heapq.heappush(events, (arrival[0], next(numbers), "come", place, 0))
    left = len(arrivals)
    while left:
        now, _, kind, which, event = heapq.heappop(events)
        if kind == "report":
            report(servers[which], now)
            heapq.heappush(events, (now + 1.0, next(numbers), "report", which, 0))
        elif kind == "come":
            _, load, name = arrivals[which]
            said = [name] if names and name else []
            told = load * rng.lognormvariate(0.0, 0.3)
            answer = router.route(1, told, 0, 1e9, now, affinity=said)
            assert isinstance(answer, Assigned)
            server = servers[choose(servers) if choose is not None else answer.worker_id]
            server.advance(now)
            if name:
                result.asked += 1
                if server.hits(name):
                    result.hits += 1
                    load *= 1.0 - saved
            if len(server.running) < SLOTS:
                begin(server, now, answer.request_idx, load, now)
            else:
                server.waiting.append((now, answer.request_idx, load))
            next_end(server, now)
        elif event == servers[which].event:
            server = servers[which]
            server.advance(now)
            _, came, idx, _ = heapq.heappop(server.running)
            server.ended.append(idx)
            result.times.append(now - came)
            left -= 1
            if server.waiting:
                began = server.waiting.pop(0)
                begin(server, *began, now)
            next_end(server, now)
    return result


def azure(path: Path) -> list[Arrival]:
    """A trace with Azure's columns."""
    with path.open(encoding="utf-8") as file:
        rows = [
            (
                datetime.fromisoformat(row["TIMESTAMP"][:26]).timestamp(),
                float(row["GeneratedTokens"]) + 0.1 * float(row["ContextTokens"]),
                "",
            )
            for row in csv.DictReader(file)
        ]
    return [(at - rows[0][0], load, name) for at, load, name in rows]


def bursts(seed: int = 5) -> list[Arrival]:
    """An hour in which each minute begins with a burst of 10 s, of very different sizes."""
    rng, found = random.Random(seed), []
    for minute in range(60):
        for _ in range(int(rng.paretovariate(1.5) * 60) % 400):
            found.append((minute * 60 + rng.random() * 10, rng.lognormvariate(5.0, 1.0), ""))
    return sorted(found)


def two_sizes(rate: float, seconds: float = 2400.0, seed: int = 3) -> list[Arrival]:
    """Poisson arrivals; each tenth request is fifty times as large as the others."""
    rng, found, at = random.Random(seed), [], 0.0
    while (at := at + rng.expovariate(rate)) < seconds:
        found.append((at, 30.0 if rng.random() < 0.9 else 1500.0, ""))
    return found


def conversations(rate: float, seconds: float = 1200.0, seed: int = 7) -> list[Arrival]:
    """Turns of 300 conversations, a fifth of which have four fifths of the turns."""
    rng, found, at = random.Random(seed), [], 0.0
    while (at := at + rng.expovariate(rate)) < seconds:
        number = rng.randrange(60) if rng.random() < 0.8 else 60 + rng.randrange(240)
        found.append((at, 30.0 + rng.expovariate(1 / 200.0), f"conversation-{number}"))
    return found


def _in_turn() -> Choose:
    turn = count()
    return lambda servers: next(turn) % len(servers)


def _fewest(servers: list[Server]) -> int:
    """The true numbers, without any delay."""
    return min(
        range(len(servers)),
        key=lambda n: len(servers[n].running) + len(servers[n].waiting),
    )


HEAD = "over 2 s    mean     p99   p99.9    time     p99    hits"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.waits", description=__doc__)
    parser.add_argument("trace", nargs="?", type=Path, help="CSV with Azure's columns")
    options = parser.parse_args()
    alike, mixed = [400.0] * 6, [200.0] * 3 + [400.0] * 2 + [1000.0]
    cases = {
        "bursts, 6 of perf 400": (bursts(), alike),
        "two sizes at 85%, 6 of perf 400": (two_sizes(6 * 400 * 0.85 / 177.0), alike),
        "two sizes at 85%, perf 200 to 1000": (two_sizes(2400 * 0.85 / 177.0), mixed),
    }
    if options.trace is not None:
        trace = azure(options.trace)
        cases = {
            "the trace, perf 200 to 1000 (2400 in all)": (trace, mixed),
            "the trace, 5 of perf 400": (trace, [400.0] * 5),
        } | cases
    for name, (arrivals, perfs) in cases.items():
        print(f"\n{name:42}{HEAD}")
        print(f"  {'in turn':40}{play(arrivals, perfs, choose=_in_turn()).line()}")
        print(f"  {'fewest requests':40}{play(arrivals, perfs, choose=_fewest).line()}")
        print(f"  {'the router, slots not known':40}{play(arrivals, perfs, slots=0).line()}")
        print(f"  {'the router':40}{play(arrivals, perfs).line()}", flush=True)
    for load in (0.75, 1.25):
        arrivals, perfs = conversations(8 * 400 * load / 230.0), [400.0] * 8
        print(f"\n{f'conversations, load {load} without a cache':42}{HEAD}")
        print(f"  {'without affinity':40}{play(arrivals, perfs, saved=0.5).line()}")
        for patience in (0.0, 0.3, 1.0, 3.0, 10.0, 1e9):
            found = play(arrivals, perfs, names=True, patience=patience, saved=0.5)
            print(f"  {f'patience {patience:g} s':40}{found.line()}", flush=True)


if __name__ == "__main__":
    main()
