"""`stoker key`: make, list, revoke and rotate API keys, by REST or on the state directory."""

from __future__ import annotations

import asyncio
import io
import os
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Protocol, TypeVar

import msgspec
import typer

from stoker import descriptors
from stoker.cli import output
from stoker.cli.arguments import seconds
from stoker.cli.endpoints import AsJson, Url, connect
from stoker.config import expanded
from stoker.errors import ConfigError, NotFoundError, StokerError
from stoker.logins import Access, find, save

if TYPE_CHECKING:
    from stoker.autoscaler.keys import Keys

T = TypeVar("T")
Record = dict[str, Any]

key_app = typer.Typer(
    no_args_is_help=True,
    help="Create, list, revoke, rotate API keys.",
    rich_markup_mode="rich",
)

State = Annotated[
    Path | None,
    typer.Option(
        help="Work on this state directory of `stoker up` instead of asking it: where no control "
        "plane runs, or no key is left."
    ),
]
TAKEN_LIMIT = 10.0
"""Seconds for which a control plane is waited for that runs on the state directory."""

Key = Annotated[str, typer.Argument(metavar="KEY", help="Id or name, as `stoker key list` shows.")]
Force = Annotated[
    bool, typer.Option("--force", help="Also where it is the last key of the account.")
]


class Book(Protocol):
    """Who keeps the keys: a control plane that is asked, or its state directory."""

    async def keys(self) -> list[Record]:
        """All keys."""
        ...

    async def create_key(
        self,
        name: str | None = None,
        *,
        endpoint_name: str | None = None,
        expires_in: float | None = None,
        replaces: str | None = None,
    ) -> Record:
        """Make one; ``api_key`` is in the answer."""
        ...

    async def expire_key(self, key: str, seconds: float, *, force: bool = False) -> Record:
        """Give one an end."""
        ...

    async def revoke_key(self, key: str, *, force: bool = False) -> Record:
        """Refuse one from now on."""
        ...


