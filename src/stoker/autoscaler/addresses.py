"""Which addresses are a worker's own: what it may be known by, and have certified.

A worker's report names the URL that clients are sent to, and its signing request names what its
certificate is for. Both are claims. Rules:

* A worker's own hosts are the address that its provider gave, the one that it was attached with,
  the one by which it is known already, and the one that its report or request comes from. A peer
  on this machine may name any address of this machine.
* A URL at such a host is believed, unless another worker in the rotation is known by it. Any other
  URL is believed once whoever serves it proves that it is this worker: a call back with a random
  challenge, answered by an HMAC under the worker's mtoken (`stoker.tickets.possession`). Workers of
  the existing protocol cannot answer; for those, `stoker attach --address` says the host.
* The one that proves a URL gets it; another worker that is known by it loses it.
* What was refused is asked again after `RETRY` seconds, doubling up to `RETRY_MAX`.
* Nobody is called at an address that is no single machine's (unspecified, multicast) or that
  machines keep for their own services (link-local: the metadata of clouds).
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
import secrets
import socket
import ssl
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import lru_cache
from hmac import compare_digest
from urllib.parse import urlsplit

import psutil

from stoker.autoscaler.fleet import Fleet, Worker
from stoker.autoscaler.states import ACTIVE
from stoker.errors import InvalidMessageError, StokerError
from stoker.http import UpstreamError, fetch
from stoker.logs import get_logger
from stoker.tickets import possession

log = get_logger("addresses")

RETRY = 5.0
"""Seconds after a refusal until the same URL is tried again; doubles."""

RETRY_MAX = 300.0

_OLD_SPELLING = re.compile(r"(?:0x[0-9a-f]+|[0-9]+)(?:\.(?:0x[0-9a-f]+|[0-9]+)){0,3}")
"""An IPv4 address as `inet_aton` reads it: fewer parts, hexadecimal or octal ones."""

PROOF_TIMEOUT = 5.0
MAX_ANSWER = 1 << 16
MAX_PROOFS = 64
"""Calls back at a time; more wait for the next report."""

Prove = Callable[[Worker, str], Awaitable[bool]]
"""Whether whoever serves a URL is that worker."""


@dataclass(slots=True)
class _Refused:
    url: str
    until: float
    times: int


class UrlClaims:
    """Judges the URLs that workers report."""

    def __init__(
        self,
        fleet: Fleet,
        *,
        on_proven: Callable[[Worker, str], None],
        on_refused: Callable[[Worker, str], None],
        clock: Callable[[], float],
        prove: Prove | None = None,
    ) -> None:
        """Prepare.

        Args:
            fleet: the workers.
            on_proven: a worker may be known by a URL from now on.
            on_refused: it may not; with the reason. Called once for each URL.
            clock: monotonic seconds.
            prove: calls back.
        """
        self._fleet = fleet
        self._on_proven = on_proven
        self._on_refused = on_refused
        self._clock = clock
        self._prove = prove or call_back
        self._proving: dict[int, tuple[str, asyncio.Task[None]]] = {}
        self._refused: dict[int, _Refused] = {}

    def may_use(self, worker: Worker, url: str, peer: str, now: float) -> bool:
        """Whether a worker may be known by a URL; False: not yet, it is being looked into.

        Args:
            worker: that reported it.
            url: one that passed `stoker.wire.check_worker_url`, without a slash at its end.
            peer: address that the report came from; empty: not known.
            now: monotonic seconds.

        Raises:
            InvalidMessageError: it may not; the text says why, and what to do.
        """
        if url == worker.url:
            return True
        host = host_of(url)
        if not _callable(host):
            raise InvalidMessageError({"url": f"{host} is no address of a worker"})
        if is_own(worker, host, peer) and self._holder(worker, url) is None:
            self._refused.pop(worker.id, None)
            return True
        refused = self._refused.get(worker.id)
        if refused is not None and refused.url == url and now < refused.until:
            raise InvalidMessageError({"url": self._reason(worker, url)})
        if worker.id not in self._proving and len(self._proving) < MAX_PROOFS:
            task = asyncio.get_running_loop().create_task(self._look_into(worker, url))
            self._proving[worker.id] = url, task
        return False

    async def _look_into(self, worker: Worker, url: str) -> None:
        try:
            proven = await self._prove(worker, url)
        finally:
            self._proving.pop(worker.id, None)
        if self._fleet.workers.get(worker.id) is not worker:
            return
        if proven:
            self._refused.pop(worker.id, None)
            while (loser := self._holder(worker, url)) is not None:
                loser.url = ""
                self._on_refused(loser, f"its URL {url} is worker {worker.id}'s, which proved it")
            self._on_proven(worker, url)
            return
        before = self._refused.get(worker.id)
        again = before is not None and before.url == url
        times = before.times + 1 if before is not None and again else 1
        pause = min(RETRY_MAX, RETRY * 2.0 ** min(times - 1, 16))
        self._refused[worker.id] = _Refused(url, self._clock() + pause, times)
        if not again:
            self._on_refused(worker, self._reason(worker, url))

    def _holder(self, worker: Worker, url: str) -> Worker | None:
        """Another worker in the rotation that is known by a URL."""
        place = _place(url)
        for other in self._fleet.workers.values():
            if other is worker or other.state not in ACTIVE or not other.url:
                continue
            if other.url == url or _place(other.url) == place:
                return other
        return None

    def _reason(self, worker: Worker, url: str) -> str:
        holder = self._holder(worker, url)
        if holder is not None:
            return f"worker {holder.id} is known by {url}, and who serves it is not this worker"
        return (
            f"{host_of(url)} is not known as this worker's address, and who serves {url} did not "
            "prove to be it; `stoker attach ENDPOINT --address HOST` makes a worker for an address"
        )

    def forget(self, worker_id: int) -> None:
        """The worker is gone."""
        self._refused.pop(worker_id, None)
        running = self._proving.pop(worker_id, None)
        if running is not None:
            running[1].cancel()

    async def idle(self) -> None:
        """Wait until no call is under way."""
        while self._proving:
            await asyncio.wait([task for _, task in self._proving.values()])

    async def close(self) -> None:
        """End the calls that are under way."""
        tasks = [task for _, task in self._proving.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def call_back(worker: Worker, url: str) -> bool:
    """Ask whoever serves `url` to prove that it is `worker`."""
    challenge = secrets.token_hex(16)
    try:
        answer = await fetch(
            f"{url}/healthz?challenge={challenge}",
            timeout=PROOF_TIMEOUT,
            max_body=MAX_ANSWER,
            ssl=_any_certificate() if url.startswith("https:") else None,
        )
        body = answer.json()
    except (UpstreamError, StokerError, ValueError) as error:
        log.debug("a worker's URL was not proven", worker=worker.id, url=url, problem=str(error))
        return False
    shown = body.get("proof") if isinstance(body, dict) else None
    expected = possession(worker.token_bytes, worker.id, challenge)
    return isinstance(shown, str) and compare_digest(shown.encode(), expected.encode())


def _any_certificate() -> ssl.SSLContext:
    """The HMAC proves who it is; its certificate may not be signed yet."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


