"""The rows of `benchmarks.scaling`, and what they say: tables, means, and the worst of them."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path

import msgspec

from stoker.errors import StokerError

FORGIVEN = 0.0005
"""Share over the limit by which another policy may be later than ours and still count as no
later."""

LATE_PRICE = 20.0
"""What a request that is late costs, in costs of serving one: the planner's default."""

CLOSE = 1.05
"""Times the cheapest other that is no later: as good, in the summary."""

WORST = 4
"""Rows that the summary names for each setting."""

SHOWN = {
    "target_util:0.8": "target_util 0.8",
    "knative:target=0.7": "Knative",
    "ray_serve:2": "Ray Serve",
    "runpod_count:8": "Runpod, 8 a worker",
}
"""Policies that have a column, and its head."""

BEGIN = "<!-- begin: python -m benchmarks.scaling --write -->"
END = "<!-- end: python -m benchmarks.scaling --write -->"

Figures = tuple[float, float]
"""Cost as a multiple of the fluid bound, and the share of requests over the limit."""


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One kind of traffic with one setting."""

    traffic: str
    boot: float
    """Seconds."""
    pool: bool
    ratio: float
    """Our cost as a multiple of the fluid bound."""
    over: float
    """Share of requests that waited for longer than the limit."""
    p99: float = 0.0
    """Of the waits, seconds."""
    created: int = 0
    others: dict[str, Figures] = {}
    """Of all other policies; fixed fleets among them."""
    before: Figures | None = None
    """Ours, in an earlier run."""

    @property
    def setting(self) -> tuple[float, bool]:
        """Boot and pool."""
        return self.boot, self.pool

    @property
    def ours(self) -> Figures:
        """Cost and lateness."""
        return self.ratio, self.over

    def cheapest(self) -> str | None:
        """The cheapest other of which no larger share of the requests waited too long."""
        fair = {n: o for n, o in self.others.items() if o[1] <= self.over + FORGIVEN}
        return min(fair, key=lambda name: fair[name][0], default=None)

    @property
    def against(self) -> float | None:
        """Our cost divided by that of the cheapest other; None: all others are later."""
        name = self.cheapest()
        return None if name is None else self.ratio / self.others[name][0]


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """What the rows of one setting say together."""

    boot: float
    pool: bool
    rows: int
    mean: float
    """Geometric mean of cost + 20 x late."""
    before: float | None
    """The same in an earlier run, of the same rows."""
    next_best: str | None
    """The other policy (no fixed fleet, which is known in hindsight only) whose mean is lowest."""
    next_mean: float | None
    close: int
    """Rows in which no other that is as little late is cheaper by more than 5%."""
    worst: list[tuple[str, float]]
    """Rows that are not, and how much they cost beside the cheapest other; the worst first."""


class Report(msgspec.Struct, frozen=True):
    """All that `--json` prints."""

    rows: list[Row]
    summaries: list[Summary] = []


def price(figures: Figures) -> float:
    """Of cost and lateness together."""
    return figures[0] + LATE_PRICE * figures[1]


def geometric_mean(values: Iterable[float]) -> float:
    """Of at least one value above 0."""
    found = [math.log(value) for value in values]
    return math.exp(sum(found) / len(found))


def summarise(rows: list[Row]) -> list[Summary]:
    """One for each setting, in the order of the rows."""
    settings: dict[tuple[float, bool], list[Row]] = {}
    for row in rows:
        settings.setdefault(row.setting, []).append(row)
    found = []
    for (boot, pool), part in settings.items():
        before = [price(row.before) for row in part if row.before is not None]
        # A policy that was not run on all rows cannot be compared.
        names = set.intersection(*(set(row.others) for row in part))
        means = {
            name: geometric_mean(price(row.others[name]) for row in part)
            for name in names
            if not name.startswith("fixed:")
        }
        best = min(means, key=lambda name: means[name], default=None)
        bad = [(row.traffic, row.against) for row in part if row.against is not None]
        worst = [(name, ratio) for name, ratio in bad if ratio > CLOSE]
        worst.sort(key=lambda one: -one[1])
        found.append(
            Summary(
                boot=boot,
                pool=pool,
                rows=len(part),
                mean=geometric_mean(price(row.ours) for row in part),
                before=geometric_mean(before) if len(before) == len(part) else None,
                next_best=best,
                next_mean=means[best] if best is not None else None,
                close=len(part) - len(worst),
                worst=worst[:WORST],
            )
        )
    return found


def heading(boot: float, pool: bool) -> str:
    """What a setting is called."""
    return f"boots of {boot:g} s, {'with' if pool else 'without'} a pool"


def markdown(rows: list[Row]) -> str:
    """The summaries, and a table for each setting."""
    summaries = summarise(rows)
    parts = [_overview(summaries)]
    for summary in summaries:
        title = heading(summary.boot, summary.pool)
        part = [row for row in rows if row.setting == (summary.boot, summary.pool)]
        parts.append(f"**{title[0].upper()}{title[1:]}**\n\n{_table(part)}")
    return "\n\n".join(parts)


def _overview(summaries: list[Summary]) -> str:
    head = [
        "setting",
        "mean of cost + 20 x late",
        "before",
        "next best policy",
        "at most 5% dearer",
    ]
    lines = _head([*head, "worst rows"])
    for one in summaries:
        cells = [
            heading(one.boot, one.pool),
            f"**{one.mean:.3f}**",
            "" if one.before is None else f"{one.before:.3f}",
            "" if one.next_best is None else f"`{one.next_best}` {one.next_mean:.3f}",
            f"{one.close} of {one.rows}",
            ", ".join(f"{name} ({ratio:.2f})" for name, ratio in one.worst) or "none",
        ]
        lines.append(_line(cells))
    return "\n".join(lines)


def _table(rows: list[Row]) -> str:
    compared = any(row.before is not None for row in rows)
    head = ["traffic", "Stoker", *(["before"] if compared else [])]
    lines = _head([*head, "cheapest other that is no later", "Stoker / that", *SHOWN.values()])
    for row in rows:
        best, against = row.cheapest(), row.against
        other = "none" if best is None else f"`{best}` {_cell(row.others[best])}"
        cells = [row.traffic, f"**{_cell(row.ours)}**"]
        if compared:
            cells.append("" if row.before is None else _cell(row.before))
        cells += [other, "-" if against is None else f"{against:.2f}"]
        cells += [_cell(row.others[name]) if name in row.others else "" for name in SHOWN]
        lines.append(_line(cells))
    return "\n".join(lines)


def _cell(figures: Figures) -> str:
    return f"{figures[0]:.2f}, {figures[1]:.1%}"


def _head(names: list[str]) -> list[str]:
    return [_line(names), "|" + "---|" * len(names)]


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def read_before(file: Path) -> dict[tuple[str, float, bool], Figures]:
    """Our figures of an earlier run, from what `--json` printed: by traffic, boot and pool.

    Raises:
        StokerError: the file cannot be read, or is something else.
    """
    try:
        report = msgspec.json.decode(file.read_bytes(), type=Report)
    except OSError as error:
        raise StokerError(f"{file}: {error.strerror or error}") from None
    except msgspec.DecodeError as error:
        raise StokerError(f"{file}: is not what --json prints: {error}") from None
    return {(row.traffic, row.boot, row.pool): row.ours for row in report.rows}


def paste(page: str, text: str) -> str:
    """A page with `text` in place of what stood between the two marks.

    Raises:
        StokerError: it has no such marks, or not in that order.
    """
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise StokerError(f"has no lines {BEGIN!r} and {END!r}, between which the table stands")
    return f"{before}{BEGIN}\n{text}\n{END}{after}"