@key_app.command("create")
def create(
    name: Annotated[str | None, typer.Option(help="What it is for: who uses it, or where.")] = None,
    endpoint: Annotated[
        str | None,
        typer.Option(help="Good for requests to this endpoint alone; default: for everything."),
    ] = None,
    expires: Annotated[
        str | None, typer.Option(help="It ends by itself after this time: 12h, 30d.")
    ] = None,
    state: State = None,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Make an API key and print it, this once.

    For example:

        stoker key create --name laptop

        stoker key create --name ci --endpoint chat --expires 30d

        stoker key create --state ~/.local/state/stoker    (no key is needed)
    """
    expires_in = None if expires is None else seconds("--expires", expires)

    async def work(book: Book) -> None:
        made = await book.create_key(name, endpoint_name=endpoint, expires_in=expires_in)
        await _show(book, made, as_json=as_json)

    _run(url, state, work)


@key_app.command("list")
def list_keys(state: State = None, url: Url = None, as_json: AsJson = False) -> None:
    """List API keys: what each is for and when it was last used, never the key itself."""
    records = _run(url, state, lambda book: book.keys())
    if as_json:
        output.print_json(records)
        return
    rows = [
        [
            one["id"],
            one["name"],
            "everything" if one["kind"] == "account" else f"endpoint {one['endpoint_name']}",
            output.local_time(one["created_at"]),
            output.local_time(one["used_at"]) if one["used_at"] else "never",
            output.local_time(one["expires_at"]) if one["expires_at"] else None,
        ]
        for one in records
    ]
    columns = ["id", "name", "good for", "created", "last used", "ends"]
    output.print_table(columns, rows, empty="there is no API key; make one: stoker key create")


@key_app.command("revoke")
def revoke(key: Key, force: Force = False, state: State = None, url: Url = None) -> None:
    """Refuse a key from now on; it never becomes good again.

    Requests that a worker has already are finished. An endpoint always has a key of its own: where
    that one is revoked, another takes its place.

    For example:

        stoker key revoke ci

        stoker key revoke e3    (the own key of endpoint 3)
    """

    async def work(book: Book) -> tuple[Record, bool]:
        mine: Record | None = None
        if state is None:
            with suppress(StokerError):  # it is for a warning alone
                mine = await _find(book, None)
        revoked = await book.revoke_key(key, force=force)
        return revoked, mine is not None and mine["id"] == revoked["id"]

    revoked, own = _run(url, state, work)
    output.err.print(f"key {_called(revoked)} is revoked", soft_wrap=True)
    if own:
        output.err.print(
            "[yellow]warning:[/] it is the key that this command used: log in with another one "
            "(`stoker login`; `stoker key rotate` would have replaced it)",
            soft_wrap=True,
        )
    _tell_own(revoked)


@key_app.command("rotate")
def rotate(
    key: Annotated[
        str | None,
        typer.Argument(
            metavar="[KEY]",
            help="Id or name, as `stoker key list` shows; default: the key that you use.",
        ),
    ] = None,
    overlap: Annotated[
        str, typer.Option(help="The former key goes on for this time: 15m, 1h, 2d.")
    ] = "0s",
    state: State = None,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Make a new key in place of another, and print it, this once.

    The former key is ended only after the new one was printed. A login with the former key gets the
    new one.

    For example:

        stoker key rotate ci --overlap 1h

        stoker key rotate    (the key of your login)
    """
    after = seconds("--overlap", overlap)

    async def work(book: Book) -> None:
        found = await _find(book, key)
        if found["kind"] == "own":
            if after:
                await book.expire_key(found["id"], after)
            else:
                await book.revoke_key(found["id"])
            _tell_own(found)
            return
        access = await _login_of(book, url, found)
        made = await book.create_key(replaces=found["id"])
        await _show(book, made, as_json=as_json)
        if access is not None:
            save(access.url, made["api_key"], access.login)
            output.err.print(
                f"login {output.escape(str(access.login))} has the new key", soft_wrap=True
            )
        try:
            if after:
                await book.expire_key(found["id"], after)
            else:
                await book.revoke_key(found["id"], force=True)
        except StokerError as error:
            raise StokerError(
                f"the new key is good, and the former one is still good too: {error}; end it with "
                f"`stoker key revoke {found['id']}`"
            ) from None
        until = f"ends in {overlap}" if after else "is revoked"
        output.err.print(f"the former key, {_called(found)}, {until}", soft_wrap=True)
        if found["source"] == "environment":
            output.err.print(
                "it was given to `stoker up` as STOKER_API_KEY: put the new one there before its "
                "next start",
                soft_wrap=True,
            )

    _run(url, state, work)


async def _show(book: Book, made: Record, *, as_json: bool) -> None:
    """Print a new key; one that nobody can have seen is revoked."""
    try:
        descriptors.check_stdout()
        if as_json:
            output.print_json(made)
        else:
            sys.stdout.write(f"{made['api_key']}\n")
        sys.stdout.flush()
    except (OSError, ValueError, AttributeError):
        await book.revoke_key(made["id"], force=True)
        sys.stdout = io.StringIO()  # or Python tries once more to write it at its end
        raise StokerError(
            "the key could not be printed, so it was revoked: standard output is closed or full"
        ) from None
    if not as_json:
        good_for = made["endpoint_name"]
        what = "everything" if made["kind"] == "account" else f"endpoint {good_for}"
        output.err.print(
            f"[dim]key {_called(made)}, good for {output.escape(what)}; it is shown this once[/]",
            soft_wrap=True,
        )


async def _find(book: Book, key: str | None) -> Record:
    if key is None:
        from stoker.client import Client

        if not isinstance(book, Client):
            raise ConfigError("KEY", "is required with --state; `stoker key list` shows them")
        return await book.current_key()
    records = await book.keys()
    found = [one for one in records if one["id"] == key]
    found = found or [one for one in records if one["name"] == key]
    found = found or [
        one for one in records if one["kind"] == "own" and one["endpoint_name"] == key
    ]
    if len(found) != 1:
        problem = "several keys have that name: use an id" if found else "there is no such key"
        raise NotFoundError(f"{key!r}: {problem}; `stoker key list` shows them")
    return found[0]


async def _login_of(book: Book, url: str | None, key: Record) -> Access | None:
    """The login that `key` is used by; None: it is another's, or not from a login."""
    from stoker.client import Client

    if not isinstance(book, Client):
        return None
    access = find(url)
    if access.login is None or (await book.current_key())["id"] != key["id"]:
        return None
    return access


def _called(key: Record) -> str:
    return f"{key['id']} ({output.escape(key['name'])})"


def _tell_own(key: Record) -> None:
    if key["kind"] == "own":
        name = output.escape(key["endpoint_name"])
        output.err.print(
            f"endpoint {name} has a new key of its own: `stoker endpoint show {name} --json`",
            soft_wrap=True,
        )


def _run(url: str | None, state: Path | None, work: Callable[[Book], Awaitable[T]]) -> T:
    directory = None if state is None else expanded(state)

    async def talk() -> T:
        if directory is not None:
            async with _open_state(directory) as book:
                return await work(book)
        async with connect(url) as client:
            return await work(client)

    if state is not None and url is not None:
        raise ConfigError("--state", "give this or --url, not both")
    return asyncio.run(talk())


class _StateBook:
    """The keys in a state directory."""

    def __init__(self, keys: Keys) -> None:
        self._keys = keys

    async def keys(self) -> list[Record]:
        return [msgspec.structs.asdict(key) for key in await self._keys.list()]

    async def create_key(
        self,
        name: str | None = None,
        *,
        endpoint_name: str | None = None,
        expires_in: float | None = None,
        replaces: str | None = None,
    ) -> Record:
        endpoint_id = None
        if endpoint_name is not None:
            endpoint_id = await self._keys.endpoint_id(endpoint_name)
        made, key = await self._keys.create(
            name or "", endpoint_id=endpoint_id, expires_in=expires_in, replaces=replaces
        )
        return msgspec.structs.asdict(made) | {"api_key": key}

    async def expire_key(self, key: str, seconds: float, *, force: bool = False) -> Record:
        return msgspec.structs.asdict(await self._keys.expire(key, seconds, force=force))

    async def revoke_key(self, key: str, *, force: bool = False) -> Record:
        return msgspec.structs.asdict(await self._keys.revoke(key, force=force))


@asynccontextmanager
async def _open_state(state: Path) -> AsyncIterator[_StateBook]:
    """The keys of a control plane that need not run; one that runs takes changes over at once."""
    try:
        from stoker.autoscaler.identity import Identity, Keyring
        from stoker.autoscaler.keys import Keys, KeysMarker
        from stoker.launcher import is_locked
        from stoker.store import Store
    except ModuleNotFoundError as error:
        output.missing(error.name, "server")
    database = state / "stoker.db"
    try:
        owner = database.stat().st_uid
    except OSError as error:
        raise ConfigError(
            "--state",
            f"{state} is not the state of a control plane ({error.strerror}: {database.name}); "
            "`stoker up` prints where its state is",
        ) from None
    if owner != os.geteuid():
        # What another user writes there would be unreadable for the control plane.
        raise ConfigError(
            "--state", f"{state} belongs to another user (id {owner}): run it as them"
        )
    marker = KeysMarker(state)

    async def changed() -> None:
        """Have a control plane that runs on this state take the change over, and wait for that."""
        try:
            token = marker.ask()
        except OSError as error:
            raise StokerError(f"a running control plane cannot be told: {error.strerror}") from None
        end = time.monotonic() + TAKEN_LIMIT
        while is_locked(state / "lock") and marker.taken() != token:
            if time.monotonic() >= end:
                output.err.print("[yellow]the control plane has not taken it over yet[/]")
                return
            await asyncio.sleep(0.05)

    async with await Store.open(database) as store:
        identity = Identity.open(state)
        keys = Keys(
            store,
            Keyring(time.time),
            lambda record: identity.endpoint_key(record.id, record.key_nonce),
            changed,
        )
        yield _StateBook(keys)
