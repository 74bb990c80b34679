"""How commands print: tables for people, JSON for programs, one line for a mistake.

All that commands print goes through this file. Text of servers and models, which may be hostile,
cannot steer the terminal: whatever is printed loses its control characters (`displayable`), but
for what the command itself asks of the terminal (colours, a spinner). JSON keeps them as escapes.
"""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from typing import TYPE_CHECKING, Any, NoReturn, cast

import msgspec
import typer

from stoker.cli.exits import Exit, exit_of
from stoker.errors import StokerError
from stoker.logs import displayable, trace, without_shapes
from stoker.wire import encode_any

if TYPE_CHECKING:
    from rich.console import Console

    from stoker.cli.terminal import SafeConsole

__all__ = [
    "err",
    "escape",
    "fail",
    "json_text",
    "local_time",
    "missing",
    "out",
    "print_error",
    "print_failure",
    "print_json",
    "print_table",
    "print_trace",
    "progress",
    "write",
    "write_bytes",
]

_IN_JSON = re.compile("[\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]")


class _Late:
    """A console that is made when it is first used.

    `rich` takes a third of the time in which a command starts, and what serves, or writes for
    programs, prints without it.
    """

    def __init__(self, *, stderr: bool) -> None:
        self._stderr = stderr
        self._made: SafeConsole | None = None

    def _console(self) -> SafeConsole:
        if self._made is None:
            from stoker.cli.terminal import SafeConsole

            self._made = SafeConsole(stderr=self._stderr, highlight=False)
        return self._made

    def __getattr__(self, name: str) -> Any:
        return getattr(self._console(), name)

    def __enter__(self) -> Console:
        return self._console().__enter__()

    def __exit__(self, *error: Any) -> None:
        self._console().__exit__(*error)


out = cast("SafeConsole", _Late(stderr=False))
"""Standard output; colour only on a terminal."""

err = cast("SafeConsole", _Late(stderr=True))
"""Standard error, for progress and mistakes."""


def escape(text: str) -> str:
    """`text` as it is, where a console would read its brackets as markup."""
    from rich.markup import escape as escaped

    return escaped(text)


def write(text: str) -> None:
    """Write text to standard output as it is, but for what could steer a terminal."""
    sys.stdout.write(displayable(text))
    sys.stdout.flush()


def write_bytes(data: bytes) -> None:
    """Write bytes to standard output: exactly, where it is not a terminal."""
    if sys.stdout.isatty():
        write(data.decode("utf-8", "replace"))
    else:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()


def print_json(data: Any) -> None:
    """Print data for programs, indented for those who look over their shoulder."""
    sys.stdout.write(json_text(data, indent=2) + "\n")


def json_text(data: Any, *, indent: int = -1) -> str:
    """JSON that can be shown on a terminal; without `indent` on one line."""
    text = encode_any(data)
    if indent >= 0:
        text = msgspec.json.format(text, indent=indent)
    # JSON escapes the controls below U+0020 itself. These stand in strings alone.
    return _IN_JSON.sub(lambda found: f"\\u{ord(found[0]):04x}", text.decode())


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
        with err.status(escape(_line(text))) as spinner:
            yield lambda news: spinner.update(escape(_line(news)))
    else:
        yield lambda news: err.print(escape(_line(news)), soft_wrap=True)


def print_error(message: str, hint: str = "") -> None:
    """Say in one line what is wrong, and in another what to do about it."""
    # A key that was pasted in the wrong place must not be kept by whoever keeps what we print.
    message, hint = without_shapes(message), without_shapes(hint)
    err.print(f"[bold red]error:[/] {escape(_indented(message))}", soft_wrap=True)
    if hint:
        err.print(f"[bold]hint:[/] {escape(_line(hint))}", soft_wrap=True)


def print_failure(error: StokerError) -> Exit:
    """Say what went wrong, and what to do about it; returns the exit code for it."""
    print_error(str(error), getattr(error, "hint", ""))
    return exit_of(error)


def print_trace(error: Exception) -> None:
    """Show where an error that nobody foresaw happened."""
    sys.stderr.write(f"{trace(error)}\n")


def fail(message: str, *, hint: str = "", code: int = Exit.FAILED) -> NoReturn:
    """End the command with one line that says what is wrong."""
    print_error(message, hint)
    raise typer.Exit(code)


def missing(module: str | None, *extras: str, what: str = "") -> NoReturn:
    """End the command because a package is missing that belongs to these extras of ours.

    The hint works wherever Stoker came from: a checkout, a wheel or an index.
    """
    wanted = requirements_of(extras)
    text = f"{module} is missing" + (f": {what}" if what else "")
    command = shlex.join([sys.executable, "-m", "pip", "install", *wanted])
    fail(text, hint=f"run: {command}")


def requirements_of(extras: Iterable[str]) -> list[str]:
    """What our extras need, as arguments of pip."""
    from importlib import metadata

    found: dict[str, None] = {}
    with suppress(metadata.PackageNotFoundError):
        for line in metadata.requires("stoker") or ():
            requirement, _, marker = line.partition(";")
            if any(
                f"extra == {quote}{name}{quote}" in marker for name in extras for quote in "\"'"
            ):
                found[requirement.strip()] = None
    return list(found)


def local_time(unix: float) -> str:
    """A moment as people write it, in the time zone of this machine."""
    return f"{datetime.fromtimestamp(unix).astimezone():%Y-%m-%d %H:%M:%S}"


def _text(value: Any) -> str:
    if value is None or value == "":
        return "-"
    if isinstance(value, float):
        return f"{value:.1f}" if abs(value) < 1e6 else f"{value:.3g}"
    return _line(str(value))


def _indented(text: str) -> str:
    """Text whose further lines stand apart: what a server says cannot look like a line of ours."""
    return displayable(text.strip()).replace("\n", "\n  ")


def _line(text: str) -> str:
    """Text on one line."""
    return " ".join(displayable(text).split("\n"))
