"""What a model server's health check says, for everybody who asks it.

Rules:

* A status of 2xx is good. A redirect on the same server is followed (frameworks send ``/health`` to
  ``/health/``); one that leads elsewhere is not, because what answers there is another program.
* A good status over a JSON body that is an error is bad: an object with ``error``, or with a
  ``status`` that says so. The words are those of draft-inadarei-api-health-check-06, section 3.1.
* Of a long answer only the beginning is read: some health checks are pages of figures.
"""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urljoin, urlsplit

import msgspec

from stoker.errors import UNREADABLE
from stoker.http.fetch import fetch
from stoker.http.request import UpstreamError

MAX_BODY = 65_536
"""Bytes of an answer that are read."""

MAX_REDIRECTS = 5
"""Redirects that are followed one after another."""

_BAD_WORDS = frozenset({"fail", "error", "down", "unhealthy", "failed"})
_REDIRECTS = (301, 302, 303, 307, 308)
_MAX_SAID = 200


@dataclass(frozen=True, slots=True)
class Health:
    """What one check said.

    Attributes:
        problem: what is wrong, for people; empty: nothing.
        status: of the answer; 0: there was none.
        refused: nobody is there.
        timed_out: there was no whole answer in time.
    """

    problem: str = ""
    status: int = 0
    refused: bool = False
    timed_out: bool = False


async def check_health(url: str, timeout: float) -> Health:
    """Ask once.

    Args:
        url: of the health check.
        timeout: seconds for everything.

    Raises:
        ValueError: the URL cannot be used.
    """
    try:
        for _ in range(MAX_REDIRECTS + 1):
            answer = await fetch(url, timeout=timeout, max_body=MAX_BODY, cut=True)
            if answer.status not in _REDIRECTS:
                break
            there = _on_same_server(url, answer.header(b"location") or b"")
            if not there:
                break
            url = there
    except UpstreamError as error:
        refused, late = error.kind == "refused", error.kind == "timeout"
        return Health(str(error), refused=refused, timed_out=late)
    if answer.status // 100 != 2:
        return Health(f"answered {answer.status}", answer.status)
    said = _error_in(answer.body)
    return Health(f"answered {answer.status} with an error: {said}" if said else "", answer.status)


def _on_same_server(url: str, location: bytes) -> str:
    """Where a redirect leads to; empty: nowhere, or to another server."""
    try:
        there = urljoin(url, location.decode("latin-1"))
        same = bool(location) and urlsplit(there)[:2] == urlsplit(url)[:2]
    except ValueError:
        return ""
    return there if same else ""


def _error_in(body: bytes) -> str:
    """The error that a body is; empty: it is none."""
    if body.lstrip()[:1] != b"{":
        return ""
    try:
        told = msgspec.json.decode(body)
    except UNREADABLE:
        return ""
    error, word = told.get("error"), told.get("status")
    if isinstance(error, dict) and error:
        return str(error.get("message") or error)[:_MAX_SAID]
    if error is True or (isinstance(error, str) and error):
        return str(error)[:_MAX_SAID]
    bad = isinstance(word, str) and word.lower() in _BAD_WORDS
    return f"its status is {word}" if bad else ""
