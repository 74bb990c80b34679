"""`stoker request`: one request to an endpoint, and its answer as it comes."""

from __future__ import annotations

import asyncio
import sys
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stoker.cli import output
from stoker.cli.endpoints import Name, Url, call
from stoker.errors import ConfigError, StokerError

if TYPE_CHECKING:
    from stoker.client import Client, ClientStream
    from stoker.inference import Piece

MAX_KEPT = 2**20
"""Bytes of an answer that are kept, to be shown whole where no words are found in it."""

MAX_NAMED = 20
"""Endpoints that a hint names."""


def request(
    name: Name,
    route: Annotated[str, typer.Argument(help="Path at the model server.")],
    payload: Annotated[
        str, typer.Argument(help="JSON, @FILE that holds it, or - for standard input.")
    ],
    url: Url = None,
    cost: Annotated[
        float | None,
        typer.Option(
            help="Load units that it is likely to need, such as tokens; default: what requests of "
            "ROUTE were seen to need.",
            show_default=False,
        ),
    ] = None,
    timeout: Annotated[float, typer.Option(help="Seconds for all of it.")] = 600.0,
    affinity: Annotated[
        str,
        typer.Option(help="Name of what it shares with others: it goes where that is cached."),
    ] = "",
    raw: Annotated[
        bool | None,
        typer.Option(
            "--raw/--text",
            help="Print the answer's bytes, or what the model says. "
            "Default: --text on a terminal, else --raw.",
        ),
    ] = None,
) -> None:
    """Send one request through the router and print the answer as it comes.

    The exit code says how it went: 0 well, 2 a wrong argument, 3 refused, 4 nobody answers,
    5 timed out, 6 the model server failed, also inside of an answer that began well.
    """
    from stoker.loadtest.payloads import read_documents

    documents = read_documents(payload)
    if len(documents) != 1:
        raise ConfigError("PAYLOAD", f"holds {len(documents)} payloads: `stoker load` sends many")
    if not 0 < timeout < float("inf"):
        raise ConfigError("--timeout", "must be a number of seconds above 0")
    if not route.startswith("/"):
        raise ConfigError("ROUTE", f"must begin with a slash: /{route}")
    as_text = sys.stdout.isatty() if raw is None else not raw

    async def work(client: Client) -> None:
        from stoker.client import RequestFailedError

        deadline = asyncio.get_running_loop().time() + timeout
        try:
            async with AsyncExitStack() as stack:
                with output.progress("asking for a worker") as tell:
                    response = await stack.enter_async_context(
                        client.stream(
                            name,
                            route,
                            documents[0],
                            cost=cost,
                            timeout=timeout,
                            affinity=affinity,
                            on_status=tell,
                        )
                    )
                # Until here the client keeps to the time, and says best what there was none of.
                async with asyncio.timeout_at(deadline):
                    await (show_text if as_text else show_bytes)(response)
        except TimeoutError:
            problem = f"the answer was not complete within {timeout:g} s"
            raise RequestFailedError(None, problem, kind="timed out") from None
        except RequestFailedError as error:
            if error.status == 404 and not error.hint:
                error.hint = await hint_for_unknown(client, name)
            raise

    call(url, work)


async def show_bytes(response: ClientStream) -> None:
    """Print the bytes as they come; on a terminal they end in a new line."""
    last = b"\n"
    try:
        async for chunk in response:
            output.write_bytes(chunk)
            last = chunk or last
    finally:
        if sys.stdout.isatty() and not last.endswith(b"\n"):
            output.write("\n")  # the prompt of the shell comes on a line of its own


async def show_text(response: ClientStream) -> None:
    """Print what the model says as it says it; an answer without a model's words whole.

    Raises:
        StokerError: the answer is not text.
    """
    from stoker.inference import AnswerReader

    kind = str(response.headers.get("content-type", ""))
    if not (response.has_pieces or kind.startswith("text/") or not kind):
        raise StokerError(
            f"the answer is {kind}, not text: add --raw and send it to a file: --raw > FILE"
        )
    reader = AnswerReader(kind, keep_pieces=True, limit=16 * 2**20)
    words, kept = Words(), bytearray()
    try:
        async for chunk in response:
            if response.has_pieces:
                reader.feed(chunk)
                words.show(reader.take_pieces())
                kept += chunk[: max(0, MAX_KEPT - len(kept))]
            else:
                words.plain(chunk.decode("utf-8", "replace"))
    finally:
        reader.finish()
        words.show(reader.take_pieces())
        if not words.any and reader.failure is None:
            words.plain(bytes(kept).decode("utf-8", "replace"))
        words.end()


class Words:
    """Prints a model's words: text as it is, reasoning and calls of tools apart from it."""

    def __init__(self) -> None:
        self.any = False
        self._last: tuple[str, int] | None = None
        self._at_start = True

    def show(self, pieces: list[Piece]) -> None:
        """Go on with these."""
        for piece in pieces:
            place = (piece.kind, piece.choice)
            if place != self._last:
                self.end()
                if piece.choice and (self._last is None or self._last[1] != piece.choice):
                    output.write(f"[choice {piece.choice}]\n")
                self._last = place
            self.plain(piece.text, apart=piece.kind != "text")

    def plain(self, text: str, *, apart: bool = False) -> None:
        """Print text."""
        text = text.replace("\r", "")
        if not text:
            return
        self.any = True
        self._at_start = text.endswith("\n")
        if apart:
            from rich.text import Text

            output.out.print(Text(text), style="dim", end="", soft_wrap=True)
        else:
            output.write(text)

    def end(self) -> None:
        """Be at the start of a line."""
        if not self._at_start:
            output.write("\n")
            self._at_start = True


async def hint_for_unknown(client: Client, name: str) -> str:
    """What to do about an endpoint that is not there; empty: it is, or nobody says."""
    try:
        records: list[dict[str, Any]] = await client.endpoints()
    except StokerError:
        return ""  # the key of one endpoint may not list the others
    names = [str(record["endpoint_name"]) for record in records]
    if name in names:
        return ""
    if not names:
        return "there is no endpoint yet; make one: stoker endpoint create NAME --backend BACKEND"
    return f"the endpoints are: {', '.join(sorted(names)[:MAX_NAMED])}"
