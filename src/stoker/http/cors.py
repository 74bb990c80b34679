"""Cross-origin requests of browsers (CORS, the Fetch standard): off unless origins are named.

Rules:

* An origin that is named, or any with ``*``, may read our answers; another one may not. Without a
  word of ours a browser lets nobody.
* A preflight is answered here, before any authorisation: browsers send none with it.
* No cookies and no other credentials of the browser are ever allowed: keys and tickets are in
  headers that the page sets itself, so that a page can use only what its user gave it.
* What an upstream says about origins is left out where we have our own say.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

from stoker.errors import ConfigError

if TYPE_CHECKING:
    from stoker.http.exchange import Exchange

ANY = "*"

METHODS = b"GET, HEAD, POST, PUT, PATCH, DELETE"
HEADERS = b"authorization, content-type, accept, stoker-auth, stoker-session"
"""What a page may send besides what every page may."""

EXPOSED = b"retry-after, location, content-disposition, content-length, stoker-request"
"""What a page may read besides what every page may."""

MAX_AGE = b"600"
"""Seconds for which a browser may remember the answer to a preflight."""

_ORIGIN = re.compile(r"https?://[A-Za-z0-9.\[\]:-]+")


class Cors:
    """Which origins may read our answers."""

    def __init__(self, origins: Iterable[str], *, setting: str = "cors_origins") -> None:
        """Prepare.

        Args:
            origins: such as ``https://app.example.org``, or ``*``; none: nobody.
            setting: what they are called where they are set, for errors.

        Raises:
            ConfigError: one is no origin.
        """
        found = [origin.strip() for origin in origins if origin.strip()]
        for origin in found:
            if origin != ANY and not _ORIGIN.fullmatch(origin):
                raise ConfigError(
                    setting,
                    f"{origin!r} is no origin: write https://host or https://host:port, without a "
                    "path, or '*' for any",
                )
        self._any = ANY in found
        self._origins = frozenset(origin.lower().encode() for origin in found)

    def __bool__(self) -> bool:
        return bool(self._origins)

    def take(self, exchange: Exchange) -> bool:
        """Let the page that asks read the answer, if it may; True: it was a preflight."""
        origin = exchange.header(b"origin")
        if origin is None or not self._origins:
            return False
        allowed = self._any or origin.lower() in self._origins
        lines = b"" if self._any else b"vary: origin\r\n"
        if allowed:
            lines += b"access-control-allow-origin: %b\r\naccess-control-expose-headers: %b\r\n" % (
                b"*" if self._any else origin,
                EXPOSED,
            )
        exchange.own_lines = lines
        asked = exchange.header(b"access-control-request-method")
        if exchange.method != "OPTIONS" or asked is None:
            return False
        if not allowed:
            exchange.respond(403)
            return True
        exchange.respond(
            204,
            headers=[
                (b"access-control-allow-methods", METHODS),
                (b"access-control-allow-headers", HEADERS),
                (b"access-control-max-age", MAX_AGE),
            ],
        )
        return True
