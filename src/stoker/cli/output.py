"""How commands print: tables for people, JSON for programs, one line for a mistake."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any, NoReturn

import msgspec
import typer
from rich.console import Console
from rich.markup import escape

from stoker.logs import printable

out = Console(highlight=False)
"""Standard output; colour only on a terminal."""

err = Console(stderr=True, highlight=False)
"""Standard error, for progress and mistakes."""

__all__ = [
    "err",
    "escape",
    "fail",
    "local_time",
    "out",
    "print_error",
    "print_json",
    "print_table",
    "progress",
]


def print_json(data: Any) -> None:
    """Print data for programs, indented for those who look over their shoulder."""
    sys.stdout.write(msgspec.json.format(msgspec.json.encode(data), indent=2).decode() + "\n")


def print_table(columns: Sequence[str], rows: Sequence[Sequence[Any]], *, empty: str) -> None:
    """Print rows under their columns; a sentence where there are none."""
    if not rows:
        err.print(empty)
        return
    lines = [list(columns), *([_text(value) for value in row] for row in rows)]
    widths = [max(map(len, cells)) for cells in zip(*lines, strict=True)]
    for number, line in enumerate(lines):
        text = "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        # Never folded: a URL can be copied, and a line can be searched for.
        out.print(escape(text.rstrip()), style="bold" if number == 0 else None, soft_wrap=True)


@contextmanager
def progress(text: str) -> Iterator[Callable[[str], None]]:
    """Show what is waited for: a spinner on a terminal, else a line for each change.

    Yields:
        what to call with the next text.
    """
    if err.is_terminal:
        with err.status(escape(text)) as spinner:
            yield lambda news: spinner.update(escape(news))
    else:
        yield lambda news: err.print(escape(news), soft_wrap=True)


def print_error(message: str) -> None:
    """Say in one line what is wrong."""
    err.print(f"[bold red]error:[/] {escape(message)}", soft_wrap=True)


def fail(message: str, *, code: int = 1) -> NoReturn:
    """End the command with one line that says what is wrong."""
    print_error(message)
    raise typer.Exit(code)


def local_time(unix: float) -> str:
    """A moment as people write it, in the time zone of this machine."""
    return f"{datetime.fromtimestamp(unix).astimezone():%Y-%m-%d %H:%M:%S}"


def _text(value: Any) -> str:
    if value is None or value == "":
        return "-"
    if isinstance(value, float):
        return f"{value:.1f}" if abs(value) < 1e6 else f"{value:.3g}"
    # Names and errors are others' words: they must not steer the terminal.
    return printable(str(value))
