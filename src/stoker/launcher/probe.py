"""What the launcher asks and tells over HTTP: the model server's health, and its own errors."""

from __future__ import annotations

import asyncio

from stoker.http import UpstreamError, fetch
from stoker.launcher.watch import Observation
from stoker.version import __version__
from stoker.wire import WorkerStatus, encode


async def check_health(url: str, timeout: float) -> Observation:
    """Ask a model server for its health; only a status below 400 is "ok"."""
    try:
        answer = await fetch(url, timeout=timeout, max_body=1 << 16)
    except UpstreamError as error:
        return "timeout" if error.kind == "timeout" else "refused"
    return "ok" if answer.status < 400 else "refused"


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


async def report_until_cancelled(addresses: str, status: WorkerStatus, interval: float) -> None:
    """Post `status` every `interval` seconds."""
    while True:
        await report(addresses, status)
        await asyncio.sleep(interval)
