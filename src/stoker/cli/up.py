"""`stoker up`: run the control plane."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shlex
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec
import uvloop

from stoker import descriptors, logs, signals
from stoker.cli import applying, output
from stoker.cli.settings import Settings, default_state_directory
from stoker.config import expanded
from stoker.console.diff import Plan, WantedEndpoint
from stoker.console.serve import MIN_KEY_LENGTH, Access, Server
from stoker.errors import ConfigError, StokerError

STOP_NEWS = 2.0
"""Seconds between two looks at what a stop still waits for."""


def run(
    settings: Settings,
    folder: Path,
    *,
    state: Path | None,
    host: str | None,
    port: int | None,
    keep_instances: bool,
    stop_on_stdin_eof: bool,
    log_level: str,
) -> int:
    """Serve until a signal; returns the exit code.

    Args:
        settings: what is to be served.
        folder: of the settings file.
        state: in place of the file's; so are `host` and `port`.
        host: address to listen on.
        port: 0 for a free one.
        keep_instances: leave workers running at the end.
        stop_on_stdin_eof: also stop when standard input is closed.
        log_level: what is logged.
    """
    logs.configure(level=log_level)
    configured = expanded(settings.server.state) if settings.server.state else None
    options = _Options(
        state=(state or configured or default_state_directory()).absolute(),
        host=host or settings.server.host,
        port=settings.server.port if port is None else port,
        keep_instances=keep_instances,
        stop_on_stdin_eof=stop_on_stdin_eof,
    )
    descriptors.raise_limit()
    try:
        wanted = [
            msgspec.convert(endpoint.wanted(folder), WantedEndpoint)
            for endpoint in settings.endpoint
        ]
        code: int = uvloop.run(_serve(settings, wanted, options))
    except StokerError as error:
        return output.print_failure(error)
    return code


class _Options:
    def __init__(
        self, *, state: Path, host: str, port: int, keep_instances: bool, stop_on_stdin_eof: bool
    ) -> None:
        self.state, self.host, self.port = state, host, port
        self.keep_instances, self.stop_on_stdin_eof = keep_instances, stop_on_stdin_eof


def _metrics_key() -> str:
    """What opens ``/metrics`` here and at our workers; it stays in the environment, for them.

    Raises:
        ConfigError: it can be guessed.
    """
    key = os.environ.get("STOKER_METRICS_KEY", "")
    if key and len(key) < MIN_KEY_LENGTH:
        raise ConfigError("STOKER_METRICS_KEY", f"must have at least {MIN_KEY_LENGTH} characters")
    return key


async def _serve(settings: Settings, wanted: Sequence[WantedEndpoint], options: _Options) -> int:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopping.set)
    hurry = asyncio.Event()
    if options.stop_on_stdin_eof:
        _watch_stdin(stopping, hurry)
    # Taken out of the environment at once: no child process shall inherit it.
    given_key = os.environ.pop("STOKER_API_KEY", "").strip() or None
    if settings.server.cors_origins:  # for workers on this machine too
        os.environ.setdefault("STOKER_CORS_ORIGINS", ",".join(settings.server.cors_origins))
    server = await Server.start(
        options.state,
        host=options.host,
        port=options.port,
        public_url=settings.server.public_url,
        certificate=settings.server.certificate,
        certificate_key=settings.server.certificate_key,
        timezone=settings.server.timezone,
        local=settings.provider.local,
        api_key=given_key,
        access=Access(
            sign_unproven=settings.server.sign_unproven,
            cors=settings.server.cors_origins,
            metrics_key=_metrics_key(),
        ),
        wanted=wanted,
    )
    try:
        prices = {
            offer.price_per_hour
            for provider in server.plane.providers.values()
            for offer in await provider.offers()
        }
        await _greet(server, settings, server.plan, min(prices, default=None))
        await stopping.wait()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, hurry.set)
        if options.keep_instances:
            output.err.print("stopping: workers go on, for the next start to find them")
        else:
            output.err.print("stopping: workers are drained (press Ctrl-C again to stop at once)")
        telling = asyncio.create_task(_tell_what_is_left(server))
        await server.stop(keep_instances=options.keep_instances, hurry=hurry)
        telling.cancel()
        signals.hear_no_more(signal.SIGINT, signal.SIGTERM)
        output.err.print("stopped")
    except BaseException:
        with contextlib.suppress(Exception):
            await server.stop(keep_instances=True, hurry=asyncio.Event())
        raise
    return 0


async def _greet(server: Server, settings: Settings, plan: Plan, price: float | None) -> None:
    """Say where we are, and let a new API key in once it was shown.

    Raises:
        StokerError: the key was shown, but cannot be stored.
    """
    with contextlib.suppress(OSError, ValueError):
        changes = plan.shown()
        applying.print_changes(changes, output.err, quiet=True)
        if changes:
            output.err.print(f"[dim]endpoints: {applying.summary(changes)}[/]", soft_wrap=True)
    try:
        _print_greeting(server, settings, price)
    except (OSError, ValueError, AttributeError) as error:  # closed, full, or nobody reads it
        # Whoever started us may be gone already; to stop then is `_watch_stdin`'s matter.
        if server.new_api_key:
            why = getattr(error, "strerror", None) or "it is closed"
            with contextlib.suppress(OSError, ValueError):
                output.err.print(
                    f"[bold red]no API key was made:[/] standard output cannot be written "
                    f"({output.escape(why)}); make one with: stoker key create --state "
                    f"{output.escape(shlex.quote(str(server.state_directory)))}",
                    soft_wrap=True,
                )
        return
    await server.accept_new_api_key()


def _print_greeting(server: Server, settings: Settings, price: float | None) -> None:
    descriptors.check_stdout()
    out = sys.stdout
    out.write(f"stoker listens on {server.url}\n")
    out.write(f"state is in {server.state_directory}\n")
    for endpoint in settings.endpoint:
        # As it is scaled now: a command may have set what the file leaves open.
        present = server.plane.fleet.by_name.get(endpoint.name)
        if present is not None:
            groups = server.plane.fleet.groups_of(present.id)
            perf = max((server.plane.experience.of(g.id).perf for g in groups), default=0.0)
            out.write(applying.idle_line(endpoint.name, present.parameters, price, perf) + "\n")
            floor, most = present.parameters.min_load, present.parameters.max_workers
            if 0 < most * perf < floor:
                output.err.print(
                    f"[yellow]warning:[/] endpoint {output.escape(endpoint.name)}: min_load "
                    f"{floor:g} is more than {most} workers (max_workers) can do, each of which "
                    f"was measured at {perf:.1f}/s",
                    soft_wrap=True,
                )
    if server.new_api_key:
        out.write("a new API key was made; it is shown this once:\n")
        out.write(f"  {server.new_api_key}\n")
        out.write("to use it in every terminal, run this there once, and paste the key:\n")
        out.write(f"  stoker login {server.url}\n")
        out.write("or set it in one terminal:\n")
        out.write(f"  export STOKER_URL={server.url} STOKER_API_KEY={server.new_api_key}\n")
    if out.isatty():
        out.write("press Ctrl-C to stop it and its workers\n")
    out.flush()


async def _tell_what_is_left(server: Server) -> None:
    """Say what a long stop waits for, when it changes."""
    told = ""
    while True:
        await asyncio.sleep(STOP_NEWS)
        workers = [w for w in server.plane.fleet.workers.values() if not w.record.attached]
        now = server.plane.now()
        requests = sum(server.plane.router.in_flight(w.id, now) for w in workers)
        text = f"still stopping: workers left: {len(workers)}, requests in flight: {requests}"
        if text != told:
            told = text
            output.err.print(text)


def _watch_stdin(stopping: asyncio.Event, hurry: asyncio.Event) -> None:
    """Stop when whoever started us is gone, however it ended: its end of the pipe closes.

    Its requests went with it, so no drain waits for those that have not come to their worker.

    Raises:
        ConfigError: standard input is a file, which nobody closes.
    """
    loop = asyncio.get_running_loop()

    def readable() -> None:
        if not os.read(0, 4096):
            loop.remove_reader(0)
            hurry.set()
            stopping.set()

    try:
        os.set_blocking(0, False)
        loop.add_reader(0, readable)
    except OSError:
        problem = "standard input must be a pipe or a terminal, not a file or /dev/null"
        raise ConfigError("--stop-on-stdin-eof", problem) from None
