"""What `stoker status` shows: tables of endpoints, workers and providers, for a terminal."""

from __future__ import annotations

from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from stoker.logs import printable

GOOD = {"idle", "ready"}
BAD = {"error", "destroying"}


def screen(found: dict[str, Any]) -> RenderableType:
    """What the control plane answered, for a terminal of any width."""
    return Group(
        _endpoints(found.get("endpoints", [])),
        _workers(found.get("workers", [])),
        _providers(found.get("providers", [])),
    )


def _endpoints(endpoints: list[dict[str, Any]]) -> RenderableType:
    if not endpoints:
        return Text("no endpoint yet: stoker endpoint create NAME --backend BACKEND\n")
    table = _table(
        "ENDPOINT", "WORKERS", "LOAD/S", "WAITING", "AT WORK", "WHY IT WAITS, LAST ERROR"
    )
    for one in endpoints:
        name = _text(one["endpoint_name"], "bold")
        if one["endpoint_state"] != "active":
            name.append(f" ({_plain(one['endpoint_state'])})", "yellow")
        workers = ", ".join(f"{count} {state}" for state, count in one["workers"].items())
        waiting = one["requests_waiting"]
        table.add_row(
            name,
            _text(workers or "none", _style_of(one["workers"])),
            f"{one['load_per_second']:g}",
            _text(waiting, "yellow" if waiting else ""),
            str(one["requests_working"]),
            _text(one["reason"], "red" if one["last_error"] else ""),
        )
    return table


def _workers(workers: list[dict[str, Any]]) -> RenderableType:
    if not workers:
        return Text("no workers\n")
    table = _table("WORKER", "ENDPOINT", "STATUS", "FOR", "ON", "PERF/S", "LOAD", "ERROR")
    for one in workers:
        place = one["provider"] + (f" ({one['hardware']})" if one["hardware"] else "")
        table.add_row(
            str(one["id"]),
            _text(one["endpoint_name"]),
            _text(one["status"], _style_of([one["status"]])),
            f"{one['seconds']:.0f} s",
            _text(place),
            f"{one['perf']:.1f}" if one["perf"] else "-",
            f"{one['load']:.1f}",
            _text(one["error"].partition("\n")[0], "red"),
        )
    return table


def _providers(providers: list[dict[str, Any]]) -> RenderableType:
    table = _table("PROVIDER", "MACHINE", "ROOM", "HELD BY")
    for one in providers:
        held = ", ".join(f"{name}: {count}" for name, count in one["instances"].items())
        if one["problem"]:
            table.add_row(_text(one["name"]), "", _text(one["problem"], "red"), _text(held))
        for offer in one["offers"]:
            room = f"{max(0, offer['available'])} free"
            if offer["capacity"] is not None:
                room += f" of {offer['capacity']}"
            if offer["limit"]:
                room += f" ({offer['limit']})"
            style = "" if offer["available"] > 0 else "yellow"
            table.add_row(
                _text(one["name"]), _text(offer["hardware"]), _text(room, style), _text(held)
            )
        if held and not one["offers"] and not one["problem"]:
            table.add_row(_text(one["name"]), "", "", _text(held))
    return table


def _table(*columns: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _style_of(states: Any) -> str:
    if any(state in BAD for state in states):
        return "red"
    return "green" if any(state in GOOD for state in states) else ""


def _plain(value: Any) -> str:
    return printable("" if value is None else str(value))


def _text(value: Any, style: str = "") -> Text:
    """Others' words, which must not steer the terminal."""
    return Text(_plain(value), style=style)