# -- hosts ---------------------------------------------------------------------------------------


def host_of(url: str) -> str:
    """The host of a URL, as `normal` writes it; empty where there is none."""
    try:
        return normal(urlsplit(url).hostname or "")
    except ValueError:
        return ""


@lru_cache(maxsize=1024)
def _place(url: str) -> tuple[str, int, str]:
    """Where a URL leads: host, port and path. All spellings of this machine are one."""
    parts = urlsplit(url)
    host = host_of(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    return ("localhost" if _is_loopback(host) else host), port, parts.path.rstrip("/")


def normal(host: str) -> str:
    """One spelling for each address: no brackets, no IPv4 inside IPv6, lower case."""
    text = host.strip().strip("[]").lower().rstrip(".")
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        if not _OLD_SPELLING.fullmatch(text):
            return text
        try:  # 127.1 and 0x7f000001 are 127.0.0.1 for whoever connects
            return socket.inet_ntoa(socket.inet_aton(text))
        except OSError:
            return text
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(mapped or address)


def in_url(host: str) -> str:
    """A host as it stands in a URL."""
    text = normal(host)
    return f"[{text}]" if ":" in text else text


def known_hosts(worker: Worker) -> list[str]:
    """Hosts that are a worker's by its own record: its provider's word, how it was attached."""
    found = (normal(worker.address), host_of(worker.record.url), host_of(worker.url))
    return list(dict.fromkeys(host for host in found if host))


def is_own(worker: Worker, host: str, peer: str) -> bool:
    """Whether a host is a worker's own.

    Args:
        worker: who claims it.
        host: as `normal` writes it.
        peer: address that the claim came from; empty: not known.
    """
    if host in known_hosts(worker):
        return True
    return bool(peer) and (host == normal(peer) or (_is_here(normal(peer)) and _is_here(host)))


def _callable(host: str) -> bool:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return bool(host)
    return not (address.is_unspecified or address.is_multicast or address.is_link_local)


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _is_here(host: str) -> bool:
    """Whether a host is this machine."""
    if _is_loopback(host):
        return True
    return host in _own_addresses(int(time.monotonic() / 60.0))


@lru_cache(maxsize=1)
def _own_addresses(minute: int) -> frozenset[str]:
    """Addresses of this machine's interfaces, as they are in a minute of the monotonic clock."""
    del minute  # it is what the cache goes by
    found = (one.address for every in psutil.net_if_addrs().values() for one in every)
    return frozenset(normal(text.partition("%")[0]) for text in found)
