"""What the shell offers for the names that commands take; nothing, where nothing is known."""

from __future__ import annotations

import asyncio
import contextlib
import re

_MEANS_SOMETHING = re.compile(r"""^[-~=]|[\s'"\\$`!&|;<>(){}\[\]*?#^%]""")

SECONDS = 2.0
"""Longest time that a person waits for a completion."""


def endpoints(incomplete: str) -> list[str]:
    """Names of the control plane's endpoints, by the address and key that are kept."""
    # A shell shows whatever is printed, so no failure may say anything.
    with contextlib.suppress(Exception):
        # Whoever has the key chose the names, and the shell puts them into the line as they are:
        # they must neither steer the terminal nor mean anything to the shell.
        found = [name for name in asyncio.run(_endpoints()) if _is_a_word(name)]
        return [name for name in found if name.startswith(incomplete)]
    return []


def _is_a_word(text: str) -> bool:
    """Whether a shell takes `text` as one argument that is no option."""
    return text.isprintable() and not _MEANS_SOMETHING.search(text)


async def _endpoints() -> list[str]:
    from stoker.client import Client

    async with asyncio.timeout(SECONDS), Client() as client:
        return [str(record["endpoint_name"]) for record in await client.endpoints()]


def backends(incomplete: str) -> list[str]:
    """Names of the backends that are installed."""
    from stoker.backends import names

    return [name for name in names() if name.startswith(incomplete)]
