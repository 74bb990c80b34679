"""Who may use a worker: the ticket, and the signature it is compatible with.

Rules (all that decides whether a request is authorised lives here and in `stoker.signatures`):

* A **signature** is RSA PKCS#1 v1.5 with SHA-256 over the UTF-8 text of ``{"url": <url>}`` written
  with 4-space indent and sorted keys. It names a worker's URL and nothing else: it never expires
  and can be shown again. It is what the existing protocol has, so we make it and, for a control
  plane that knows nothing better, accept it.
* A **ticket** is an HMAC-SHA256, keyed by the worker's own ``mtoken``, over version, worker, boot
  of the worker, endpoint, request, number, cost and expiry. It is good for one request, once,
  until it expires, at the cost it was booked for.
* Replays are refused by a sliding window over ``reqnum``, which the router counts up per worker
  (the anti-replay algorithm of RFC 6479). The window dies with the worker, therefore each ticket is
  bound to the worker's ``boot_id``: what was minted for an earlier boot is void.
* A request may be given several tickets, as it is retried. A worker takes one of them: another is
  good only after the one that was used has failed, and only if it is later.
* Many clients of the existing protocol show five fields alone (signature, cost, endpoint, reqnum,
  url). So for a worker of ours, ``signature`` carries ``request_idx`` and ticket as well.
* The compatible signature of releases of ``vastai`` before 0.4.5 covers cost, endpoint, reqnum and
  url. It is verified where there are no tickets, like the later one; it is never made here.

Nothing here reads a clock or does I/O: ``now`` is an argument.
"""

from __future__ import annotations

import struct
from collections import OrderedDict
from dataclasses import dataclass
from hashlib import sha256
from hmac import compare_digest
from hmac import digest as hmac_digest

import msgspec

from stoker.errors import TicketError
from stoker.wire import AuthData

VERSION = "v1"
_pack = struct.Struct(">QQQdQ").pack

LIFETIME = 10.0
"""Seconds for which a ticket can be used, from when its client was told of it."""

MAX_USED = 200_000
"""Requests of the last seconds that a worker remembers."""


@dataclass(frozen=True, slots=True)
class Claims:
    """What a ticket says."""

    worker_id: int
    boot_id: str
    endpoint: str
    request_idx: int
    reqnum: int
    cost: float
    """Load units."""
    expires_ms: int
    """Unix time in milliseconds."""


def mint(key: bytes, claims: Claims) -> str:
    """A ticket as text: ``v1.<expiry in ms>.<mac>``, the mac in hexadecimal.

    The other claims travel beside it, in the fields of the ``/route/`` reply that they have anyway.
    """
    numbers = _pack(
        claims.worker_id, claims.request_idx, claims.reqnum, claims.cost, claims.expires_ms
    )
    mac = _Mac(key).of(numbers + _bound_to(claims.boot_id, claims.endpoint))
    return f"{VERSION}.{claims.expires_ms}.{mac}"


def as_signature(request_idx: int, ticket: str) -> str:
    """What stands in ``signature`` for a worker of ours: a client shows it, whatever it leaves out.

    It is never mistaken for a signature, which has no dot.
    """
    return f"{request_idx}.{ticket}"


def completed(auth: AuthData) -> AuthData:
    """`auth` with the ticket and ``request_idx`` that its ``signature`` carries, if it has none."""
    if auth.ticket or "." not in auth.signature:
        return auth
    index, _, ticket = auth.signature.partition(".")
    if not (index.isascii() and index.isdecimal() and len(index) <= 18):
        return auth
    return msgspec.structs.replace(auth, request_idx=int(index), ticket=ticket)


def _bound_to(boot_id: str, endpoint: str) -> bytes:
    boot = boot_id.encode()
    # The length keeps (boot, endpoint) pairs apart: ("a", "bc") is not ("ab", "c").
    return len(boot).to_bytes(4, "big") + boot + endpoint.encode()


_BLOCK = 64
"""Bytes of a block of SHA-256."""


class _Mac:
    """HMAC-SHA256 under one key, as RFC 2104 defines it.

    Both of its hashes are begun once, so that a mac costs two copies and no key schedule: 0.6 us,
    where `hmac.digest` takes 1.7 us.
    """

    __slots__ = ("_inner", "_outer")

    def __init__(self, key: bytes) -> None:
        if len(key) > _BLOCK:
            key = sha256(key).digest()
        key = key.ljust(_BLOCK, b"\0")
        self._inner = sha256(bytes(byte ^ 0x36 for byte in key) + b"stoker-ticket-v1\0")
        self._outer = sha256(bytes(byte ^ 0x5C for byte in key))

    def of(self, claims: bytes) -> str:
        """The mac of packed claims, in hexadecimal."""
        inner, outer = self._inner.copy(), self._outer.copy()
        inner.update(claims)
        outer.update(inner.digest())
        return outer.hexdigest()


