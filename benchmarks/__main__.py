"""``python -m benchmarks [--rounds N] [--only NAME] [--json]``."""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from pathlib import Path

import psutil

from benchmarks import load, routing
from benchmarks.subjects import BareRelay, Nginx, Subject, Worker, upstream

SUBJECTS: list[type[Subject]] = [Nginx, BareRelay, Worker]
"""Measured in this order, by turns; the first is what the others are compared with."""


WARM_UP = 1000
"""Requests before those that count."""

MOST_PER_SECOND = 60_000
"""Requests that no process in front of the upstream answers in a second here."""


def cpu_seconds(pid: int) -> float:
    """User and system time of a process and its children."""
    process = psutil.Process(pid)
    total = 0.0
    for each in (process, *process.children(recursive=True)):
        times = each.cpu_times()
        total += times.user + times.system
    return total


def cores() -> tuple[list[int], list[int]] | None:
    """Processors for the process in front alone, and for load and upstream; None with one only.

    Three busy processes on two processors would otherwise push each other from cache to cache, and
    an interpreter suffers from that twice as much as a small program in C: 50 to 100 us a request
    were seen for the same worker.
    """
    if not hasattr(os, "sched_getaffinity"):
        return None
    allowed = sorted(os.sched_getaffinity(0))
    return (allowed[-1:], allowed[:-1]) if len(allowed) > 1 else None


def pin(pid: int, processors: list[int]) -> None:
    """Let a process and its children run there only."""
    process = psutil.Process(pid)
    for each in (process, *process.children(recursive=True)):
        for thread in each.threads():
            os.sched_setaffinity(thread.id, processors)


def measure(
    subject: Subject,
    drive: load.Load,
    count: int,
    upstream_port: int,
    *,
    stream: bool,
    warm_up: load.Load | None = None,
    alone_on: list[int] | None = None,
) -> float:
    """Microseconds of CPU time per request, or per streamed chunk, of one run."""
    with tempfile.TemporaryDirectory() as directory:
        port, pid = subject.start(upstream_port, Path(directory))
        try:
            if alone_on is not None:
                pin(pid, alone_on)
            requests = subject.requests(count + WARM_UP, stream=stream)
            if warm_up is not None:
                warm_up(port, requests[:WARM_UP])
            requests = requests[WARM_UP:]
            before = cpu_seconds(pid)
            result = drive(port, requests)
            spent = cpu_seconds(pid) - before
        finally:
            subject.stop()
    if result.bad:
        sys.exit(f"{subject.name}: {result.bad} of {result.requests} answers were not 200")
    return spent / (result.chunks if stream else result.requests) * 1e6


def ratio_to(values: list[float], base: list[float]) -> float:
    """The median of the ratios turn by turn: what slows a whole turn down slows both sides."""
    return statistics.median(a / b for a, b in zip(values, base, strict=True) if b)


def table(title: str, unit: str, figures: dict[str, list[float]]) -> None:
    print(f"\n{title}")
    print(f"  {'':24} {unit:>14} {'spread':>14} {'x nginx':>8}")
    base = figures.get(Nginx.name)
    for name, values in figures.items():
        middle = statistics.median(values)
        ratio = f"{ratio_to(values, base):8.2f}" if base else "       -"
        print(f"  {name:24} {middle:14.1f} {min(values):6.1f} - {max(values):5.1f} {ratio}")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="turns of each subject")
    parser.add_argument("--seconds", type=float, default=4.0, help="of one turn, with wrk")
    parser.add_argument("--count", type=int, default=30_000, help="requests a turn, without wrk")
    parser.add_argument("--loader", choices=("auto", "wrk", "own"), default="auto")
    parser.add_argument("--only", action="append", help="part of a subject's name")
    parser.add_argument("--skip-sse", action="store_true")
    parser.add_argument("--skip-routing", action="store_true")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    given = parser.parse_args()
    if given.rounds < 1:
        parser.error("--rounds must be at least 1")

    subjects: list[Subject] = []
    for kind in SUBJECTS:
        subject = kind()
        if given.only and not any(part in subject.name for part in given.only):
            continue
        if problem := subject.missing():
            print(problem, file=sys.stderr)
        else:
            subjects.append(subject)

    figures: dict[str, dict[str, list[float]]] = {"request": {}, "chunk": {}}
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch)
        plain = load.own(given.count, load.CONNECTIONS, directory)
        by = "own loader"
        if given.loader != "own":
            fast = load.wrk(given.seconds, load.CONNECTIONS, directory)
            if fast is None and given.loader == "wrk":
                parser.error("wrk is not installed")
            if fast is not None:
                plain, by = fast, "wrk"
                # Each ticket is good once, so there must be more than can be used up.
                given.count = int(given.seconds * MOST_PER_SECOND)
        streams = load.own(2 * load.STREAMS, load.STREAMS, directory)
        warm_up = load.own(WARM_UP, load.CONNECTIONS, directory)
        split = cores()
        alone_on = None
        if split is not None:
            alone_on, ours = split
            os.sched_setaffinity(0, ours)  # and so those of the children that are started from here
        with upstream(chunks=150, tick=0.01) as port:
            for _ in range(given.rounds):
                for subject in subjects:
                    spent = measure(
                        subject,
                        plain,
                        given.count,
                        port,
                        stream=False,
                        warm_up=warm_up,
                        alone_on=alone_on,
                    )
                    figures["request"].setdefault(subject.name, []).append(spent)
            if not given.skip_sse:
                for _ in range(given.rounds):
                    for subject in subjects:
                        spent = measure(
                            subject, streams, 2 * load.STREAMS, port, stream=True, alone_on=alone_on
                        )
                        figures["chunk"].setdefault(subject.name, []).append(spent)
    routed = {} if given.skip_routing else routing.measure(given.rounds)
    if given.json:
        print(json.dumps({"loader": by, "us": figures, "routing": routed}))
        return
    print("CPU time of the process in front, user and system; median of", given.rounds, "turns")
    if alone_on is not None:
        print("The process in front has a processor of its own.")
    table(
        f"Small JSON completion, {load.CONNECTIONS} keep-alive connections ({by})",
        "us/request",
        figures["request"],
    )
    if figures["chunk"]:
        table(f"Streamed answer (SSE), {load.STREAMS} streams", "us/chunk", figures["chunk"])
    if routed:
        routing.show(routed)


if __name__ == "__main__":
    main()
