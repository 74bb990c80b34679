"""The planner beside the policies people use today, on traffic of many kinds.

``python -m benchmarks.scaling`` prints the tables of docs/scaling.md: workers that take 30 and
120 s to create, with and without a pool of stopped workers. Each policy is tried with several
figures, a fixed fleet with every number of workers. The planner has
`stoker.simulator.cells.DEFAULT_PARAMETERS`, and knows nothing of the traffic.

Its cost is compared with the cheapest run of all others in which no larger share of the requests
waited for longer than 2 s (half a thousandth is forgiven).

What the others cost is kept in ``--cache`` and run again when the simulator, a policy or the router
has changed. The first run takes half an hour of two cores, the next ones two minutes.

Examples:
  python -m benchmarks.scaling --only burst --boot 60 --pool no
  python -m benchmarks.scaling --json >before.json
  python -m benchmarks.scaling --before before.json --write docs/scaling.md
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from benchmarks.scaling_cache import Cache, cell_of
from benchmarks.scaling_table import (
    FORGIVEN,
    Report,
    Row,
    markdown,
    paste,
    read_before,
    summarise,
)
from stoker import interrupts
from stoker.errors import StokerError
from stoker.simulator import Cell, SimulatorSettings, Trace, generate, read_trace, run_cells
from stoker.simulator.plot import draw

__all__ = ["FORGIVEN", "PEERS", "TRAFFIC", "fixed_range", "traffic"]

ROOT = Path(__file__).parents[1]
AZURE = ROOT / "tests" / "data" / "azure_llm_2023_conv.csv"
CACHE = ROOT / "build" / "scaling-others.json"

BOOTS = (30.0, 120.0)
"""Seconds that a worker takes to create, where `--boot` says nothing else."""

TRAFFIC = {
    "Azure, one hour": None,
    "steady, a third of a worker": "poisson:rate=0.45",
    "steady, 3 workers": "poisson:rate=4",
    "steady, 8 workers": "poisson:rate=10.7",
    "steady, heavy-tailed sizes": "poisson:rate=4,tail=1.5",
    "steady, sizes of a heavier tail": (
        "poisson:rate=3.5,duration=5400,load=450,tail=1.2,most=60000"
    ),
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

SLOW_TRAFFIC = {
    "bursts of 2 min each 75 min, 11 workers": (
        "onoff:rate=15,base=0.4,on=120,off=4380,jitter=0,duration=36000"
    ),
}
"""Traffic that is about workers that take `SLOW_BOOT` to create, and run with that alone."""

SLOW_BOOT = 600.0

PEERS = [
    *(f"target_util:{u}" for u in (0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95)),
    *(f"knative:target={t}" for t in (0.3, 0.5, 0.7)),
    *(f"ray_serve:{n}" for n in (2, 8)),
    *(f"runpod_count:{n}" for n in (4, 8, 16)),
    "runpod_delay:4",
    "target_qps",
]

Setting = tuple[str, float, bool]
"""Traffic, boot, pool."""


def traffic(name: str, seed: int) -> Trace:
    """The requests of one row."""
    spec = (TRAFFIC | SLOW_TRAFFIC)[name]
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


def wanted(only: list[str], boots: list[float], pools: list[bool]) -> list[Setting]:
    """The rows, by setting: those of one table together."""

    def matching(names: dict[str, str | None] | dict[str, str]) -> list[str]:
        return [name for name in names if any(part in name for part in only or [""])]

    found = [(name, boot, pool) for boot in boots for pool in pools for name in matching(TRAFFIC)]
    slow = [(name, SLOW_BOOT, pool) for pool in pools for name in matching(SLOW_TRAFFIC)]
    return found + slow


def settings_of(boot: float, pool: bool) -> SimulatorSettings:
    """Nothing is scored until a worker that is ordered at once has been there for a while."""
    return SimulatorSettings(stoppable=pool, boot_seconds=boot, warm_up=max(180.0, 1.5 * boot))


class Progress:
    """Tells on standard error how far it is, where it takes long."""

    EVERY = 2.0
    """Seconds."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._began = self._told = time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if now - self._told < self.EVERY and (done < total or self._told == self._began):
            return
        self._told = now
        print(f"{self._what}: {done} of {total}, {now - self._began:.0f} s", file=sys.stderr)


