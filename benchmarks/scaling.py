"""The planner beside the policies people use today, on traffic of many kinds.

``python -m benchmarks.scaling`` prints the table of docs/scaling.md;
``--pictures FOLDER`` draws it.
Every policy is tried with several figures, a fixed fleet with every number of workers. The planner
has `stoker.simulator.DEFAULT_PARAMETERS`, and knows nothing of the traffic.

Its cost is compared with the cheapest run of all others in which no larger share of the requests
waited for longer than 2 s (half a thousandth is forgiven).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path

from stoker import interrupts
from stoker.simulator import Cell, Result, SimulatorSettings, Trace, generate, read_trace, run_cells
from stoker.simulator.plot import draw

AZURE = Path(__file__).parents[1] / "tests" / "data" / "azure_llm_2023_conv.csv"

TRAFFIC = {
    "Azure, one hour": None,
    "steady, a third of a worker": "poisson:rate=0.45",
    "steady, 3 workers": "poisson:rate=4",
    "steady, 8 workers": "poisson:rate=10.7",
    "steady, heavy-tailed sizes": "poisson:rate=4,tail=1.5",
    "days of an hour, 0.8 to 7 workers": "daily:rate=5.3,swing=0.8,period=3600,duration=7200",
    "ramp, 1 to 11 workers": "ramp:start=1.3,end=15",
    "bursts of 12 s each 3 min, 11 workers": "onoff:rate=15,on=12,off=180",
    "bursts of 20 s each 1.5 min, 14 workers": "onoff:rate=19,on=20,off=90",
    "bursts of 25 s each 4 min, regular": "onoff:rate=19,on=25,off=240,jitter=0",
    "bursts of 20 s each 10 min, 14 workers": "onoff:rate=19,on=20,off=600,duration=7200",
    "bursts of 1 min each 10 min, 9 workers": "onoff:rate=12,on=60,off=600,duration=7200",
    "5 min on, 20 min off, 8 workers": "onoff:rate=10.7,on=300,off=1200,duration=7200",
    "2 min on, 4 min off, 9 workers": "onoff:rate=12,on=120,off=240",
    "5 min on, 5 min off, 8 workers": "onoff:rate=10.7,on=300,off=300",
    "bursts above 1 worker": "onoff:rate=16,base=1.3,on=25,off=120",
    "flash crowd, 1 to 8 workers": "flash:rate=1.2,times=9",
    "flash crowd, 15 s": "flash:rate=1.3,times=10,rise=1,lasts=15,fade=5",
}

PEERS = [
    *(f"target_util:{u}" for u in (0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95)),
    *(f"knative:target={t}" for t in (0.3, 0.5, 0.7)),
    *(f"ray_serve:{n}" for n in (2, 8)),
    *(f"runpod_count:{n}" for n in (4, 8, 16)),
    "runpod_delay:4",
    "target_qps",
]

FORGIVEN = 0.0005
"""Share over the limit."""


def traffic(name: str, seed: int) -> Trace:
    """The requests of one row."""
    spec = TRAFFIC[name]
    return read_trace(AZURE) if spec is None else generate(spec, seed)


def fixed_range(trace: Trace, perf: float) -> list[str]:
    """Fleets from one that has hardly enough for the mean to one that has enough for the peak."""
    seconds = max(1, int(trace.duration))
    by_window = [0.0] * (seconds // 10 + 1)
    for arrival, load in zip(trace.arrivals, trace.loads, strict=True):
        by_window[int(arrival) // 10] += load / 10
    least = max(1, int(0.9 * sum(by_window) * 10 / seconds / perf))
    most = min(20, int(max(by_window) / perf) + 2)
    return [f"fixed:{n}" for n in range(least, most + 1)]


def cheapest(result: Result, others: list[Result]) -> Result | None:
    """Of those in which no larger share waited too long."""
    found = [o for o in others if o.over_limit <= result.over_limit + FORGIVEN]
    return min(found, key=lambda other: other.cost, default=None)


def run(
    names: list[str], pools: list[bool], seed: int, tell: Callable[[str], None]
) -> list[dict[str, object]]:
    """All rows: for each kind of traffic, and with and without a pool of stopped workers."""
    rows: list[dict[str, object]] = []
    for name in names:
        trace = traffic(name, seed)
        fixed: list[Result] = []
        for pool in pools:
            tell(f"{name}, {'with' if pool else 'without'} a pool")
            settings = SimulatorSettings(stoppable=pool)
            # A fixed fleet stops nobody, so it is the same with and without a pool.
            sizes = [] if fixed else fixed_range(trace, settings.perf)
            ours, *others = run_cells(
                [
                    Cell(trace=trace, policy=spec, settings=settings)
                    for spec in ("stoker", *sizes, *PEERS)
                ]
            )
            fixed = fixed or others[: len(sizes)]
            others = fixed + others[len(sizes) :]
            best = cheapest(ours, others)
            usual = {r.policy: r for r in others}
            rows.append(
                {
                    "traffic": name,
                    "pool": pool,
                    "fluid": ours.fluid_seconds,
                    "ratio": ours.ratio,
                    "over": ours.over_limit,
                    "p99": ours.wait_p99,
                    "created": ours.creations,
                    "cheapest": best.policy if best else None,
                    "cheapest_ratio": best.ratio if best else None,
                    "cheapest_over": best.over_limit if best else None,
                    "against": ours.cost / best.cost if best else None,
                    "others": {n: (r.ratio, r.over_limit) for n, r in usual.items()},
                }
            )
    return rows


def table(rows: list[dict[str, object]]) -> str:
    """The rows in Markdown."""
    shown = ("target_util:0.8", "knative:target=0.7", "ray_serve:2", "runpod_count:8", "target_qps")
    head = ["traffic", "pool", "Stoker", "cheapest other, no more late", "ratio", *shown]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for row in rows:
        others = row["others"]
        assert isinstance(others, dict)
        against = f"{row['against']:.2f}" if row["against"] else "-"
        best = (
            f"{row['cheapest']}: {row['cheapest_ratio']:.2f}, {row['cheapest_over']:.2%}"
            if row["cheapest"]
            else "none"
        )
        cells = [
            str(row["traffic"]),
            "yes" if row["pool"] else "no",
            f"**{row['ratio']:.2f}, {row['over']:.2%}**",
            best,
            against,
            *(f"{others[n][0]:.2f}, {others[n][1]:.1%}" if n in others else "" for n in shown),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def pictures(names: list[str], folder: Path, seed: int) -> None:
    """Load, capacity and waits over time, a file for each kind of traffic."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        cell = Cell(
            trace=traffic(name, seed), settings=SimulatorSettings(stoppable=False), timeline=True
        )
        file = "".join(c if c.isalnum() else "-" for c in name.lower()).replace("--", "-")
        draw(run_cells([cell]), folder / f"{file}.png")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scaling", description=__doc__)
    parser.add_argument("--json", action="store_true", help="every figure")
    parser.add_argument("--seed", type=int, default=0, help="of the traffic that is made up")
    parser.add_argument("--only", action="append", help="kinds of traffic whose name contains this")
    parser.add_argument("--pool", choices=("yes", "no"), help="only with, only without a pool")
    parser.add_argument("--pictures", type=Path, help="draw into this folder, and print no table")
    options = parser.parse_args()
    wanted: list[str] = options.only or [""]
    names = [name for name in TRAFFIC if any(part in name for part in wanted)]
    if options.pictures:
        pictures(names, options.pictures, options.seed)
        return
    pools = [False, True] if options.pool is None else [options.pool == "yes"]
    rows = run(names, pools, options.seed, lambda text: print(text, file=sys.stderr))
    print(json.dumps(rows, indent=1) if options.json else table(rows))


if __name__ == "__main__":
    interrupts.end_on_interrupt()  # its processes end with it
    main()
