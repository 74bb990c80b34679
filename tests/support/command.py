"""The command line in this process: a process of its own takes a second longer."""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import signal
import sys
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

from stoker import logs
from stoker.cli.app import main


@dataclass(frozen=True)
class Done:
    """What a command did; as `subprocess.run` tells it."""

    returncode: int
    stdout: str
    stderr: str


def run(
    *arguments: object,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    stdin: str = "",
) -> Done:
    """Run `stoker` with these arguments, as `main` does, without a terminal.

    For commands that end by themselves. One that serves, or that is to be sent a signal, needs a
    process of its own.

    Args:
        arguments: of the command.
        env: added to the environment.
        cwd: working directory.
        stdin: what it can read.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return _run(arguments, env or {}, cwd, stdin)
    with ThreadPoolExecutor(1) as pool:  # a command has an event loop of its own
        return pool.submit(_run, arguments, env or {}, cwd, stdin).result()


def _run(
    arguments: tuple[object, ...], env: Mapping[str, str], cwd: Path | None, stdin: str
) -> Done:
    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True) for _ in range(2))
    given = io.TextIOWrapper(io.BytesIO(stdin.encode()), "utf-8")
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    code: object = 0
    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.dict(os.environ, {"COLUMNS": "80", **env}))
        stack.enter_context(mock.patch.object(sys, "argv", ["stoker", *map(str, arguments)]))
        stack.enter_context(mock.patch.object(sys, "stdin", given))
        stack.enter_context(contextlib.redirect_stdout(out))
        stack.enter_context(contextlib.redirect_stderr(err))
        # What a command configures is its own: it writes to what it takes for standard error.
        stack.enter_context(mock.patch.object(logs, "_output", logs._output))
        if cwd is not None:
            stack.enter_context(contextlib.chdir(cwd))
        try:
            main()
        except SystemExit as end:
            code = end.code or 0
    if threading.current_thread() is threading.main_thread():
        # A program that has served ignores signals as it ends; what a process ignores, those that
        # it starts ignore too.
        for number, handler in handlers.items():
            signal.signal(number, handler)
    said, problems = (one.buffer.getvalue().decode() for one in (out, err))
    if isinstance(code, str):
        problems, code = problems + code + "\n", 1
    assert isinstance(code, int)
    return Done(code, said, problems)