def possession(key: bytes, worker_id: int, challenge: str) -> str:
    """What proves to the control plane that somebody is a worker: an HMAC, in hexadecimal.

    Args:
        key: the worker's mtoken.
        worker_id: its number.
        challenge: random text of the one who wants to know.
    """
    text = b"stoker-possession-v1\0%d\0%b" % (worker_id, challenge.encode())
    return hmac_digest(key, text, "sha256").hex()


class ReplayWindow:
    """Remembers which numbers were seen, in constant memory (RFC 6479).

    Numbers above the newest are new; those more than `size` below it are taken as seen.
    """

    __slots__ = ("_bits", "_mask", "_newest", "_size")

    def __init__(self, size: int = 4096) -> None:
        self._size = size
        self._bits = 0
        self._newest = -1
        self._mask = (1 << size) - 1

    def take(self, number: int) -> bool:
        """Use a number up; call it only once the ticket was found genuine.

        Returns:
            whether it was new; otherwise the request must be refused.
        """
        ahead = number - self._newest
        if ahead > 0:
            kept = self._bits << ahead if ahead < self._size else 0
            self._bits = (kept & self._mask) | 1
            self._newest = number
            return True
        if -ahead >= self._size:
            return False
        bit = 1 << -ahead
        if self._bits & bit:
            return False
        self._bits |= bit
        return True


class TicketVerifier:
    """Checks tickets for one boot of one worker."""

    def __init__(self, key: bytes, worker_id: int, boot_id: str, *, window: int = 4096) -> None:
        self._mac = _Mac(key)
        self._worker_id = worker_id
        self._boot_id = boot_id
        self._window = ReplayWindow(window)
        # A worker serves one endpoint, so the last one is nearly always the next.
        self._endpoint = ""
        self._bound_to = _bound_to(boot_id, "")
        self._used: OrderedDict[int, tuple[float, int, bool]] = OrderedDict()
        """By `request_idx`: until when it matters, which number was used, whether that failed."""

    def failed(self, request_idx: int) -> None:
        """The request was refused or has failed here: it may be retried, with a later ticket."""
        used = self._used.get(request_idx)
        if used is not None:
            self._used[request_idx] = (used[0], used[1], True)

    def verify(self, auth: AuthData, now: float) -> None:
        """Accept the request once.

        Args:
            auth: as the client showed it.
            now: the control plane's Unix time in seconds.

        Raises:
            TicketError: with reason ``missing``, ``malformed``, ``forged``, ``expired``,
                ``replayed``, or ``superseded`` where another ticket of the request was used. A
                ticket for another worker is ``forged`` here: its key is another.
        """
        ticket = auth.ticket
        if not ticket:
            raise TicketError("missing", "this worker demands a ticket: ask /route/ for one")
        version, _, rest = ticket.partition(".")
        expiry, _, mac = rest.partition(".")
        if version != VERSION or len(expiry) > 15 or not expiry.isdecimal() or not mac.isascii():
            raise TicketError("malformed", "the ticket is malformed")
        expires_ms = int(expiry)
        if auth.endpoint != self._endpoint:
            try:
                self._bound_to = _bound_to(self._boot_id, auth.endpoint)
            except UnicodeEncodeError:
                raise TicketError("malformed", "endpoint is not valid text") from None
            self._endpoint = auth.endpoint
        reqnum = auth.reqnum
        try:
            numbers = _pack(self._worker_id, auth.request_idx, reqnum, auth.cost, expires_ms)
        except struct.error:
            raise TicketError("malformed", "request_idx or reqnum is out of range") from None
        if not compare_digest(self._mac.of(numbers + self._bound_to), mac):
            raise TicketError("forged", "the ticket is not valid for this worker and request")
        if now * 1000.0 > expires_ms:
            raise TicketError(
                "expired",
                f"the ticket expired {now - expires_ms / 1000.0:.1f} s ago: it is good for "
                f"{LIFETIME:g} s from the answer of /route/; ask there again",
            )
        self._forget(now)
        used = self._used.get(auth.request_idx)
        if used is not None and not (used[2] and reqnum > used[1]) and reqnum != used[1]:
            raise TicketError(
                "superseded",
                "another ticket of this request was used here: ask /route/ for a new request",
            )
        if not self._window.take(reqnum):
            raise TicketError("replayed", "the ticket was used before: ask /route/ for a new one")
        # A ticket that was made before this one was used is good until then at the latest.
        self._used[auth.request_idx] = (expires_ms / 1000.0 + LIFETIME, reqnum, False)

    def _forget(self, now: float) -> None:
        while self._used:
            index, (until, _, _) = next(iter(self._used.items()))
            if until > now and len(self._used) < MAX_USED:
                return
            del self._used[index]
