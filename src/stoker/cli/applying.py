"""How the changes that a settings file means are shown: a line for each, a mark and a colour."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from typing import TYPE_CHECKING, Any

import msgspec

from stoker.cli import output
from stoker.logs import printable
from stoker.wire import EndpointParameters

if TYPE_CHECKING:
    from rich.console import Console

MARKS = {
    "create": ("+", "green", "create"),
    "update": ("~", "yellow", "change"),
    "keep": (" ", "dim", "as it is"),
    "delete": ("-", "red", "delete"),
    "orphan": ("!", "magenta", "orphan"),
    "removed": ("!", "magenta", "deleted"),
    "foreign": (" ", "dim", "left alone"),
}

DOES_SOMETHING = frozenset({"create", "update", "delete"})

Change = dict[str, Any]


def works(changes: Sequence[Change]) -> list[Change]:
    """Those that do something."""
    return [change for change in changes if change["kind"] in DOES_SOMETHING]


def print_changes(changes: Sequence[Change], console: Console, *, quiet: bool = False) -> None:
    """A line for each change, and one for each of its figures.

    Args:
        changes: as the control plane tells them.
        console: where to.
        quiet: leave out what stays as it is.
    """
    for change in changes:
        if quiet and change["kind"] in ("keep", "foreign"):
            continue
        mark, style, word = MARKS[change["kind"]]
        figures = (f"    {figure(field)}" for field in change["fields"])
        for text in (f"{mark} {line(change, word)}", *figures):
            shown = output.escape(printable(text))  # values come from the control plane
            console.print(f"[{style}]{shown}[/]", soft_wrap=True)


def line(change: Change, word: str) -> str:
    """What happens to one thing."""
    what = f"endpoint {change['endpoint']}"
    if change["workergroup"]:
        what = f"  workergroup {change['endpoint']}/{change['workergroup']}"
    notes = [change["note"]] if change["note"] else []
    if change["former_name"]:
        notes.append(f"it was called {change['former_name']}")
    if change["rolling"]:
        notes.append("its workers are updated one after the other")
    if change["kind"] == "orphan":
        notes.append("goes on as it is; `stoker apply --prune` deletes it")
    elif change["kind"] == "removed":
        notes.append("`stoker apply` makes it again; or take it out of the file")
    elif change["kind"] == "delete":
        notes.append("its workers are drained and destroyed")
    return f"{what}: {word}" + (f" ({'; '.join(notes)})" if notes else "")


def figure(field: dict[str, Any]) -> str:
    """One figure that changes."""
    if field["secret"]:
        return f"{field['name']}: changed"
    return f"{field['name']}: {_text(field['before'])} -> {_text(field['after'])}"


def summary(changes: Sequence[Change]) -> str:
    """How many of each kind, in one line."""
    words = {
        "create": "to create",
        "update": "to change",
        "delete": "to delete",
        "orphan": "orphaned",
        "removed": "deleted by command",
        "keep": "as they are",
    }
    counts = {kind: sum(c["kind"] == kind for c in changes) for kind in words}
    told = [f"{count} {words[kind]}" for kind, count in counts.items() if count]
    return ", ".join(told) or "nothing is there, and nothing is wanted"


def idle_line(
    name: str, parameters: EndpointParameters, price: float | None, perf: float = 0.0
) -> str:
    """What an endpoint holds without load, and what that costs.

    Args:
        name: of the endpoint.
        parameters: how it is scaled.
        price: dollars per hour of the cheapest machine that it may get now; None: not known.
        perf: load per second of one worker, as measured; 0: not known, so `min_load` may take more
            workers than the one that is told.
    """
    from stoker.cli.check import active_when_idle, held_when_idle

    if parameters.endpoint_state != "active":
        return f"endpoint {name} is {parameters.endpoint_state}: it starts no worker"
    active, held = active_when_idle(parameters), held_when_idle(parameters)
    if active and perf > 0:
        active = max(active, min(parameters.max_workers, ceil(parameters.min_load / perf)))
        held = max(held, active)
    most = parameters.max_workers
    cap = f"under load at most {most} worker{'' if most == 1 else 's'}"
    if held == 0:
        return (
            f"endpoint {name}: when idle it holds no worker and costs nothing, and the first "
            f"request waits until one is up; {cap}"
        )
    parts = []
    if active:
        parts.append(f"{'' if perf else 'at least '}{active} active")
    if held > active:
        parts.append(f"{held - active} stopped or active")
    # A stopped machine costs its disk alone: how much is the provider's matter.
    cost = "no rent on this machine"
    if price is None:
        cost = "at a price that is not known yet"
    elif price > 0:
        low = f"${active * price:.2f}" if active else "the disks of the stopped ones"
        cost = f"{low} to ${held * price:.2f} an hour" if held > active else f"{low} an hour"
    return f"endpoint {name}: when idle it holds {' and '.join(parts)} ({cost}); {cap}"


def _text(value: Any) -> str:
    if value is None:
        return "none"
    text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
    return text if len(text) <= 80 else text[:77] + "..."
