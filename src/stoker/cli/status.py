"""`stoker status`: endpoints, workers and the room of each provider, on one screen."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer

from stoker.cli import output
from stoker.cli.endpoints import AsJson, Url, call, connect


def status(
    watch: Annotated[
        bool, typer.Option("--watch", "-w", help="Show it anew until Ctrl-C.")
    ] = False,
    interval: Annotated[
        float, typer.Option(help="Seconds between two looks with --watch.", min=0.5, max=3600)
    ] = 2.0,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Show all endpoints, workers and providers: what runs, what waits, and why.

    For example:

        stoker status

        stoker status --watch

        stoker status --json
    """
    if watch and not as_json:
        asyncio.run(_watch(url, interval))
        return
    found = call(url, lambda client: client.status())
    if as_json:
        output.print_json(found)
    else:
        from stoker.cli.overview import screen

        output.out.print(screen(found))


async def _watch(url: str | None, interval: float) -> None:
    from rich.live import Live
    from rich.text import Text

    from stoker.cli.overview import screen
    from stoker.client import RequestFailedError

    terminal = output.out.is_terminal
    async with connect(url) as client:
        with Live(console=output.out, auto_refresh=False, screen=terminal) as live:
            while True:
                try:
                    shown = screen(await client.status())
                except RequestFailedError as error:
                    if error.status is not None:
                        raise
                    shown = Text(f"{error}; trying again", style="yellow")
                if terminal:
                    live.update(shown, refresh=True)
                else:  # one screen below the other
                    live.console.print(shown)
                await asyncio.sleep(interval)
