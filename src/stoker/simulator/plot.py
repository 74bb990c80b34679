"""A picture of simulations over time, drawn by matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stoker.errors import StokerError
from stoker.simulator.result import Result

_COLOURS = (
    "#4878a8",
    "#c44e52",
    "#55a868",
    "#8172b2",
    "#ccb974",
    "#64b5cd",
    "#333333",
    "#d98bc0",
)
_LOAD, _LINE = "#cccccc", "#333333"


def draw(results: Sequence[Result], path: Path) -> None:
    """Draw load and capacity, waits, and (for several) cost against waits into a file.

    Args:
        results: with their timelines, of the same trace.
        path: ends in ``.png`` or ``.svg``.

    Raises:
        StokerError: the file cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    several = len(results) > 1
    rows = [["capacity"], ["waits"], *([["cost"]] if several else [])]
    figure = Figure(figsize=(11, 9 if several else 7), layout="constrained")
    FigureCanvasAgg(figure)
    panels: dict[str, Any] = figure.subplot_mosaic(rows)
    figure.suptitle(_title(results), fontsize=11)
    _draw_capacity(panels["capacity"], results)
    _draw_waits(panels["waits"], results)
    if several:
        _draw_cost(panels["cost"], results)
    figure.legend(loc="outside lower center", frameon=False, fontsize=8, ncols=4)
    for axes in panels.values():
        axes.spines[["top", "right"]].set_visible(False)
    try:
        figure.savefig(path, dpi=120)
    except OSError as error:
        raise StokerError(f"{path}: {error.strerror or error}") from None


def _title(results: Sequence[Result]) -> str:
    first = results[0]
    text = f"{first.trace}: {first.requests:,} requests scored"
    if len(results) == 1:
        text += f"\n{name_of(first)}: {first.ratio:.2f}x the fluid bound, "
        text += f"{first.over_limit:.2%} waited over {first.limit:g} s"
    # A dollar sign would begin mathematics.
    return text.replace("$", r"\$")


def name_of(result: Result) -> str:
    """The policy, with the label where there is one."""
    return f"{result.policy} {result.label}".strip()


def _times(values: Sequence[float], step: float) -> list[float]:
    return [place * step for place in range(len(values))]


def _draw_capacity(axes: Any, results: Sequence[Result]) -> None:
    timeline = results[0].timeline
    assert timeline is not None
    times = _times(timeline.load, timeline.step)
    axes.fill_between(times, timeline.load, step="post", color=_LOAD, label="load that came")
    for result, colour in zip(results, _cycle(len(results)), strict=True):
        line = result.timeline
        assert line is not None
        times = _times(line.active, line.step)
        axes.step(
            times,
            line.active,
            where="post",
            color=colour,
            lw=1.2,
            label=f"capacity of {name_of(result)}",
        )
        if len(results) == 1:  # of several it would be too much
            with_coming = [a + c for a, c in zip(line.active, line.coming, strict=True)]
            axes.step(
                times, with_coming, where="post", color=colour, lw=0.8, ls=":", label="and coming"
            )
            if any(line.stopped):
                axes.step(
                    times, line.stopped, where="post", color=_LINE, lw=0.8, ls="--", label="stopped"
                )
    axes.set(title="load and capacity", xlabel="seconds", ylabel="load units/s")
    highest = max(max(r.timeline.active, default=0.0) for r in results if r.timeline is not None)
    if highest > 0:
        # A single second's load may be far above any capacity: it is cut off.
        axes.set_ylim(0, 1.6 * highest)


def _draw_waits(axes: Any, results: Sequence[Result]) -> None:
    for result, colour in zip(results, _cycle(len(results)), strict=True):
        line = result.timeline
        assert line is not None
        times = _times(line.max_wait, line.step)
        axes.step(times, line.max_wait, where="post", color=colour, lw=0.9)
    axes.axhline(results[0].limit, color=_LINE, ls="--", lw=0.8)
    axes.set_yscale("symlog", linthresh=1.0)
    axes.set_ylim(bottom=0)
    axes.set(
        title="longest wait of those who came (dashed: the limit)",
        xlabel="seconds",
        ylabel="seconds",
    )


def _draw_cost(axes: Any, results: Sequence[Result]) -> None:
    for result, colour in zip(results, _cycle(len(results)), strict=True):
        at = (result.ratio, 100 * result.over_limit)
        axes.plot(*at, "o", color=colour)
        axes.annotate(name_of(result), at, textcoords="offset points", xytext=(5, 4), fontsize=8)
    axes.set_yscale("symlog", linthresh=0.1)
    # Room above, so that the names do not run into the title.
    axes.set_ylim(0, max(0.3, 500 * max(result.over_limit for result in results)))
    axes.axvline(1.0, color=_LINE, ls=":", lw=0.8)
    axes.set(
        title="cost and waits: the lower left is better",
        xlabel="cost / fluid bound",
        ylabel=f"% over {results[0].limit:g} s",
    )
    axes.grid(alpha=0.3)


def _cycle(count: int) -> list[str]:
    return [_COLOURS[place % len(_COLOURS)] for place in range(count)]
