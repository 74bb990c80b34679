"""Fetches one file for a download step: ``python -m stoker.launcher.download``.

What to fetch is in the environment (``STOKER_DOWNLOAD``, a JSON object with ``url``, ``sha256``,
``destination`` and ``token_env``), because a URL may hold a signature and the list of processes is
open to all. The file is there whole, with the right content, or not at all; what was fetched before
an interruption is kept beside it (``….part``) and gone on from.

Exit codes: 0 the file is there; 1 it cannot be had, with one line that says why.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

from stoker.errors import ConfigError
from stoker.launcher.steps import DOWNLOAD
from stoker.logs import complain
from stoker.network import is_this_machine, proxy_of

SOCKET_TIMEOUT = 60.0
"""Seconds without a byte after which a connection is given up."""

PROGRESS_INTERVAL = 5.0
_CHUNK = 1 << 20


class DownloadError(Exception):
    """The file cannot be had; the text says why."""


def fetch(url: str, sha256: str, destination: Path, *, token: str = "", proxy: str = "") -> None:
    """Bring the file to `destination`; nothing is fetched when it is there already.

    Args:
        url: http, https or file.
        sha256: of the content, lower-case hexadecimal.
        destination: its directory is made when missing.
        token: sent as a bearer token to the URL's host, and to no other that it redirects to.
        proxy: URL of the proxy for hosts other than this machine; empty: none, whatever the
            environment says to others.

    Raises:
        DownloadError: it cannot be had, or its content is another one.
        OSError: it cannot be written.
    """
    if destination.is_file() and _digest(destination).hexdigest() == sha256:
        print(f"{destination} is there already")
        return
    destination.parent.mkdir(parents=True, exist_ok=True)
    part = destination.with_name(f"{destination.name}.part")
    have = part.stat().st_size if part.is_file() else 0
    with _open(url, token, have, proxy) as answer:
        # A server that does not go on in the middle begins anew, with another status.
        resumed = have > 0 and getattr(answer, "status", None) == http.client.PARTIAL_CONTENT
        digest = _digest(part) if resumed else hashlib.sha256()
        with part.open("ab" if resumed else "wb") as file:
            _copy(answer, file, digest, have if resumed else 0)
            file.flush()
            os.fsync(file.fileno())
    if digest.hexdigest() != sha256:
        part.unlink()
        raise DownloadError(
            f"the content has sha256 {digest.hexdigest()}, not {sha256}: "
            "another file is there now, or the manifest is wrong"
        )
    part.replace(destination)
    print(f"{destination} is complete")


class _Proxy(urllib.request.ProxyHandler):
    """Sends what is for other machines through the proxy that was asked for, if one was.

    With an empty table urllib's own handler reads no variable of the environment.
    """

    def __init__(self, proxy: str) -> None:
        super().__init__({"http": proxy, "https": proxy} if proxy else {})

    def proxy_open(self, req: Any, proxy: str, type: str) -> Any:  # noqa: A002
        """See urllib; called for each host, also those that a server redirects to."""
        if is_this_machine(urlsplit(req.full_url).hostname or ""):
            return None
        return super().proxy_open(req, proxy, type)


def _open(url: str, token: str, have: int, proxy: str = "") -> Any:
    shown = _shown(url)
    request = urllib.request.Request(url, headers={"User-Agent": "stoker"})  # noqa: S310
    if have:
        request.add_header("Range", f"bytes={have}-")
    if token:
        # Unredirected: the storage that a hub redirects to must not see it.
        request.add_unredirected_header("Authorization", f"Bearer {token}")
    print(f"fetching {shown}" + (f" from byte {have}" if have else ""))
    try:
        return urllib.request.build_opener(_Proxy(proxy)).open(request, timeout=SOCKET_TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE and have:
            return _open(url, token, 0, proxy)
        hint = " (it asks for a token: see token_env)" if error.code in (401, 403) else ""
        raise DownloadError(f"{shown} answered {error.code} {error.reason}{hint}") from None
    except urllib.error.URLError as error:
        query = urlsplit(url).query
        reason = str(error.reason).replace(query, "...") if query else error.reason
        raise DownloadError(f"{shown} cannot be reached: {reason}") from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise DownloadError(f"{shown} cannot be fetched: {type(error).__name__}") from None


def _copy(answer: Any, file: IO[bytes], digest: Any, begun: int) -> None:
    done, told = begun, time.monotonic()
    length = answer.headers.get("Content-Length") or ""
    end = begun + int(length) if length.isascii() and length.isdigit() else 0
    while True:
        try:
            data = answer.read(_CHUNK)
        except (OSError, http.client.HTTPException) as error:
            raise DownloadError(f"the connection broke after {done} bytes: {error}") from None
        if not data and done < end:
            raise DownloadError(f"the connection broke after {done} of {end} bytes")
        if not data:
            return
        file.write(data)
        digest.update(data)
        done += len(data)
        if time.monotonic() - told >= PROGRESS_INTERVAL:
            told = time.monotonic()
            print(f"{done / 2**20:.0f} MiB", flush=True)


def _digest(path: Path) -> Any:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256")


def _shown(url: str) -> str:
    """A URL without what may be a secret."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}{parts.path}"


def main() -> int:
    """The command."""
    order = json.loads(os.environ.pop(DOWNLOAD, "null"))
    if not isinstance(order, dict):
        complain("download", f"{DOWNLOAD} is not set")
        return 1
    token = os.environ.get(order["token_env"], "") if order["token_env"] else ""
    try:
        fetch(
            order["url"],
            order["sha256"],
            Path(order["destination"]),
            token=token,
            proxy=proxy_of(os.environ),
        )
    except (DownloadError, ConfigError) as error:
        complain("download", error)
    except OSError as error:
        complain("download", f"cannot write: {error}")
    else:
        return 0
    return 1


if __name__ == "__main__":
    sys.exit(main())
