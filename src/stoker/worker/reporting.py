"""Tells the control plane what this worker does, and learns how to authorise requests.

Rules:

* A report goes out each `interval` while something changed, at least each `quiet` seconds
  otherwise, and at once after `wake`.
* Control planes are tried in their order, beginning with the one that answered last; each gets
  `TRIES` tries, `retry_pause` seconds apart. Anything but 2xx is a failure.
* What a failed report carried is put back, and goes out with the next, which is no quiet one.
* The first accepted answer decides how requests are authorised: with tickets, where it says
  ``{"tickets": true}``, else by signature, with the key of ``GET /pubkey/``.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from stoker import logs
from stoker.errors import InvalidMessageError
from stoker.http import Origin, Response, UpstreamError, UpstreamPool, fetch
from stoker.wire import DeleteRequests, FinishedRequest, WorkerStatus, encode
from stoker.worker.auth import Gate, Mode
from stoker.worker.metering import Figures, Meter

TRIES = 3

KEEP_ALIVE = 15.0
"""Seconds for which a connection waits for the next report; quiet ones are 10 s apart."""

QUICK_REPLY = 1.0
"""Seconds within which an answer's time is good: it may be off by half of what the answer took."""

CLOCK_AGE = 60.0
"""Seconds after which a slow answer's time is better than an old one."""

TOLD_STEP = 2.0
"""Seconds by which the control plane's clock must have moved to be worth a line in the log."""

_MAX_REPLY = 65_536
_JSON = [(b"content-type", b"application/json"), (b"accept", b"application/json")]
_log = logs.get_logger("worker")


class _Reply(msgspec.Struct):
    """Like `stoker.wire.WorkerStatusReply`; but a foreign control plane's silence means no."""

    tickets: bool = False
    now: float = 0.0


