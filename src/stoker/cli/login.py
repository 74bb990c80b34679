"""`stoker login` and `stoker logout`: which control planes there are, and the key of each."""

from __future__ import annotations

import asyncio
import getpass
import os
import sys
from typing import Annotated
from urllib.parse import urlsplit

import typer

from stoker import logins as saved
from stoker.cli import output
from stoker.errors import ConfigError
from stoker.network import is_this_machine

MAX_KEY = 4096
"""Characters of a key that are read."""


def login(
    url: Annotated[
        str | None,
        typer.Argument(
            help="Address of the control plane, or name of a login; default: STOKER_URL, else "
            f"{saved.DEFAULT_URL}."
        ),
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="Name of this login, for --url; default: the address.")
    ] = None,
    use: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Only choose which login is used from now on."),
    ] = None,
    show: Annotated[bool, typer.Option("--list", help="Only list the logins.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="With --list: print JSON.")] = False,
) -> None:
    """Keep the address of a control plane and its API key, for all terminals.

    Asks for the key (or reads it from standard input), tries it, and keeps both in a
    file that only you can read. Every command and `Client()` use it, unless --url or
    STOKER_API_KEY say otherwise.

    For example:

        stoker login http://127.0.0.1:8700

        stoker login https://stoker.example.com --name work < key.txt

        stoker login --use work
    """
    if show:
        _list(as_json=as_json)
        return
    if use is not None:
        chosen = saved.use(use)
        output.out.print(f"{output.escape(chosen.name)} is used from now on: {chosen.url}")
        return
    given = url or os.environ.get("STOKER_URL") or saved.DEFAULT_URL
    address = saved.normalized(given if "://" in given else saved.get(given).url)
    parts = urlsplit(address)
    if parts.scheme == "http" and not is_this_machine(parts.hostname or ""):
        output.err.print(
            "[yellow]warning:[/] the key travels to that address without encryption: use https",
            soft_wrap=True,
        )
    key = _ask_for_key()
    what = asyncio.run(_check(address, key))
    made = saved.save(address, key, name)
    output.out.print(
        f"logged in to {address} as {output.escape(made.name)}: the key opens {what}",
        soft_wrap=True,
    )


def logout(
    name: Annotated[
        str | None,
        typer.Argument(help="Name or address of the login; default: the one that is used."),
    ] = None,
) -> None:
    """Forget the key of a login. The key stays good: `stoker key revoke` ends it."""
    removed = saved.remove(name)
    output.out.print(f"login {output.escape(removed.name)} is forgotten; its key stays good")


def _list(*, as_json: bool) -> None:
    logins, current = saved.logins()
    if as_json:
        output.print_json(
            [{"name": o.name, "url": o.url, "current": o.url == current} for o in logins]
        )
        return
    rows = [[o.name, o.url, "yes" if o.url == current else None] for o in logins]
    output.print_table(["name", "url", "used"], rows, empty="there is no login: stoker login URL")


def _ask_for_key() -> str:
    """The key, from a terminal without echo, or the first line of standard input."""
    if sys.stdin is not None and sys.stdin.isatty():
        try:
            key = getpass.getpass("API key: ")
        except EOFError:
            key = ""
    else:
        key = "" if sys.stdin is None else sys.stdin.readline(MAX_KEY)
    key = key.strip().removeprefix("\ufeff")  # as some editors begin a file
    if not key:
        raise ConfigError("API key", "is empty; `stoker key create` makes one")
    return key


async def _check(url: str, key: str) -> str:
    """What the key opens there.

    Raises:
        RequestFailedError: it opens nothing, or nobody answers.
    """
    try:
        from stoker.client import Client, RequestFailedError
    except ModuleNotFoundError:
        output.missing("httpx", "client")
    async with Client(url, key) as client:
        try:
            record = await client.current_key()
        except RequestFailedError as error:
            if error.status == 404:
                raise RequestFailedError(
                    404, f"what answers at {url} is no Stoker control plane, or an older one"
                ) from None
            raise
    if record.get("kind") == "account":
        return "everything there"
    return f"endpoint {output.escape(str(record.get('endpoint_name')))} there"
