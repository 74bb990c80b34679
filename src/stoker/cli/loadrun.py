"""What `stoker load` does: aim, run, print, draw."""

from __future__ import annotations

import asyncio
import signal
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import uvloop

from stoker.cli import output
from stoker.cli.endpoints import connect
from stoker.cli.exits import Exit
from stoker.cli.loadreport import print_results, show_progress
from stoker.cli.pictures import check_plot, need_matplotlib
from stoker.errors import ConfigError
from stoker.loadtest import (
    EndpointTarget,
    LoadTest,
    PayloadTemplate,
    Plan,
    Results,
    Target,
    UrlTarget,
    read_payloads,
)
from stoker.wire import DEFAULT_LOAD

if TYPE_CHECKING:
    from stoker.client import Client


@dataclass(frozen=True, kw_only=True)
class Aim:
    """Where the requests go.

    Attributes:
        target: a URL, or the name of an endpoint.
        route: path there.
        control_plane: for an endpoint: URL or name of a login; None: the default.
        raw: the URL is that of a model server.
        cost: of each request, load units; None: what is known of its route.
    """

    target: str
    route: str
    control_plane: str | None
    raw: bool
    cost: float | None

    @property
    def by_url(self) -> bool:
        """Whether `target` is a URL."""
        return self.target.startswith(("http://", "https://"))

    async def open(self, stack: AsyncExitStack) -> Target:
        """The target, which ends with `stack`.

        Raises:
            ConfigError: it cannot be one.
        """
        if self.by_url:
            aim = UrlTarget(
                self.target,
                self.route,
                raw=self.raw,
                cost=DEFAULT_LOAD if self.cost is None else self.cost,
            )
            stack.push_async_callback(aim.close)
            return aim
        client = await stack.enter_async_context(_client(self.control_plane))
        return EndpointTarget(client, self.target, self.route, cost=self.cost)


def run(
    aim: Aim, payload: str, plan: Plan, *, stream: bool, plot: Path | None, as_json: bool
) -> int:
    """Run a load test and print what came out; returns the exit code.

    Args:
        aim: where to.
        payload: as `read_payloads` takes it.
        plan: how much and how fast.
        stream: ask for streams.
        plot: picture to draw.
        as_json: print JSON.

    Raises:
        ConfigError: an option cannot work.
        StokerError: the picture cannot be written.
    """
    plan.check()
    if aim.raw and not aim.by_url:
        raise ConfigError("--raw", "is for the URL of a model server, not for an endpoint")
    payloads = read_payloads(payload, aim.route, stream=stream)
    if plot is not None:
        check_plot(plot)
    _allow_connections()

    async def work() -> Results:
        async with AsyncExitStack() as stack:
            return await _run(await aim.open(stack), payloads, plan, aim.route)

    results = uvloop.run(work())
    if as_json:
        output.print_json(results)
    else:
        print_results(output.out, results)
    if plot is not None and results.ok:
        need_matplotlib()
        from stoker.loadtest.plot import draw

        draw(results, plot)
        output.err.print(f"picture: {output.escape(str(plot))}", soft_wrap=True)
    if results.interrupted:
        return Exit.INTERRUPTED
    return Exit.OK if results.ok else Exit.FAILED


async def _run(target: Target, payloads: list[PayloadTemplate], plan: Plan, route: str) -> Results:
    test = LoadTest(target, payloads, plan)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, test.stop)
    showing = asyncio.create_task(show_progress(output.err, test))
    try:
        await test.run()
    finally:
        showing.cancel()
        await asyncio.gather(showing, return_exceptions=True)
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)
    return test.results(route)


def _client(url: str | None) -> Client:
    try:
        return connect(url)
    except ConfigError as error:
        if error.field != "STOKER_API_KEY":
            raise
        raise ConfigError(
            "STOKER_API_KEY",
            f"{str(error).partition(': ')[2]} (for a worker without a control plane, give its URL, "
            "such as http://127.0.0.1:3000)",
        ) from None


def _allow_connections() -> None:
    """Raise the limit of open files to what this user may have: each request under way is one."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 65_536 if hard == resource.RLIM_INFINITY else min(hard, 65_536)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