def run(
    settings: list[Setting],
    seed: int,
    cache: Cache,
    *,
    before: dict[Setting, tuple[float, float]] | None = None,
    ours_only: bool = False,
    processes: int | None = None,
    progress: Callable[[str], Callable[[int, int], None]] = Progress,
) -> list[Row]:
    """All rows, ours first: that is what one waits for.

    Raises:
        StokerError: the cache cannot be written, or a process was killed.
    """
    traces = {name: traffic(name, seed) for name in dict.fromkeys(name for name, _, _ in settings)}
    cells = [cell_of(traces[name], "stoker", settings_of(b, pool)) for name, b, pool in settings]
    tell, done = progress("Stoker"), 0

    def on_done(*_: object) -> None:
        nonlocal done
        done += 1
        tell(done, len(cells))

    ours = run_cells(cells, processes=processes, on_done=on_done)
    others: list[Cell] = []
    spans = []
    for cell in cells:
        names = [] if ours_only else [*fixed_range(cell.trace, cell.settings.perf), *PEERS]
        spans.append((len(others), names))
        others += [cell_of(cell.trace, name, cell.settings) for name in names]
    figures = cache.run(
        others,
        processes=processes,
        tell=progress("others"),
        sampling=progress("others, a sample of what is kept"),
    )
    return [
        Row(
            traffic=setting[0],
            boot=setting[1],
            pool=setting[2],
            ratio=result.ratio,
            over=result.over_limit,
            p99=result.wait_p99,
            created=result.creations,
            others=dict(zip(names, figures[first : first + len(names)], strict=True)),
            before=(before or {}).get(setting),
        )
        for setting, result, (first, names) in zip(settings, ours, spans, strict=True)
    ]


def pictures(names: list[str], folder: Path, seed: int) -> None:
    """Load, capacity and waits over time, a file for each kind of traffic."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        cell = Cell(
            trace=traffic(name, seed), settings=SimulatorSettings(stoppable=False), timeline=True
        )
        file = "".join(c if c.isalnum() else "-" for c in name.lower()).replace("--", "-")
        draw(run_cells([cell]), folder / f"{file}.png")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.scaling",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--json", action="store_true", help="every figure")
    add("--seed", type=int, default=0, help="of the traffic that is made up")
    add("--only", action="append", help="kinds of traffic whose name contains this")
    add("--pool", choices=("yes", "no"), help="only with, only without a pool")
    add(
        "--boot",
        action="append",
        type=_seconds,
        metavar="SECONDS",
        help="that a worker takes to create; default: 30 and 120",
    )
    add("--ours", action="store_true", help="Stoker alone")
    add("--cache", type=Path, default=CACHE, help="file of what the others cost (%(default)s)")
    add("--no-cache", action="store_true", help="run all others, and keep nothing")
    add(
        "--stale",
        action="store_true",
        help="take what the others cost from the cache though the simulator has changed since",
    )
    add("--before", type=Path, metavar="FILE", help="what --json printed earlier, to compare with")
    add("--write", type=Path, metavar="PAGE", help="put the tables into this page of the docs")
    add("--pictures", type=Path, help="draw into this folder, and print no table")
    add("--processes", type=int, help="default: one for each core")
    return parser


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 3600:
        raise argparse.ArgumentTypeError(f"must be from 0 to 3600 seconds, not {text}")
    return value


def main() -> None:
    parser = _parser()
    options = parser.parse_args()
    pools = [False, True] if options.pool is None else [options.pool == "yes"]
    boots = list(dict.fromkeys(options.boot or BOOTS))
    settings = wanted(options.only or [], boots, pools)
    if not settings:
        parser.error(f"--only matches none of: {', '.join(TRAFFIC | SLOW_TRAFFIC)}")
    if options.pictures:
        names = list(dict.fromkeys(name for name, _, _ in settings))
        pictures(names, options.pictures, options.seed)
        return
    try:
        # What can be wrong with files is told before anything runs.
        before = read_before(options.before) if options.before else None
        page = options.write.read_text(encoding="utf-8") if options.write else None
        if page is not None:
            paste(page, "")
        cache = Cache(None if options.no_cache else options.cache, stale=options.stale)
        rows = run(
            settings,
            options.seed,
            cache,
            before=before,
            ours_only=options.ours,
            processes=options.processes,
        )
        text = markdown(rows)
        if page is not None:
            options.write.write_text(paste(page, text), encoding="utf-8")
    except OSError as error:
        parser.error(f"{error.filename}: {error.strerror}")
    except StokerError as error:
        parser.error(str(error))
    if cache.stale_used:
        note = f"{cache.stale_used} figures of others are of an earlier version of the simulator"
        print(note, file=sys.stderr)
    if options.json:
        print(msgspec.json.format(msgspec.json.encode(Report(rows, summarise(rows)))).decode())
    elif page is None:
        print(text)


if __name__ == "__main__":
    interrupts.end_on_interrupt()  # its processes end with it
    main()
