"""`stoker up`: run the control plane."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shlex
import signal
import sys
from pathlib import Path

import uvloop

from stoker import descriptors, logs
from stoker.cli import output
from stoker.cli.settings import Settings, default_state_directory
from stoker.console.serve import Access, Server
from stoker.errors import StokerError

STOP_NEWS = 2.0
"""Seconds between two looks at what a stop still waits for."""


def run(
    settings: Settings,
    *,
    state: Path | None,
    host: str | None,
    port: int | None,
    keep_instances: bool,
    stop_on_stdin_eof: bool,
    log_level: str,
) -> int:
    """Serve until a signal; returns the exit code."""
    logs.configure(level=log_level)
    configured = Path(settings.server.state).expanduser() if settings.server.state else None
    options = _Options(
        state=(state or configured or default_state_directory()).absolute(),
        host=host or settings.server.host,
        port=settings.server.port if port is None else port,
        keep_instances=keep_instances,
        stop_on_stdin_eof=stop_on_stdin_eof,
    )
    descriptors.raise_limit()
    try:
        code: int = uvloop.run(_serve(settings, options))
    except StokerError as error:
        output.print_error(str(error))
        return 1
    return code


class _Options:
    def __init__(
        self, *, state: Path, host: str, port: int, keep_instances: bool, stop_on_stdin_eof: bool
    ) -> None:
        self.state, self.host, self.port = state, host, port
        self.keep_instances, self.stop_on_stdin_eof = keep_instances, stop_on_stdin_eof


async def _serve(settings: Settings, options: _Options) -> int:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopping.set)
    hurry = asyncio.Event()
    if options.stop_on_stdin_eof:
        _watch_stdin(stopping, hurry)
    # Taken out of the environment at once: no child process shall inherit it.
    given_key = os.environ.pop("STOKER_API_KEY", None)
    server = await Server.start(
        options.state,
        host=options.host,
        port=options.port,
        public_url=settings.server.public_url,
        certificate=settings.server.certificate,
        certificate_key=settings.server.certificate_key,
        local=settings.provider.local,
        api_key=given_key,
        access=Access(sign_unproven=settings.server.sign_unproven),
    )
    try:
        for endpoint in settings.endpoint:
            groups = [
                {
                    "backend": g.backend,
                    "options": g.options,
                    "max_workers": g.max_workers,
                    "min_cold_load": g.min_cold_load,
                    "search_params": g.search_params,
                    "launch_args": g.launch_args,
                    "gpu_ram": g.gpu_ram,
                    "weight": g.weight,
                }
                for g in endpoint.workergroup
            ]
            await server.declare(endpoint.name, endpoint.given(), groups)
        await _greet(server, settings)
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
        output.err.print("stopped")
    except BaseException:
        with contextlib.suppress(Exception):
            await server.stop(keep_instances=True, hurry=asyncio.Event())
        raise
    return 0


async def _greet(server: Server, settings: Settings) -> None:
    """Say where we are, and let a new API key in once it was shown.

    Raises:
        StokerError: the key was shown, but cannot be stored.
    """
    try:
        _print_greeting(server, settings)
    except (OSError, ValueError, AttributeError) as error:  # closed, full, or nobody reads it
        # Whoever started us may be gone already; to stop then is `_watch_stdin`'s matter.
        if server.new_api_key:
            why = getattr(error, "strerror", None) or "it is closed"
            output.err.print(
                f"[bold red]no API key was made:[/] standard output cannot be written "
                f"({output.escape(why)}); make one with: stoker key create --state "
                f"{output.escape(shlex.quote(str(server.state_directory)))}",
                soft_wrap=True,
            )
        return
    await server.accept_new_api_key()


def _print_greeting(server: Server, settings: Settings) -> None:
    out = sys.stdout
    out.write(f"stoker listens on {server.url}\n")
    out.write(f"state is in {server.state_directory}\n")
    for endpoint in settings.endpoint:
        groups = ", ".join(g.backend for g in endpoint.workergroup) or "no workergroup"
        out.write(f"endpoint {endpoint.name}: {groups}\n")
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
    """
    loop = asyncio.get_running_loop()

    def readable() -> None:
        if not os.read(0, 4096):
            loop.remove_reader(0)
            hurry.set()
            stopping.set()

    os.set_blocking(0, False)
    loop.add_reader(0, readable)
