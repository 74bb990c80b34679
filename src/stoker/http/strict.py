"""What is refused of a request's head beyond what llhttp refuses by itself.

The rule is RFC 9112's: a head that two programs could read in two ways is read by neither.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from stoker.errors import StokerError
from stoker.http.limits import Limits
from stoker.http.messages import NOT_FORWARDED, PLAIN_CONNECTION, named_by_connection

if TYPE_CHECKING:
    import httptools

    from stoker.http.exchange import Exchange
    from stoker.http.intake import Intake

METHODS = {
    name.encode(): name for name in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
}
"""Methods that are served; the others get 501."""

_SPECIAL = frozenset(
    {b"host", b"connection", b"content-length", b"transfer-encoding", b"expect", b"upgrade"}
)
_GUARDED = (
    _SPECIAL
    | NOT_FORWARDED
    | {b"authorization", b"cookie", b"content-encoding", b"content-type", b"forwarded", b"origin"}
    | {b"stoker-auth", b"stoker-session", b"stoker-peer"}
    | {b"x-forwarded-for", b"x-forwarded-host", b"x-forwarded-proto", b"x-real-ip"}
)
"""Headers that nobody may imitate by another spelling."""

_NAME = re.compile(rb"[a-z0-9-]+")
_ODD = re.compile(rb"[^a-z0-9]")
_MAX_NAMES = 1024
_PLAIN_NAMES: set[bytes] = set()
"""Names that were seen, and are of letters, digits and hyphens alone: a look here is 30 ns."""

_HOST = re.compile(rb"[A-Za-z0-9._~!$&'()*+,;=:%\[\]-]*")
_ABSOLUTE = re.compile(rb"https?://[^/?#]+", re.I)


class Refusal(StokerError):  # noqa: N818 -- it is an answer, too
    """A request that is not served.

    Attributes:
        status: of the answer.
        reason: short, fit for a metric's label.
    """

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason


def check_size(exchange: Exchange, limits: Limits) -> None:
    """Refuse a head, perhaps not yet complete, that is larger than `limits` allow.

    Raises:
        Refusal: 414 or 431.
    """
    if len(exchange.target) > limits.max_target_bytes:
        raise Refusal(414, "target_too_long", "the target is too long")
    size = len(exchange.target)
    for name, value in exchange.headers:
        size += len(name) + len(value) + 4  # ": " and CR LF
    if size > limits.max_header_bytes or len(exchange.headers) > limits.max_headers:
        raise Refusal(431, "header_too_large", "the header lines are too large or too many")


def check_head(
    exchange: Exchange,
    parser: httptools.HttpRequestParser,
    limits: Limits,
    connection: Intake,
) -> bool:
    """Refuse what is ambiguous or not served, and fill in what the head says.

    Args:
        exchange: with target and headers as received.
        parser: with its head just complete.
        limits: of the server.
        connection: remembers the Host value that was checked last.

    Returns:
        The client waits for ``100 Continue`` before it sends the body.

    Raises:
        Refusal: 400, 414, 417, 431, 501 or 505.
    """
    if len(exchange.headers) > limits.max_headers:
        raise Refusal(431, "header_too_large", "the header lines are too large or too many")
    method = METHODS.get(parser.get_method())
    if method is None:
        raise Refusal(501, "unsupported", "this method is not supported")
    exchange.method = method
    host: bytes | None = None
    expect: bytes | None = None
    upgrade = b""
    length: int | None = 0
    has_connection = chunked = False
    for name, value in exchange.headers:
        if name not in _SPECIAL:
            if name not in _PLAIN_NAMES:
                _check_name(name)
            continue
        if name == b"host":
            if host is not None:
                raise _bad("more than one Host header")
            host = value
        elif name == b"content-length":
            if not value.strip(b" ").isdigit():  # llhttp has checked the rest
                raise _bad("the Content-Length is not valid")
            length = int(value)
        elif name == b"transfer-encoding":
            # To the byte, as llhttp reads it: of "chunked" with a tab behind it, one reader sees
            # chunks and another sees none.
            if value.rstrip(b" ").lower() != b"chunked":
                raise _bad("a Transfer-Encoding other than chunked is not supported")
            chunked = True
            length = None
        elif name == b"connection":
            has_connection = True
            if value not in PLAIN_CONNECTION:
                named = named_by_connection(value)
                exchange.hop_headers = named | (exchange.hop_headers or frozenset())
        elif name == b"expect":
            if expect is not None:
                raise _bad("more than one Expect header")
            expect = value.strip().lower()
        else:
            upgrade = value.strip().lower() if not upgrade else upgrade + b", " + value
    keep_alive = parser.should_keep_alive()
    # Only in HTTP/1.1 is a connection kept without a word, so the version needs no asking then.
    if has_connection or not keep_alive:
        exchange.keep_alive = keep_alive
        _check_version(exchange, parser, chunked=chunked)
    if host is None:
        if not exchange.version_1_0:
            raise _bad("the Host header is missing")
    elif host != connection.known_host:
        if not _HOST.fullmatch(host.strip()):
            raise _bad("the Host header is not valid")
        connection.known_host = host
    if length != 0:
        exchange.content_length = length
    if upgrade and parser.should_upgrade():
        # llhttp would take a body for the new protocol's bytes.
        if upgrade == b"websocket" and method == "GET" and not exchange.version_1_0:
            exchange.upgrade = True  # unless the application does not want it
        elif upgrade != b"h2c":
            raise no_upgrade()
        if length != 0:
            raise no_upgrade()
        exchange.keep_alive = False
    target = exchange.target
    # The usual target is a plain path; the others take the long way.
    if target[:1] == b"/" and b"?" not in target and b"#" not in target:
        exchange.path = target.decode("latin-1")
    else:
        _split_target(exchange)
    if not expect:
        return False
    if expect != b"100-continue":
        raise Refusal(417, "unsupported", "this expectation is not supported")
    return length != 0 and not exchange.version_1_0


def _check_name(name: bytes) -> None:
    """Refuse what another program may take for a header that frames, routes or authorises.

    Many servers turn names into variables (CGI, WSGI), and there ``Transfer_Encoding`` is
    ``Transfer-Encoding``. So a name with other signs in it may not be one of these in disguise.
    """
    if _NAME.fullmatch(name):
        if len(_PLAIN_NAMES) < _MAX_NAMES:
            _PLAIN_NAMES.add(name)
    elif _ODD.sub(b"-", name) in _GUARDED:
        raise _bad("a header's name imitates that of another one")


def _check_version(
    exchange: Exchange, parser: httptools.HttpRequestParser, *, chunked: bool
) -> None:
    version = parser.get_http_version()
    if version == "1.0":
        exchange.version_1_0 = True
        if chunked:
            raise _bad("Transfer-Encoding in HTTP/1.0")
    elif version != "1.1":
        raise Refusal(505, "unsupported", "only HTTP/1.0 and HTTP/1.1 are spoken here")


def _split_target(exchange: Exchange) -> None:
    target = exchange.target
    if b"#" in target:
        raise _bad("the target has a fragment")
    if target[:1] != b"/":
        if absolute := _ABSOLUTE.match(target):
            rest = target[absolute.end() :]
            target = rest if rest[:1] == b"/" else b"/" + rest
            exchange.target = target
        elif target != b"*" or exchange.method != "OPTIONS":
            raise _bad("the target is neither a path nor a URL")
    path, _, exchange.query = target.partition(b"?")
    exchange.path = path.decode("latin-1")


def no_upgrade() -> Refusal:
    """The refusal of a switch to another protocol."""
    return Refusal(501, "unsupported", "switching protocols is not supported")


def too_large() -> Refusal:
    """The refusal of a body."""
    return Refusal(413, "body_too_large", "the body is too large")


def _bad(message: str) -> Refusal:
    return Refusal(400, "bad_request", message)
