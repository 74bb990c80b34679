"""The worker as a program: environment, signals, exit status."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar

from stoker import descriptors, logs
from stoker.errors import ConfigError, StokerError
from stoker.worker.config import WorkerConfig
from stoker.worker.reporting import Pace
from stoker.worker.running import RunningWorker
from stoker.worker.settings import SocketOptions, WorkerSettings
from stoker.worker.watch import Rhythm


class Worker:
    """A worker in front of one model server.

    ``Worker(config).run()`` is a whole program: it takes its place in the world from the
    environment (see `WorkerSettings`), serves until SIGTERM or SIGINT, lets running requests end,
    and returns.

    Attributes:
        on_ready: called once, with the configuration and the worker's port, when it is ready. A
            program that runs somebody else's ``worker.py`` sets it on the class.
    """

    on_ready: ClassVar[Callable[[WorkerConfig, int], None] | None] = None

    def __init__(
        self,
        config: WorkerConfig,
        *,
        environ: Mapping[str, str] | None = None,
        pace: Pace | None = None,
        rhythm: Rhythm | None = None,
    ) -> None:
        """Prepare; nothing is opened yet.

        Args:
            config: the model server and its routes.
            environ: default: the process's own environment.
            pace: how often to report.
            rhythm: how often to look at the model server.
        """
        self._config = config
        self._environ = os.environ if environ is None else environ
        self._pace = pace
        self._rhythm = rhythm

    def run(self, **socket: Any) -> None:
        """Serve until told to stop.

        Args:
            socket: where to listen, as `run_async` takes it.

        Raises:
            SystemExit: with one line on standard error; status 2 when the configuration or the
                environment is wrong, or the port is taken; 1 when a part of the worker broke.
        """
        try:
            import uvloop

            factory = uvloop.new_event_loop
        except ImportError:
            factory = None
        # What lives as long as the program need not be looked at by each collection; and fewer
        # collections will do: a request makes few cycles.
        gc.collect()
        gc.freeze()
        gc.set_threshold(20_000, 20, 20)
        descriptors.open_standard()
        descriptors.raise_limit()
        try:
            with asyncio.Runner(loop_factory=factory) as runner:
                runner.run(self._run_with_logs(socket))
        except ConfigError as error:
            logs.complain("stoker worker", error)
            raise SystemExit(2) from None
        except StokerError as error:
            logs.complain("stoker worker", error)
            raise SystemExit(1) from None

    async def _run_with_logs(self, socket: dict[str, Any]) -> None:
        logs.configure(level=(self._environ.get("STOKER_LOG_LEVEL") or "info").lower())
        await self.run_async(**socket)

    async def run_async(self, **socket: Any) -> None:
        """Serve until told to stop, in the running loop.

        Args:
            socket: what the existing SDK passes on to its socket: `host`, `port`, `backlog`,
                `reuse_address`, `reuse_port`, `ssl_context` and `shutdown_timeout` (seconds that
                running requests get at the end). What the environment says, as a launcher or the
                command line sets it, stands above `host`, `port` and `shutdown_timeout`.

        Raises:
            ConfigError: the configuration or the environment is wrong, or the port is taken.
            StokerError: a part of the worker broke; its log says which.
        """
        self._config.check()
        listening = SocketOptions.of(socket)
        settings = WorkerSettings.from_environ(listening.under(self._environ))
        running = RunningWorker(
            self._config,
            settings,
            environ=self._environ,
            pace=self._pace,
            rhythm=self._rhythm,
            listening=listening,
        )
        if (tell := type(self).on_ready) is not None:
            running.on_ready = lambda: tell(self._config, running.port)
        await running.start()
        try:
            with _signals(running):
                await running.wait_stopped()
        finally:
            await running.close()


@contextlib.contextmanager
def _signals(running: RunningWorker) -> Iterator[None]:
    """Signals end the worker, where a program's main thread runs it.

    SIGTERM drains, however often it comes (a supervisor and a process group may both send it).
    SIGINT drains; a second one cuts.
    """
    loop = asyncio.get_running_loop()
    actions = {signal.SIGTERM: running.stop, signal.SIGINT: running.interrupt}
    if threading.current_thread() is not threading.main_thread():
        actions = {}
    for number, action in actions.items():
        loop.add_signal_handler(number, action)
    try:
        yield
    finally:
        for number in actions:
            loop.remove_signal_handler(number)