_decode_reply = msgspec.json.Decoder(_Reply).decode


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How often reports go out, seconds."""

    interval: float = 1.0
    quiet: float = 10.0
    retry_pause: float = 2.0
    timeout: float = 5.0

    def due(self, *, changed: bool, since_last: float) -> bool:
        """Whether a report goes out now."""
        return since_last >= self.quiet or (changed and since_last >= self.interval)


def _with_unix_times(request: FinishedRequest, offset: float) -> FinishedRequest:
    """The request as the wire has it.

    Args:
        request: with times of our monotonic clock.
        offset: Unix time less the monotonic clock, seconds.
    """
    names = ("entered_queue_at", "work_started_at", "work_completed_at")
    known = {name: at for name in names if (at := getattr(request, name)) is not None}
    moved = {name: at + offset for name, at in known.items()}
    return msgspec.structs.replace(request, **moved)


def _reason(response: Response) -> str:
    """What a control plane gives as the reason of its refusal, where it does."""
    try:
        said = response.json()["error"]
    except (InvalidMessageError, TypeError, KeyError):
        return ""
    return f": {logs.printable(said[:200])}" if isinstance(said, str) else ""


class Reporter:
    """Sends reports while `run` runs.

    Attributes:
        accepted: reports that were taken.
        failed: reports that nobody took.
        last_accepted_at: Unix seconds; 0: none yet.
    """

    def __init__(
        self,
        addresses: tuple[str, ...],
        meter: Meter,
        gate: Gate,
        describe: Callable[[Figures], WorkerStatus],
        *,
        pace: Pace | None = None,
    ) -> None:
        self._addresses = list(addresses)
        self._pools = {
            address: UpstreamPool(Origin.parse(address), keep_alive=KEEP_ALIVE)
            for address in addresses
        }
        self._meter = meter
        self._gate = gate
        self._describe = describe
        self._pace = pace or Pace()
        self._wake = asyncio.Event()
        self._told_changes = -1
        self._last = float("-inf")
        self._away = False
        self._busy = asyncio.Lock()
        self.accepted = 0
        self.failed = 0
        self.last_accepted_at = 0.0
        self._clock_set_at = -math.inf

    def wake(self) -> None:
        """Something changed that the control plane should know at once."""
        self._wake.set()

    async def close(self) -> None:
        """Let go of the connections."""
        for pool in self._pools.values():
            await pool.close()

    async def _ask(self, address: str, path: str, body: bytes = b"") -> Response:
        return await fetch(
            address + path,
            method="POST" if body else "GET",
            headers=_JSON,
            body=body,
            timeout=self._pace.timeout,
            max_body=_MAX_REPLY,
            pool=self._pools[address],
        )

    async def run(self) -> None:
        """Report until cancelled."""
        loop = asyncio.get_running_loop()
        pause = min(self._pace.interval, self._pace.quiet)
        while True:
            # What nobody took is news until somebody does: "ready" must not wait for the next
            # quiet report because the control plane was away.
            changed = self._away or self._meter.changes != self._told_changes
            since = loop.time() - self._last
            if self._wake.is_set() or self._pace.due(changed=changed, since_last=since):
                self._wake.clear()
                self._last = loop.time()
                await self.report()
            with contextlib.suppress(TimeoutError):
                # Not wait_for: before Python 3.12 it may lose a cancellation.
                async with asyncio.timeout(pause):
                    await self._wake.wait()

    async def report(self, *, tries: int = TRIES) -> bool:
        """Send one report, and what finished; whether it was taken."""
        async with self._busy:
            changes = self._meter.changes
            figures = self._meter.take()
            taken = False
            try:
                address = await self._send_status(encode(self._describe(figures)), tries)
                taken = address is not None
            finally:  # also when cancelled
                if not taken:
                    self._meter.put_back(figures)
            if address is None:
                self.failed += 1
                return False
            self.accepted += 1
            self.last_accepted_at = time.time()
            self._told_changes = changes
            await self._send_finished(address)
            return True

    async def _send_status(self, body: bytes, tries: int) -> str | None:
        """The address that took it."""
        problem = "no control plane is configured"
        for address in list(self._addresses):
            for attempt in range(tries):
                if attempt:
                    await asyncio.sleep(self._pace.retry_pause)
                problem = await self._post_status(address, body)
                if not problem:
                    self._prefer(address)
                    return address
        if not self._away:
            _log.warning("the control plane cannot be told; figures are kept", problem=problem)
        self._away = True
        return None

    def _prefer(self, address: str) -> None:
        if self._away:
            _log.info("the control plane is back")
        self._away = False
        if self._addresses[0] != address:
            self._addresses.remove(address)
            self._addresses.insert(0, address)

    async def _post_status(self, address: str, body: bytes) -> str:
        """What went wrong; empty when the report was taken."""
        sent = time.monotonic()
        try:
            response = await self._ask(address, "/worker_status/", body)
        except UpstreamError as error:
            return str(error)
        if not 200 <= response.status < 300:
            return f"answered {response.status}{_reason(response)}"
        await self._learn(address, response.body, sent, time.monotonic())
        return ""

    async def _learn(self, address: str, body: bytes, sent: float, received: float) -> None:
        try:
            reply = _decode_reply(body)
        except (msgspec.DecodeError, UnicodeDecodeError):
            reply = _Reply()
        if 0.0 < reply.now < math.inf:
            self._set_clock(reply.now, sent, received)
        if reply.tickets:
            self._gate.demand_tickets()
        elif self._gate.mode is Mode.UNDECIDED:
            await self._fetch_key(address)

    def _set_clock(self, unix: float, sent: float, received: float) -> None:
        """Believe the control plane's clock, whatever ours says: tickets expire by it."""
        slow = received - sent > QUICK_REPLY
        if slow and received - self._clock_set_at < CLOCK_AGE:
            return
        offset = unix - (sent + received) / 2.0
        step = offset - self._gate.clock_offset
        if abs(step) > TOLD_STEP:
            _log.info("tickets are judged by the control plane's clock", ahead=round(step, 3))
        self._gate.clock_offset = offset
        self._clock_set_at = received

    async def _fetch_key(self, address: str) -> None:
        try:
            response = await self._ask(address, "/pubkey/")
            if response.status != 200:
                raise ValueError(f"answered {response.status}")
            self._gate.accept_signatures(response.body)
        except (UpstreamError, ValueError) as error:
            _log.warning("the control plane's public key cannot be had", problem=str(error))
        else:
            _log.info("requests are authorised by signature, as this control plane has no tickets")

    async def _send_finished(self, address: str) -> None:
        while batch := self._meter.take_finished():
            status = self._describe(Figures())
            told = [_with_unix_times(request, time.time() - time.monotonic()) for request in batch]
            body = encode(DeleteRequests(status.id, status.mtoken, told))
            taken = False
            try:
                response = await self._ask(address, "/delete_requests/", body)
                taken = 200 <= response.status < 300
            except UpstreamError:
                pass
            finally:
                if not taken:
                    self._meter.put_back_finished(batch)
            if not taken:
                return
