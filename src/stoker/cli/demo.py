"""`stoker demo`: the main job on a real language model, from zero workers to two and back.

It starts a control plane, asks for a chat completion while there is no worker, raises the load
until a second worker serves, lets it end and waits for zero. The exit code is 0 only when all of
that was seen to happen and nothing is left running.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import uvloop
from rich.console import Console

from stoker import logs
from stoker.autoscaler.identity import new_api_key
from stoker.backends import get as get_backend
from stoker.cli import output
from stoker.cli.exits import Exit
from stoker.cli.supervised import SupervisedServer, processes_of
from stoker.client import Client
from stoker.errors import StokerError
from stoker.http import fetch

T = TypeVar("T")

ENDPOINT = "chat"
ROUTE = "/v1/chat/completions"
CLIENTS = 32
"""Concurrent requests of the load."""
ANSWER_TOKENS = 48
REQUEST_LIMIT = 180.0
"""Seconds for one request of the load: a slow machine is no failure."""
BOOT_LIMIT = 45.0
CHECK_LIMIT = 30.0
"""Seconds in which the model server must say whether it could start."""
SECOND_WORKER_LIMIT = 45.0
ZERO_LIMIT = 30.0
PATIENCE = 15.0
"""Seconds for which a control plane may be away: it is started again when it dies."""

SETTINGS = """
[provider.local]
max_instances = 2
owner_timeout = 10.0

[[endpoint]]
name = "chat"
min_load = 0
cold_workers = 0
cold_mult = 1
max_workers = 2
max_queue_time = 30
target_queue_time = 5
inactivity_timeout = 3

