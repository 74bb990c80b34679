"""How commands print: tables for people, JSON for programs, one line for a mistake."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any, NoReturn

import msgspec
import typer
from rich.console import Console
from rich.table import Table

out = Console(highlight=False)
"""Standard output; colour only on a terminal."""

err = Console(stderr=True, highlight=False)
"""Standard error, for progress and mistakes."""


def print_json(data: Any) -> None:
    """Print data for programs, indented for those who look over their shoulder."""
    sys.stdout.write(msgspec.json.format(msgspec.json.encode(data), indent=2).decode() + "\n")


def print_table(columns: Sequence[str], rows: Sequence[Sequence[Any]], *, empty: str) -> None:
    """Print rows under their columns; a sentence where there are none."""
    if not rows:
        err.print(empty)
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*("" if value is None else _text(value) for value in row))
    out.print(table)


def fail(message: str, *, code: int = 1) -> NoReturn:
    """End the command with one line that says what is wrong."""
    err.print(f"[bold red]error:[/] {escape(message)}", soft_wrap=True)
    raise typer.Exit(code)


def escape(text: str) -> str:
    """Text from outside is not markup."""
    from rich.markup import escape as rich_escape

    return rich_escape(text)


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.1f}" if abs(value) < 1e6 else f"{value:.3g}"
    return escape(str(value))
