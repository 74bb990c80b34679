"""How a load test is shown: progress while it runs, then figures and pictures in plain text."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from stoker.cli.output import escape
from stoker.loadtest import LoadTest, Results

FRAME = 0.2
"""Seconds between two looks at a running test, on a terminal."""

LINE = 5.0
"""Seconds between two lines about it, elsewhere."""

_BAR_CELLS = 40
_BLOCKS = " ▁▂▃▄▅▆▇█"
_PARTS = " ▏▎▍▌▋▊▉█"


async def show_progress(console: Console, test: LoadTest) -> None:
    """Show a running test until cancelled: a bar on a terminal, else a line now and then."""
    if not console.is_terminal:
        while True:
            await asyncio.sleep(LINE)
            console.print(escape(f"{test.elapsed():.0f} s: {_news(test)}"), soft_wrap=True)
    columns = (
        BarColumn(bar_width=24),
        TextColumn("{task.fields[news]}", markup=False),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True, refresh_per_second=10) as progress:
        bar = progress.add_task("", total=1.0, news="")
        while True:
            progress.update(bar, completed=_done(test), news=_news(test))
            await asyncio.sleep(FRAME)


def _done(test: LoadTest) -> float:
    """The share that is done, from 0 to 1."""
    plan, statistics = test.plan, test.statistics
    shares = [0.0]
    if plan.requests:
        shares.append((statistics.ok + statistics.failed) / plan.requests)
    if plan.duration:
        shares.append(test.elapsed() / plan.duration)
    return min(1.0, max(shares))


def _news(test: LoadTest) -> str:
    statistics = test.statistics
    done = statistics.ok + statistics.failed
    rate = done / max(test.elapsed(), 1e-9)
    median = statistics.total.median_so_far()
    parts = [f"{done} done", f"{rate:.1f}/s", f"{test.in_flight} in flight"]
    parts.append(f"{statistics.failed} failed")
    if median is not None:
        parts.append(f"p50 {duration(median)}")
    return ", ".join(parts)


def duration(seconds: float) -> str:
    """Seconds as people write them: three figures that count, with the unit that fits."""
    for limit, factor, unit in ((1e-3, 1e6, "us"), (1.0, 1e3, "ms"), (math.inf, 1.0, "s")):
        if seconds < limit:
            value = seconds * factor
            digits = 0 if value >= 100 else 1 if value >= 10 else 2
            return f"{value:.{digits}f} {unit}"
    return f"{seconds} s"


def size(count: float) -> str:
    """Bytes as people write them."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    raise AssertionError


def print_results(console: Console, results: Results) -> None:
    """Print everything that a load test found out."""

    def tell(text: str = "", style: str | None = None) -> None:
        console.print(escape(text), style=style, soft_wrap=True)

    tell(
        f"{results.target}{results.route if '//' in results.target else ' ' + results.route}",
        "bold",
    )
    for name, text in _facts(results):
        tell(f"  {name:<12}{text}", "red" if name == "failed" else None)
    rows = [
        (name, spread)
        for name, spread in (
            ("first byte", results.first_byte),
            ("first token", results.first_token),
            ("between tokens", results.between_tokens),
            ("whole answer", results.total),
        )
        if spread is not None
    ]
    if not rows:
        return
    tell()
    names = ("mean", "p50", "p90", "p95", "p99", "max")
    tell(f"  {'':<16}" + "".join(f"{name:>10}" for name in names), "bold")
    for name, spread in rows:
        cells = "".join(f"{duration(getattr(spread, each)):>10}" for each in names)
        tell(f"  {name:<16}{cells}")
    if any(spread.sampled for _, spread in rows):
        tell("  (percentiles of a sample of a million values)", "dim")
    tell()
    tell("  time of whole answers", "bold")
    for line in histogram_lines(results):
        tell(line)
    if len(results.timeline_ok) > 1:
        tell()
        tell("  successful answers a second, over time", "bold")
        for line in timeline_lines(results):
            tell(line)


def _facts(results: Results) -> list[tuple[str, str]]:
    facts = [("requests", f"{results.ok} ok, {results.failed} failed in {results.seconds:.2f} s")]
    if results.interrupted:
        facts.append(("ended early", f"{results.cut_off} requests were cut off"))
    if results.unsent:
        facts.append(("unsent", f"{results.unsent} were due, but too many were under way"))
    throughput = f"{results.requests_per_second:.1f} requests/s"
    if results.tokens:
        about = "about " if results.tokens_estimated else ""
        throughput += f", {about}{results.tokens_per_second:.1f} tokens/s"
    facts.append(("throughput", throughput))
    received = size(results.bytes_received)
    if results.tokens:
        received += f", {results.tokens} tokens"
        received += " (counted by chunks with text)" if results.tokens_estimated else ""
    if results.chunks:
        received += f", {results.chunks} chunks"
    facts.append(("received", received))
    for reason, failure in results.failures.items():
        text = f"{failure.count} x {reason}"
        if failure.retry_after is not None:
            text += f", asked to wait up to {failure.retry_after:g} s"
        facts.append(("failed", text + (f": {failure.example}" if failure.example else "")))
    if hint := _hint(results):
        facts.append(("hint", hint))
    return facts


def _hint(results: Results) -> str:
    """What to do where nothing went well for one known reason."""
    if results.ok or len(results.failures) != 1:
        return ""
    return {
        "status 401": "this worker demands tickets: name its endpoint instead of its URL",
        "status 404": "no such route; a model server without a worker in front needs --raw",
        "status 503": "the worker is not ready, or is being stopped; its log says why",
        "no connection": "nothing listens there",
    }.get(next(iter(results.failures)), "")


def histogram_lines(results: Results) -> list[str]:
    """A histogram of the times, one bar a line."""
    bins = results.histogram
    most = max((each.count for each in bins), default=1)
    wide = len(str(most))
    return [
        f"  {duration(each.low):>8} - {duration(each.high):<8} {each.count:>{wide}} "
        f"{_bar(each.count / most)}".rstrip()
        for each in bins
    ]


def _bar(share: float) -> str:
    eighths = math.ceil(share * _BAR_CELLS * 8)  # what is there is seen
    return "█" * (eighths // 8) + _PARTS[eighths % 8].strip()


def timeline_lines(results: Results) -> list[str]:
    """Answers over time: one row of successes, and one of failures where there were any."""
    step, ok, failed = results.timeline_step, results.timeline_ok, results.timeline_failed
    most = max(*ok, *failed)
    lines = [f"  {'ok':<7}{_sparkline(ok, most)}  most: {max(ok) / step:.1f}/s"]
    if any(failed):
        lines.append(f"  {'failed':<7}{_sparkline(failed, most)}  most: {max(failed) / step:.1f}/s")
    end = f"{len(ok) * step:.1f} s"
    lines.append(f"  {'':<7}0 s{end:>{max(len(end) + 1, len(ok) - 3)}}")
    return lines


def _sparkline(counts: Sequence[int], most: int) -> str:
    return "".join(_BLOCKS[math.ceil(count / max(most, 1) * 8)] for count in counts)
