"""Which hosts are this machine, and which calls go through a proxy.

The rule: no call of Stoker's own goes through a proxy unless ``STOKER_PROXY`` (or the argument
`proxy` of a `stoker.Client`) names one, and none to this machine ever does. ``HTTP_PROXY``,
``HTTPS_PROXY``, ``ALL_PROXY`` and ``NO_PROXY`` are not read: they are set for browsers and package
managers, and a proxy that they name would see the API key.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Mapping
from urllib.parse import urlsplit

from stoker.errors import ConfigError
from stoker.logs import hide

PROXY = "STOKER_PROXY"
"""Environment variable: URL of the proxy for calls to other machines."""


_HOST = re.compile(r"[A-Za-z0-9._-]+|[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*(?:%\w+)?")
"""A name, an IPv4 address, or an IPv6 address, which has two colons at least."""


def is_host(text: str) -> bool:
    """Whether this can be a name or an address, without a port and without brackets."""
    return _HOST.fullmatch(text) is not None


def is_loopback(host: str) -> bool:
    """Whether a host reaches nothing but this machine."""
    name = host.strip("[]").rstrip(".").lower()
    if name == "localhost" or name.endswith(".localhost"):  # RFC 6761
        return True
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback


def is_this_machine(host: str) -> bool:
    """Whether a connection to a host stays on this machine, however the host is written."""
    if is_loopback(host) or host.strip("[]") in ("0.0.0.0", "::"):  # noqa: S104
        return True
    try:  # 127.1 and 2130706433 are 127.0.0.1 for whoever connects
        return socket.inet_aton(host)[0] in (0, 127)
    except (OSError, UnicodeError):
        return False


def listening_host(report_addr: str, public_host: str) -> str:
    """Where a worker listens that is not told: where those who know it can reach it.

    That is this machine alone, where its control planes and the address that clients are told are
    on it; else all addresses.

    Args:
        report_addr: URLs of the control planes, with commas between them.
        public_host: that clients are told; empty: this machine.
    """
    planes = [urlsplit(address.strip()).hostname for address in report_addr.split(",")]
    known = [plane for plane in planes if plane]
    if known and all(map(is_loopback, known)) and (not public_host or is_loopback(public_host)):
        return "127.0.0.1"
    return "0.0.0.0"  # noqa: S104


def proxy_of(environ: Mapping[str, str]) -> str:
    """The proxy that the environment asks for; empty: none.

    Raises:
        ConfigError: it is not a URL of an HTTP proxy.
    """
    return checked_proxy(environ.get(PROXY, "").strip())


def checked_proxy(url: str, name: str = PROXY) -> str:
    """`url`, if a proxy can be reached at it, or nothing.

    Args:
        url: may hold a user and a password, which no error shows.
        name: of the setting.

    Raises:
        ConfigError: it is not a URL of an HTTP proxy.
    """
    if not url:
        return ""
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise ConfigError(name, "must be the URL of an HTTP proxy, such as http://proxy.lan:3128")
    hide(parts.password or "")
    return url


def proxy_for(host: str, proxy: str) -> str | None:
    """The proxy for a call to `host`; None: it goes direct."""
    return proxy if proxy and not is_this_machine(host) else None
