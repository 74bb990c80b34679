"""`stoker logs`: an endpoint's log, and the logs of its workers."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from enum import StrEnum
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stoker.cli import output
from stoker.cli.endpoints import AsJson, Name, Url, connect
from stoker.errors import ConfigError, NotFoundError
from stoker.logs import plain

if TYPE_CHECKING:
    from stoker.client import Client

Record = dict[str, Any]

FOLLOW_PAUSE = 1.0
"""Seconds between two looks for new lines."""


class Level(StrEnum):
    """How much of an endpoint's log is shown."""

    INFO0 = "info0"
    INFO1 = "info1"
    TRACE = "trace"
    DEBUG = "debug"


class Log(StrEnum):
    """A log of a worker's instance."""

    LAUNCHER = "launcher"
    SETUP = "setup"
    MODEL = "model"
    WORKER = "worker"


def logs(
    name: Name,
    worker: Annotated[
        int | None, typer.Option("--worker", "-w", help="Show the logs of this worker itself.")
    ] = None,
    model: Annotated[
        bool, typer.Option("--model", help="With --worker: only what its model server wrote.")
    ] = False,
    log: Annotated[Log | None, typer.Option(help="With --worker: only this one.")] = None,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on with what comes, until Ctrl-C.")
    ] = False,
    tail: Annotated[int, typer.Option("--tail", "-n", help="Lines.", min=1, max=10_000)] = 100,
    level: Annotated[
        Level, typer.Option(help="info0 decisions, info1 also workers' states, trace, debug.")
    ] = Level.INFO1,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Show what was decided about an endpoint, and why; or what a worker of it wrote.

    With --follow, --json prints an object on each line.

    For example:

        stoker logs chat --follow

        stoker logs chat --worker 7 --model
    """
    if worker is None and (model or log is not None):
        raise ConfigError("--worker", "is required with --model and --log")
    if model and log not in (None, Log.MODEL):
        raise ConfigError("--model", "give this or --log, not both")
    chosen = Log.MODEL if model else log

    async def talk() -> None:
        async with connect(url) as client:
            if worker is not None:
                await _worker_logs(
                    client, name, worker, chosen, tail=tail, follow=follow, as_json=as_json
                )
            elif follow:
                await _follow_endpoint(client, name, level, tail=tail, as_json=as_json)
            else:
                record = await client.endpoint(name)
                texts = await client.logs(record["id"], tail=tail)
                if as_json:
                    output.print_json(texts)
                else:
                    _print_lines(texts.get(level, "").splitlines())

    asyncio.run(talk())


async def _follow_endpoint(
    client: Client, name: str, level: str, *, tail: int, as_json: bool
) -> None:
    endpoint_id = (await client.endpoint(name))["id"]
    after, wanted = 0, tail
    while True:
        ask = partial(client.log, endpoint_id, level=level, tail=wanted, after=after)
        for line in await _patiently(ask):
            after = max(after, line["id"])
            if as_json:
                _print_object(line)
            else:
                at = f"{datetime.fromtimestamp(line['at'], UTC):%Y-%m-%d %H:%M:%S.%f}"[:-3]
                _print_lines([f"{at} {line['text']}"])
        wanted = 10_000
        sys.stdout.flush()
        await asyncio.sleep(FOLLOW_PAUSE)


async def _worker_logs(
    client: Client,
    name: str,
    worker: int,
    log: str | None,
    *,
    tail: int,
    follow: bool,
    as_json: bool,
) -> None:
    endpoint_id = (await client.endpoint(name))["id"]
    ids = [one["id"] for one in await client.workers(endpoint_id)]
    if worker not in ids:
        known = ", ".join(map(str, ids)) or "none"
        raise NotFoundError(f"endpoint {name!r} has no worker {worker}; it has: {known}")
    after = ""
    while True:
        ask = partial(client.worker_logs, worker, log=log, tail=tail, after=after)
        lines, after = await (_patiently(ask) if follow and after else ask())
        if as_json and not follow:
            output.print_json(lines)
        elif as_json:
            for line in lines:
                _print_object(line)
        else:
            _print_lines(
                line["text"] if log else f"{line['log']:<8} | {line['text']}" for line in lines
            )
        sys.stdout.flush()
        if not follow:
            return
        await asyncio.sleep(FOLLOW_PAUSE)


async def _patiently(ask: Callable[[], Awaitable[Any]]) -> Any:
    """The answer, however long the control plane is away: it may be started again just now."""
    from stoker.client import RequestFailedError

    told = False
    while True:
        try:
            return await ask()
        except RequestFailedError as error:
            if error.status is not None and error.status < 500:
                raise
            if not told:
                output.err.print(f"[dim]{output.escape(str(error))}; trying again[/]")
            told = True
        await asyncio.sleep(FOLLOW_PAUSE)


def _print_lines(lines: Any) -> None:
    # Logs are others' words: an escape sequence in them must not steer the terminal.
    output.write("".join(f"{plain(line)}\n" for line in lines))


def _print_object(line: Record) -> None:
    output.write(output.json_text(line) + "\n")
