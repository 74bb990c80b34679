"""`stoker trace`: what came to a live endpoint, as a trace for `stoker simulate`."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stoker.cli import output
from stoker.cli.endpoints import Name, Url, connect
from stoker.errors import StokerError

if TYPE_CHECKING:
    from stoker.wire import Recorded


def trace(
    name: Name,
    out: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="File to write; default: standard output."),
    ] = None,
    seconds: Annotated[
        float | None,
        typer.Option(help="Of the last so many seconds; default: all that is remembered.", min=1),
    ] = None,
    url: Url = None,
) -> None:
    """Write when requests came to an endpoint and how much load each was, as CSV.

    The control plane remembers the newest 100,000 requests of an endpoint since it
    was started; neither keys nor payloads are among it.
    """
    recorded = asyncio.run(_ask(name, seconds, url))
    text = "arrival,load\n"
    text += "".join(f"{at:.6f},{load:.6g}\n" for at, load in recorded.requests)
    if out is None:
        output.write(text)
    else:
        try:
            out.write_text(text, encoding="utf-8")
        except OSError as error:
            raise StokerError(f"{out}: {error.strerror or error}") from None
        output.err.print(
            f"{len(recorded.requests):,} requests of {recorded.seconds:,.0f} s are in "
            f"{output.escape(str(out))}",
            soft_wrap=True,
        )
    if not recorded.complete:
        output.err.print("[yellow]more came than are remembered: the oldest are missing[/]")


async def _ask(name: str, seconds: float | None, url: str | None) -> Recorded:
    async with connect(url) as client:
        record = await client.endpoint(name)
        return await client.trace(record["id"], seconds=seconds)
