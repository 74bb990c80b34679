"""What the launcher asks and tells over HTTP: the model server's health, and its own errors."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from stoker import http
from stoker.errors import InvalidMessageError
from stoker.http import UpstreamError, fetch
from stoker.launcher.watch import Observation
from stoker.version import __version__
from stoker.wire import WorkerStatus, encode


async def check_health(url: str, timeout: float) -> Observation:
    """Ask a model server for its health; a redirect to elsewhere is "ok" as well."""
    health = await http.check_health(url, timeout)
    if health.timed_out:
        return "timeout"
    return "ok" if not health.problem or 300 <= health.status < 400 else "refused"


async def worker_tells(url: str, timeout: float = 2.0) -> dict[str, Any]:
    """What a worker says of itself; nothing where it cannot be asked.

    Args:
        url: of the worker's port for this machine; empty: it has none.
        timeout: seconds.
    """
    if not url:
        return {}
    try:
        answer = await fetch(f"{url}/healthz", timeout=timeout, max_body=1 << 16)
        told = answer.json() if answer.status == 200 else {}
    except (UpstreamError, InvalidMessageError, ValueError):
        return {}
    return told if isinstance(told, dict) else {}


async def says_busy(url: str) -> bool:
    """Whether a worker says that its model server has work, and may be silent or unwell for now."""
    return (await worker_tells(url)).get("busy") is True


_IN_WORDS = {
    "waiting": "the worker waits for the model to load",
    "benchmarking": "the worker measures the capacity",
    "trying": "the worker tries a request",
    "retrying": "the model server does not answer well yet; the worker tries again",
    "checking": "the worker waits for a good health check of the model server",
    "unhealthy": "the model server fails its health check",
    "errored": "the model server does not answer well; the worker tries again",
}


def in_words(told: dict[str, Any]) -> str:
    """What a worker that is not ready is at; empty where that says nothing."""
    text = _IN_WORDS.get(str(told.get("state")), "")
    progress = told.get("benchmark")
    if text and isinstance(progress, dict):
        text += f": run {progress.get('run')} of {progress.get('runs')} is done"
    error = told.get("error")
    return f"{text}: {error}" if text and isinstance(error, str) and error else text


async def report(addresses: str, status: WorkerStatus, *, timeout: float = 5.0) -> bool:
    """Post `status` to the first control plane that takes it.

    Args:
        addresses: base URLs with commas between them, in order of preference.
        status: what to say.
        timeout: seconds, for each.

    Returns:
        Whether one of them took it.
    """
    body = encode(status)
    for address in filter(None, (a.strip().rstrip("/") for a in addresses.split(","))):
        try:
            answer = await fetch(
                f"{address}/worker_status/",
                method="POST",
                headers=[(b"content-type", b"application/json")],
                body=body,
                timeout=timeout,
                max_body=1 << 16,
            )
        except (UpstreamError, ValueError):
            continue
        if 200 <= answer.status < 300:
            return True
    return False


async def unreachable(addresses: str, *, timeout: float = 5.0) -> str:
    """Why no control plane can be reached, or empty where one can.

    Args:
        addresses: base URLs with commas between them.
        timeout: seconds, for each.
    """
    reason = ""
    for address in filter(None, (a.strip().rstrip("/") for a in addresses.split(","))):
        try:
            await fetch(f"{address}/healthz", timeout=timeout, max_body=1 << 16)
        except (UpstreamError, ValueError) as error:
            reason = reason or f"the control plane at {address} cannot be told: {error}"
        else:
            return ""
    return reason


def trouble(worker_id: int, mtoken: str, url: str, error: str | None) -> WorkerStatus:
    """What the launcher reports in place of a worker that does not run."""
    return WorkerStatus(
        id=worker_id,
        mtoken=mtoken,
        url=url,
        version=f"stoker-launcher {__version__}",
        error_msg=error,
        draining=True,
    )


async def report_until_cancelled(
    addresses: str,
    status: WorkerStatus,
    interval: float,
    told: Callable[[], None] | None = None,
) -> None:
    """Post `status` every `interval` seconds; `told` is called when a control plane took it."""
    while True:
        if await report(addresses, status) and told is not None:
            told()
        await asyncio.sleep(interval)
