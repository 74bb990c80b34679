"""A picture of a load test's results, drawn by matplotlib."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from stoker.errors import StokerError
from stoker.loadtest.statistics import Results, Spread

_OK, _FAILED, _LINE = "#4878a8", "#c44e52", "#333333"
_PERCENTILES = ("p50", "p90", "p95", "p99", "max")


def draw(results: Results, path: Path) -> None:
    """Draw the times, the percentiles and the answers over time into a file.

    Args:
        results: with at least one success.
        path: ends in ``.png`` or ``.svg``.

    Raises:
        StokerError: the file cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 7), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(_title(results), fontsize=11)
    panels: dict[str, Any] = figure.subplot_mosaic(
        [["times", "percentiles"], ["over time", "over time"]]
    )
    _draw_times(panels["times"], results)
    _draw_percentiles(panels["percentiles"], results)
    _draw_over_time(panels["over time"], results)
    for axes in panels.values():
        axes.spines[["top", "right"]].set_visible(False)
    try:
        figure.savefig(path, dpi=120)
    except OSError as error:
        raise StokerError(f"{path}: {error.strerror or error}") from None


def _title(results: Results) -> str:
    text = f"{results.target}  {results.route}\n{results.ok} ok, {results.failed} failed, "
    text += f"{results.requests_per_second:.1f} requests/s"
    if results.tokens:
        text += f", {results.tokens_per_second:.1f} tokens/s"
    # A dollar sign would begin mathematics.
    return text.replace("$", r"\$")


def _draw_times(axes: Any, results: Results) -> None:
    bins, total = results.histogram, results.total
    assert total is not None
    lows, widths = [b.low for b in bins], [b.high - b.low for b in bins]
    axes.bar(lows, [b.count for b in bins], widths, align="edge", color=_OK, edgecolor="white")
    if len(bins) > 1 and bins[0].low > 0 and bins[-1].high / bins[0].low > 10:
        axes.set_xscale("log")
    for name, style in (("p50", "-"), ("p95", "--"), ("p99", ":")):
        axes.axvline(getattr(total, name), color=_LINE, linestyle=style, label=name)
    axes.set(title="time of whole answers", xlabel="seconds", ylabel="requests")
    axes.legend(frameon=False)


def _draw_percentiles(axes: Any, results: Results) -> None:
    rows: list[tuple[str, Spread | None]] = [
        ("first byte", results.first_byte),
        ("first token", results.first_token),
        ("between tokens", results.between_tokens),
        ("whole answer", results.total),
    ]
    for name, spread in rows:
        if spread is not None:
            values = [getattr(spread, p) for p in _PERCENTILES]
            axes.plot(_PERCENTILES, values, marker="o", label=name)
    axes.set_yscale("log")
    axes.set(title="percentiles", ylabel="seconds")
    axes.grid(axis="y", alpha=0.3)
    axes.legend(frameon=False)


def _draw_over_time(axes: Any, results: Results) -> None:
    step = results.timeline_step
    starts = [n * step for n in range(len(results.timeline_ok))]
    ok = [count / step for count in results.timeline_ok]
    axes.bar(starts, ok, step, align="edge", color=_OK, label="ok")
    if results.failed:
        failed = [count / step for count in results.timeline_failed]
        axes.bar(starts, failed, step, bottom=ok, align="edge", color=_FAILED, label="failed")
    axes.set(title="answers over time", xlabel="seconds", ylabel="requests/s")
    axes.legend(frameon=False)