[[endpoint.workergroup]]
backend = "llamacpp"
options = { parallel = 4, threads = 1 }
"""


class Summary(msgspec.Struct):
    """What the demo measured. Times are in seconds."""

    first_token_from_zero: float = 0.0
    """From the request, with no worker at all, to the first token of its answer."""
    requests: int = 0
    failed: int = 0
    tokens: int = 0
    """Generated under load."""
    load_seconds: float = 0.0
    tokens_per_second: float = 0.0
    workers_at_most: int = 0
    worker_seconds: float = 0.0
    """All that instances were up, loading included: what one would pay for."""
    control_plane_restarts: int = 0
    seconds: float = 0.0
    problems: list[str] = []


def run(*, keep: bool, as_json: bool) -> int:
    """Run the demo; returns the exit code."""
    logs.configure(level="error")
    console = output.err if as_json else output.out
    directory = Path(tempfile.mkdtemp(prefix="stoker-demo-"))
    try:
        _check_model_server()
        demo = _Demo(directory, console)
        summary = uvloop.run(demo.run())
    finally:
        if keep:
            console.print(f"kept: {directory}")
        else:
            shutil.rmtree(directory, ignore_errors=True)
    if demo.interrupted:
        return Exit.INTERRUPTED
    if as_json:
        output.print_json(summary)
    return Exit.FAILED if summary.problems else Exit.OK


class _Demo:
    def __init__(self, directory: Path, console: Console) -> None:
        self._directory, self._console = directory, console
        self._began = time.monotonic()
        self._summary = Summary()
        self._seen_lines: set[str] = set()
        self._quiet = False
        self.interrupted = False
        self._served_by: set[int] = set()

    async def run(self) -> Summary:
        settings = self._directory / "stoker.toml"
        settings.write_text(SETTINGS)
        key = new_api_key()
        server = SupervisedServer(settings, self._directory, key)
        loop = asyncio.get_running_loop()
        story = asyncio.create_task(self._story(server, key))
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, story.cancel)
        try:
            await story
        except StokerError as error:
            self._problem(str(error))
        except asyncio.CancelledError:
            self.interrupted = True
            self._say("interrupted: stopping what was started")
        finally:
            await server.stop()
        self._summary.control_plane_restarts = server.restarts
        if left := processes_of(self._directory):
            named = ", ".join(f"{pid} ({command[:60]})" for pid, command in left.items())
            self._problem(f"{len(left)} processes were left running: {named}")
        self._summary.seconds = round(time.monotonic() - self._began, 1)
        if not self.interrupted:
            self._print_summary()
        return self._summary

    async def _story(self, server: SupervisedServer, key: str) -> None:
        self._say("starting a control plane whose endpoint has zero workers")
        await server.start()
        async with Client(server.url, key) as client:
            endpoint = await _patiently(lambda: client.endpoint(ENDPOINT))
            self._endpoint_id = endpoint["id"]
            timeline = asyncio.create_task(self._timeline(client))
            try:
                await _unless(self._first_answer(client), self._failure_of_a_worker(client))
                await self._load(client)
                await self._until_zero(client)
                self._summary.worker_seconds = await self._worker_seconds(server.url, key)
            finally:
                with contextlib.suppress(StokerError):
                    await self._print_new_lines(client)
                timeline.cancel()
                await asyncio.gather(timeline, return_exceptions=True)

    # -- the acts --------------------------------------------------------------------------

    async def _first_answer(self, client: Client) -> None:
        workers = await self._workers(client)
        if workers:
            raise StokerError("the endpoint was to have no worker at first")
        self._say("asking for a chat completion")
        asked = time.monotonic()
        pieces = 0
        question = "Write two sentences about a steam engine."
        payload = _payload(question, 64, stream=True)
        try:
            async with (
                asyncio.timeout(BOOT_LIMIT + 30),
                client.stream(ENDPOINT, ROUTE, payload, cost=64.0) as answer,
            ):
                async for piece in answer.pieces():
                    if pieces == 0:
                        self._quiet = True
                        took = time.monotonic() - asked
                        self._summary.first_token_from_zero = round(took, 2)
                        self._say(f"first token after {took:.1f} s, from zero workers:")
                        self._console.print("    ", end="")
                    pieces += 1
                    words = output.escape(piece.text)
                    self._console.print(words, end="", style="cyan", soft_wrap=True)
                    self._console.file.flush()
        except TimeoutError:
            raise StokerError(f"the answer was not there after {BOOT_LIMIT + 30:.0f} s") from None
        except StokerError as error:
            raise StokerError(f"the first request failed: {error}") from None
        finally:
            self._quiet = False
        self._console.print()
        if pieces < 2:
            self._problem(f"the answer came in {pieces} pieces, not token by token")

    async def _load(self, client: Client) -> None:
        self._say(f"load rises: {CLIENTS} clients ask at the same time, again and again")
        began = time.monotonic()
        enough = asyncio.Event()
        tasks = [asyncio.create_task(self._client(client, n, enough)) for n in range(CLIENTS)]
        try:
            async with asyncio.timeout(SECOND_WORKER_LIMIT):
                while len(self._served_by) < 2:
                    await self._workers(client)
                    await asyncio.sleep(0.25)
        except TimeoutError:
            self._problem(f"no second worker served within {SECOND_WORKER_LIMIT:.0f} s of load")
        enough.set()
        self._say("two workers have served; the load ends")
        await asyncio.gather(*tasks)
        summary = self._summary
        summary.load_seconds = round(time.monotonic() - began, 1)
        summary.tokens_per_second = round(summary.tokens / max(summary.load_seconds, 0.1), 1)

    async def _client(self, client: Client, number: int, enough: asyncio.Event) -> None:
        while not enough.is_set():
            payload = _payload(f"Tell me fact number {number}.", ANSWER_TOKENS)
            try:
                answer = await client.request(
                    ENDPOINT, ROUTE, payload, cost=float(ANSWER_TOKENS), timeout=REQUEST_LIMIT
                )
                self._summary.requests += 1
                self._summary.tokens += answer.json()["usage"]["completion_tokens"]
            except (StokerError, KeyError, ValueError) as error:
                self._summary.failed += 1
                if self._summary.failed <= 3:
                    self._problem(f"a request failed: {error}")
                await asyncio.sleep(0.5)

    async def _until_zero(self, client: Client) -> None:
        self._say("waiting for the workers to be drained and stopped")
        try:
            async with asyncio.timeout(ZERO_LIMIT):
                while await self._workers(client):  # noqa: ASYNC110  (another process does it)
                    await asyncio.sleep(0.25)
        except TimeoutError:
            self._problem(f"the endpoint did not go back to zero within {ZERO_LIMIT:.0f} s")

    # -- watching --------------------------------------------------------------------------

    async def _failure_of_a_worker(self, client: Client) -> str:
        """Why the first worker cannot serve; returns when that is known."""
        while True:
            for worker in await _patiently(lambda: client.workers(self._endpoint_id)):
                if worker["error_msg"]:
                    return f"worker {worker['id']} cannot serve: {worker['error_msg']}"
            await asyncio.sleep(0.25)

    async def _workers(self, client: Client) -> list[dict[str, Any]]:
        workers = await _patiently(lambda: client.workers(self._endpoint_id))
        self._summary.workers_at_most = max(self._summary.workers_at_most, len(workers))
        self._served_by |= {w["id"] for w in workers if w["reqs_working"] > 0}
        return workers

    async def _worker_seconds(self, url: str, key: str) -> float:
        total = 0.0
        shown = [(b"authorization", f"Bearer {key}".encode())]
        metrics = await _patiently(lambda: fetch(f"{url}/metrics", headers=shown))
        for line in metrics.body.decode().splitlines():
            if line.startswith("stoker_worker_seconds_total{") and 'state="stopped"' not in line:
                total += float(line.rpartition(" ")[2])
        return round(total, 1)

    async def _timeline(self, client: Client) -> None:
        while True:
            if not self._quiet:
                with contextlib.suppress(StokerError):
                    await self._print_new_lines(client)
            await asyncio.sleep(0.2)

    async def _print_new_lines(self, client: Client) -> None:
        text = (await client.logs(self._endpoint_id, tail=200)).get("info1", "")
        for line in text.splitlines():
            if line not in self._seen_lines:
                self._seen_lines.add(line)
                self._say(line.split(" ", 2)[2], style="dim")

    def _say(self, text: str, style: str = "bold") -> None:
        passed = time.monotonic() - self._began
        self._console.print(
            f"[green]{passed:6.1f} s[/]  [{style}]{output.escape(text)}[/]", soft_wrap=True
        )

    def _problem(self, text: str) -> None:
        self._summary.problems.append(text)
        self._say(f"PROBLEM: {text}", style="bold red")

    def _print_summary(self) -> None:
        s = self._summary
        since = " since the control plane started again" if s.control_plane_restarts else ""
        rows: list[tuple[str, Any]] = [
            ("time to first token, from zero workers", f"{s.first_token_from_zero:.1f} s"),
            ("requests under load", f"{s.requests} ({s.failed} failed)"),
            ("tokens generated under load", f"{s.tokens} ({s.tokens_per_second:.0f}/s)"),
            ("workers at most", s.workers_at_most),
            ("cost", f"{s.worker_seconds:.0f} worker-seconds{since}"),
            ("all in all", f"{s.seconds:.0f} s"),
        ]
        self._console.print()
        for name, value in rows:
            self._console.print(f"  {name:<40} [bold]{value}[/]")
        if s.problems:
            self._console.print(f"\n  [bold red]{len(s.problems)} problems, see above[/]")
        else:
            self._console.print("\n  [green]all of it happened, and nothing is left running[/]")


def _check_model_server() -> None:
    """Ask the model server whether it could start here, which takes under a second.

    Raises:
        StokerError: it cannot; the message has the line in which it says why.
    """
    backend = get_backend("llamacpp")
    command = backend.command(backend.parse({"parallel": 4, "threads": 1}), "127.0.0.1", 0)
    try:
        done = subprocess.run(
            [*command, "--check"], capture_output=True, text=True, timeout=CHECK_LIMIT, check=False
        )
    except subprocess.TimeoutExpired:
        raise StokerError(f"the model server was silent for {CHECK_LIMIT:.0f} s") from None
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [""])[-1]
        reason = last or f"it ended with exit code {done.returncode}"
        raise StokerError(f"the model server cannot start here: {reason}")


async def _unless(act: Coroutine[Any, Any, None], failure: Coroutine[Any, Any, str]) -> None:
    """Wait for `act` to end, or for what makes it hopeless.

    Raises:
        StokerError: `failure` came first; its text is the message.
    """
    acting, failing = asyncio.create_task(act), asyncio.create_task(failure)
    try:
        await asyncio.wait((acting, failing), return_when=asyncio.FIRST_COMPLETED)
        if acting.done() or failing.exception():
            await acting
        else:
            raise StokerError(failing.result())
    finally:
        for task in (acting, failing):
            task.cancel()
        await asyncio.gather(acting, failing, return_exceptions=True)


async def _patiently(call: Callable[[], Awaitable[T]]) -> T:
    """The result of `call`, tried again while the control plane is being started again."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            return await call()
        except StokerError:
            if time.monotonic() > deadline:
                raise
        await asyncio.sleep(0.25)


def _payload(question: str, max_tokens: int, *, stream: bool = False) -> dict[str, Any]:
    return {
        "messages": [{"role": "user", "content": question}],
        "max_tokens": max_tokens,
        "stream": stream,
        # Otherwise the same questions would be answered from the model server's cache.
        "seed": secrets.randbelow(2**31),
    }
